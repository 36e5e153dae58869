package k3s

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// caHash is what a secure token says of the cluster's certificate authority.
func caHash(pem []byte) string {
	sum := sha256.Sum256(pem)
	return hex.EncodeToString(sum[:])
}

// credential is a token without what it says of the certificate authority.
type credential struct {
	hash     string // empty in the short form
	user     string // empty in the short form
	password string
}

// parseToken reads both forms: "K10HASH::USER:PASSWORD" and "PASSWORD".
func parseToken(token string) (credential, error) {
	rest, secure := strings.CutPrefix(token, "K10")
	if !secure || !strings.Contains(rest, "::") {
		if token == "" {
			return credential{}, errors.New("--token is required")
		}
		return credential{password: token}, nil
	}
	hash, rest, _ := strings.Cut(rest, "::")
	if raw, err := hex.DecodeString(hash); err != nil || len(raw) != sha256.Size {
		return credential{}, errors.New("invalid token CA hash length")
	}
	user, password, ok := strings.Cut(rest, ":")
	if !ok || password == "" {
		return credential{}, errors.New("invalid token format")
	}
	return credential{hash: hash, user: user, password: password}, nil
}

func formatToken(ca []byte, user, password string) string {
	return "K10" + caHash(ca) + "::" + user + ":" + password + "\n"
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	// crypto/rand.Read never fails since Go 1.24.
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// writeTokens keeps the tokens where K3s does.
func writeTokens(dir string, ca []byte, token, agentToken string) error {
	path := filepath.Join(dir, "token")
	if err := writeFile(path, []byte(formatToken(ca, "server", token)), 0o600); err != nil {
		return fmt.Errorf("writing the token: %w", err)
	}
	links := []string{"node-token"}
	agentPath := filepath.Join(dir, "agent-token")
	if agentToken == token {
		links = append(links, "agent-token")
	} else {
		if err := writeFile(agentPath, []byte(formatToken(ca, "node", agentToken)), 0o600); err != nil {
			return fmt.Errorf("writing the agent token: %w", err)
		}
	}
	for _, name := range links {
		link := filepath.Join(dir, name)
		if err := errors.Join(removeIfThere(link), os.Symlink(path, link)); err != nil {
			return fmt.Errorf("linking %s: %w", name, err)
		}
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// fetchCA asks a server for its certificate authority, and holds the answer
// against what a secure token says of it. A short token trusts whoever answers.
func fetchCA(server string, c credential) ([]byte, error) {
	insecure := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	response, err := insecure.Get(server + "/cacerts")
	if err != nil {
		return nil, fmt.Errorf("failed to get CA certs: %w", err)
	}
	defer response.Body.Close()
	ca, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil || response.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("failed to get CA certs: %s", response.Status), err)
	}
	if c.hash != "" && caHash(ca) != c.hash {
		return nil, fmt.Errorf("token CA hash does not match the Cluster CA certificate hash: %s != %s", c.hash, caHash(ca))
	}
	return ca, nil
}

// Package remote runs commands and keeps files on a machine over SSH. It never
// trusts on first use: the host key must be known beforehand, because the
// agent made it on the machine and reported it over its verified session, or
// because a person wrote it into site.hcl.
package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Config says how to reach one host.
type Config struct {
	// Name is what errors call the host, such as machine.node["a"].
	Name string
	// Address is host:port.
	Address string
	// User is the login; root when empty.
	User string
	// Sudo runs every command, and the server that keeps files, as root by
	// "sudo -n": the user is allowed that without a password.
	Sudo bool
	// HostKey is the only key accepted from the host, in authorized_keys
	// form (sshd(8), "AUTHORIZED_KEYS FILE FORMAT"). Without one the host is
	// only asked for its key, which comes back in an *UnpinnedError.
	HostKey string
	// Signer proves who we are.
	Signer ssh.Signer
	// Timeout bounds dialing and the handshake together; 15 s when zero,
	// because a machine on a site's own LAN that has not answered by then
	// is busy booting or gone.
	Timeout time.Duration
	// Dial opens the TCP connection; net.Dialer when nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Host is an open SSH connection. It is safe for concurrent use.
type Host struct {
	name   string
	client *ssh.Client
	sudo   bool
}

// UnreachableError says that the host could not be asked: nothing answered, or
// what answered was cut off before it could prove who it is. It says nothing
// about whether the host is well.
type UnreachableError struct {
	Host, Address string
	Err           error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("%s: no SSH at %s: %v", e.Host, e.Address, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// HostKeyError says that whatever answers at the address is not the host that is
// known by the key: the one that the agent installed, or that site.hcl names.
type HostKeyError struct {
	Host, Address string
	Got           string // authorized_keys form, no comment
}

func (e *HostKeyError) Error() string {
	return fmt.Sprintf("%s: the SSH host key at %s is not the one by which this machine is known (got %s): "+
		"another machine has its address, or it was reinstalled by somebody else; nothing was sent to it", e.Host, e.Address, e.Got)
}

// UnpinnedError says that nobody has said yet by which key the host is known. Got
// is what answered offers: for a person to compare with the host's own, and to
// write down, never to be taken as it is.
type UnpinnedError struct {
	Host, Address string
	Got           string // authorized_keys form, no comment
	Fingerprint   string // SHA256:…, as ssh-keygen -l prints it
}

func (e *UnpinnedError) Error() string {
	return fmt.Sprintf("%s: it is not known by which SSH host key to recognize it. What answers at %s offers %s (%s). "+
		"If that is what `ssh-keygen -lf` says of it on the machine's own console, write it into site.hcl as host_key; nothing was sent to it", e.Host, e.Address, e.Fingerprint, e.Got)
}

// AuthError says that the host is the right one but refused our key.
type AuthError struct {
	Host, User string
	Err        error
}

func (e *AuthError) Error() string {
	return fmt.Sprintf("%s: the host refused this site's SSH key for user %s: %v; is the line that `edge-provision key` prints in its authorized_keys?", e.Host, e.User, e.Err)
}

func (e *AuthError) Unwrap() error { return e.Err }

// connectTimeout bounds the TCP handshake alone. Who waits for a machine to boot
// tries again soon after, instead of sitting through the growing pauses of TCP's
// own retries (RFC 6298 section 5.5).
const connectTimeout = 4 * time.Second

// Dial connects and verifies the host. Its errors are *UnreachableError,
// *HostKeyError, *UnpinnedError, *AuthError, or a plain error for a Config that cannot be used.
func Dial(ctx context.Context, c Config) (*Host, error) {
	var want ssh.PublicKey
	if c.HostKey != "" {
		var err error
		if want, _, _, _, err = ssh.ParseAuthorizedKey([]byte(c.HostKey)); err != nil {
			return nil, fmt.Errorf("%s: its recorded SSH host key cannot be read: %w", c.Name, err)
		}
	}
	if c.User == "" {
		c.User = "root"
	}
	if c.Timeout == 0 {
		c.Timeout = 15 * time.Second
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: connectTimeout}).DialContext
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()

	conn, err := c.Dial(ctx, "tcp", c.Address)
	if err != nil {
		return nil, &UnreachableError{Host: c.Name, Address: c.Address, Err: err}
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, errors.Join(&UnreachableError{Host: c.Name, Address: c.Address, Err: err}, conn.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	client, err := handshake(conn, c, want)
	if err != nil {
		stop()
		conn.Close()
		return nil, err
	}
	if !stop() {
		client.Close()
		return nil, &UnreachableError{Host: c.Name, Address: c.Address, Err: context.Cause(ctx)}
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		client.Close()
		return nil, &UnreachableError{Host: c.Name, Address: c.Address, Err: err}
	}
	return &Host{name: c.Name, client: client, sudo: c.Sudo}, nil
}

func handshake(conn net.Conn, c Config, want ssh.PublicKey) (*ssh.Client, error) {
	var (
		mismatch *HostKeyError
		unpinned *UnpinnedError
	)
	proven := false
	config := &ssh.ClientConfig{
		User: c.User,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(c.Signer)},
		// Only the algorithm of the pinned key: a host with several keys
		// must show the one we know.
		HostKeyAlgorithms: algorithms(want),
		HostKeyCallback: func(_ string, _ net.Addr, got ssh.PublicKey) error {
			line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(got)))
			switch {
			case want == nil:
				unpinned = &UnpinnedError{Host: c.Name, Address: c.Address, Got: line, Fingerprint: ssh.FingerprintSHA256(got)}
				return unpinned
			case string(got.Marshal()) != string(want.Marshal()):
				mismatch = &HostKeyError{Host: c.Name, Address: c.Address, Got: line}
				return mismatch
			}
			proven = true
			return nil
		},
	}
	sc, chans, reqs, err := ssh.NewClientConn(conn, c.Address, config)
	switch {
	case mismatch != nil:
		return nil, mismatch
	case unpinned != nil:
		return nil, unpinned
	case err != nil && proven && strings.Contains(err.Error(), "unable to authenticate"):
		return nil, &AuthError{Host: c.Name, User: c.User, Err: err}
	case noSuchKey(err):
		return nil, &HostKeyError{Host: c.Name, Address: c.Address, Got: "no " + want.Type() + " key at all"}
	case err != nil:
		return nil, &UnreachableError{Host: c.Name, Address: c.Address, Err: err}
	}
	return ssh.NewClient(sc, chans, reqs), nil
}

// noSuchKey reports whether the server has no host key of the kind that is
// pinned: it cannot be the host that has it.
func noSuchKey(err error) bool {
	var negotiation *ssh.AlgorithmNegotiationError
	return errors.As(err, &negotiation) && strings.Contains(negotiation.Error(), "host key")
}

// unreachable says that the connection to h broke.
func (h *Host) unreachable(err error) error {
	return &UnreachableError{Host: h.name, Address: h.client.RemoteAddr().String(), Err: err}
}

// algorithms lists the signature algorithms by which a host may prove key; an
// RSA key signs with SHA-2 (RFC 8332).
func algorithms(key ssh.PublicKey) []string {
	if key == nil {
		// An ed25519 key is what is easiest to compare; the others follow.
		return []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	if key.Type() == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{key.Type()}
}

// Close ends the connection and everything that runs over it.
func (h *Host) Close() error { return h.client.Close() }

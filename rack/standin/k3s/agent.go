package k3s

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// agent is the part of a node that runs containers.
type agent struct {
	settings
	node
	log       *slog.Logger
	dir       string // …/agent
	processes *processes

	// server is where the supervisor and the API server are reached.
	server     string
	credential credential
	ca         []byte
	config     clusterConfig
}

// runAgent runs an agent by itself until ctx ends or a component does.
func runAgent(ctx context.Context, set settings, log *slog.Logger) error {
	n, err := set.node()
	if err != nil {
		return err
	}
	first := strings.TrimSuffix(set.get("server", ""), "/")
	if first == "" {
		return errors.New("--server is required")
	}
	given, err := parseToken(set.get("token", set.get("agent-token", "")))
	if err != nil {
		return err
	}
	a := &agent{
		settings: set, node: n, log: log, dir: filepath.Join(set.dataDir(), "agent"), processes: newProcesses(log),
		credential: credential{hash: given.hash, user: "node", password: given.password},
	}
	defer a.processes.stop()
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return err
	}
	balancer, err := a.balance(ctx, first)
	if err != nil {
		return err
	}
	a.server = balancer.url
	// A server that is not there yet is waited for without end, as by K3s:
	// systemd shows the unit as activating.
	err = until(ctx, 2*time.Second, func(context.Context) error {
		a.ca, err = fetchCA(a.server, a.credential)
		if err != nil {
			a.log.Error("Failed to validate connection to cluster at "+first, "error", err)
		}
		return err
	})
	if err != nil {
		return err
	}
	go balancer.refresh(ctx, a)
	if err := a.start(ctx); err != nil {
		return err
	}
	notify("READY=1")
	log.Info("k3s-standin agent is up and running")
	select {
	case <-ctx.Done():
		return nil
	case err := <-a.processes.failed:
		return err
	}
}

// nodePasswordPath survives K3s's uninstallation of other directories.
const nodePasswordPath = "/etc/rancher/node/password"

// start starts the container runtime, kubelet and kube-proxy.
func (a *agent) start(ctx context.Context) error {
	for _, dir := range []string{"images", "etc/containerd", "etc/cni/net.d", "pod-manifests", "libexec/kubernetes/kubelet-plugins/volume/exec"} {
		if err := os.MkdirAll(filepath.Join(a.dir, dir), 0o755); err != nil {
			return err
		}
	}
	if err := a.fetchConfig(ctx); err != nil {
		return err
	}
	if err := a.fetchCertificates(ctx); err != nil {
		return err
	}
	if err := a.startContainerd(ctx); err != nil {
		return err
	}
	if err := a.startKubelet(ctx); err != nil {
		return err
	}
	if a.config.FlannelBackend != "none" {
		if err := a.startNetwork(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) fetchConfig(ctx context.Context) error {
	return until(ctx, 2*time.Second, func(ctx context.Context) error {
		b, err := request(ctx, http.MethodGet, a.server+"/v1-k3s/config", a.ca, a.credential, nil, nil)
		if err == nil {
			err = json.Unmarshal(b, &a.config)
		}
		if err != nil {
			a.log.Error("Failed to retrieve agent configuration", "error", err)
		}
		return err
	})
}

func nodePassword() (string, error) {
	b, err := os.ReadFile(nodePasswordPath)
	if err == nil && len(bytes.TrimSpace(b)) > 0 {
		return string(bytes.TrimSpace(b)), nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	password := randomHex(16)
	if err := os.MkdirAll(filepath.Dir(nodePasswordPath), 0o700); err != nil {
		return "", err
	}
	return password, writeFile(nodePasswordPath, []byte(password+"\n"), 0o600)
}

// fetchCertificates asks the server for this node's certificates.
func (a *agent) fetchCertificates(ctx context.Context) error {
	password, err := nodePassword()
	if err != nil {
		return fmt.Errorf("reading the node's password: %w", err)
	}
	header := http.Header{"K3s-Node-Name": {a.name}, "K3s-Node-Password": {password}, "K3s-Node-Ip": {a.ip.String()}}
	var clientCA []byte
	err = until(ctx, 2*time.Second, func(ctx context.Context) error {
		clientCA, err = request(ctx, http.MethodGet, a.server+"/v1-k3s/client-ca.crt", a.ca, a.credential, nil, nil)
		return err
	})
	if err != nil {
		return err
	}
	if err := errors.Join(writeFile(filepath.Join(a.dir, "client-ca.crt"), clientCA, 0o644), writeFile(filepath.Join(a.dir, "server-ca.crt"), a.ca, 0o644)); err != nil {
		return err
	}
	for _, name := range []string{"serving-kubelet", "client-kubelet", "client-kube-proxy", "client-k3s-controller"} {
		key, keyPEM, err := newKey()
		if err != nil {
			return err
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: a.name}}, key)
		if err != nil {
			return err
		}
		var certificate []byte
		err = until(ctx, 2*time.Second, func(ctx context.Context) error {
			certificate, err = request(ctx, http.MethodPost, a.server+"/v1-k3s/"+name+".crt", a.ca, a.credential, header, bytes.NewReader(csr))
			if status := (*statusError)(nil); errors.As(err, &status) && status.status == http.StatusForbidden {
				a.log.Error("Node password rejected, duplicate hostname or contents of '" + nodePasswordPath +
					"' may not match server node-passwd entry, try enabling a unique node name with the --with-node-id flag")
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("fetching certificate %s: %w", name, err)
		}
		base := filepath.Join(a.dir, name)
		if err := errors.Join(writeFile(base+".key", keyPEM, 0o600), writeFile(base+".crt", certificate, 0o644)); err != nil {
			return err
		}
		if name == "serving-kubelet" {
			continue
		}
		kubeconfigPath := filepath.Join(a.dir, map[string]string{"client-kubelet": "kubelet", "client-kube-proxy": "kubeproxy", "client-k3s-controller": "k3scontroller"}[name]+".kubeconfig")
		if err := writeKubeconfig(kubeconfigPath, a.server, a.ca, base, 0o600); err != nil {
			return err
		}
	}
	return nil
}

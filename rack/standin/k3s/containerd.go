package k3s

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

const (
	containerdState   = "/run/k3s/containerd"
	containerdSocket  = containerdState + "/containerd.sock"
	defaultPauseImage = "docker.io/rancher/mirrored-pause:3.6"
	registriesPath    = "/etc/rancher/k3s/registries.yaml"
)

// In a container's user namespace or under a restricted init a score below one's
// own is refused; containerd then leaves it alone.
const containerdConfig = `# Written by k3s-standin at every start.
version = 2
root = %[1]q
state = %[2]q
[grpc]
  address = %[3]q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[4]q
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "10010"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %[5]q
    conf_dir = %[6]q
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = %[7]q
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    SystemdCgroup = false
`

// The plugins that another network provider installs, and those that Debian's
// package containernetworking-plugins has.
const (
	providerPlugins = "/opt/cni/bin"
	providerConfig  = "/etc/cni/net.d"
	debianPlugins   = "/usr/lib/cni"
)

func (a *agent) startContainerd(ctx context.Context) error {
	plugins, networks := debianPlugins, filepath.Join(a.dir, "etc/cni/net.d")
	if a.config.FlannelBackend == "none" {
		plugins, networks = providerPlugins, providerConfig
	}
	certificates := filepath.Join(a.dir, "etc/containerd/certs.d")
	if err := a.writeRegistries(certificates); err != nil {
		return fmt.Errorf("reading %s: %w", registriesPath, err)
	}
	path := filepath.Join(a.dir, "etc/containerd/config.toml")
	text := fmt.Sprintf(containerdConfig, filepath.Join(a.dir, "containerd"), containerdState, containerdSocket, a.get("pause-image", defaultPauseImage), plugins, networks, certificates)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	program, err := exec.LookPath("containerd")
	if err != nil {
		return fmt.Errorf("K3s brings containerd, its stand-in takes Debian's: install the packages containerd, runc and containernetworking-plugins: %w", err)
	}
	if err := a.processes.start(component{name: "containerd", path: program, args: []string{"--config", path}, log: filepath.Join(a.dir, "containerd/containerd.log")}); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = until(limited, 100*time.Millisecond, func(ctx context.Context) error {
		_, err := ctr(ctx, nil, "version")
		return err
	})
	if err != nil {
		return fmt.Errorf("waiting for containerd: %w", err)
	}
	imported := images{dir: filepath.Join(a.dir, "images"), log: a.log, seen: map[string]string{}}
	imported.importAll(ctx)
	go imported.watch(ctx)
	return nil
}

// debianCtr is Debian's program; a "ctr" before it in the path is a link to k3s.
const debianCtr = "/usr/bin/ctr"

// ctr runs Debian's ctr in Kubernetes's namespace of this containerd.
func ctr(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, debianCtr, append([]string{"--address", containerdSocket, "--namespace", "k8s.io"}, args...)...)
	cmd.Stdin = stdin
	var out, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failed
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("ctr %s: %w: %s", args[0], err, strings.TrimSpace(failed.String()))
	}
	return out.Bytes(), nil
}

// registries is what this program reads of registries.yaml.
type registries struct {
	Mirrors map[string]struct {
		Endpoint []string          `json:"endpoint"`
		Rewrite  map[string]string `json:"rewrite"`
	} `json:"mirrors"`
	Configs map[string]struct {
		Auth *struct {
			Username, Password, Auth string
		} `json:"auth"`
		TLS *struct {
			CAFile             string `json:"ca_file"`
			CertFile           string `json:"cert_file"`
			KeyFile            string `json:"key_file"`
			InsecureSkipVerify bool   `json:"insecure_skip_verify"`
		} `json:"tls"`
	} `json:"configs"`
}

// writeRegistries turns registries.yaml into containerd's hosts.toml files.
func (a *agent) writeRegistries(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	b, err := os.ReadFile(a.get("private-registry", registriesPath))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var r registries
	if err := yaml.Unmarshal(b, &r); err != nil {
		return err
	}
	for name, mirror := range r.Mirrors {
		if name == "*" {
			name = "_default"
		}
		var text strings.Builder
		for _, endpoint := range mirror.Endpoint {
			u, err := url.Parse(endpoint)
			if err != nil || u.Host == "" {
				return fmt.Errorf("mirror %s: endpoint %q is not a URL", name, endpoint)
			}
			fmt.Fprintf(&text, "[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", u.Scheme+"://"+u.Host+strings.TrimSuffix(u.Path, "/"))
			config, ok := r.Configs[u.Host]
			if !ok || config.TLS == nil {
				continue
			}
			if config.TLS.CAFile != "" {
				fmt.Fprintf(&text, "  ca = %q\n", config.TLS.CAFile)
			}
			if config.TLS.CertFile != "" {
				fmt.Fprintf(&text, "  client = [[%q, %q]]\n", config.TLS.CertFile, config.TLS.KeyFile)
			}
			if config.TLS.InsecureSkipVerify {
				text.WriteString("  skip_verify = true\n")
			}
		}
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name, "hosts.toml"), []byte(text.String()), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// images imports the archives of the images directory.
type images struct {
	dir  string
	log  *slog.Logger
	seen map[string]string // size and time of each imported file, by name
}

// watchInterval is how often the directory is looked at while running, which
// K3s does since v1.32.
const watchInterval = 2 * time.Second

func (m *images) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchInterval):
			m.importAll(ctx)
		}
	}
}

// importAll imports every archive that is new or has changed. Like K3s it says
// what cannot be imported and goes on.
func (m *images) importAll(ctx context.Context) {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		m.log.Error("Unable to read the images directory", "error", err)
		return
	}
	for _, entry := range entries {
		name := entry.Name()
		if archiveKind(name) == "" {
			continue
		}
		path := filepath.Join(m.dir, name)
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		state := fmt.Sprint(info.Size(), info.ModTime())
		if m.seen[name] == state {
			continue
		}
		m.seen[name] = state
		began := time.Now()
		refs, err := importArchive(ctx, path)
		if err != nil {
			m.log.Error("Error encountered while importing "+path, "error", err)
			continue
		}
		m.log.Info("Imported images from "+path, "images", refs, "took", time.Since(began).Round(time.Millisecond))
	}
}

// importArchive imports one archive and pins its images, so that kubelet's
// garbage collection leaves them.
func importArchive(ctx context.Context, path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unpacked, err := unpack(path, f)
	if err != nil {
		return nil, err
	}
	defer unpacked.Close()
	out, err := ctr(ctx, unpacked, "images", "import", "--digests=true", "-")
	if err != nil {
		return nil, err
	}
	var refs []string
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) > 1 && fields[0] == "unpacking" {
			refs = append(refs, fields[1])
		}
	}
	for _, ref := range refs {
		if _, err := ctr(ctx, nil, "images", "label", ref, "io.cri-containerd.pinned=pinned"); err != nil {
			return refs, fmt.Errorf("pinning %s: %w", ref, err)
		}
	}
	return refs, nil
}

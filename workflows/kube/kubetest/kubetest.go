// Package kubetest runs a real API server for tests: the kube-apiserver and etcd
// of Kubernetes v1.34.4, which `make kubernetes` builds into the user's cache,
// and, where a test needs garbage collection and the controllers of workloads,
// the real kube-controller-manager. There are no nodes: no pod ever runs, and a
// test that needs one to have run says so by writing its status (PodStatus).
//
// Everything listens on 127.0.0.1, keeps its data in a temporary directory
// without waiting for disks, and ends with the test.
package kubetest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// Version is of the Kubernetes that runs.
const Version = "v1.34.4"

// Config says what to run.
type Config struct {
	// Binaries has kube-apiserver, etcd and kube-controller-manager; the cache
	// of `make kubernetes` when empty.
	Binaries string
	// Controllers runs kube-controller-manager as well: deployments get pods,
	// namespaces and owned objects are collected.
	Controllers bool
	// Ready bounds the start; 60 s when zero, which a loaded machine may need.
	Ready time.Duration
}

// ErrNotBuilt says that the binaries are not in the cache.
var ErrNotBuilt = errors.New("the Kubernetes binaries are not built; run `make kubernetes`")

// Server is a running API server.
type Server struct {
	// Kubeconfig is of a user who may do everything.
	Kubeconfig []byte
	// Address is host:port, CA the certificate that the server shows, in PEM,
	// and Token what the user authenticates with.
	Address string
	CA      []byte
	Token   string

	dir       string
	processes []*process
}

// Binaries is where `make kubernetes` puts what it builds.
func Binaries() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "edge-provision", "kubernetes", Version), nil
}

// Run starts a server for one test, or skips the test when nothing is built.
func Run(t testing.TB, config Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), config)
	if errors.Is(err, ErrNotBuilt) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Start runs a server until Stop.
func Start(ctx context.Context, config Config) (*Server, error) {
	if config.Binaries == "" {
		dir, err := Binaries()
		if err != nil {
			return nil, err
		}
		config.Binaries = dir
	}
	for _, name := range []string{"kube-apiserver", "etcd", "kube-controller-manager"} {
		if _, err := os.Stat(filepath.Join(config.Binaries, name)); errors.Is(err, fs.ErrNotExist) {
			return nil, ErrNotBuilt
		}
	}
	if config.Ready == 0 {
		config.Ready = time.Minute
	}
	dir, err := os.MkdirTemp("", "kubetest-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir}
	ctx, cancel := context.WithTimeoutCause(ctx, config.Ready, fmt.Errorf("it was not ready in %s", config.Ready))
	defer cancel()
	if err := s.start(ctx, config); err != nil {
		err = fmt.Errorf("starting the API server: %w\n%s", err, s.logs())
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, config Config) error {
	token := make([]byte, 16)
	if _, err := rand.Read(token); err != nil {
		return err
	}
	s.Token = hex.EncodeToString(token)
	files, err := s.credentials()
	if err != nil {
		return err
	}
	// A port that was free a moment ago can be taken by the time it is bound, so
	// that the start is tried a few times.
	for attempt := 1; ; attempt++ {
		err = s.launch(ctx, config, files)
		if err == nil || attempt == 3 || ctx.Err() != nil || !strings.Contains(s.logs(), "address already in use") {
			break
		}
		if err := s.halt(); err != nil {
			return err
		}
	}
	if err != nil || !config.Controllers {
		return err
	}
	return s.controllers(ctx, config, files)
}

func (s *Server) launch(ctx context.Context, config Config, files credentials) error {
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	etcd := "http://127.0.0.1:" + ports[0]
	peer := "http://127.0.0.1:" + ports[1]
	data := filepath.Join(s.dir, "etcd-"+ports[0])
	if err := s.run(config, "etcd",
		"--data-dir="+data, "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd, "--listen-peer-urls="+peer,
		"--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer); err != nil {
		return err
	}
	if err := s.run(config, "kube-apiserver",
		"--etcd-servers="+etcd, "--bind-address=127.0.0.1", "--secure-port="+ports[2],
		"--tls-cert-file="+files.cert, "--tls-private-key-file="+files.key, "--cert-dir="+s.dir,
		"--token-auth-file="+files.tokens, "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+files.key, "--service-account-signing-key-file="+files.key,
		"--service-cluster-ip-range=10.96.0.0/16", "--advertise-address=10.99.0.1", "--endpoint-reconciler-type=none"); err != nil {
		return err
	}
	s.Address = "127.0.0.1:" + ports[2]
	s.Kubeconfig = Kubeconfig("https://"+s.Address, s.CA, s.Token)
	return s.ready(ctx, "/readyz", "/api/v1/namespaces/default")
}

func (s *Server) controllers(ctx context.Context, config Config, files credentials) error {
	path := filepath.Join(s.dir, "kubeconfig")
	if err := os.WriteFile(path, s.Kubeconfig, 0o600); err != nil {
		return err
	}
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	err = s.run(config, "kube-controller-manager",
		"--kubeconfig="+path, "--bind-address=127.0.0.1", "--secure-port="+ports[0], "--cert-dir="+s.dir, "--leader-elect=false",
		"--service-account-private-key-file="+files.key, "--root-ca-file="+files.cert, "--use-service-account-credentials=false")
	if err != nil {
		return err
	}
	// No pod is admitted without the service account that it runs as.
	return s.ready(ctx, "/api/v1/namespaces/default/serviceaccounts/default")
}

// Kubeconfig is a kubeconfig with a token.
func Kubeconfig(server string, ca []byte, token string) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: test
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: test
  user: {token: %q}
contexts:
- name: test
  context: {cluster: test, user: test}
current-context: test
`, server, base64.StdEncoding.EncodeToString(ca), token)
}

// Open is a client of the server that looks often, for tests.
func (s *Server) Open() (*kube.Cluster, error) {
	return kube.Open(kube.Config{Kubeconfig: s.Kubeconfig, PollInterval: 20 * time.Millisecond})
}

// ready waits until the server answers all paths.
func (s *Server) ready(ctx context.Context, paths ...string) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, path := range paths {
		for {
			err := s.ask(ctx, client, path)
			if err == nil {
				break
			}
			for _, p := range s.processes {
				select {
				case <-p.done:
					return fmt.Errorf("%s ended: %w", p.name, p.err)
				default:
				}
			}
			select {
			case <-ctx.Done():
				return errors.Join(context.Cause(ctx), err)
			case <-tick.C:
			}
		}
	}
	return nil
}

func (s *Server) ask(ctx context.Context, client *http.Client, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.Address+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.Token)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", path, resp.Status)
	}
	return nil
}

func freePorts(n int) ([]string, error) {
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		// All stay open until the last is known, so that they differ.
		defer l.Close()
		out = append(out, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	return out, nil
}

// process is one component that runs.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error // once done is closed
}

func (s *Server) run(config Config, name string, args ...string) error {
	log, err := os.Create(filepath.Join(s.dir, fmt.Sprintf("%s-%d.log", name, len(s.processes))))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(config.Binaries, name), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	// They must not outlive a test that was killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, log: log.Name(), done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	s.processes = append(s.processes, p)
	return nil
}

// Pause stops the API server's process without ending it, as a host that hangs
// does; Resume lets it go on.
func (s *Server) Pause() error { return s.signal("kube-apiserver", syscall.SIGSTOP) }

// Resume ends Pause.
func (s *Server) Resume() error { return s.signal("kube-apiserver", syscall.SIGCONT) }

func (s *Server) signal(name string, sig syscall.Signal) error {
	for _, p := range s.processes {
		if p.name == name {
			return p.cmd.Process.Signal(sig)
		}
	}
	return fmt.Errorf("%s does not run", name)
}

// Stop ends everything and removes its files.
func (s *Server) Stop() error { return errors.Join(s.halt(), os.RemoveAll(s.dir)) }

// halt kills the processes: nothing of theirs is kept.
func (s *Server) halt() error {
	var errs []error
	for i := len(s.processes) - 1; i >= 0; i-- {
		p := s.processes[i]
		if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
		<-p.done
	}
	s.processes = nil
	return errors.Join(errs...)
}

// maxLogBytes bounds what a failure shows of each log.
const maxLogBytes = 3000

func (s *Server) logs() string {
	var b strings.Builder
	for _, p := range s.processes {
		content, err := os.ReadFile(p.log)
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, "--- %s\n%s\n", p.name, content[max(0, len(content)-maxLogBytes):])
	}
	return b.String()
}

//go:build e2e

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/imagebuilder"
	"github.com/edge-provision/edge-provision/rack/host"
)

// depot is a site whose one step asks the API of the daemon that carries it out.
const depot = `site "depot" {}
workflow "look" {
  step "http" "health" {
    url = "http://127.0.0.1:8482/healthz"
  }
}
`

// supervised is a host with systemd, on which the units are installed.
type supervised struct {
	*testing.T
	lab          *host.Lab
	key, program string // files here: of SSH, and edge-provision
}

// must runs a shell line on the host.
func (s *supervised) must(line string) string {
	s.Helper()
	out, err := s.try(line)
	if err != nil {
		s.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}

func (s *supervised) try(line string) (string, error) {
	// Also when the test has ended, to tell why it failed.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.Context()), 2*time.Minute)
	defer cancel()
	out, err := s.lab.Exec(ctx, 0, "sh", "-c", line)
	return string(out), err
}

func (s *supervised) wants(line, want string) {
	s.Helper()
	if got := s.must(line); !strings.Contains(got, want) {
		s.Errorf("%s prints\n%s\nwant %q", line, got, want)
	}
}

func (s *supervised) install(files map[string]string) {
	s.Helper()
	for path, text := range files {
		s.must("mkdir -p " + filepath.Dir(path) + " && cat >" + path + " <<'END'\n" + text + "END")
	}
}

// Names of what is installed on the host, and the commands beside the service.
const (
	service = "edge-provision.service"
	beside  = "edge-provision --data-dir /var/lib/edge-provision --cache-dir /var/cache/edge-provision "
	siteArg = " /etc/edge-provision/site.hcl"
)

// supervise starts a host and installs the program and the units as they are.
func supervise(t *testing.T) *supervised {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: hosts are containers")
	}
	program := filepath.Join(repository, "bin", "edge-provision")
	if p := os.Getenv("EDGE_E2E_BIN"); p != "" {
		program = filepath.Join(p, "edge-provision")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	image, err := host.Image(t.Context(), &imagebuilder.Builder{CacheDir: filepath.Join(cache, "edge-provision")})
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	lab, err := host.Start(t.Context(), host.Config{Image: image, AuthorizedKeys: []string{strings.TrimSpace(string(public))}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &supervised{T: t, lab: lab, key: key, program: program}
	s.must("mkdir -p /usr/local/lib/edge-provision")
	s.copy(program, "/usr/local/bin/edge-provision")
	s.copy(filepath.Join(filepath.Dir(program), "edge-agent"), "/usr/local/lib/edge-provision/edge-agent")
	files := map[string]string{}
	for _, name := range []string{"edge-provision.service", "edge-provision.socket"} {
		text, err := os.ReadFile(filepath.Join("systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		files["/etc/systemd/system/"+name] = string(text)
	}
	s.install(files)
	t.Cleanup(func() {
		if t.Failed() {
			out, err := s.try("journalctl --no-pager -b -u " + service + "; systemctl status --no-pager " + service)
			t.Logf("%v\n%s", err, out)
		}
	})
	s.must("systemctl daemon-reload")
	return s
}

// reach is a program of SSH with what makes it log in.
func (s *supervised) reach(ctx context.Context, name string, args ...string) *exec.Cmd {
	return s.lab.Command(ctx, name, append([]string{"-q", "-i", s.key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"}, args...)...)
}

func (s *supervised) login() string { return "root@" + s.lab.Hosts[0].Address.String() }

func (s *supervised) copy(from, to string) {
	s.Helper()
	if out, err := s.reach(s.Context(), "scp", from, s.login()+":"+to).CombinedOutput(); err != nil {
		s.Fatalf("copying %s: %v\n%s", from, err, out)
	}
}

// TestSystemdRunsTheUnits starts the units as they are on a host with systemd: by
// a connection, with their hardening, reloads, restarts and stops them.
func TestSystemdRunsTheUnits(t *testing.T) {
	s := supervise(t)
	s.install(map[string]string{"/etc/edge-provision/site.hcl": depot})
	s.must("systemctl start edge-provision.socket")
	s.wants("systemctl is-active "+service+" || true", "inactive")
	// The first client has it started, and waits until it answers.
	s.must(beside + "inventory list --server http://127.0.0.1:8482")
	// systemd hears of it a moment later, or before.
	s.until("what it serves", "systemctl show -p ActiveState -p StatusText "+service, "StatusText=Serving site depot")
	s.until("that it is ready", "systemctl show -p ActiveState -p StatusText "+service, "ActiveState=active")
	// It holds the site, so that this can only have gone through it.
	s.wants(beside+"apply -auto-approve"+siteArg+" 2>&1", "Site depot is as declared")
	s.wants(beside+"runs list", "apply")
	if out, err := s.try("setpriv --reuid=65534 --regid=65534 --clear-groups test -w /run/edge-provision/serve.sock"); err == nil {
		t.Errorf("another user can write to the socket: %s", out)
	}
	// A broken site leaves the old one serving; what systemd waits for is told.
	s.install(map[string]string{"/etc/edge-provision/site.hcl": "site \"depot\" {\n"})
	s.must("systemctl reload " + service)
	s.until("the reload", "journalctl --no-pager -b -u "+service, "it is served as it was before")
	s.until("the refusal", "systemctl show -P StatusText "+service, "the last reload was refused: site.hcl line 1")
	s.wants("systemctl is-active "+service, "active")
	s.install(map[string]string{"/etc/edge-provision/site.hcl": strings.Replace(depot, "healthz", "readyz", 1)})
	s.must("systemctl reload " + service)
	s.until("the reload", "journalctl --no-pager -b -u "+service, "as it is now in")
	s.wants(beside+"apply -auto-approve"+siteArg+" 2>&1", "Site depot is as declared")
	// Its sockets stay while it restarts.
	before := s.must("systemctl show -P MainPID " + service)
	s.must("systemctl restart " + service)
	s.must(beside + "inventory list --server http://127.0.0.1:8482")
	if after := s.must("systemctl show -P MainPID " + service); after == before {
		t.Errorf("the process after a restart is %s, as before", after)
	}
	s.must("kill -9 $(systemctl show -P MainPID " + service + ")")
	s.wants(beside+"inventory list -o json --server http://127.0.0.1:8482", "[]")
	s.must("systemctl stop " + service + " edge-provision.socket")
	s.wants("systemctl show -p Result "+service, "Result=success")
	s.wants("test -e /run/edge-provision/serve.sock && echo there || echo gone", "gone")
}

// until asks the host again and again, for a minute at most.
func (s *supervised) until(what, line, want string) {
	s.Helper()
	deadline := time.After(time.Minute)
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for !strings.Contains(s.must(line), want) {
		select {
		case <-ticker.C:
		case <-deadline:
			s.Fatalf("%s: %s did not print %q in a minute", what, line, want)
		}
	}
}

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
	lab *host.Lab
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
	ctx, cancel := context.WithTimeout(s.Context(), 2*time.Minute)
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

// TestSystemdRunsTheUnits starts the units as they are on a host with systemd: by
// a connection, with their hardening, reloads, restarts and stops them.
func TestSystemdRunsTheUnits(t *testing.T) {
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
	s := &supervised{T: t, lab: lab}
	copied := lab.Command(t.Context(), "scp", "-q", "-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		program, "root@"+lab.Hosts[0].Address.String()+":/usr/local/bin/edge-provision")
	if out, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("copying the program: %v\n%s", err, out)
	}
	files := map[string]string{"/etc/edge-provision/site.hcl": depot}
	for _, name := range []string{"edge-provision.service", "edge-provision.socket"} {
		text, err := os.ReadFile(filepath.Join("systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		files["/etc/systemd/system/"+name] = string(text)
	}
	s.install(files)
	const (
		service = "edge-provision.service"
		ours    = "edge-provision --data-dir /var/lib/edge-provision --cache-dir /var/cache/edge-provision "
		site    = " /etc/edge-provision/site.hcl"
	)
	defer func() {
		if t.Failed() {
			out, err := s.try("journalctl --no-pager -b -u " + service + "; systemctl status --no-pager " + service)
			t.Logf("%v\n%s", err, out)
		}
	}()
	s.must("systemctl daemon-reload && systemctl start edge-provision.socket")
	s.wants("systemctl is-active "+service+" || true", "inactive")
	// The first client has it started, and waits until it answers.
	s.must(ours + "inventory list --server http://127.0.0.1:8482")
	s.wants("systemctl show -p ActiveState -p StatusText "+service, "StatusText=Serving site depot")
	s.wants("systemctl show -p ActiveState -p StatusText "+service, "ActiveState=active")
	// It holds the site, so that this can only have gone through it.
	s.wants(ours+"apply -auto-approve"+site+" 2>&1", "Site depot is as declared")
	s.wants(ours+"runs list", "apply")
	if out, err := s.try("setpriv --reuid=65534 --regid=65534 --clear-groups test -w /run/edge-provision/serve.sock"); err == nil {
		t.Errorf("another user can write to the socket: %s", out)
	}
	// A broken site leaves the old one serving; what systemd waits for is told.
	s.install(map[string]string{"/etc/edge-provision/site.hcl": "site \"depot\" {\n"})
	s.must("systemctl reload " + service)
	s.until("the reload", "journalctl --no-pager -b -u "+service, "it is served as it was before")
	s.wants("systemctl is-active "+service, "active")
	s.install(map[string]string{"/etc/edge-provision/site.hcl": strings.Replace(depot, "healthz", "readyz", 1)})
	s.must("systemctl reload " + service)
	s.until("the reload", "journalctl --no-pager -b -u "+service, "as it is now in")
	s.wants(ours+"apply -auto-approve"+site+" 2>&1", "Site depot is as declared")
	// Its sockets stay while it restarts.
	before := s.must("systemctl show -P MainPID " + service)
	s.must("systemctl restart " + service)
	s.must(ours + "inventory list --server http://127.0.0.1:8482")
	if after := s.must("systemctl show -P MainPID " + service); after == before {
		t.Errorf("the process after a restart is %s, as before", after)
	}
	s.must("kill -9 $(systemctl show -P MainPID " + service + ")")
	s.wants(ours+"inventory list -o json --server http://127.0.0.1:8482", "[]")
	s.must("systemctl stop " + service + " edge-provision.socket")
	s.wants("systemctl show -p Result "+service, "Result=success")
	s.wants("test -e /run/edge-provision/serve.sock && echo there || echo gone", "gone")
}

// until asks the host again and again, for half a minute at most.
func (s *supervised) until(what, line, want string) {
	s.Helper()
	deadline := time.After(30 * time.Second)
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for !strings.Contains(s.must(line), want) {
		select {
		case <-ticker.C:
		case <-deadline:
			s.Fatalf("%s: %s did not print %q in 30 s", what, line, want)
		}
	}
}

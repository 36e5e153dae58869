//go:build e2e

package steps_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/remote/remotetest"
)

// opensshd is OpenSSH's own server, in a mount namespace that has its own users,
// sudoers and temporary directories, of which /tmp is mounted noexec as hardened
// hosts have it.
type opensshd struct {
	address, hostKey string
	fingerprint      string // as ssh-keygen prints it
}

// namespaced prepares the namespace; $1 is a directory of the test, which is seen
// there as /run/test.
const namespaced = `
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/sshd /run/test
mount --bind "$1" /run/test
for f in passwd group shadow sudoers; do mount --bind /run/test/$f /etc/$f; done
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mount -t tmpfs -o mode=1777,noexec tmpfs /tmp
exec /usr/sbin/sshd -D -e -f /run/test/sshd_config
`

func startSSHD(t *testing.T, user ssh.PublicKey) *opensshd {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a mount namespace with users of its own needs root")
	}
	for _, program := range []string{"/usr/sbin/sshd", "/usr/bin/sudo", "/usr/bin/ssh-keygen", "/usr/bin/unshare"} {
		if _, err := os.Stat(program); err != nil {
			t.Skipf("%s is not installed: packages openssh-server, sudo and util-linux have them", program)
		}
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := reserved.Addr().(*net.TCPAddr).Port
	reserved.Close()
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("passwd", "root:x:0:0:root:/root:/bin/sh\nsshd:x:105:65534::/run/sshd:/usr/sbin/nologin\nops:x:4242:4242::/:/bin/sh\n", 0o644)
	write("group", "root:x:0:\nops:x:4242:\nnogroup:x:65534:\n", 0o644)
	write("shadow", "root:*:19000::::::\nops:*:19000::::::\n", 0o600)
	write("sudoers", "root ALL=(ALL) ALL\nops ALL=(ALL) NOPASSWD: ALL\n", 0o440)
	write("authorized_keys", string(ssh.MarshalAuthorizedKey(user)), 0o644)
	write("sshd_config", fmt.Sprintf(`ListenAddress 127.0.0.1:%d
HostKey /run/test/host_key
AuthorizedKeysFile /run/test/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
PidFile none
Subsystem sftp internal-sftp
`, port), 0o644)
	run := func(name string, args ...string) string {
		out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q = %v\n%s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "host_key"))
	public, err := os.ReadFile(filepath.Join(dir, "host_key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	s := &opensshd{
		address: fmt.Sprintf("127.0.0.1:%d", port), hostKey: strings.Join(strings.Fields(string(public))[:2], " "),
		fingerprint: strings.Fields(run("ssh-keygen", "-lf", filepath.Join(dir, "host_key.pub")))[1],
	}
	var said strings.Builder
	server := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", namespaced, "sh", dir)
	server.Stdout, server.Stderr = &said, &said
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
		if t.Failed() {
			t.Logf("sshd said:\n%s", said.String())
		}
	})
	eventually(t, 10*time.Second, "sshd to listen", func() bool {
		c, err := net.Dial("tcp", s.address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return s
}

// eventually waits until a condition holds.
func eventually(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %s for %s", within, what)
		case <-tick.C:
		}
	}
}

// left lists what the agent left on the host.
func left(t *testing.T, h *remote.Host) string {
	t.Helper()
	out, err := h.Run(t.Context(), remote.Command{Line: "find /tmp /var/tmp /dev/shm / -maxdepth 1 -name 'edge-agent.*'"})
	if err != nil {
		t.Fatal(err)
	}
	return out.Stdout
}

func TestAdoptionThroughOpenSSH(t *testing.T) {
	signer := remotetest.NewSigner(t)
	s := startSSHD(t, signer.PublicKey())
	reached := block(t, s.address, s.hostKey)
	root, err := remote.Dial(t.Context(), remote.Config{Name: "root", Address: s.address, HostKey: s.hostKey, Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	// /run is the namespace's own; /var/lib is the host's.
	adopt := func(t *testing.T, text string, signer ssh.Signer) *adoption {
		a := adopt(t, text, signer)
		a.observer.Adopter.Dir = "/run/edge-provision/agent"
		return a
	}
	program, err := agentProgram()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), program, "facts").Output()
	if err != nil {
		t.Fatal(err)
	}
	var whole inventory.Facts
	if err := json.Unmarshal(out, &whole); err != nil {
		t.Fatal(err)
	}

	t.Run("root sees all", func(t *testing.T) {
		v, _, _ := adopt(t, reached, signer).see()
		if v.Facts == nil || len(v.Facts.Disks) != len(whole.Disks) || v.Facts.Memory.Bytes != whole.Memory.Bytes {
			t.Errorf("Facts = %+v; want what the agent sees as root, %+v", v.Facts, whole)
		}
	})
	t.Run("a user sees what a user may", func(t *testing.T) {
		v, action, said := adopt(t, reached+"\nuser = \"ops\"", signer).see()
		if v.Facts == nil || v.Facts.Memory == nil || action.Kind != workflows.KindNone {
			t.Errorf("view, action = %+v, %+v; want facts", v, action)
		}
		readable := true
		for _, d := range whole.Disks {
			readable = readable && len(d.Signatures) == 1 && d.Signatures[0] == "unreadable"
		}
		if !readable && !strings.Contains(said, "could not see everything as user ops") {
			t.Errorf("diagnostics = %q; want it said what ops could not see", said)
		}
	})
	t.Run("a user with sudo sees all and keeps root's files", func(t *testing.T) {
		a := adopt(t, reached+"\nuser = \"ops\"\nsudo = true", signer)
		v, _, said := a.see()
		if v.Facts == nil || len(v.Facts.Disks) != len(whole.Disks) || strings.Contains(said, "permission denied") {
			t.Errorf("Facts = %+v, %s; want what root sees", v.Facts, said)
		}
		h, err := a.observer.Hosts.Host(t.Context(), "machine.old")
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		if err := h.WriteFile(t.Context(), "/run/kept/by-root", remote.File{Content: []byte("text"), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		f, err := h.ReadFile(t.Context(), "/run/kept/by-root")
		if err != nil || string(f.Content) != "text" || f.UID != 0 {
			t.Errorf("ReadFile() = %+v, %v; want root's file", f, err)
		}
	})
	t.Run("root keeps the program where nobody else may write", func(t *testing.T) {
		out, err := root.Run(t.Context(), remote.Command{Line: "stat -c '%U %a %n' /run/edge-provision/agent /run/edge-provision/agent/*"})
		if err != nil || len(strings.Split(strings.TrimSpace(out.Stdout), "\n")) != 2 || strings.Count(out.Stdout, "root 700 ") != 2 {
			t.Errorf("kept: %s, %v; want root's directory and one program, for root alone", out.Stdout, err)
		}
	})
	t.Run("a program that is cut off is removed", func(t *testing.T) {
		a := adopt(t, reached, signer)
		endless, err := os.ReadFile("/usr/bin/yes")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "edge-agent")
		a.observer.Adopter.Agent = func() (string, error) { return path, os.WriteFile(path, endless, 0o700) }
		if _, _, said := a.see(); !strings.Contains(said, "it printed more than") {
			t.Errorf("diagnostics = %q; want it refused", said)
		}
		eventually(t, 10*time.Second, "the program to be removed", func() bool { return left(t, root) == "" })
	})
	t.Run("without a host key it is shown", func(t *testing.T) {
		_, action, said := adopt(t, block(t, s.address, ""), signer).see()
		if action.Kind != workflows.KindRefused || !strings.Contains(said, s.fingerprint) || !strings.Contains(said, s.hostKey) {
			t.Errorf("action, diagnostics = %+v, %s; want it refused, with %s", action, said, s.fingerprint)
		}
	})
	if found := left(t, root); found != "" {
		t.Errorf("left behind: %s", found)
	}
}

package k3s

import (
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFileIsWholeWhenItsDiskIsFull has the system take four bytes of each file, as
// a disk does that gets full: what was written before is what the next start reads.
func TestFileIsWholeWhenItsDiskIsFull(t *testing.T) {
	dir := t.TempDir()
	ca := []byte("the authority")
	if err := writeTokens(dir, ca, "first", "agents"); err != nil {
		t.Fatal(err)
	}
	token := func() string {
		t.Helper()
		c, err := (&server{settings: settings{}, dir: dir}).givenToken()
		if err != nil {
			t.Fatalf("givenToken() = %v; want the token that is kept", err)
		}
		return c.password
	}
	full(t, func() {
		if err := writeTokens(dir, ca, "second", "agents"); err == nil {
			t.Error("writeTokens() = nil on a full disk; want an error")
		}
		if err := ensureAuthority(filepath.Join(dir, "ca"), "ca"); err == nil {
			t.Error("ensureAuthority() = nil on a full disk; want an error")
		}
	})
	if got := token(); got != "first" {
		t.Errorf("the kept token is %q; want the first", got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) > 0 {
		t.Errorf("a full disk is left with %q; want nothing half-written", left)
	}

	if err := writeTokens(dir, ca, "second", "agents"); err != nil {
		t.Fatal(err)
	}
	if got := token(); got != "second" {
		t.Errorf("with room again the kept token is %q; want the second", got)
	}
	if err := ensureAuthority(filepath.Join(dir, "ca"), "ca"); err != nil {
		t.Fatal(err)
	}
	if _, err := loadAuthority(filepath.Join(dir, "ca")); err != nil {
		t.Errorf("with room again loadAuthority() = %v; want an authority", err)
	}
}

// full does f with files that take four bytes at most.
func full(t *testing.T, f func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 4, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

func TestFileThatIsWrittenAnewHasItsMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path+".new", []byte("left over"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %04o; want 0600", info.Mode().Perm())
	}
}

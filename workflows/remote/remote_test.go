package remote_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/remote/remotetest"
)

// dial opens a connection to a new server.
func dial(t *testing.T, options *remotetest.Server) (*remote.Host, *remotetest.Server) {
	t.Helper()
	signer := remotetest.NewSigner(t)
	s := remotetest.Start(t, signer.PublicKey(), options)
	h, err := remote.Dial(t.Context(), remote.Config{Name: "machine.a", Address: s.Address, HostKey: s.HostKey, Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h, s
}

func authorized(t *testing.T, key ssh.PublicKey) string {
	t.Helper()
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func TestDialTellsApartWhyAHostIsNotReached(t *testing.T) {
	signer := remotetest.NewSigner(t)
	s := remotetest.Start(t, signer.PublicKey(), nil)
	other := authorized(t, remotetest.NewSigner(t).PublicKey())
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecdsaSigner, err := ssh.NewSignerFromKey(elliptical)
	if err != nil {
		t.Fatal(err)
	}
	closed := listener(t, nil)
	closed.Close()
	cut := listener(t, func(c net.Conn) { c.Close() })
	mute := listener(t, func(net.Conn) {})
	base := remote.Config{Name: "machine.a", Address: s.Address, HostKey: s.HostKey, Signer: signer, Timeout: 5 * time.Second}
	tests := []struct {
		name   string
		change func(*remote.Config)
		want   any
		says   string
	}{
		{"another host key", func(c *remote.Config) { c.HostKey = other }, new(*remote.HostKeyError), "nothing was sent to it"},
		{"a host without a key of the pinned kind", func(c *remote.Config) { c.HostKey = authorized(t, ecdsaSigner.PublicKey()) }, new(*remote.HostKeyError), "ecdsa-sha2-nistp256"},
		{"a user key that is not admitted", func(c *remote.Config) { c.Signer = remotetest.NewSigner(t) }, new(*remote.AuthError), "for user root"},
		{"nobody listens", func(c *remote.Config) { c.Address = closed.Addr().String() }, new(*remote.UnreachableError), "connection refused"},
		{"cut in the handshake", func(c *remote.Config) { c.Address = cut.Addr().String() }, new(*remote.UnreachableError), "no SSH at"},
		{"accepts and says nothing", func(c *remote.Config) { c.Address, c.Timeout = mute.Addr().String(), 50*time.Millisecond }, new(*remote.UnreachableError), "timeout"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := base
			test.change(&c)
			h, err := remote.Dial(t.Context(), c)
			if h != nil || !errors.As(err, test.want) {
				t.Fatalf("Dial() = %v, %v; want %T", h, err, test.want)
			}
			if !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "machine.a") {
				t.Errorf("Dial() = %v; want %q and the machine in it", err, test.says)
			}
		})
	}
	if len(s.Commands()) != 0 {
		t.Errorf("commands = %q; want none", s.Commands())
	}
	if _, err := remote.Dial(t.Context(), remote.Config{Name: "machine.a", HostKey: "ssh-ed25519 junk"}); err == nil || !strings.Contains(err.Error(), "recorded SSH host key") {
		t.Errorf("Dial() with a damaged host key = %v; want it said", err)
	}
}

// listener accepts connections and hands them on.
func listener(t *testing.T, accept func(net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			accept(c)
		}
	}()
	return l
}

func TestRunReportsHowACommandEnded(t *testing.T) {
	h, _ := dial(t, nil)
	r, err := h.Run(t.Context(), remote.Command{Line: "cat; echo out; echo err >&2", Stdin: strings.NewReader("in\n")})
	if err != nil || r.Stdout != "in\nout\n" || r.Stderr != "err\n" || r.ExitCode != 0 {
		t.Errorf("Run() = %+v, %v; want its streams", r, err)
	}
	tests := []struct{ name, line, want string }{
		{"exit status", "echo why >&2; exit 3", "machine.a: \"echo why >&2; exit 3\" exited with 3:\n  why"},
		{"stdout where stderr is empty", "echo only; exit 4", "exited with 4:\n  only"},
		{"nothing printed", "exit 5", "exited with 5 and printed nothing"},
		{"a signal", "kill -KILL $$", "was ended by signal KILL"},
		{"the last ten lines", "seq 1 30; exit 6", "exited with 6:\n  21\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := h.Run(t.Context(), remote.Command{Line: test.line})
			var exit *remote.ExitError
			if !errors.As(err, &exit) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Run(%q) = %v; want an *ExitError with %q", test.line, err, test.want)
			}
		})
	}
}

func TestSensitiveCommandsAreNotQuoted(t *testing.T) {
	h, _ := dial(t, nil)
	_, err := h.Run(t.Context(), remote.Command{Line: "false # hunter2", Sensitive: true})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Run() = %v; want an error without the command", err)
	}
}

func TestCommandThatDoesNotReadItsInputIsNoBrokenConnection(t *testing.T) {
	h, _ := dial(t, nil)
	for range 20 {
		if _, err := h.Run(t.Context(), remote.Command{Line: "exit 0", Stdin: bytes.NewReader(make([]byte, 8<<20))}); err != nil {
			t.Fatalf("Run() = %v; want success", err)
		}
	}
}

func TestOutputWithoutEndIsBounded(t *testing.T) {
	h, _ := dial(t, nil)
	r, err := h.Run(t.Context(), remote.Command{Line: "head -c 4000000 /dev/zero | tr '\\0' x; echo end"})
	if err != nil || len(r.Stdout) != 64<<10 || !strings.HasSuffix(r.Stdout, "xend\n") {
		t.Errorf("Run() = %d bytes, %v; want the last 64 KiB", len(r.Stdout), err)
	}
}

func TestCommandEndsWithItsContext(t *testing.T) {
	for name, options := range map[string]*remotetest.Server{"a command that runs on": {}, "a machine that has gone silent": {Silent: true}} {
		t.Run(name, func(t *testing.T) {
			h, _ := dial(t, options)
			cause := errors.New("its timeout of 1m ended")
			ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, cause)
			defer cancel()
			began := time.Now()
			_, err := h.Run(ctx, remote.Command{Line: "sleep 600"})
			if !errors.Is(err, cause) || time.Since(began) > 20*time.Second {
				t.Errorf("Run() = %v after %s; want the cause, soon", err, time.Since(began))
			}
		})
	}
}

func TestFilesOfASilentMachineEndWithTheContext(t *testing.T) {
	h, _ := dial(t, &remotetest.Server{Silent: true})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := h.ReadFile(ctx, "/etc/hostname"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ReadFile() = %v; want the deadline", err)
	}
}

func TestWriteFileIsAtomicAndExact(t *testing.T) {
	h, _ := dial(t, nil)
	dir := t.TempDir()
	name := filepath.Join(dir, "new", "deep", "it's a file")
	f := remote.File{Content: []byte("one\n"), Mode: 0o640, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	if err := h.WriteFile(t.Context(), name, f); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(name)
	if err != nil || before.Mode().Perm() != 0o640 {
		t.Fatalf("Stat() = %v, %v; want mode 0640", before, err)
	}
	f.Content, f.Mode = []byte("two\n"), 0o600
	if err := h.WriteFile(t.Context(), name, f); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if os.SameFile(before, after) {
		t.Error("the file was written in place; a reader could have seen half of it")
	}
	got, err := h.ReadFile(t.Context(), name)
	if err != nil || string(got.Content) != "two\n" || got.Mode != 0o600 || got.UID != f.UID || got.GID != f.GID {
		t.Errorf("ReadFile() = %+v, %v; want what was written", got, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(name)); len(left) != 1 {
		t.Errorf("ReadDir() = %v; want no temporary file left", left)
	}
}

func TestFailedWriteLeavesTheOldFileAndNothingElse(t *testing.T) {
	h, _ := dial(t, nil)
	dir := t.TempDir()
	name := filepath.Join(dir, "taken") // a directory with content cannot be renamed over
	if err := os.MkdirAll(filepath.Join(name, "content"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := h.WriteFile(t.Context(), name, remote.File{Content: []byte("x"), Mode: 0o600, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())})
	if err == nil || !strings.Contains(err.Error(), "machine.a: writing "+name) {
		t.Errorf("WriteFile() = %v; want an error that says where", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("ReadDir() = %v; want no temporary file left", left)
	}
}

func TestReadFileRefusesWhatIsNoFile(t *testing.T) {
	h, _ := dial(t, nil)
	dir := t.TempDir()
	if _, err := h.ReadFile(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile(none) = %v; want fs.ErrNotExist", err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, filepath.Join(dir, "link")} {
		if _, err := h.ReadFile(t.Context(), name); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("ReadFile(%s) = %v; want a refusal", name, err)
		}
	}
}

func TestRemoveFileTwice(t *testing.T) {
	h, _ := dial(t, nil)
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := h.RemoveFile(t.Context(), name); err != nil {
			t.Errorf("RemoveFile() = %v; want nil, also when it is gone", err)
		}
	}
}

func TestLookupID(t *testing.T) {
	h, _ := dial(t, nil)
	for _, test := range []struct {
		database, name string
		want           uint32
		fails          bool
	}{{"user", "root", 0, false}, {"group", "root", 0, false}, {"user", "1234", 1234, false}, {"user", "nobody-of-that-name", 0, true}} {
		got, err := h.LookupID(t.Context(), test.database, test.name)
		if got != test.want || (err != nil) != test.fails {
			t.Errorf("LookupID(%s, %s) = %d, %v; want %d", test.database, test.name, got, err, test.want)
		}
	}
}

func TestQuoteMakesOneWord(t *testing.T) {
	h, _ := dial(t, nil)
	for _, s := range []string{"", "a b", "it's", "$(id)", "`id`", "a\nb", `\`, "*"} {
		r, err := h.Run(t.Context(), remote.Command{Line: "printf %s " + remote.Quote(s)})
		if err != nil || r.Stdout != s {
			t.Errorf("printf of Quote(%q) = %q, %v; want it unchanged", s, r.Stdout, err)
		}
	}
}

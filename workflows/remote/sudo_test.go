package remote_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/remote/remotetest"
)

// dialSudo reaches a server on which a stand-in for sudo notes its arguments and
// runs the command as whoever it is. The real one is used by the end-to-end
// tests of package steps.
func dialSudo(t *testing.T) (h *remote.Host, noted func() string) {
	t.Helper()
	dir := t.TempDir()
	notes := filepath.Join(dir, "notes")
	stub := "#!/bin/sh\nprintf '%s|' \"$@\" >>" + notes + "\n[ \"$1\" = -n ] && [ \"$2\" = -- ] || exit 99\nshift 2\nexec \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "sudo"), []byte(stub), 0o700); err != nil {
		t.Fatal(err)
	}
	signer := remotetest.NewSigner(t)
	s := remotetest.Start(t, signer.PublicKey(), &remotetest.Server{Env: []string{"PATH=" + dir + ":" + os.Getenv("PATH")}})
	h, err := remote.Dial(t.Context(), remote.Config{Name: "machine.a", Address: s.Address, HostKey: s.HostKey, Signer: signer, User: "ops", Sudo: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h, func() string {
		b, err := os.ReadFile(notes)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

func TestCommandsOfAUserWithSudoAreRoots(t *testing.T) {
	h, noted := dialSudo(t)
	out, err := h.Run(t.Context(), remote.Command{Line: `printf '%s' "it's $((1 + 1))"; cat`, Stdin: strings.NewReader("!")})
	if err != nil || out.Stdout != "it's 2!" {
		t.Errorf("Run() = %q, %v; want it's 2!", out.Stdout, err)
	}
	if got := noted(); !strings.HasPrefix(got, "-n|--|sh|-c|") {
		t.Errorf("sudo was given %q; want -n -- sh -c …", got)
	}
	_, err = h.Run(t.Context(), remote.Command{Line: "exit 7"})
	var exit *remote.ExitError
	if !errors.As(err, &exit) || exit.Code != 7 || strings.Contains(err.Error(), "sudo") {
		t.Errorf("Run(exit 7) = %v; want the command as it was asked for, with its code", err)
	}
}

func TestFilesOfAUserWithSudoAreRoots(t *testing.T) {
	installed := false
	for _, path := range []string{"/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server"} {
		_, err := os.Stat(path)
		installed = installed || err == nil
	}
	h, noted := dialSudo(t)
	name := filepath.Join(t.TempDir(), "a", "file")
	want := remote.File{Content: []byte("text"), Mode: 0o640, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	err := h.WriteFile(t.Context(), name, want)
	if !installed {
		if err == nil || !strings.Contains(err.Error(), "there is no sftp-server") {
			t.Errorf("WriteFile() = %v; want it said that there is no sftp-server", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	got, err := h.ReadFile(t.Context(), name)
	if err != nil || !bytes.Equal(got.Content, want.Content) || got.Mode != want.Mode {
		t.Errorf("ReadFile() = %+v, %v; want %+v", got, err, want)
	}
	if !strings.Contains(noted(), "sftp-server") {
		t.Errorf("sudo was given %q; want sftp-server", noted())
	}
}

func TestAHostWithoutPinnedKeyIsOnlyAskedForIt(t *testing.T) {
	signer := remotetest.NewSigner(t)
	s := remotetest.Start(t, signer.PublicKey(), nil)
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.HostKey))
	if err != nil {
		t.Fatal(err)
	}
	h, err := remote.Dial(t.Context(), remote.Config{Name: "machine.a", Address: s.Address, Signer: signer})
	var unpinned *remote.UnpinnedError
	if h != nil || !errors.As(err, &unpinned) {
		t.Fatalf("Dial() = %v, %v; want *UnpinnedError", h, err)
	}
	if unpinned.Got != s.HostKey || unpinned.Fingerprint != ssh.FingerprintSHA256(key) {
		t.Errorf("offered = %s (%s); want %s", unpinned.Got, unpinned.Fingerprint, s.HostKey)
	}
}

func TestAWriterGetsAllThatACommandPrints(t *testing.T) {
	h, _ := dial(t, nil)
	var all bytes.Buffer
	out, err := h.Run(t.Context(), remote.Command{Line: "seq 1 50000", Stdout: &all})
	if err != nil || out.Stdout != "" || all.Len() != 288894 {
		t.Errorf("Run() = %d bytes, %q in the result, %v; want all 288894 in the writer", all.Len(), out.Stdout, err)
	}
}

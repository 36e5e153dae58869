package keyring

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/workflows/keyring/keyringtest"
)

func open(t *testing.T, dir string) *Keyring {
	t.Helper()
	k, err := tryOpen(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func tryOpen(t *testing.T, dir string) (*Keyring, error) {
	t.Helper()
	values, err := keyringtest.OpenFiles(filepath.Join(dir, "values"))
	if err != nil {
		t.Fatal(err)
	}
	return Open(t.Context(), Config{KeyFile: filepath.Join(dir, "keys", "key"), Values: values})
}

func TestValuesSurviveAndAreUnreadableAtRest(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Put(t.Context(), "bmc/a", []byte("correct horse battery")); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, dir).Get(t.Context(), "bmc/a")
	if err != nil || string(got) != "correct horse battery" {
		t.Errorf("Get = %q, %v; want what was put", got, err)
	}
	if _, err := open(t, dir).Get(t.Context(), "bmc/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get of nothing = %v; want fs.ErrNotExist", err)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte("horse")) {
			t.Errorf("%s holds the value in clear", path)
		}
		if info, err := d.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode of %s = %v, %v; want 0600", path, info.Mode(), err)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestOpenRefusesAKeyFileThatIsNotSafeOrNotTheOne(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(key string) error
		want  string
	}{
		"readable by others": {func(key string) error { return os.Chmod(key, 0o640) }, "others may read"},
		"lost":               {os.Remove, "put the file back"},
		"damaged":            {func(key string) error { return os.WriteFile(key, []byte("AGE-SECRET-KEY-1SPOILT"), 0o600) }, "no age X25519 identity"},
		"replaced by a link": {func(key string) error { return errors.Join(os.Rename(key, key+"2"), os.Symlink(key+"2", key)) }, "symbolic link"},
		"another's": {func(key string) error {
			other := t.TempDir()
			open(t, other)
			text, err := os.ReadFile(filepath.Join(other, "keys", "key"))
			return errors.Join(err, os.WriteFile(key, text, 0o600))
		}, "not the one"},
	} {
		dir := t.TempDir()
		open(t, dir)
		key := filepath.Join(dir, "keys", "key")
		secret, err := os.ReadFile(key)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.spoil(key); err != nil {
			t.Fatal(err)
		}
		_, err = tryOpen(t, dir)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), strings.TrimSpace(string(secret))) {
			t.Errorf("Open with a key file %s = %v; want an error with %q and without the key", name, err, c.want)
		}
	}
}

func TestSealedValueCannotPassForAnother(t *testing.T) {
	k := open(t, t.TempDir())
	sealed, err := k.Seal("a", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Unseal("b", sealed); err == nil {
		t.Errorf("Unseal under another name = %q; want an error", got)
	}
	for i := range sealed {
		spoilt := bytes.Clone(sealed)
		spoilt[i] ^= 1
		if got, err := k.Unseal("a", spoilt); err == nil {
			t.Fatalf("Unseal with byte %d changed = %q; want an error", i, got)
		}
	}
	if _, err := k.Seal("a", make([]byte, MaxValueBytes+1)); err == nil {
		t.Error("Seal of too large a value = nil; want an error")
	}
}

func TestDigestIsKeyedAndBoundToItsName(t *testing.T) {
	dir := t.TempDir()
	k, again, other := open(t, dir), open(t, dir), open(t, t.TempDir())
	d := k.Digest("step.a", []byte("secret"))
	if !strings.HasPrefix(d, "hmac-sha256:") || d != again.Digest("step.a", []byte("secret")) {
		t.Errorf("Digest = %s; want the same under the same key", d)
	}
	for name, different := range map[string]string{
		"another key": other.Digest("step.a", []byte("secret")), "another name": k.Digest("step.b", []byte("secret")),
		"another split": k.Digest("step.asec", []byte("ret")),
	} {
		if different == d {
			t.Errorf("Digest under %s is the same", name)
		}
	}
}

func TestAuthorityKeepsItsKeysAndServes(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	first, err := open(t, dir).Authority(t.Context(), "store-0421", now)
	if err != nil {
		t.Fatal(err)
	}
	second, err := open(t, dir).Authority(t.Context(), "renamed", now.AddDate(1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if first.Pin() != second.Pin() || !first.Certificate.Equal(second.Certificate) || len(first.Pin()) != 64 {
		t.Errorf("pins %s and %s; want one pin and one CA for ever", first.Pin(), second.Pin())
	}
	config, err := second.TLS([]string{"127.0.0.1", "edge.example"}, now)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			// The client only shakes hands.
			_ = conn.(*tls.Conn).HandshakeContext(context.Background())
			conn.Close()
		}
	}()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(first.PEM())
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}
	conn, err := dialer.DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatalf("a client that trusts the CA: %v", err)
	}
	conn.Close()
}

func TestSecretsAreMadeOnceByManyAtOnce(t *testing.T) {
	k := open(t, t.TempDir())
	lines := make([]string, 8)
	var group sync.WaitGroup
	for i := range lines {
		group.Go(func() {
			_, line, err := k.SSH(t.Context(), "controller")
			if err != nil {
				t.Error(err)
			}
			lines[i] = line
		})
	}
	group.Wait()
	for _, l := range lines {
		if l != lines[0] || !strings.HasPrefix(l, "ssh-ed25519 ") || !strings.HasSuffix(l, " controller") {
			t.Errorf("SSH gave %q and %q; want one key", lines[0], l)
		}
	}
}

// crossing is Values that another keyring uses at the same time: each that does
// not find a value goes on only when the other has not found it either.
type crossing struct {
	Values
	mu      *sync.Mutex
	missing map[string]chan struct{} // closed when both have not found it
	seen    map[string]bool          // by this one; it waits once
}

func cross(a, b Values) (Values, Values) {
	var mu sync.Mutex
	missing := map[string]chan struct{}{}
	return &crossing{a, &mu, missing, map[string]bool{}}, &crossing{b, &mu, missing, map[string]bool{}}
}

func (c *crossing) Get(ctx context.Context, key string) ([]byte, error) {
	value, err := c.Values.Get(ctx, key)
	if !errors.Is(err, fs.ErrNotExist) {
		return value, err
	}
	c.mu.Lock()
	both, second := c.missing[key]
	switch {
	case c.seen[key]: // again: as it is
		c.mu.Unlock()
		return value, err
	case second:
		close(both)
	default:
		both = make(chan struct{})
		c.missing[key] = both
	}
	c.seen[key] = true
	c.mu.Unlock()
	select {
	case <-both:
	case <-ctx.Done():
	}
	return value, err
}

func TestTwoFirstCommandsUseTheSameSecrets(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	files, err := keyringtest.OpenFiles(filepath.Join(dir, "values"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, b := cross(files, files)
	var pins, certificates, lines [2]string
	var group sync.WaitGroup
	for i, values := range []Values{a, b} {
		group.Go(func() {
			k, err := Open(ctx, Config{KeyFile: key, Values: values})
			if err != nil {
				t.Error(err)
				cancel()
				return
			}
			authority, err := k.Authority(ctx, "store-0421", time.Now())
			if err != nil {
				t.Error(err)
				cancel()
				return
			}
			pins[i], certificates[i] = authority.Pin(), string(authority.PEM())
			if _, lines[i], err = k.SSH(ctx, "controller"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	later, err := Open(ctx, Config{KeyFile: key, Values: files})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := later.Authority(ctx, "store-0421", time.Now())
	if err != nil {
		t.Fatalf("the CA after two first commands: %v", err)
	}
	_, line, err := later.SSH(ctx, "controller")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if pins[i] != authority.Pin() || certificates[i] != string(authority.PEM()) || lines[i] != line {
			t.Errorf("command %d used pin %s and %s; stored are %s and %s", i, pins[i], lines[i], authority.Pin(), line)
		}
	}
}

func TestOfTwoKeyFilesForOneStoreTheSecondIsRefused(t *testing.T) {
	dir := t.TempDir()
	files, err := keyringtest.OpenFiles(filepath.Join(dir, "values"))
	if err != nil {
		t.Fatal(err)
	}
	a, b := cross(files, files)
	var errs [2]error
	var group sync.WaitGroup
	for i, values := range []Values{a, b} {
		group.Go(func() {
			_, errs[i] = Open(t.Context(), Config{KeyFile: filepath.Join(dir, string(rune('a'+i)), "key"), Values: values})
		})
	}
	group.Wait()
	refused := errors.Join(errs[0], errs[1])
	if (errs[0] == nil) == (errs[1] == nil) || !strings.Contains(refused.Error(), "not the one") {
		t.Errorf("Open on two hosts at once = %v and %v; want one of them refused", errs[0], errs[1])
	}
}

func FuzzUnseal(f *testing.F) {
	values, err := keyringtest.OpenFiles(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	k, err := Open(f.Context(), Config{KeyFile: filepath.Join(f.TempDir(), "key"), Values: values})
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := k.Seal("other", []byte("v"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte("age-encryption.org/v1\n-> X25519 "))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if got, err := k.Unseal("name", sealed); err == nil {
			t.Errorf("Unseal of what was never sealed = %q", got)
		}
	})
}

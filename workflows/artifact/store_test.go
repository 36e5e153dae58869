package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func sum(content []byte) string {
	h := sha256.Sum256(content)
	return hex.EncodeToString(h[:])
}

func newStore(t *testing.T, c Config) *Store {
	t.Helper()
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// content opens and reads a file of the store.
func content(t *testing.T, s *Store, ref Ref) ([]byte, error) {
	t.Helper()
	f, err := s.Open(t.Context(), ref)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return got, nil
}

// host serves one content and counts who asks.
type host struct {
	*httptest.Server
	asked atomic.Int64
	path  atomic.Value
	cuts  atomic.Int64 // so many answers end in the middle
}

func serve(t *testing.T, content []byte) *host {
	t.Helper()
	h := &host{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.asked.Add(1)
		h.path.Store(r.URL.Path)
		if h.cuts.Add(-1) >= 0 {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			if _, err := w.Write(content[:len(content)/2]); err != nil {
				t.Error(err)
			}
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	t.Cleanup(h.Close)
	return h
}

func TestOpenFindsFilesWhereverTheirSourceIs(t *testing.T) {
	want := []byte("the file")
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "files", "k3s"), want)
	h := serve(t, want)
	for name, source := range map[string]string{
		"relative path": "files/k3s",
		"absolute path": filepath.Join(dir, "files", "k3s"),
		"file URL":      "file://" + filepath.Join(dir, "files", "k3s"),
		"http URL":      h.URL + "/k3s",
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Config{SiteDir: dir})
			got, err := content(t, s, Ref{Source: source, SHA256: sum(want)})
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("Open(%s) = %q, %v; want %q", source, got, err, want)
			}
			// Once kept, the source is not asked again, nor needed.
			if got, err := content(t, s, Ref{SHA256: sum(want)}); err != nil || !bytes.Equal(got, want) {
				t.Errorf("Open of a kept file = %q, %v; want %q", got, err, want)
			}
		})
	}
}

func TestOpenContinuesACutFetchInAnotherProcess(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	dir := t.TempDir()
	h := serve(t, want)
	h.cuts.Store(1)
	ctx, cancel := context.WithCancel(t.Context())
	first := newStore(t, Config{Dir: dir, Progress: func(string, int64, int64) { cancel() }})
	if _, err := first.Open(ctx, Ref{Source: h.URL, SHA256: sum(want)}); err == nil {
		t.Fatal("Open() of a cancelled fetch = nil; want an error")
	}
	part, err := os.Stat(filepath.Join(dir, "part", sum(want)+".part"))
	if err != nil || part.Size() == 0 || part.Size() == int64(len(want)) {
		t.Fatalf("after a cut %v, %v are kept; want a part", part, err)
	}
	var moved atomic.Int64
	second := newStore(t, Config{Dir: dir, Progress: func(_ string, done, _ int64) { moved.CompareAndSwap(0, done) }})
	if got, err := content(t, second, Ref{Source: h.URL, SHA256: sum(want)}); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("Open() after the cut = %d bytes, %v; want the file", len(got), err)
	}
	if moved.Load() <= part.Size() {
		t.Errorf("the second fetch began below byte %d; want it to continue at %d", moved.Load(), part.Size())
	}
}

func TestOpenRefusals(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "other"), []byte("another file"))
	h := serve(t, []byte("another file"))
	want := sum([]byte("the file"))
	for _, c := range []struct {
		name string
		ref  Ref
		want []string
	}{
		{"another file at a path", Ref{Source: "other", SHA256: want}, []string{sum([]byte("another file")), "want " + want, filepath.Join(dir, "other"), "get it again"}},
		{"another file at a URL", Ref{Source: h.URL + "/k3s", SHA256: want}, []string{sum([]byte("another file")), "want " + want, h.URL, "correct the digest"}},
		{"no digest", Ref{Source: "other"}, []string{"64 lower-case"}},
		{"a digest in capitals", Ref{Source: "other", SHA256: strings.ToUpper(want)}, []string{"64 lower-case"}},
		{"a digest that climbs", Ref{Source: "other", SHA256: "../../../../etc/passwd"}, []string{"64 lower-case"}},
		{"no source", Ref{SHA256: want}, []string{"no source is given"}},
		{"a missing file", Ref{Source: "gone", SHA256: want}, []string{filepath.Join(dir, "gone")}},
		{"a directory", Ref{Source: ".", SHA256: want}, []string{"not a regular file"}},
		{"another scheme", Ref{Source: "ftp://x/y", SHA256: want}, []string{"neither a path nor"}},
		{"a file of another machine", Ref{Source: "file://elsewhere/x", SHA256: want}, []string{"not a file URL of this machine"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t, Config{SiteDir: dir})
			_, err := content(t, s, c.ref)
			for _, part := range c.want {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("Open() = %v; want an error with %q", err, part)
				}
			}
			for _, kept := range []string{"sha256", "part"} {
				if left, err := filepath.Glob(filepath.Join(s.config.Dir, kept, "*")); err != nil || len(left) > 0 {
					t.Errorf("%s holds %v, %v; want nothing", kept, left, err)
				}
			}
		})
	}
}

func TestOpenBoundsWhatItKeeps(t *testing.T) {
	big := make([]byte, 5000)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "big"), big)
	h := serve(t, big)
	for _, source := range []string{"big", h.URL} {
		s := newStore(t, Config{SiteDir: dir, MaxBytes: 4999})
		if _, err := content(t, s, Ref{Source: source, SHA256: sum(big)}); err == nil || !strings.Contains(err.Error(), "4999") {
			t.Errorf("Open(%s) of 5000 bytes = %v; want an error with the bound", source, err)
		}
	}
}

func TestConcurrentFetchesOfOneFileAreMerged(t *testing.T) {
	want := bytes.Repeat([]byte("x"), 1<<20)
	h := serve(t, want)
	dir := t.TempDir()
	// Two stores over one directory are two processes to each other.
	stores := []*Store{newStore(t, Config{Dir: dir}), newStore(t, Config{Dir: dir})}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			f, err := stores[i%2].Open(t.Context(), Ref{Source: h.URL, SHA256: sum(want)})
			if err != nil {
				t.Error(err)
				return
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if h.asked.Load() != 1 {
		t.Errorf("8 equal fetches asked %d times; want once", h.asked.Load())
	}
}

func TestADamagedFileIsFetchedAgain(t *testing.T) {
	want := []byte("the file")
	h := serve(t, want)
	dir := t.TempDir()
	ref := Ref{Source: h.URL, SHA256: sum(want)}
	if _, err := content(t, newStore(t, Config{Dir: dir}), ref); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "sha256", sum(want)), []byte("rotten.."))
	got, err := content(t, newStore(t, Config{Dir: dir}), ref)
	if err != nil || !bytes.Equal(got, want) || h.asked.Load() != 2 {
		t.Errorf("Open() of a damaged file = %q, %v after %d requests; want the file after 2", got, err, h.asked.Load())
	}
	// Also in a process that had verified it before.
	s := newStore(t, Config{Dir: dir})
	if _, err := content(t, s, ref); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "sha256", sum(want)), []byte("shorter"))
	if got, err := content(t, s, ref); err != nil || !bytes.Equal(got, want) {
		t.Errorf("Open() of a file that changed = %q, %v; want the file", got, err)
	}
}

func TestAMirrorIsAskedInsteadOfTheHost(t *testing.T) {
	want := []byte("the file")
	h := serve(t, want)
	s := newStore(t, Config{Mirror: h.URL + "/mirror/"})
	got, err := content(t, s, Ref{Source: "https://github.invalid/k3s-io/k3s/releases/download/v1.36.3%2Bk3s1/k3s", SHA256: sum(want)})
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("Open() = %q, %v; want the file", got, err)
	}
	if got, want := h.path.Load(), "/mirror/github.invalid/k3s-io/k3s/releases/download/v1.36.3+k3s1/k3s"; got != want {
		t.Errorf("the mirror was asked for %q; want %q", got, want)
	}
}

func TestMessagesHoldNoPassword(t *testing.T) {
	h := serve(t, []byte("another"))
	secret := strings.Replace(h.URL, "://", "://me:hunter2@", 1) + "/f?token=hunter2"
	_, err := content(t, newStore(t, Config{}), Ref{Source: secret, SHA256: sum(nil)})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Open() = %v; want an error without the password", err)
	}
	if got := Redact(secret); strings.Contains(got, "hunter2") || !strings.HasSuffix(got, "/f") {
		t.Errorf("Redact(%q) = %q; want it without the password", secret, got)
	}
}

// shelf is a bundle of files in memory.
type shelf map[string][]byte

func (b shelf) Blob(sum string) (io.ReadCloser, error) {
	c, ok := b[sum]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(c)), nil
}

func (b shelf) Image(name string) (string, error) {
	c, ok := b[name]
	if !ok {
		return "", fs.ErrNotExist
	}
	return string(c), nil
}

func (shelf) Source() string { return "bundle test" }

func TestOfflineOnlyTheBundleAnswers(t *testing.T) {
	there, absent := []byte("in the bundle"), []byte("elsewhere")
	dir := t.TempDir()
	h := serve(t, absent)
	// The file lies at its source and, from an earlier run, in the cache: the
	// bundle lacks it, so the answer is no.
	if _, err := content(t, newStore(t, Config{Dir: dir}), Ref{Source: h.URL, SHA256: sum(absent)}); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, Config{Dir: dir, Bundle: shelf{sum(there): there}})
	if got, err := content(t, s, Ref{Source: h.URL, SHA256: sum(there)}); err != nil || !bytes.Equal(got, there) {
		t.Errorf("Open() = %q, %v; want what the bundle holds", got, err)
	}
	_, err := content(t, s, Ref{Source: h.URL, SHA256: sum(absent)})
	if !errors.Is(err, ErrNotInBundle) || !strings.Contains(err.Error(), "bundle test") || !strings.Contains(err.Error(), sum(absent)) {
		t.Errorf("Open() = %v; want ErrNotInBundle with the bundle and the digest", err)
	}
	if h.asked.Load() != 1 {
		t.Errorf("the source was asked %d times; want once, before the store was offline", h.asked.Load())
	}
}

func TestABundleThatLiesIsNotBelieved(t *testing.T) {
	want := []byte("in the bundle")
	s := newStore(t, Config{Bundle: shelf{sum(want): []byte("something else")}})
	if _, err := content(t, s, Ref{SHA256: sum(want)}); err == nil || !strings.Contains(err.Error(), "want "+sum(want)) {
		t.Errorf("Open() = %v; want an error with the digest", err)
	}
}

package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
	"github.com/edge-provision/edge-provision/imagebuilder/fetch"
)

// DefaultMaxBytes bounds one file: the largest that a site needs are air-gap
// image archives of a few GiB.
const DefaultMaxBytes = 16 << 30

// lockPoll is how often a fetch that waits for another process's fetch of the
// same file looks whether that has ended.
const lockPoll = 200 * time.Millisecond

// Config says where a store keeps and finds files.
type Config struct {
	// Dir is the directory of the kept files; never empty.
	Dir string
	// SiteDir is where relative paths are meant from.
	SiteDir string
	// Mirror, when not empty, is asked instead of the hosts of http and https
	// sources: MIRROR/HOST/PATH, such as
	// https://mirror.example/github.com/k3s-io/…
	Mirror string
	// RegistryMirror, when not empty, is asked instead of the registries of
	// container images: REGISTRYMIRROR/REGISTRY/REPOSITORY, such as
	// registry.example:5000/docker.io/library/nginx, where REGISTRY is without
	// its port.
	RegistryMirror string
	// Keychain finds the credentials of registries; nil: none are used.
	Keychain authn.Keychain
	// Bundle makes the store work offline: only the bundle answers.
	Bundle Bundle
	// Digest finds the digest of an image that is named without one; nil: such
	// an image is refused.
	Digest func(ctx context.Context, name string) (digest string, err error)
	// MaxBytes bounds one file; zero: DefaultMaxBytes.
	MaxBytes int64
	HTTP     *http.Client // nil: http.DefaultClient
	Log      *slog.Logger // nil: nothing is logged
	// Progress is called while bytes move, possibly from several goroutines;
	// nil: nobody listens. total is zero where nobody knows.
	Progress func(what string, done, total int64)
}

// Bundle is what an offline store is filled from.
type Bundle interface {
	// Blob opens the content of a digest (64 hexadecimal digits), or says
	// fs.ErrNotExist. The store verifies what it reads.
	Blob(sha256 string) (io.ReadCloser, error)
	// Image is the digest ("sha256:…") of the container image of a name, or
	// fs.ErrNotExist.
	Image(name string) (digest string, err error)
	// Source names the bundle in messages.
	Source() string
}

// Store keeps verified files. It is safe for concurrent use, also by several
// processes over one directory.
type Store struct {
	config Config

	mu      sync.Mutex
	running map[string]*flight     // fetches under way, by digest
	checked map[string]fs.FileInfo // files that this process has verified
	derived map[string]string      // paths of archives that were made here, by digest
}

// flight is one fetch that several callers wait for.
type flight struct {
	done chan struct{}
	err  error
}

// New returns the store over a directory, which it makes when needed.
func New(c Config) (*Store, error) {
	if c.Dir == "" {
		return nil, errors.New("artifact store: no directory is given")
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = DefaultMaxBytes
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Progress == nil {
		c.Progress = func(string, int64, int64) {}
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("artifact store: %w", err)
	}
	return &Store{config: c, running: map[string]*flight{}, checked: map[string]fs.FileInfo{}, derived: map[string]string{}}, nil
}

// Open hands out a file whose content has the digest of the reference, fetching
// it first when the store does not have it. The caller closes it. The file is
// shared: it must not be written to.
func (s *Store) Open(ctx context.Context, ref Ref) (*os.File, error) {
	if err := ref.validate(); err != nil {
		return nil, fmt.Errorf("opening artifact: %w", err)
	}
	s.mu.Lock()
	made := s.derived[ref.SHA256]
	s.mu.Unlock()
	if made != "" {
		return s.openDerived(ctx, made, ref)
	}
	f, err := s.open(ctx, ref.SHA256, ref.where(), func(ctx context.Context, path string) error { return s.obtain(ctx, ref, path) })
	if err != nil {
		return nil, fmt.Errorf("opening artifact %s: %w", ref.where(), err)
	}
	return f, nil
}

// openDerived opens an archive that was made of kept contents.
func (s *Store) openDerived(ctx context.Context, path string, ref Ref) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening artifact %s: %w", ref.where(), err)
	}
	if err := s.check(ctx, f, ref.SHA256); err != nil {
		return nil, errors.Join(fmt.Errorf("opening artifact %s: %w", ref.where(), err), f.Close())
	}
	return f, nil
}

// open returns the kept file of a digest. One caller obtains it, the others
// wait for that one.
func (s *Store) open(ctx context.Context, sum, what string, obtain func(ctx context.Context, path string) error) (*os.File, error) {
	if s.config.Bundle != nil {
		// The cache is only a copy of the bundle: what the bundle lacks is
		// refused even if an earlier run left it here, or the result would
		// depend on the past of this machine.
		blob, err := s.config.Bundle.Blob(sum)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("sha256:%s: %w (%s): build the bundle again from this site", sum, ErrNotInBundle, s.config.Bundle.Source())
		}
		if err != nil {
			return nil, err
		}
		if err := blob.Close(); err != nil {
			return nil, err
		}
		obtain = func(ctx context.Context, path string) error { return s.unpack(ctx, sum, path) }
	}
	for {
		if f, err := s.kept(ctx, sum); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		s.mu.Lock()
		other, busy := s.running[sum]
		if !busy {
			other = &flight{done: make(chan struct{})}
			s.running[sum] = other
		}
		s.mu.Unlock()
		if !busy {
			other.err = s.locked(ctx, sum, what, obtain)
			s.mu.Lock()
			delete(s.running, sum)
			s.mu.Unlock()
			close(other.done)
			if other.err != nil {
				return nil, other.err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-other.done:
		}
		// The other's own end, such as its cancelled context, is no answer to
		// this caller, who then tries itself.
		if other.err != nil && !errors.Is(other.err, context.Canceled) && !errors.Is(other.err, context.DeadlineExceeded) {
			return nil, other.err
		}
	}
}

// path is where the content of a digest is kept.
func (s *Store) path(sum string) string { return filepath.Join(s.config.Dir, "sha256", sum) }

// kept opens a file that is here, after verifying it once in this process for
// as long as it stays the same inode, size and time. A damaged one is removed.
func (s *Store) kept(ctx context.Context, sum string) (*os.File, error) {
	f, err := os.Open(s.path(sum))
	if err != nil {
		return nil, err
	}
	if err := s.check(ctx, f, sum); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (s *Store) check(ctx context.Context, f *os.File, sum string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	s.mu.Lock()
	before := s.checked[sum]
	s.mu.Unlock()
	if before != nil && os.SameFile(before, info) && before.Size() == info.Size() && before.ModTime().Equal(info.ModTime()) {
		return nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, &contextReader{ctx: ctx, r: f}); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		s.config.Log.Warn("a kept file is damaged and is fetched again", "path", f.Name(), "got", got)
		if err := os.Remove(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return fmt.Errorf("%s is damaged: %w", f.Name(), fs.ErrNotExist)
	}
	s.mu.Lock()
	s.checked[sum] = info
	s.mu.Unlock()
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// locked obtains a file while no other process does.
func (s *Store) locked(ctx context.Context, sum, what string, obtain func(ctx context.Context, path string) error) (err error) {
	for _, dir := range []string{"locks", "sha256", "part"} {
		if err := os.MkdirAll(filepath.Join(s.config.Dir, dir), 0o755); err != nil {
			return err
		}
	}
	unlock, err := s.lock(ctx, filepath.Join(s.config.Dir, "locks", sum), what)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if _, err := os.Stat(s.path(sum)); err == nil {
		return nil // the other process has it; the caller verifies
	}
	part := filepath.Join(s.config.Dir, "part", sum)
	if err := obtain(ctx, part); err != nil {
		return err
	}
	return os.Rename(part, s.path(sum))
}

func (s *Store) lock(ctx context.Context, path, what string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for waiting := false; ; waiting = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
		}
		if !waiting {
			s.config.Log.Info("another process fetches the same file; waiting for it", "what", what)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("waiting for another process that fetches %s: %w", what, context.Cause(ctx)), f.Close())
		case <-ticker.C:
		}
	}
}

// obtain brings a file from its source to path, verified.
func (s *Store) obtain(ctx context.Context, ref Ref, path string) error {
	switch {
	case ref.Source == "":
		return errors.New("it is not kept here and no source is given: name a source, or work from a bundle that holds it")
	case ref.remote():
		address, err := s.mirrored(ref.Source)
		if err != nil {
			return err
		}
		return s.download(ctx, s.config.HTTP, address, ref.SHA256, ref.where(), path)
	}
	source, err := s.local(ref.Source)
	if err != nil {
		return err
	}
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", source)
	}
	return s.keep(ctx, f, info.Size(), ref.SHA256, source, path)
}

// local is the path of a source that is a file here.
func (s *Store) local(source string) (string, error) {
	if strings.HasPrefix(source, "file://") {
		u, err := url.Parse(source)
		if err != nil || u.Host != "" && u.Host != "localhost" || u.Path == "" {
			return "", fmt.Errorf("%s is not a file URL of this machine; want file:///PATH", Redact(source))
		}
		source = u.Path
	}
	if !filepath.IsAbs(source) {
		source = filepath.Join(s.config.SiteDir, source)
	}
	return source, nil
}

// mirrored is the address that a source is fetched from.
func (s *Store) mirrored(source string) (string, error) {
	if s.config.Mirror == "" {
		return source, nil
	}
	u, err := url.Parse(source)
	if err != nil {
		return "", fmt.Errorf("source %s: it is not a URL", Redact(source))
	}
	return strings.TrimSuffix(s.config.Mirror, "/") + "/" + u.Host + u.EscapedPath(), nil
}

func (s *Store) download(ctx context.Context, client *http.Client, address, sum, what, path string) error {
	var want chunk.SHA256
	if err := want.UnmarshalText([]byte(sum)); err != nil {
		return err
	}
	return fetch.File{
		Client: client, URL: address, SHA256: want, Path: path, MaxBytes: s.config.MaxBytes, Log: s.config.Log,
		Progress: func(done, total int64) { s.config.Progress(what, done, total) },
	}.Run(ctx)
}

// unpack brings a file out of the bundle.
func (s *Store) unpack(ctx context.Context, sum, path string) error {
	blob, err := s.config.Bundle.Blob(sum)
	if err != nil {
		return err
	}
	return errors.Join(s.keep(ctx, blob, 0, sum, s.config.Bundle.Source(), path), blob.Close())
}

// keep copies a stream to path, and keeps it only when its digest is right.
func (s *Store) keep(ctx context.Context, r io.Reader, total int64, sum, where, path string) (err error) {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), io.LimitReader(&contextReader{
		ctx: ctx, r: r, moved: func(done int64) { s.config.Progress(where, done, total) },
	}, s.config.MaxBytes+1))
	if err != nil {
		return fmt.Errorf("reading %s: %w", where, err)
	}
	if n > s.config.MaxBytes {
		return fmt.Errorf("%s has more than %d bytes", where, s.config.MaxBytes)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return fmt.Errorf("%s has SHA-256 %s; want %s: the file is damaged, cut short or another one; get it again, or correct the digest if its publisher says so", where, got, sum)
	}
	return out.Sync()
}

// contextReader ends when its context does, and counts.
type contextReader struct {
	ctx   context.Context
	r     io.Reader
	done  int64
	moved func(done int64)
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.done += int64(n)
	if c.moved != nil {
		c.moved(c.done)
	}
	return n, err
}

// Package imagebuilder makes what machines boot: operating system images from packages, images imported from files
// and addresses, and the installer (kernel and initramfs with edge-agent as /init). Results are kept in a cache directory,
// named by digest; an equal request finds them there.
//
// Every result is made in a temporary directory of the cache and renamed into place when it is whole, so an interrupted
// build leaves nothing that could be taken for one. A lock file per request lets equal builds, of this process or
// others, wait for the first and share its result.
package imagebuilder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// DefaultCacheDir is where a Builder without a CacheDir keeps its results.
const DefaultCacheDir = "/var/cache/edge-provision"

// lockPoll is how often a build that waits for an equal one looks whether that has ended.
const lockPoll = 200 * time.Millisecond

// Builder builds and keeps images and installers. It is safe for concurrent use.
type Builder struct {
	CacheDir string       // zero: DefaultCacheDir
	Log      *slog.Logger // nil: nothing is logged
	// Progress is called at the start of each phase and while bytes move in it; nil: nobody listens. Calls may come from
	// other goroutines, never two at once for one build.
	Progress func(Progress)
}

// Progress is where a build stands.
type Progress struct {
	Phase      string // "resolve", "download", "install", "lay out", "compress", "fetch", "convert", "installer"
	DoneBytes  int64
	TotalBytes int64 // zero where nobody knows
}

func (b *Builder) cacheDir() string {
	if b.CacheDir == "" {
		return DefaultCacheDir
	}
	return b.CacheDir
}

func (b *Builder) log() *slog.Logger {
	if b.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return b.Log
}

func (b *Builder) progress(phase string, done, total int64) {
	if b.Progress != nil {
		b.Progress(Progress{Phase: phase, DoneBytes: done, TotalBytes: total})
	}
}

// lock takes the lock of a request and waits, as long as ctx allows, for whoever holds it.
func (b *Builder) lock(ctx context.Context, key string) (unlock func() error, err error) {
	dir := filepath.Join(b.cacheDir(), "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("creating cache: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, key), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening build lock: %w", err)
	}
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for waiting := false; ; waiting = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", f.Name(), err), f.Close())
		}
		if !waiting {
			b.log().Info("an equal build is running; waiting for its result", "lock", f.Name())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("waiting for an equal build that holds %s: %w", f.Name(), ctx.Err()), f.Close())
		case <-ticker.C:
		}
	}
}

// workDir makes an empty temporary directory for the request whose lock is held, and removes what a killed build of the
// same request left.
func (b *Builder) workDir(key string) (string, error) {
	dir := filepath.Join(b.cacheDir(), "tmp", key)
	if err := removeTree(dir); err != nil {
		return "", fmt.Errorf("removing the rest of an interrupted build: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("creating work directory: %w", err)
	}
	return dir, nil
}

// removeTree removes a directory unless something is mounted below it: deleting through a mount that a killed
// program left would delete the host's files.
func removeTree(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4]+"/", real+"/") {
			return fmt.Errorf("%s is still mounted: unmount it, then remove %s", fields[4], dir)
		}
	}
	return os.RemoveAll(dir)
}

// writeFile writes a file whole or not at all.
func writeFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(text, '\n'), 0o644)
}

// errStale says that a record of the cache cannot be used and must be made again.
var errStale = errors.New("cache record is not usable")

func readJSON(path string, value any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, value); err != nil {
		return fmt.Errorf("%w: reading %s: %w", errStale, path, err)
	}
	return nil
}

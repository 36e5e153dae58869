package bmc

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Refusals remembers which credentials were refused, so that they are not
// sent again: many BMCs lock an account after three wrong passwords.
//
// The digest stands for driver, address, username and password together, so
// that a change of any of them is a new credential. It is keyed (HMAC-SHA-256
// with Deps.RefusalKey), 64 hexadecimal digits, and tells nothing without the
// key. An implementation must be safe for use by several goroutines and
// processes, and Remember must be durable when it returns.
type Refusals interface {
	// Refused returns the refusal that Remember kept for the digest, if any.
	Refused(ctx context.Context, digest string) (Refusal, bool, error)
	Remember(ctx context.Context, digest string, r Refusal) error
	// Forget is no error when there is nothing to forget.
	Forget(ctx context.Context, digest string) error
}

// Refusal says when and where a credential was refused. It has no secret.
type Refusal struct {
	Time     time.Time `json:"time"`
	Driver   Driver    `json:"driver"`
	Address  string    `json:"address"`
	Username string    `json:"username"`
}

// refusalDigest names a credential without revealing it. Lengths are part of
// what is hashed, so that no two credentials run together.
func refusalDigest(key []byte, d Driver, address, username string, password Secret) string {
	h := hmac.New(sha256.New, key)
	for _, part := range []string{"edge-provision bmc refusal 1", string(d), address, username, string(password)} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// RefusalDir keeps refusals as files of one directory (mode 0700), one a
// credential, named by its digest. It implements Refusals.
type RefusalDir string

func (d RefusalDir) path(digest string) (string, error) {
	if b, err := hex.DecodeString(digest); err != nil || len(b) != sha256.Size {
		return "", fmt.Errorf("%q is not the digest of a credential", digest)
	}
	return filepath.Join(string(d), digest+".json"), nil
}

// Refused implements Refusals.
func (d RefusalDir) Refused(_ context.Context, digest string) (Refusal, bool, error) {
	var r Refusal
	path, err := d.path(digest)
	if err != nil {
		return r, false, err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("reading refusal: %w", err)
	}
	// A file that cannot be read still says that there was a refusal; its
	// content is only for the message.
	_ = json.Unmarshal(b, &r)
	return r, true, nil
}

// Remember implements Refusals.
func (d RefusalDir) Remember(_ context.Context, digest string, r Refusal) error {
	path, err := d.path(digest)
	if err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("creating refusal directory: %w", err)
	}
	f, err := os.CreateTemp(string(d), ".new-*")
	if err != nil {
		return fmt.Errorf("writing refusal: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("writing refusal: %w", err)
	}
	return syncDir(string(d))
}

// syncDir makes a rename in a directory durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("syncing refusal directory: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Forget implements Refusals.
func (d RefusalDir) Forget(_ context.Context, digest string) error {
	path, err := d.path(digest)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting refusal: %w", err)
	}
	return nil
}

// memoryRefusals lives as long as its Controller.
type memoryRefusals struct {
	mu   sync.Mutex
	seen map[string]Refusal
}

func (m *memoryRefusals) Refused(_ context.Context, digest string) (Refusal, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.seen[digest]
	return r, ok, nil
}

func (m *memoryRefusals) Remember(_ context.Context, digest string, r Refusal) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen == nil {
		m.seen = map[string]Refusal{}
	}
	m.seen[digest] = r
	return nil
}

func (m *memoryRefusals) Forget(_ context.Context, digest string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.seen, digest)
	return nil
}

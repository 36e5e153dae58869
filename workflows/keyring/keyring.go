// Package keyring keeps a site's secrets at rest: the site CA and server key,
// the controller's SSH key, and whatever else is sealed under a name.
//
// Values are encrypted with age (https://age-encryption.org/v1, X25519) to a key
// in a file of mode 0600 that lives outside the database, so that a copy of the
// catalog alone gives nothing away. Each sealed value carries its name, so that
// one cannot be passed off as another. Digests over sensitive values are keyed
// (HMAC-SHA-256, RFC 2104) with a key derived from the same file: a digest in a
// plan or journal then cannot be searched for short secrets. The key that signs
// snapshots of hardware is derived from it too: nobody who writes into the
// database can put another in its place.
package keyring

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"filippo.io/age"
)

// Values keeps sealed values. The catalog's settings implement it.
type Values interface {
	// Get returns the value last put under key, or an error for which
	// errors.Is(err, fs.ErrNotExist) holds when there is none.
	Get(ctx context.Context, key string) ([]byte, error)
	// Put replaces the value of key. When it returns nil the value survives
	// a power cut.
	Put(ctx context.Context, key string, value []byte) error
	// PutNew is Put where key has no value yet; where it has one, that stays. It
	// returns the one that is kept, however many call it at once, in this
	// process and in others.
	PutNew(ctx context.Context, key string, value []byte) (kept []byte, err error)
}

// Config configures a Keyring.
type Config struct {
	// KeyFile is the path of the key file; created with mode 0600 when there
	// is none and nothing was sealed yet. Required.
	KeyFile string
	// Values keeps the sealed values. Required.
	Values Values
}

// Keyring seals and opens values. It is safe for use by several goroutines.
type Keyring struct {
	file     string
	values   Values
	identity *age.X25519Identity
	hmacKey  []byte
	snapshot ed25519.PrivateKey
	create   sync.Mutex // one maker of a value that is made on first use
}

// checkName is a value that only the right key file opens.
const checkName = "keyring/check"

// MaxValueBytes bounds one value.
const MaxValueBytes = 1 << 20

// Open reads the key file, or makes one when there is none. It refuses a key
// file that others may read, one that is not the one that the stored values were
// sealed with, and to make a new one when there are stored values already.
func Open(ctx context.Context, cfg Config) (*Keyring, error) {
	check, err := cfg.Values.Get(ctx, checkName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		check = nil
	case err != nil:
		return nil, fmt.Errorf("reading the keyring's check value: %w", err)
	}
	text, err := readKeyFile(cfg.KeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		if check != nil {
			return nil, fmt.Errorf("key file %s is missing, but this catalog holds secrets sealed with it: put the file back from a backup (it cannot be made again)", cfg.KeyFile)
		}
		text, err = createKeyFile(cfg.KeyFile)
	}
	if err != nil {
		return nil, err
	}
	identity, err := age.ParseX25519Identity(text)
	if err != nil {
		// The library's error may quote the key: it is not passed on.
		return nil, fmt.Errorf("key file %s holds no age X25519 identity (one line AGE-SECRET-KEY-1…): put it back from a backup", cfg.KeyFile)
	}
	hmacKey, err := hkdf.Key(sha256.New, []byte(text), nil, "edge-provision keyed digest v1", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("deriving the digest key: %w", err)
	}
	seed, err := hkdf.Key(sha256.New, []byte(text), nil, "edge-provision hardware snapshot key v1", ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of snapshots: %w", err)
	}
	k := &Keyring{
		file: cfg.KeyFile, values: cfg.Values, identity: identity, hmacKey: hmacKey, snapshot: ed25519.NewKeyFromSeed(seed),
	}
	if check == nil { // another may make it now, with another key file
		ours, err := k.Seal(checkName, []byte("ok"))
		if err == nil {
			check, err = cfg.Values.PutNew(ctx, checkName, ours)
		}
		if err != nil {
			return nil, fmt.Errorf("storing the keyring's check value: %w", err)
		}
	}
	if _, err := k.Unseal(checkName, check); err != nil {
		return nil, fmt.Errorf("key file %s is not the one that this catalog's secrets were sealed with: put the right file back from a backup", cfg.KeyFile)
	}
	return k, nil
}

// Seal encrypts value under name.
func (k *Keyring) Seal(name string, value []byte) ([]byte, error) {
	if name == "" || strings.ContainsRune(name, 0) {
		return nil, fmt.Errorf("sealing %q: a name is not empty and has no NUL", name)
	}
	if len(value) > MaxValueBytes {
		return nil, fmt.Errorf("sealing %s: %d bytes are more than the limit of %d", name, len(value), MaxValueBytes)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, k.identity.Recipient())
	if err != nil {
		return nil, fmt.Errorf("sealing %s: %w", name, err)
	}
	// Writes to a bytes.Buffer do not fail; Close reports what did.
	_, err = w.Write(append([]byte(name+"\x00"), value...))
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("sealing %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// Unseal decrypts what Seal made under the same name.
func (k *Keyring) Unseal(name string, sealed []byte) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(sealed), k.identity)
	if err != nil {
		return nil, fmt.Errorf("unsealing %s with key file %s: %w", name, k.file, err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, MaxValueBytes+int64(len(name))+2))
	if err != nil {
		return nil, fmt.Errorf("unsealing %s: %w", name, err)
	}
	got, value, ok := bytes.Cut(plain, []byte{0})
	if !ok || string(got) != name {
		return nil, fmt.Errorf("unsealing %s: the stored value was sealed under another name: the store was tampered with or restored wrongly", name)
	}
	return value, nil
}

// Put seals value and stores it under name.
func (k *Keyring) Put(ctx context.Context, name string, value []byte) error {
	sealed, err := k.Seal(name, value)
	if err != nil {
		return err
	}
	if err := k.values.Put(ctx, name, sealed); err != nil {
		return fmt.Errorf("storing secret %s: %w", name, err)
	}
	return nil
}

// Get returns the value stored under name, or an error for which
// errors.Is(err, fs.ErrNotExist) holds.
func (k *Keyring) Get(ctx context.Context, name string) ([]byte, error) {
	sealed, err := k.values.Get(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("reading secret %s: %w", name, err)
	}
	return k.Unseal(name, sealed)
}

// getOrCreate returns the value of name, made by create on first use. When others
// make it at the same time, all get the one that is stored.
func (k *Keyring) getOrCreate(ctx context.Context, name string, create func() ([]byte, error)) ([]byte, error) {
	k.create.Lock()
	defer k.create.Unlock()
	value, err := k.Get(ctx, name)
	if !errors.Is(err, fs.ErrNotExist) {
		return value, err
	}
	if value, err = create(); err != nil {
		return nil, fmt.Errorf("making secret %s: %w", name, err)
	}
	sealed, err := k.Seal(name, value)
	if err != nil {
		return nil, err
	}
	if sealed, err = k.values.PutNew(ctx, name, sealed); err != nil {
		return nil, fmt.Errorf("storing secret %s: %w", name, err)
	}
	return k.Unseal(name, sealed)
}

// Digest is a keyed digest of value in the context of name, "hmac-sha256:" and
// hex. Equal inputs have equal digests under one key file.
func (k *Keyring) Digest(name string, value []byte) string {
	mac := hmac.New(sha256.New, k.hmacKey)
	fmt.Fprintf(mac, "%d:%s", len(name), name)
	mac.Write(value)
	return "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil))
}

// SnapshotKey is the Ed25519 key (RFC 8032) with which the catalog signs the
// snapshots that hardware is compared with. It is the same for the life of the key
// file.
func (k *Keyring) SnapshotKey() ed25519.PrivateKey { return k.snapshot }

// readKeyFile reads the key file through one descriptor, so that what was
// checked is what is read.
func readKeyFile(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return "", fmt.Errorf("opening key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("reading key file %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("key file %s is not a regular file", path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return "", fmt.Errorf("key file %s has mode %04o, so others may read this site's secrets: set it to 0600, and consider what was readable as known", path, perm)
	}
	text, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return "", fmt.Errorf("reading key file %s: %w", path, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// createKeyFile makes a new key file. It is complete and on disk before it gets
// its name, and a file that appeared meanwhile is never overwritten.
func createKeyFile(path string) (string, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return "", fmt.Errorf("making a key: %w", err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("making the key file's directory: %w", err)
	}
	f, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return "", fmt.Errorf("making key file %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(identity.String() + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", fmt.Errorf("writing key file %s: %w", path, err)
	}
	if err := os.Link(f.Name(), path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return readKeyFile(path)
		}
		return "", fmt.Errorf("making key file %s: %w", path, err)
	}
	return identity.String(), syncDir(dir)
}

// syncDir makes a new name in dir survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening directory %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing directory %s: %w", dir, err)
	}
	return nil
}

// Package keyringtest keeps sealed values in files, for tests that need no catalog:
// a program's are kept by the catalog's settings.
package keyringtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
)

// Files keeps values as files of mode 0600 in a directory. The zero value is
// not usable: call OpenFiles.
type Files struct{ dir string }

// OpenFiles returns the values kept in dir, which is made when there is none.
func OpenFiles(dir string) (*Files, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making directory %s: %w", dir, err)
	}
	return &Files{dir: dir}, nil
}

// path is the file of key; escaped, so that no key leaves the directory.
func (f *Files) path(key string) string {
	return filepath.Join(f.dir, "v-"+url.PathEscape(key))
}

// Get implements keyring.Values.
func (f *Files) Get(_ context.Context, key string) ([]byte, error) {
	value, err := os.ReadFile(f.path(key))
	if err != nil {
		return nil, fmt.Errorf("reading value %s: %w", key, err)
	}
	return value, nil
}

// Put implements keyring.Values. Nothing is synced: what a test keeps need not survive a
// power cut.
func (f *Files) Put(_ context.Context, key string, value []byte) error {
	if err := f.write(key, value, os.Rename); err != nil {
		return fmt.Errorf("writing value %s: %w", key, err)
	}
	return nil
}

// PutNew implements keyring.Values.
func (f *Files) PutNew(ctx context.Context, key string, value []byte) ([]byte, error) {
	err := f.write(key, value, os.Link)
	if errors.Is(err, fs.ErrExist) {
		return f.Get(ctx, key)
	}
	if err != nil {
		return nil, fmt.Errorf("writing value %s: %w", key, err)
	}
	return value, nil
}

// write makes a file of key that has all of value when it gets its name.
func (f *Files) write(key string, value []byte, name func(from, to string) error) error {
	tmp, err := os.CreateTemp(f.dir, ".put-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(value)
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = name(tmp.Name(), f.path(key))
	}
	if rmErr := os.Remove(tmp.Name()); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return err
}

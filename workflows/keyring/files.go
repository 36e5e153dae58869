package keyring

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

// Get implements Values.
func (f *Files) Get(_ context.Context, key string) ([]byte, error) {
	value, err := os.ReadFile(f.path(key))
	if err != nil {
		return nil, fmt.Errorf("reading value %s: %w", key, err)
	}
	return value, nil
}

// Put implements Values.
func (f *Files) Put(_ context.Context, key string, value []byte) error {
	tmp, err := os.CreateTemp(f.dir, ".put-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing value %s: %w", key, err)
	}
	_, err = tmp.Write(value)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), f.path(key))
	}
	if err != nil {
		if rmErr := os.Remove(tmp.Name()); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
		return fmt.Errorf("writing value %s: %w", key, err)
	}
	return syncDir(f.dir)
}

package pxe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// AssetKind is the "asset" attribute of HTTP events.
type AssetKind string

// Kinds of assets.
const (
	AssetScript    AssetKind = "script"
	AssetKernel    AssetKind = "kernel"
	AssetInitramfs AssetKind = "initramfs"
	AssetBootFile  AssetKind = "bootfile"
	AssetImage     AssetKind = "image"
)

// Asset is one file that the HTTP server gives to whoever asks for its name.
// There is no way from a request to any other file.
type Asset struct {
	// Name is the last part of the URL's path: letters, digits, '.', '_',
	// '-' and '+', at most 255 bytes, not beginning with '.'.
	Name string
	Kind AssetKind
	// Path is the file; it is opened at each request. Content is used
	// instead when it is not nil.
	Path    string
	Content []byte
	// Size is the file's length in bytes. A file whose length differs when it is
	// opened is refused, at Register and at each request.
	Size int64
	// SHA256 is the lower-case hexadecimal digest that the caller has
	// verified; it becomes the ETag. Optional.
	SHA256 string
}

// files is everything that can be fetched: the iPXE programs, by TFTP and
// HTTP, and the registered assets, by HTTP.
type files struct {
	programs map[string][]byte

	mu     sync.RWMutex
	assets map[string]Asset
}

func newFiles(programs map[string][]byte) *files {
	return &files{programs: programs, assets: map[string]Asset{}}
}

func (f *files) program(name string) ([]byte, bool) {
	b, ok := f.programs[name]
	return b, ok
}

func (f *files) asset(name string) (Asset, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	a, ok := f.assets[name]
	return a, ok
}

// Register makes a file fetchable by HTTP (with ranges) and returns its URL.
// A second registration of the same name replaces the first.
func (s *Server) Register(a Asset) (url string, err error) {
	if err := a.check(); err != nil {
		return "", fmt.Errorf("registering asset %q: %w", a.Name, err)
	}
	s.files.mu.Lock()
	s.files.assets[a.Name] = a
	s.files.mu.Unlock()
	return s.assetURL(a.Name), nil
}

func (s *Server) assetURL(name string) string { return s.url + "/asset/" + name }

func (a Asset) check() error {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-+", r)
	}
	if a.Name == "" || len(a.Name) > 255 || a.Name[0] == '.' || strings.ContainsFunc(a.Name, func(r rune) bool { return !plain(r) }) {
		return errors.New("a name is 1 to 255 letters, digits, '.', '_', '-' or '+', and does not begin with '.'")
	}
	r, err := a.open()
	if err != nil {
		return err
	}
	return r.Close()
}

// open returns the asset's content, checked for its size.
func (a Asset) open() (io.ReadSeekCloser, error) {
	if a.Content != nil {
		if a.Size != int64(len(a.Content)) {
			return nil, fmt.Errorf("content has %d bytes, want %d", len(a.Content), a.Size)
		}
		return content{bytes.NewReader(a.Content)}, nil
	}
	f, err := os.Open(a.Path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is not a regular file", a.Path)
	case info.Size() != a.Size:
		err = fmt.Errorf("%s has %d bytes, want %d: it changed after it was verified", a.Path, info.Size(), a.Size)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// content is bytes with a Close.
type content struct{ *bytes.Reader }

func (content) Close() error { return nil }

package artifact

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"time"
)

// maxTarEntries bounds how many files an archive may have.
const maxTarEntries = 1 << 18

// Tar writes a tar file whose bytes depend on its content alone: no owner, no
// time, one mode.
type Tar struct{ w *tar.Writer }

// NewTar returns a writer of a tar file.
func NewTar(w io.Writer) *Tar { return &Tar{w: tar.NewWriter(w)} }

// File writes a file that is in memory.
func (t *Tar) File(name string, content []byte) error {
	if err := t.header(name, int64(len(content))); err != nil {
		return err
	}
	_, err := t.w.Write(content)
	return err
}

// Copy writes a file of a known size.
func (t *Tar) Copy(name string, size int64, r io.Reader) error {
	if err := t.header(name, size); err != nil {
		return err
	}
	n, err := io.Copy(t.w, r)
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes; want %d", name, n, size)
	}
	return err
}

func (t *Tar) header(name string, size int64) error {
	return t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR})
}

// Close ends the file.
func (t *Tar) Close() error { return t.w.Close() }

// Entry is one regular file in a tar file.
type Entry struct {
	Name         string
	Offset, Size int64
}

// ScanTar lists the regular files of a tar file without reading them, in their
// order. other is called for what is no regular file and may refuse it; nil:
// that is passed over. The list is bounded.
func ScanTar(r io.ReaderAt, size int64, other func(name string, kind byte) error) ([]Entry, error) {
	section := io.NewSectionReader(r, 0, size)
	in := tar.NewReader(section)
	var entries []Entry
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the archive after %d files: %w", len(entries), err)
		}
		if h.Typeflag != tar.TypeReg {
			if other != nil {
				if err := other(h.Name, h.Typeflag); err != nil {
					return nil, err
				}
			}
			continue
		}
		if len(entries) >= maxTarEntries {
			return nil, fmt.Errorf("the archive has more than %d files", maxTarEntries)
		}
		offset, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if h.Size > size-offset {
			return nil, fmt.Errorf("the archive is cut short: %.200q has %d bytes and only %d are left", h.Name, h.Size, size-offset)
		}
		entries = append(entries, Entry{Name: h.Name, Offset: offset, Size: h.Size})
	}
}

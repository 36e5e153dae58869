// Package cpio writes and reads archives in the "newc" format, the one that the Linux kernel unpacks as initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst in its tree). Archives are deterministic: entries come
// in the order they are given, owned by root, with one time and consecutive inode numbers.
package cpio

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// File kinds and permission bits of an entry's mode, as in stat(2).
const (
	ModeKind      = 0o170000
	ModeDirectory = 0o040000
	ModeFile      = 0o100000
	ModeSymlink   = 0o120000
	ModeCharacter = 0o020000
)

const (
	magic       = "070701"
	headerBytes = 110
	trailer     = "TRAILER!!!"
	maxName     = 4096    // PATH_MAX, which the kernel holds names to
	maxFile     = 1 << 30 // bytes of one file that the reader accepts
)

// Header describes one entry.
type Header struct {
	Name         string // slash-separated, relative, without "." and ".."
	Mode         uint32 // kind and permissions
	Bytes        int64  // length of a file's content or of a symlink's target
	Major, Minor uint32 // of a device
}

// String shows name, mode in octal and length.
func (h Header) String() string { return fmt.Sprintf("%s %o %d", h.Name, h.Mode, h.Bytes) }

// Writer writes an archive.
type Writer struct {
	w       io.Writer
	seconds uint32
	inode   uint32
	offset  int64
	left    int64 // content of the current file not yet written
	known   map[string]bool
	closed  bool
}

// NewWriter starts an archive whose entries all bear one time, in seconds since 1970.
func NewWriter(w io.Writer, seconds uint32) *Writer {
	return &Writer{w: w, seconds: seconds, known: map[string]bool{}}
}

// WriteHeader starts an entry; the content of a file or symlink follows by Write. Directories above it that have not been
// written are added with mode 0755. A name given twice is an error.
func (w *Writer) WriteHeader(h Header) error {
	switch {
	case w.closed:
		return errors.New("writing cpio entry: archive is closed")
	case w.left != 0:
		return fmt.Errorf("writing cpio entry %s: %d bytes of the one before it are missing", h.Name, w.left)
	case w.known[h.Name]:
		return fmt.Errorf("writing cpio entry %s: it is in the archive already", h.Name)
	case h.Bytes < 0 || h.Bytes > 0xffffffff:
		return fmt.Errorf("writing cpio entry %s: %d bytes do not fit the format", h.Name, h.Bytes)
	}
	if err := checkName(h.Name); err != nil {
		return fmt.Errorf("writing cpio entry: %w", err)
	}
	if parent := path.Dir(h.Name); parent != "." && !w.known[parent] {
		if err := w.WriteHeader(Header{Name: parent, Mode: ModeDirectory | 0o755}); err != nil {
			return err
		}
	}
	w.known[h.Name] = true
	w.left = h.Bytes
	return w.writeHeader(h)
}

func checkName(name string) error {
	if name == "" || len(name) >= maxName || path.IsAbs(name) || path.Clean(name) != name || name == "." || name == ".." ||
		strings.HasPrefix(name, "../") || name == trailer || strings.ContainsRune(name, 0) {
		return fmt.Errorf("name %.120q is not a clean relative path", name)
	}
	return nil
}

func (w *Writer) writeHeader(h Header) error {
	w.inode++
	links := uint32(1)
	if h.Mode&ModeKind == ModeDirectory {
		links = 2
	}
	text := fmt.Sprintf("%s%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00", magic, w.inode, h.Mode, 0, 0, links,
		w.seconds, h.Bytes, 0, 0, h.Major, h.Minor, len(h.Name)+1, 0, h.Name)
	if err := w.write([]byte(text)); err != nil {
		return err
	}
	return w.pad()
}

func (w *Writer) write(p []byte) error {
	n, err := w.w.Write(p)
	w.offset += int64(n)
	if err != nil {
		return fmt.Errorf("writing cpio archive: %w", err)
	}
	return nil
}

// pad fills up to a multiple of four bytes, where headers and contents start.
func (w *Writer) pad() error {
	if rest := w.offset % 4; rest != 0 {
		return w.write(make([]byte, 4-rest))
	}
	return nil
}

// Write writes content of the current entry.
func (w *Writer) Write(p []byte) (int, error) {
	if int64(len(p)) > w.left {
		return 0, errors.New("writing cpio entry: more content than its header said")
	}
	if err := w.write(p); err != nil {
		return 0, err
	}
	w.left -= int64(len(p))
	if w.left == 0 && len(p) > 0 {
		return len(p), w.pad()
	}
	return len(p), nil
}

// File adds a whole regular file.
func (w *Writer) File(name string, permissions uint32, content []byte) error {
	return w.whole(Header{Name: name, Mode: ModeFile | permissions, Bytes: int64(len(content))}, content)
}

// Symlink adds a symbolic link.
func (w *Writer) Symlink(name, target string) error {
	return w.whole(Header{Name: name, Mode: ModeSymlink | 0o777, Bytes: int64(len(target))}, []byte(target))
}

// Directory adds an empty directory, unless it is there already.
func (w *Writer) Directory(name string, permissions uint32) error {
	if w.known[name] {
		return nil
	}
	return w.WriteHeader(Header{Name: name, Mode: ModeDirectory | permissions})
}

// Has reports whether an entry of that name was written.
func (w *Writer) Has(name string) bool { return w.known[name] }

func (w *Writer) whole(h Header, content []byte) error {
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// Close writes the trailer; it does not close the underlying writer.
func (w *Writer) Close() error {
	if w.left != 0 {
		return fmt.Errorf("closing cpio archive: %d bytes of the last entry are missing", w.left)
	}
	w.closed = true
	if err := w.writeHeader(Header{Name: trailer}); err != nil {
		return err
	}
	return nil
}

// Reader reads an archive entry by entry.
type Reader struct {
	r      io.Reader
	offset int64
	left   int64
}

// NewReader reads an archive from r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next skips what is left of the current entry and returns the next; io.EOF after the last.
func (r *Reader) Next() (Header, error) {
	if err := r.skip(r.left); err != nil {
		return Header{}, err
	}
	r.left = 0
	if err := r.align(); err != nil {
		return Header{}, err
	}
	var p [headerBytes]byte
	if err := r.full(p[:]); err != nil {
		return Header{}, err
	}
	if string(p[:6]) != magic {
		return Header{}, fmt.Errorf("reading cpio archive at offset %d: %q is not the newc magic %s", r.offset-headerBytes, p[:6], magic)
	}
	fields := make([]uint32, 13)
	for i := range fields {
		var value [4]byte
		if _, err := hex.Decode(value[:], p[6+8*i:14+8*i]); err != nil {
			return Header{}, fmt.Errorf("reading cpio archive at offset %d: %w", r.offset-headerBytes, err)
		}
		fields[i] = uint32(value[0])<<24 | uint32(value[1])<<16 | uint32(value[2])<<8 | uint32(value[3])
	}
	h := Header{Mode: fields[1], Bytes: int64(fields[6]), Major: fields[9], Minor: fields[10]}
	nameBytes := fields[11]
	if nameBytes < 2 || nameBytes > maxName || h.Bytes > maxFile {
		return Header{}, fmt.Errorf("reading cpio archive at offset %d: name of %d or content of %d bytes is out of bounds", r.offset-headerBytes, nameBytes, h.Bytes)
	}
	name := make([]byte, nameBytes)
	if err := r.full(name); err != nil {
		return Header{}, err
	}
	if name[nameBytes-1] != 0 {
		return Header{}, fmt.Errorf("reading cpio archive at offset %d: name has no end", r.offset)
	}
	h.Name = string(name[:nameBytes-1])
	if err := r.align(); err != nil {
		return Header{}, err
	}
	if h.Name == trailer {
		return Header{}, io.EOF
	}
	if err := checkName(h.Name); err != nil {
		return Header{}, fmt.Errorf("reading cpio archive: %w", err)
	}
	r.left = h.Bytes
	return h, nil
}

// Read reads content of the current entry.
func (r *Reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.r.Read(p[:min(int64(len(p)), r.left)])
	r.offset, r.left = r.offset+int64(n), r.left-int64(n)
	if errors.Is(err, io.EOF) {
		err = nil
		if r.left > 0 && n == 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

func (r *Reader) full(p []byte) error {
	n, err := io.ReadFull(r.r, p)
	r.offset += int64(n)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading cpio archive at offset %d: %w", r.offset, err)
	}
	return nil
}

func (r *Reader) skip(n int64) error {
	skipped, err := io.CopyN(io.Discard, r.r, n)
	r.offset += skipped
	if err != nil {
		return fmt.Errorf("reading cpio archive at offset %d: %w", r.offset, io.ErrUnexpectedEOF)
	}
	return nil
}

func (r *Reader) align() error {
	if rest := r.offset % 4; rest != 0 {
		return r.skip(4 - rest)
	}
	return nil
}

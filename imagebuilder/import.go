package imagebuilder

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
	"github.com/edge-provision/edge-provision/imagebuilder/fetch"
	"github.com/edge-provision/edge-provision/imagebuilder/gpt"
)

// ImportSpec names a disk image that somebody else made.
type ImportSpec struct {
	Source string // path of a file, or http(s) URL
	// Digest is "sha256:…" of the file as it is at Source, compressed or not. A URL needs one; a path may have one.
	Digest       string
	Format       string   // "raw", "qcow2", "zst" (a raw disk compressed with zstd) or "auto" (zero)
	Firmware     []string // "bios", "uefi"; zero: what the disk's partitions and boot sector show
	Architecture string   // zero: "amd64"
	HTTP         *http.Client
}

const (
	maxImportBytes = chunk.MaxChunks * chunk.MaxChunkBytes
	qcow2Magic     = "QFI\xfb"
	zstdMagic      = "\x28\xb5\x2f\xfd"
)

func (s ImportSpec) remote() bool { return strings.Contains(s.Source, "://") }

func (s ImportSpec) validate() error {
	if s.Source == "" {
		return errors.New("no path and no URL is given")
	}
	if scheme, _, ok := strings.Cut(s.Source, "://"); ok && scheme != "http" && scheme != "https" {
		return fmt.Errorf("source %.80q is neither a path nor an http or https URL", fetch.Redact(s.Source))
	}
	if s.Digest == "" && s.remote() {
		return fmt.Errorf("source %.200q is a URL and has no digest: give digest = \"sha256:…\" of the file, from its publisher", fetch.Redact(s.Source))
	}
	if s.Digest != "" {
		if _, err := digestDir("", s.Digest); err != nil {
			return err
		}
	}
	if !slices.Contains([]string{"", "auto", "raw", "qcow2", "zst"}, s.Format) {
		return fmt.Errorf("format %.40q is unknown; want raw, qcow2, zst or auto", s.Format)
	}
	for _, mode := range s.Firmware {
		if mode != "bios" && mode != "uefi" {
			return fmt.Errorf("firmware %.40q is unknown; want bios or uefi", mode)
		}
	}
	return nil
}

// Import returns the image that a file or URL holds, converting it when the cache does not have it. It needs no root.
func (b *Builder) Import(ctx context.Context, spec ImportSpec) (Artifact, error) {
	err := spec.validate()
	var a Artifact
	if err == nil {
		a, err = b.importImage(ctx, spec)
	}
	if err != nil {
		return Artifact{}, fmt.Errorf("importing image: %w", err)
	}
	return a, nil
}

func (b *Builder) importImage(ctx context.Context, spec ImportSpec) (_ Artifact, err error) {
	if spec.Digest == "" {
		sum, err := hashFile(ctx, spec.Source)
		if err != nil {
			return Artifact{}, err
		}
		spec.Digest = "sha256:" + sum.String()
	}
	slices.Sort(spec.Firmware)
	spec.Firmware = slices.Compact(spec.Firmware)
	key := keyOf("import", spec.Digest, spec.Format, spec.Firmware, spec.Architecture)
	recordPath := filepath.Join(b.cacheDir(), "builds", key+".json")
	if a, _, err := b.recorded(recordPath); err == nil {
		return a, nil
	}
	unlock, err := b.lock(ctx, key)
	if err != nil {
		return Artifact{}, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if a, _, err := b.recorded(recordPath); err == nil {
		return a, nil
	}
	dir, err := b.workDir(key)
	if err != nil {
		return Artifact{}, err
	}
	defer func() { err = errors.Join(err, removeTree(dir)) }()

	if spec.remote() {
		// Another import of the same file, for other firmware, uses the same download and removes it.
		release, locking := b.lock(ctx, keyOf("download", spec.Digest))
		if locking != nil {
			return Artifact{}, locking
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	file, err := b.obtain(ctx, spec, dir)
	if err != nil {
		return Artifact{}, err
	}
	raw := filepath.Join(dir, "disk.raw")
	b.progress("convert", 0, 0)
	if err := convert(ctx, file, raw, spec.Format); err != nil {
		return Artifact{}, fmt.Errorf("%s: %w", fetch.Redact(spec.Source), err)
	}
	o, err := recognize(raw, spec)
	if err != nil {
		return Artifact{}, fmt.Errorf("%s: %w", fetch.Redact(spec.Source), err)
	}
	a, err := b.store(ctx, dir, raw, o, Source{Kind: "import", Location: fetch.Redact(spec.Source), SourceDigest: spec.Digest})
	if err != nil {
		return Artifact{}, err
	}
	if err := writeJSON(recordPath, osRecord{Digest: a.Digest}); err != nil {
		return Artifact{}, fmt.Errorf("recording the import: %w", err)
	}
	if spec.remote() {
		// The download served its purpose; the image has it.
		err = os.Remove(file)
	}
	return a, err
}

// obtain returns a private, verified copy of the source.
func (b *Builder) obtain(ctx context.Context, spec ImportSpec, dir string) (string, error) {
	var want chunk.SHA256
	if err := want.UnmarshalText([]byte(strings.TrimPrefix(spec.Digest, "sha256:"))); err != nil {
		return "", err
	}
	if spec.remote() {
		f := fetch.File{
			Client: spec.HTTP, URL: spec.Source, SHA256: want, Path: filepath.Join(b.cacheDir(), "downloads", want.String()),
			MaxBytes: maxImportBytes, Log: b.log(), Progress: func(done, total int64) { b.progress("fetch", done, total) },
		}
		return f.Path, f.Run(ctx)
	}
	// The copy is what gets hashed and converted: the original may change under our hands.
	target := filepath.Join(dir, "source")
	got, err := copyHashed(ctx, spec.Source, target)
	if err != nil {
		return "", err
	}
	if got != want {
		return "", fmt.Errorf("%s has SHA-256 %s; want %s: the file is damaged, cut short or another one", spec.Source, got, want)
	}
	return target, nil
}

// convert makes a raw disk of a file; the raw file itself is moved.
func convert(ctx context.Context, file, raw, format string) error {
	head := make([]byte, 4096)
	n, err := readHead(file, head)
	if err != nil {
		return err
	}
	head = head[:n]
	found := "raw"
	switch {
	case strings.HasPrefix(string(head), qcow2Magic):
		found = "qcow2"
	case strings.HasPrefix(string(head), zstdMagic):
		found = "zst"
	}
	if format != "" && format != "auto" && format != found {
		return fmt.Errorf("it is declared as %s and looks like %s", format, found)
	}
	switch found {
	case "qcow2":
		if err := checkQCOW2(head); err != nil {
			return err
		}
		if err := requireTools([]tool{{"qemu-img", "qemu-utils"}}); err != nil {
			return err
		}
		if _, err := (command{}).run(ctx, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", file, raw); err != nil {
			return fmt.Errorf("converting from qcow2: %w", err)
		}
	case "zst":
		if err := decompress(ctx, file, raw); err != nil {
			return err
		}
	default:
		// A link costs nothing and leaves a download in place for the next try.
		if err := os.Link(file, raw); err != nil {
			return fmt.Errorf("keeping the raw disk: %w", err)
		}
	}
	return padSector(raw)
}

func readHead(file string, p []byte) (int, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := io.ReadFull(f, p)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return n, err
	}
	return n, nil
}

// checkQCOW2 refuses what reaches out of the file, from the header in QEMU's docs/interop/qcow2.txt.
func checkQCOW2(head []byte) error {
	if len(head) < 72 {
		return errors.New("it ends inside its qcow2 header")
	}
	be := binary.BigEndian
	version, size := be.Uint32(head[4:]), be.Uint64(head[24:])
	switch {
	case version != 2 && version != 3:
		return fmt.Errorf("it is qcow2 version %d; want 2 or 3", version)
	case be.Uint64(head[8:]) != 0:
		return errors.New("it is a qcow2 overlay over a backing file, which is not part of the digest: flatten it (qemu-img convert) first")
	case be.Uint32(head[32:]) != 0:
		return errors.New("it is an encrypted qcow2 image")
	case size == 0 || size > maxImportBytes:
		return fmt.Errorf("its virtual size is %d bytes; want 1 to %d", size, int64(maxImportBytes))
	case version == 3 && len(head) >= 80 && be.Uint64(head[72:])&4 != 0:
		return errors.New("it is a qcow2 image with an external data file, which is not part of the digest")
	}
	return nil
}

func decompress(ctx context.Context, file, raw string) (err error) {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(raw, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	decoder, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(256<<20))
	if err != nil {
		return fmt.Errorf("decompressing: %w", err)
	}
	defer decoder.Close()
	if err := spool(ctx, out, decoder, maxImportBytes); err != nil {
		return fmt.Errorf("decompressing: %w", err)
	}
	return nil
}

// spool copies r into an empty file and leaves holes where it is zero.
func spool(ctx context.Context, out *os.File, r io.Reader, limit int64) error {
	buffer := make([]byte, 256<<10)
	zero := make([]byte, len(buffer))
	var offset int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buffer)
		if offset+int64(n) > limit {
			return fmt.Errorf("more than %d bytes", limit)
		}
		if n > 0 && string(buffer[:n]) != string(zero[:n]) {
			if _, err := out.WriteAt(buffer[:n], offset); err != nil {
				return err
			}
		}
		offset += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			// A decoder reports a cut stream as an unexpected end too; only a clean end follows it with EOF.
			if _, again := r.Read(buffer[:1]); !errors.Is(again, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return out.Truncate(offset)
		}
		if err != nil {
			return err
		}
	}
}

// padSector rounds a raw disk up to whole sectors of either size.
func padSector(raw string) error {
	info, err := os.Stat(raw)
	if err != nil {
		return err
	}
	const sector = 4096
	if rest := info.Size() % sector; rest != 0 {
		return os.Truncate(raw, info.Size()+sector-rest)
	}
	return nil
}

// recognize finds out what a raw disk is for: the sector its partition table counts in, and the firmware that can boot it.
func recognize(raw string, spec ImportSpec) (chunk.CreateOptions, error) {
	o := chunk.CreateOptions{Architecture: spec.Architecture, Firmware: spec.Firmware, SectorBytes: 512}
	f, err := os.Open(raw)
	if err != nil {
		return o, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return o, err
	}
	head := make([]byte, 512)
	if _, err := f.ReadAt(head, 0); err != nil || head[510] != 0x55 || head[511] != 0xaa {
		return o, errors.New("it is no bootable disk: its first sector lacks the boot signature 55 AA")
	}
	var found []string
	// Code in a boot sector is for BIOS; a protective MBR without any is all zeros.
	if slices.ContainsFunc(head[:440], func(c byte) bool { return c != 0 }) {
		found = append(found, "bios")
	}
	efi := false
	for i := 446; i < 510; i += 16 {
		efi = efi || head[i+4] == 0xef
	}
	for _, sector := range []int{512, 4096} {
		table, err := gpt.Read(f, info.Size(), sector)
		if err != nil {
			continue
		}
		o.SectorBytes = sector
		for _, p := range table.Partitions {
			efi = efi || p.Type == gpt.EFISystem
		}
		break
	}
	if efi {
		found = append(found, "uefi")
	}
	if len(o.Firmware) == 0 {
		o.Firmware = found
	}
	if len(o.Firmware) == 0 {
		return o, errors.New("neither boot code nor an EFI system partition is on it: name the firmware that boots it")
	}
	return o, nil
}

func hashFile(ctx context.Context, name string) (chunk.SHA256, error) {
	return copyHashed(ctx, name, "")
}

// copyHashed digests a file and copies it, with holes for zeros, when a target is named.
func copyHashed(ctx context.Context, name, target string) (sum chunk.SHA256, err error) {
	in, err := os.Open(name)
	if err != nil {
		return sum, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		return sum, err
	}
	h := newHashReader(in)
	if target == "" {
		target = os.DevNull
	}
	out, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if target == os.DevNull {
		_, err = io.Copy(out, contextReader{ctx, h})
	} else {
		err = spool(ctx, out, h, maxImportBytes)
	}
	if err != nil {
		return sum, fmt.Errorf("reading %s: %w", name, err)
	}
	return h.sum(), nil
}

// hashReader digests what passes through it.
type hashReader struct {
	r io.Reader
	h hash.Hash
}

func newHashReader(r io.Reader) *hashReader { return &hashReader{r: r, h: sha256.New()} }

func (h *hashReader) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.h.Write(p[:n])
	return n, err
}

func (h *hashReader) sum() chunk.SHA256 { return chunk.SHA256(h.h.Sum(nil)) }

// contextReader ends when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

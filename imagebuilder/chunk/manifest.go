// Package chunk is the image format: the manifest that describes a raw disk in independently verifiable pieces, the
// parallel compressor that makes it and the parallel verified writer that puts it on a disk.
//
// An image is two files. The frames file is a sequence of zstd frames (RFC 8878), one per chunk, in disk order and
// without gaps, all-zero chunks included: a plain "zstd -d" of it yields exactly the raw disk. The manifest is JSON; for
// each chunk it holds the place and digest of the raw bytes and of the frame. An image is named by Manifest.Digest,
// which covers the raw content and the compatibility fields alone, so another compressor makes no other image.
//
// The package is a leaf: the agent that runs in the installer imports it too.
package chunk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	// FormatVersion is the only manifest version that this package reads and writes.
	FormatVersion = 1
	// MaxChunkBytes bounds the raw length of one chunk, and with it the memory that writing one takes.
	MaxChunkBytes = 4 << 20
	// MaxChunks bounds the number of chunks in a manifest: 256 GiB of raw disk at full-size chunks.
	MaxChunks = 1 << 16
	// MaxManifestBytes bounds the JSON text that ParseManifest reads.
	MaxManifestBytes = 32 << 20
	// frameSlackBytes is what a frame may be longer than its raw content: incompressible blocks are stored with three
	// bytes of header per 128 KiB (RFC 8878 section 3.1.1.2) beside the frame's header and checksum.
	frameSlackBytes = 4096
)

// SHA256 is a digest; its text form is 64 lower-case hexadecimal digits.
type SHA256 [sha256.Size]byte

// String returns the digest as 64 hexadecimal digits.
func (s SHA256) String() string { return hex.EncodeToString(s[:]) }

// MarshalText implements encoding.TextMarshaler.
func (s SHA256) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; only lower-case digits are accepted, so that a digest has one spelling.
func (s *SHA256) UnmarshalText(text []byte) error {
	if len(text) != 2*sha256.Size || bytes.ContainsAny(text, "ABCDEF") {
		return fmt.Errorf("SHA-256 digest %.80q is not %d lower-case hexadecimal digits", text, 2*sha256.Size)
	}
	_, err := hex.Decode(s[:], text)
	return err
}

// Chunk is one piece of the raw disk and the zstd frame that holds it.
type Chunk struct {
	RawOffset   int64  `json:"raw_offset"` // bytes from the start of the disk
	RawBytes    int64  `json:"raw_bytes"`  // at most MaxChunkBytes
	RawSHA256   SHA256 `json:"raw_sha256"`
	FrameOffset int64  `json:"frame_offset"` // bytes from the start of the frames file
	FrameBytes  int64  `json:"frame_bytes"`
	FrameSHA256 SHA256 `json:"frame_sha256"`
	Zero        bool   `json:"zero,omitempty"` // every raw byte is zero: the writer need not fetch the frame
}

// Manifest describes one image. Only ParseManifest and Create make one; both return it validated.
type Manifest struct {
	FormatVersion int      `json:"format_version"`
	Architecture  string   `json:"architecture"`   // "amd64" or "arm64", as Debian names them
	Firmware      []string `json:"firmware"`       // "bios", "uefi" or both, sorted: what can boot the image
	SectorBytes   int      `json:"sector_bytes"`   // logical sector that the partition table counts in: 512 or 4096
	MinDiskBytes  int64    `json:"min_disk_bytes"` // smallest disk that the image may be written to
	RawBytes      int64    `json:"raw_bytes"`
	Chunks        []Chunk  `json:"chunks"`
}

// ParseManifest reads and validates a manifest. It reads at most MaxManifestBytes and refuses unknown fields and
// trailing data.
func ParseManifest(r io.Reader) (*Manifest, error) {
	limited := &io.LimitedReader{R: r, N: MaxManifestBytes + 1}
	decoder := json.NewDecoder(limited)
	decoder.DisallowUnknownFields()
	var m Manifest
	if err := decoder.Decode(&m); err != nil {
		if limited.N <= 0 {
			return nil, fmt.Errorf("image manifest is longer than %d bytes", MaxManifestBytes)
		}
		return nil, fmt.Errorf("reading image manifest: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("image manifest has data after its end")
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return &m, nil
}

// Encode writes the manifest as JSON in the form that ParseManifest reads.
func (m *Manifest) Encode(w io.Writer) error {
	encoder := json.NewEncoder(w)
	if err := encoder.Encode(m); err != nil {
		return fmt.Errorf("writing image manifest: %w", err)
	}
	return nil
}

// Validate says what is wrong with the manifest: chunks cover the raw disk and the frames file from zero without gap or
// overlap, all chunks but the last have one length, and every number is within the limits of this package.
func (m *Manifest) Validate() error {
	if m.FormatVersion != FormatVersion {
		return fmt.Errorf("image manifest has format version %d; this program reads version %d: build the image again or update edge-provision", m.FormatVersion, FormatVersion)
	}
	if m.Architecture != "amd64" && m.Architecture != "arm64" {
		return fmt.Errorf("image manifest names architecture %.40q; want amd64 or arm64", m.Architecture)
	}
	switch strings.Join(m.Firmware, ",") {
	case "bios", "uefi", "bios,uefi":
	default:
		return fmt.Errorf("image manifest names firmware modes %.80q; want bios, uefi or both, sorted", m.Firmware)
	}
	if m.SectorBytes != 512 && m.SectorBytes != 4096 {
		return fmt.Errorf("image manifest has %d-byte sectors; want 512 or 4096", m.SectorBytes)
	}
	if m.RawBytes <= 0 || m.RawBytes%int64(m.SectorBytes) != 0 || m.RawBytes > MaxChunks*MaxChunkBytes {
		return fmt.Errorf("image manifest has a raw size of %d bytes; want a positive multiple of the %d-byte sector up to %d", m.RawBytes, m.SectorBytes, int64(MaxChunks*MaxChunkBytes))
	}
	if m.MinDiskBytes < m.RawBytes {
		return fmt.Errorf("image manifest has a minimum disk of %d bytes, less than its raw size of %d", m.MinDiskBytes, m.RawBytes)
	}
	if len(m.Chunks) == 0 || len(m.Chunks) > MaxChunks {
		return fmt.Errorf("image manifest has %d chunks; want 1 to %d", len(m.Chunks), MaxChunks)
	}
	return m.validateChunks()
}

func (m *Manifest) validateChunks() error {
	var raw, frame int64
	size := m.Chunks[0].RawBytes
	for i, c := range m.Chunks {
		last := i == len(m.Chunks)-1
		switch {
		case c.RawOffset != raw:
			return fmt.Errorf("image manifest: chunk %d starts at raw offset %d; want %d", i, c.RawOffset, raw)
		case c.RawBytes <= 0 || c.RawBytes > MaxChunkBytes || c.RawBytes%int64(m.SectorBytes) != 0:
			return fmt.Errorf("image manifest: chunk %d holds %d raw bytes; want a positive multiple of %d up to %d", i, c.RawBytes, m.SectorBytes, MaxChunkBytes)
		case c.RawBytes > size || (!last && c.RawBytes != size):
			return fmt.Errorf("image manifest: chunk %d holds %d raw bytes; want %d as in the first (only the last may be shorter)", i, c.RawBytes, size)
		case c.FrameOffset != frame:
			return fmt.Errorf("image manifest: chunk %d has its frame at %d; want %d", i, c.FrameOffset, frame)
		case c.FrameBytes <= 0 || c.FrameBytes > c.RawBytes+frameSlackBytes:
			return fmt.Errorf("image manifest: chunk %d has a frame of %d bytes for %d raw bytes", i, c.FrameBytes, c.RawBytes)
		}
		raw += c.RawBytes
		frame += c.FrameBytes
	}
	if raw != m.RawBytes {
		return fmt.Errorf("image manifest: chunks cover %d bytes of a raw size of %d", raw, m.RawBytes)
	}
	// Chunks have at most two lengths, so this hashes at most two buffers however long the list is.
	zeros := newZeroDigests()
	for i, c := range m.Chunks {
		if c.Zero && c.RawSHA256 != zeros.of(c.RawBytes) {
			return fmt.Errorf("image manifest: chunk %d is flagged as zero but its digest is not that of %d zero bytes", i, c.RawBytes)
		}
	}
	return nil
}

// Digest names the image: "sha256:" and the hexadecimal SHA-256 of a canonical text of the raw content and the
// compatibility fields. Frames are not in it.
func (m *Manifest) Digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "edge-provision image %d\narchitecture %s\nfirmware %s\nsector %d\nmin-disk %d\nraw %d\n",
		m.FormatVersion, m.Architecture, strings.Join(m.Firmware, ","), m.SectorBytes, m.MinDiskBytes, m.RawBytes)
	for _, c := range m.Chunks {
		fmt.Fprintf(h, "%d %d %s\n", c.RawOffset, c.RawBytes, c.RawSHA256)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// FramesBytes is the length of the frames file.
func (m *Manifest) FramesBytes() int64 {
	last := m.Chunks[len(m.Chunks)-1]
	return last.FrameOffset + last.FrameBytes
}

// TransferBytes is what a writer fetches for an empty disk: the frames of the chunks that are not zero.
func (m *Manifest) TransferBytes() int64 {
	var n int64
	for _, c := range m.Chunks {
		if !c.Zero {
			n += c.FrameBytes
		}
	}
	return n
}

// Machine is what an image must suit.
type Machine struct {
	Architecture string // "amd64" or "arm64"
	Firmware     string // "bios" or "uefi"
	SectorBytes  int    // logical sector of the disk
	DiskBytes    int64
}

// IncompatibleError says that an image must not be written to a machine.
type IncompatibleError struct {
	Field   string // "architecture", "firmware", "sector" or "disk"
	Image   string // what the image needs
	Machine string // what the machine has
}

func (e *IncompatibleError) Error() string {
	switch e.Field {
	case "disk":
		return fmt.Sprintf("image needs a disk of %s bytes; this one has %s: choose a larger root_disk or a smaller image", e.Image, e.Machine)
	case "sector":
		return fmt.Sprintf("image is laid out in %s-byte sectors; the disk has %s-byte sectors: use an image built for them", e.Image, e.Machine)
	default:
		return fmt.Sprintf("image is made for %s %s; the machine has %s", e.Field, e.Image, e.Machine)
	}
}

// Compatible returns an *IncompatibleError when the image must not be written to the machine.
func (m *Manifest) Compatible(machine Machine) error {
	if machine.Architecture != m.Architecture {
		return &IncompatibleError{Field: "architecture", Image: m.Architecture, Machine: machine.Architecture}
	}
	if !slices.Contains(m.Firmware, machine.Firmware) {
		return &IncompatibleError{Field: "firmware", Image: strings.Join(m.Firmware, " or "), Machine: machine.Firmware}
	}
	if machine.SectorBytes != m.SectorBytes {
		return &IncompatibleError{Field: "sector", Image: fmt.Sprint(m.SectorBytes), Machine: fmt.Sprint(machine.SectorBytes)}
	}
	if machine.DiskBytes < m.MinDiskBytes {
		return &IncompatibleError{Field: "disk", Image: fmt.Sprint(m.MinDiskBytes), Machine: fmt.Sprint(machine.DiskBytes)}
	}
	return nil
}

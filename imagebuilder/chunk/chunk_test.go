package chunk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"
)

const testChunk = 256 << 10

// testRaw is a disk of n bytes: random, text-like and zero stretches, always the same.
func testRaw(n int) []byte {
	source := rand.New(rand.NewChaCha8([32]byte{1}))
	raw := make([]byte, n)
	for at := 0; at < n; at += 64 << 10 {
		part := raw[at:min(at+64<<10, n)]
		switch (at / (64 << 10)) % 11 {
		case 0, 1, 5:
			for i := range part {
				part[i] = byte(source.Uint32())
			}
		case 2:
			copy(part, bytes.Repeat([]byte("edge site "), 8000))
		}
	}
	// Two whole chunks in the middle are zero.
	if n > 6*testChunk {
		clear(raw[3*testChunk : 5*testChunk])
	}
	return raw
}

func create(t testing.TB, raw []byte, o CreateOptions) (*Manifest, []byte) {
	t.Helper()
	if o.ChunkBytes == 0 {
		o.ChunkBytes = testChunk
	}
	var frames bytes.Buffer
	m, err := Create(t.Context(), bytes.NewReader(raw), int64(len(raw)), &frames, o)
	if err != nil {
		t.Fatal(err)
	}
	return m, frames.Bytes()
}

// memory is a Target in memory that remembers what was done to it.
type memory struct {
	mu     sync.Mutex
	disk   []byte
	writes []extent
	failAt int64 // WriteAt fails at or past this offset when positive
}

func (d *memory) ReadAt(p []byte, offset int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(p, d.disk[offset:]), nil
}

func (d *memory) WriteAt(p []byte, offset int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failAt > 0 && offset >= d.failAt {
		return 0, errors.New("power cut")
	}
	d.writes = append(d.writes, extent{offset, int64(len(p))})
	return copy(d.disk[offset:], p), nil
}

func (d *memory) ZeroAt(offset, length int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.disk[offset : offset+length])
	return nil
}

// tampering is a Fetcher that changes what it hands out and counts what it is asked.
type tampering struct {
	frames []byte
	calls  atomic.Int64
	change func(call int64, offset int64, frame []byte) []byte
}

func (f *tampering) Fetch(_ context.Context, offset, length int64) (io.ReadCloser, error) {
	frame := bytes.Clone(f.frames[offset : offset+length])
	call := f.calls.Add(1)
	if f.change != nil {
		frame = f.change(call, offset, frame)
	}
	return io.NopCloser(bytes.NewReader(frame)), nil
}

func TestCreateThenWriteGivesTheRawDisk(t *testing.T) {
	for _, n := range []int{512, testChunk, testChunk + 512, 9*testChunk - 4096} {
		raw := testRaw(n)
		m, frames := create(t, raw, CreateOptions{})
		disk := &memory{disk: bytes.Repeat([]byte{0xa5}, n)}
		var last Progress
		result, err := Write(t.Context(), m, ReaderFetcher{bytes.NewReader(frames)}, disk, WriteOptions{Progress: func(p Progress) { last = p }})
		if err != nil {
			t.Fatalf("Write of %d bytes: %v", n, err)
		}
		if !bytes.Equal(disk.disk, raw) {
			t.Errorf("Write of %d bytes left other bytes on the disk", n)
		}
		if last.DoneBytes != int64(n) || last.TotalBytes != int64(n) || last.FetchedBytes != result.FetchedBytes {
			t.Errorf("last progress = %+v; want %d of %d bytes and %d fetched", last, n, n, result.FetchedBytes)
		}
		if got := result.FetchedChunks + result.ZeroedChunks; got != len(m.Chunks) || result.ProvedChunks != 0 {
			t.Errorf("result %+v does not account for %d chunks", result, len(m.Chunks))
		}
		if result.FetchedBytes != m.TransferBytes() {
			t.Errorf("fetched %d bytes; want %d: zero chunks need no frame", result.FetchedBytes, m.TransferBytes())
		}
		if err := Verify(t.Context(), m, disk); err != nil {
			t.Errorf("Verify after Write: %v", err)
		}
	}
}

func TestCreateIsTheSameWithAnyNumberOfWorkersAndWithHoles(t *testing.T) {
	raw := testRaw(9 * testChunk)
	m, frames := create(t, raw, CreateOptions{Workers: 1})
	_, again := create(t, raw, CreateOptions{Workers: 7})
	if !bytes.Equal(frames, again) {
		t.Error("frames differ between 1 and 7 workers")
	}
	path := filepath.Join(t.TempDir(), "sparse.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(raw))); err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(raw); at += 4096 {
		if !isZero(raw[at : at+4096]) {
			if _, err := f.WriteAt(raw[at:at+4096], int64(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var sparse bytes.Buffer
	other, err := Create(t.Context(), f, int64(len(raw)), &sparse, CreateOptions{ChunkBytes: testChunk})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sparse.Bytes(), frames) || other.Digest() != m.Digest() {
		t.Error("a file with holes makes another image than its bytes in memory")
	}
}

func TestDigestNamesRawContentAndNotFrames(t *testing.T) {
	raw := testRaw(4 * testChunk)
	m, _ := create(t, raw, CreateOptions{})
	other := *m
	other.Chunks = append([]Chunk(nil), m.Chunks...)
	for i := range other.Chunks {
		other.Chunks[i].FrameSHA256[0]++
		other.Chunks[i].FrameBytes++
		other.Chunks[i].FrameOffset += int64(i)
	}
	if other.Digest() != m.Digest() {
		t.Error("another compressor gives another digest")
	}
	for name, change := range map[string]func(*Manifest){
		"raw digest":   func(m *Manifest) { m.Chunks[1].RawSHA256[5]++ },
		"architecture": func(m *Manifest) { m.Architecture = "arm64" },
		"firmware":     func(m *Manifest) { m.Firmware = []string{"uefi"} },
		"sector":       func(m *Manifest) { m.SectorBytes = 4096 },
		"minimum disk": func(m *Manifest) { m.MinDiskBytes++ },
	} {
		changed := other
		changed.Chunks = append([]Chunk(nil), m.Chunks...)
		change(&changed)
		if changed.Digest() == m.Digest() {
			t.Errorf("another %s gives the same digest", name)
		}
	}
}

func TestPlainZstdYieldsTheRawDisk(t *testing.T) {
	zstd, err := exec.LookPath("zstd")
	if err != nil {
		t.Skip("needs the zstd program")
	}
	raw := testRaw(9*testChunk - 4096)
	_, frames := create(t, raw, CreateOptions{})
	command := exec.CommandContext(t.Context(), zstd, "-dc")
	command.Stdin = bytes.NewReader(frames)
	got, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, raw) {
		t.Errorf("zstd -d gave %d bytes that are not the raw disk of %d", len(got), len(raw))
	}
}

func TestWriteRefetchesACorruptFrame(t *testing.T) {
	raw := testRaw(6 * testChunk)
	m, frames := create(t, raw, CreateOptions{})
	for name, change := range map[string]func(frame []byte) []byte{
		"flipped bit":  func(p []byte) []byte { p[len(p)/2] ^= 1; return p },
		"cut short":    func(p []byte) []byte { return p[:len(p)-1] },
		"empty":        func([]byte) []byte { return nil },
		"overlong":     func(p []byte) []byte { return append(p, 0) },
		"another file": func(p []byte) []byte { return bytes.Repeat([]byte("<html>"), len(p)/6+1)[:len(p)] },
	} {
		for _, authentic := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, authentic frames %t", name, authentic), func(t *testing.T) {
				testRefetch(t, raw, m, frames, change, authentic)
			})
		}
	}
}

func testRefetch(t *testing.T, raw []byte, m *Manifest, frames []byte, change func([]byte) []byte, authentic bool) {
	t.Helper()
	once := &tampering{frames: frames, change: func(call, _ int64, frame []byte) []byte {
		if call == 2 {
			return change(frame)
		}
		return frame
	}}
	disk := &memory{disk: make([]byte, len(raw))}
	result, err := Write(t.Context(), m, once, disk, WriteOptions{AuthenticFrames: authentic})
	if err != nil || result.Refetches != 1 || !bytes.Equal(disk.disk, raw) {
		t.Errorf("Write with one corrupt frame = %+v, %v; want one refetch and the right disk", result, err)
	}

	bad := m.Chunks[2]
	always := &tampering{frames: frames, change: func(_, offset int64, frame []byte) []byte {
		if offset == bad.FrameOffset {
			return change(frame)
		}
		return frame
	}}
	disk = &memory{disk: bytes.Repeat([]byte{0xa5}, len(raw))}
	_, err = Write(t.Context(), m, always, disk, WriteOptions{Refetches: 2, AuthenticFrames: authentic})
	var corrupt *CorruptChunkError
	if !errors.As(err, &corrupt) || corrupt.Index != 2 || corrupt.Attempts != 3 || corrupt.RawOffset != bad.RawOffset {
		t.Fatalf("Write with an always corrupt frame = %v; want CorruptChunkError of chunk 2 after 3 attempts", err)
	}
	if got := disk.disk[bad.RawOffset : bad.RawOffset+bad.RawBytes]; !bytes.Equal(got, bytes.Repeat([]byte{0xa5}, len(got))) {
		t.Error("bytes of a corrupt chunk reached the disk")
	}
	if !isZero(disk.disk[:testChunk]) {
		t.Error("the head of a disk whose write failed is not clear")
	}
}

// A frame may match its digest and still not hold the raw bytes that the manifest names: whoever made the
// manifest lied about one of them.
func TestWriteRefusesAFrameWithOtherContent(t *testing.T) {
	raw := testRaw(2 * testChunk)
	m, frames := create(t, raw, CreateOptions{})
	m.Chunks[1].RawSHA256[0]++
	disk := &memory{disk: make([]byte, len(raw))}
	_, err := Write(t.Context(), m, ReaderFetcher{bytes.NewReader(frames)}, disk, WriteOptions{})
	var corrupt *CorruptChunkError
	if !errors.As(err, &corrupt) || corrupt.Index != 1 {
		t.Fatalf("Write = %v; want CorruptChunkError of chunk 1", err)
	}
	// Such an image is not let into a cache, whose frames machines trust.
	if err := VerifyFrames(t.Context(), m, bytes.NewReader(frames)); err != nil {
		t.Errorf("VerifyFrames = %v; want nil: every frame is as it was made", err)
	}
	err = VerifyContent(t.Context(), m, bytes.NewReader(frames))
	if !errors.As(err, &corrupt) || corrupt.Index != 1 || corrupt.Want != m.Chunks[1].RawSHA256 {
		t.Errorf("VerifyContent = %v; want CorruptChunkError of chunk 1", err)
	}
}

// With trusted digests of frames the content is held to the frame's own checksum, or to the raw digest where a frame has
// none: neither a decompressor's fault nor a frame of another tool is taken on trust.
func TestWriteWithAuthenticFramesChecksWhatTheyHold(t *testing.T) {
	raw := testRaw(testChunk)
	for name, c := range map[string]struct {
		checksum bool
		change   func(m *Manifest, frame []byte)
		refused  bool
	}{
		"as made":                           {checksum: true, change: func(*Manifest, []byte) {}},
		"no checksum":                       {change: func(*Manifest, []byte) {}},
		"wrong checksum":                    {checksum: true, change: func(_ *Manifest, frame []byte) { frame[len(frame)-1] ^= 1 }, refused: true},
		"no checksum and other raw content": {change: func(m *Manifest, _ []byte) { m.Chunks[0].RawSHA256[0]++ }, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := create(t, raw, CreateOptions{})
			encoder, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(c.checksum))
			if err != nil {
				t.Fatal(err)
			}
			frame := encoder.EncodeAll(raw, nil)
			c.change(m, frame)
			m.Chunks[0].FrameBytes, m.Chunks[0].FrameSHA256 = int64(len(frame)), sha256.Sum256(frame)
			disk := &memory{disk: make([]byte, len(raw))}
			_, err = Write(t.Context(), m, ReaderFetcher{bytes.NewReader(frame)}, disk, WriteOptions{AuthenticFrames: true, Refetches: -1})
			var corrupt *CorruptChunkError
			if c.refused != errors.As(err, &corrupt) || c.refused != !bytes.Equal(disk.disk, raw) {
				t.Errorf("Write = %v, disk is written %t; want refused %t", err, bytes.Equal(disk.disk, raw), c.refused)
			}
		})
	}
}

func TestVerifyContentFindsACorruptFrame(t *testing.T) {
	m, frames := create(t, testRaw(6*testChunk), CreateOptions{})
	if err := VerifyContent(t.Context(), m, bytes.NewReader(frames)); err != nil {
		t.Fatalf("VerifyContent of what Create made = %v", err)
	}
	frames[m.Chunks[3].FrameOffset+9] ^= 1
	var corrupt *CorruptChunkError
	if err := VerifyContent(t.Context(), m, bytes.NewReader(frames)); !errors.As(err, &corrupt) || corrupt.Index != 3 || corrupt.Where != "frame" {
		t.Errorf("VerifyContent = %v; want CorruptChunkError of frame 3", err)
	}
}

func TestZeroDigestsAreThoseOfZeroBytes(t *testing.T) {
	for _, n := range []int64{512, 1 << 20, MaxChunkBytes} {
		if got, want := newZeroDigests().of(n), SHA256(sha256.Sum256(make([]byte, n))); got != want {
			t.Errorf("of(%d) = %s; want %s", n, got, want)
		}
	}
}

func TestWriteProvesWhatACutLeftOnTheDisk(t *testing.T) {
	raw := testRaw(12 * testChunk)
	m, frames := create(t, raw, CreateOptions{})
	disk := &memory{disk: bytes.Repeat([]byte{0x5a}, len(raw)), failAt: 7 * testChunk}
	_, err := Write(t.Context(), m, ReaderFetcher{bytes.NewReader(frames)}, disk, WriteOptions{Workers: 1})
	if err == nil || !strings.Contains(err.Error(), "power cut") {
		t.Fatalf("Write over a power cut = %v", err)
	}
	if !isZero(disk.disk[:testChunk]) {
		t.Error("a half-written disk has a partition table")
	}
	disk.failAt, disk.writes = 0, nil
	fetcher := &tampering{frames: frames}
	result, err := Write(t.Context(), m, fetcher, disk, WriteOptions{Prove: true})
	if err != nil || !bytes.Equal(disk.disk, raw) {
		t.Fatalf("second Write = %v; want the raw disk", err)
	}
	// Chunks 1 to 7 are there (7 is zero, so it was no WriteAt that failed), 8 to 11 are not, and the first is always
	// last; one of the missing ones is zero.
	if result.ProvedChunks != 7 || fetcher.calls.Load() != 4 || result.ZeroedChunks != 1 {
		t.Errorf("second Write proved %d, fetched %d and zeroed %d chunks; want 7, 4 and 1", result.ProvedChunks, fetcher.calls.Load(), result.ZeroedChunks)
	}
	result, err = Write(t.Context(), m, fetcher, disk, WriteOptions{Prove: true})
	if err != nil || result.ProvedChunks != len(m.Chunks) || fetcher.calls.Load() != 4 {
		t.Errorf("third Write = %+v, %v; want everything proved and nothing fetched", result, err)
	}
}

func TestWriteStopsWhenItsContextEnds(t *testing.T) {
	raw := testRaw(12 * testChunk)
	m, frames := create(t, raw, CreateOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	fetcher := &tampering{frames: frames, change: func(call, _ int64, frame []byte) []byte {
		if call == 3 {
			cancel()
		}
		return frame
	}}
	if _, err := Write(ctx, m, fetcher, &memory{disk: make([]byte, len(raw))}, WriteOptions{Workers: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("Write after cancel = %v; want context canceled", err)
	}
	if calls := fetcher.calls.Load(); calls > 4 {
		t.Errorf("%d frames were fetched although the third cancelled", calls)
	}
}

func TestCompatibleRefusals(t *testing.T) {
	m, _ := create(t, testRaw(testChunk), CreateOptions{Firmware: []string{"uefi"}, MinDiskBytes: 1 << 30})
	good := Machine{Architecture: "amd64", Firmware: "uefi", SectorBytes: 512, DiskBytes: 1 << 30}
	if err := m.Compatible(good); err != nil {
		t.Errorf("Compatible(%+v) = %v; want nil", good, err)
	}
	for field, change := range map[string]func(*Machine){
		"sector":       func(m *Machine) { m.SectorBytes = 4096 },
		"disk":         func(m *Machine) { m.DiskBytes-- },
		"architecture": func(m *Machine) { m.Architecture = "arm64" },
		"firmware":     func(m *Machine) { m.Firmware = "bios" },
	} {
		machine := good
		change(&machine)
		var incompatible *IncompatibleError
		if err := m.Compatible(machine); !errors.As(err, &incompatible) || incompatible.Field != field {
			t.Errorf("Compatible(%+v) = %v; want an IncompatibleError about %s", machine, err, field)
		}
	}
}

func TestVerifyNamesTheChunkThatDiffers(t *testing.T) {
	raw := testRaw(6 * testChunk)
	m, frames := create(t, raw, CreateOptions{})
	disk := bytes.Clone(raw)
	disk[4*testChunk+7]++
	var corrupt *CorruptChunkError
	if err := Verify(t.Context(), m, bytes.NewReader(disk)); !errors.As(err, &corrupt) || corrupt.Index != 4 || corrupt.Where != "disk" {
		t.Errorf("Verify = %v; want chunk 4 of the disk", err)
	}
	if err := VerifyFrames(t.Context(), m, bytes.NewReader(frames)); err != nil {
		t.Errorf("VerifyFrames of good frames = %v", err)
	}
	rotten := bytes.Clone(frames)
	rotten[m.Chunks[1].FrameOffset+3] ^= 0x10
	if err := VerifyFrames(t.Context(), m, bytes.NewReader(rotten)); !errors.As(err, &corrupt) || corrupt.Index != 1 || corrupt.Where != "frame" {
		t.Errorf("VerifyFrames = %v; want chunk 1", err)
	}
	if err := VerifyFrames(t.Context(), m, bytes.NewReader(frames[:len(frames)-1])); !errors.As(err, &corrupt) || corrupt.Index != 5 {
		t.Errorf("VerifyFrames of a truncated file = %v; want chunk 5", err)
	}
}

func TestDiskWritesARegularFile(t *testing.T) {
	raw := testRaw(9*testChunk - 512)
	m, frames := create(t, raw, CreateOptions{})
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xff}, len(raw)+4096), 0o600); err != nil {
		t.Fatal(err)
	}
	disk, err := OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	if disk.Bytes() != int64(len(raw)+4096) || disk.SectorBytes() != 512 {
		t.Errorf("disk has %d bytes, %d-byte sectors", disk.Bytes(), disk.SectorBytes())
	}
	if _, err := Write(t.Context(), m, ReaderFetcher{bytes.NewReader(frames)}, disk, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := Verify(t.Context(), m, disk); err != nil {
		t.Error(err)
	}
	if _, err := disk.WriteAt(make([]byte, 512), disk.Bytes()); err == nil {
		t.Error("WriteAt past the end succeeded")
	}
	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:len(raw)], raw) || !bytes.Equal(got[len(raw):], bytes.Repeat([]byte{0xff}, 4096)) {
		t.Error("the file holds other bytes, or bytes past the image were touched")
	}
}

func TestOpenDiskRefusesWhatIsNoDisk(t *testing.T) {
	for _, path := range []string{t.TempDir(), filepath.Join(t.TempDir(), "absent")} {
		if disk, err := OpenDisk(path); err == nil {
			disk.Close()
			t.Errorf("OpenDisk(%s) succeeded", path)
		}
	}
}

package imagebuilder

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
	"github.com/edge-provision/edge-provision/imagebuilder/gpt"
)

// testDisk is a small disk with a partition table, an ESP and boot code.
func testDisk(t testing.TB) []byte {
	t.Helper()
	const size = 12 << 20
	table, err := gpt.New(size, 512)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := table.Add(gpt.Partition{Type: gpt.EFISystem, GUID: gpt.Deterministic("t", "esp"), Name: "esp"}, 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := table.SetBootCode([]byte{0xeb, 0xfe}); err != nil {
		t.Fatal(err)
	}
	disk := make(ram, size)
	if err := table.Write(disk); err != nil {
		t.Fatal(err)
	}
	copy(disk[2<<20:], bytes.Repeat([]byte("content "), 10000))
	return disk
}

type ram []byte

func (d ram) WriteAt(p []byte, offset int64) (int, error) { return copy(d[offset:], p), nil }

func sha(p []byte) string {
	sum := chunk.SHA256(sha256.Sum256(p))
	return "sha256:" + sum.String()
}

func importDisk(t *testing.T, b *Builder) Artifact {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, testDisk(t), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := b.Import(t.Context(), ImportSpec{Source: path})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestStoredImageIsFoundByDigestAndInspected(t *testing.T) {
	b := &Builder{CacheDir: t.TempDir()}
	a := importDisk(t, b)
	if a.Cached || a.Source.Kind != "import" || a.Manifest.RawBytes != 12<<20 || strings.Join(a.Manifest.Firmware, ",") != "bios,uefi" {
		t.Errorf("imported %+v", a)
	}
	opened, err := b.Open(a.Digest)
	if err != nil || opened.FramesPath != a.FramesPath {
		t.Errorf("Open = %+v, %v", opened, err)
	}
	for _, path := range []string{a.Dir, a.ManifestPath, a.FramesPath} {
		if inspected, err := Inspect(path); err != nil || inspected.Digest != a.Digest {
			t.Errorf("Inspect(%s) = %s, %v; want %s", path, inspected.Digest, err, a.Digest)
		}
	}
	if err := a.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := b.Open("sha256:" + strings.Repeat("0", 64)); !errors.Is(err, ErrNoImage) {
		t.Errorf("Open of an unknown digest = %v; want ErrNoImage", err)
	}
	for _, bad := range []string{"", "sha256:", "md5:00", a.Digest[7:], "sha256:../../../etc", strings.ToUpper(a.Digest)} {
		if _, err := b.Open(bad); err == nil || errors.Is(err, ErrNoImage) {
			t.Errorf("Open(%q) = %v; want a complaint about the digest", bad, err)
		}
	}
}

func TestCorruptionAtRestIsFound(t *testing.T) {
	b := &Builder{CacheDir: t.TempDir()}
	a := importDisk(t, b)
	frames, err := os.ReadFile(a.FramesPath)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, p []byte) {
		if err := os.WriteFile(name, p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rotten := bytes.Clone(frames)
	rotten[len(rotten)/2] ^= 4
	write(a.FramesPath, rotten)
	var corrupt *chunk.CorruptChunkError
	if err := a.Verify(t.Context()); !errors.As(err, &corrupt) {
		t.Errorf("Verify of rotten frames = %v; want CorruptChunkError", err)
	}
	write(a.FramesPath, frames[:len(frames)-1])
	if _, err := b.Open(a.Digest); err == nil || !strings.Contains(err.Error(), "frames file has") {
		t.Errorf("Open with truncated frames = %v", err)
	}
	write(a.FramesPath, frames)
	manifest, err := os.ReadFile(a.ManifestPath)
	if err != nil {
		t.Fatal(err)
	}
	write(a.ManifestPath, bytes.Replace(manifest, []byte(`"amd64"`), []byte(`"arm64"`), 1))
	if _, err := b.Open(a.Digest); err == nil || !strings.Contains(err.Error(), "its manifest describes") {
		t.Errorf("Open with another manifest = %v", err)
	}
	// A damaged image is made again, not found.
	again := importDisk(t, b)
	if again.Cached || again.Digest != a.Digest {
		t.Errorf("import over a damaged image: cached %v, digest %s", again.Cached, again.Digest)
	}
	if err := again.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

// disk4Kn is a small UEFI disk whose table counts in sectors of 4096 bytes.
func disk4Kn(t testing.TB) []byte {
	t.Helper()
	const size = 12 << 20
	table, err := gpt.New(size, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := table.Add(gpt.Partition{Type: gpt.EFISystem, GUID: gpt.Deterministic("t", "esp"), Name: "esp"}, 2<<20); err != nil {
		t.Fatal(err)
	}
	disk := make(ram, size)
	if err := table.Write(disk); err != nil {
		t.Fatal(err)
	}
	return disk
}

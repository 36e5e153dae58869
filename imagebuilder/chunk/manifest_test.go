package chunk

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestParseManifestRefusals(t *testing.T) {
	m, _ := create(t, testRaw(6*testChunk), CreateOptions{})
	var text bytes.Buffer
	if err := m.Encode(&text); err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseManifest(bytes.NewReader(text.Bytes()))
	if err != nil || parsed.Digest() != m.Digest() {
		t.Fatalf("ParseManifest of what Encode wrote = %v", err)
	}
	for name, c := range map[string]struct {
		change func(*Manifest)
		want   string
	}{
		"version":        {func(m *Manifest) { m.FormatVersion = 2 }, "format version 2"},
		"architecture":   {func(m *Manifest) { m.Architecture = "sparc" }, "architecture"},
		"firmware":       {func(m *Manifest) { m.Firmware = []string{"uefi", "bios"} }, "firmware"},
		"sector":         {func(m *Manifest) { m.SectorBytes = 520 }, "sectors"},
		"small disk":     {func(m *Manifest) { m.MinDiskBytes = m.RawBytes - 1 }, "minimum disk"},
		"no chunk":       {func(m *Manifest) { m.Chunks = nil }, "0 chunks"},
		"gap":            {func(m *Manifest) { m.Chunks[2].RawOffset += 512 }, "raw offset"},
		"overlap":        {func(m *Manifest) { m.Chunks[3].RawOffset -= 512 }, "raw offset"},
		"huge chunk":     {func(m *Manifest) { m.Chunks[0].RawBytes = MaxChunkBytes + 512 }, "raw bytes"},
		"ragged chunk":   {func(m *Manifest) { m.Chunks[0].RawBytes-- }, "raw bytes"},
		"frame gap":      {func(m *Manifest) { m.Chunks[1].FrameOffset++ }, "frame at"},
		"frame too long": {func(m *Manifest) { m.Chunks[5].FrameBytes = 1 << 40 }, "frame of"},
		"negative frame": {func(m *Manifest) { m.Chunks[5].FrameBytes = -1 }, "frame of"},
		"short":          {func(m *Manifest) { m.Chunks = m.Chunks[:5] }, "cover"},
		"false zero":     {func(m *Manifest) { m.Chunks[0].Zero = true }, "flagged as zero"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := *m
			changed.Chunks = append([]Chunk(nil), m.Chunks...)
			c.change(&changed)
			var text bytes.Buffer
			if err := changed.Encode(&text); err != nil {
				t.Fatal(err)
			}
			if _, err := ParseManifest(&text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ParseManifest = %v; want an error with %q", err, c.want)
			}
		})
	}
	for name, bad := range map[string]string{
		"trailing data":  text.String() + "{}",
		"unknown field":  `{"colour":"red"}`,
		"truncated":      text.String()[:text.Len()/2],
		"upper-case hex": strings.Replace(text.String(), m.Chunks[0].RawSHA256.String(), strings.ToUpper(m.Chunks[0].RawSHA256.String()), 1),
		"empty":          "",
	} {
		if _, err := ParseManifest(strings.NewReader(bad)); err == nil {
			t.Errorf("ParseManifest accepted a manifest with %s", name)
		}
	}
	endless := io.MultiReader(strings.NewReader(`{"format_version":1,"architecture":"`), endlessReader{})
	if _, err := ParseManifest(endless); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("ParseManifest of an endless stream = %v", err)
	}
}

type endlessReader struct{}

func (endlessReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

func FuzzParseManifest(f *testing.F) {
	m, _ := create(f, testRaw(3*testChunk), CreateOptions{})
	var text bytes.Buffer
	if err := m.Encode(&text); err != nil {
		f.Fatal(err)
	}
	f.Add(text.Bytes())
	f.Add([]byte(`{"format_version":1,"chunks":[{"raw_bytes":-1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(bytes.NewReader(data))
		if err != nil {
			return
		}
		var covered int64
		for _, c := range m.Chunks {
			covered += c.RawBytes
		}
		if covered != m.RawBytes || m.FramesBytes() <= 0 {
			t.Fatalf("accepted a manifest that covers %d of %d bytes", covered, m.RawBytes)
		}
		var again bytes.Buffer
		if err := m.Encode(&again); err != nil {
			t.Fatal(err)
		}
		if other, err := ParseManifest(&again); err != nil || other.Digest() != m.Digest() {
			t.Fatalf("round trip: %v", err)
		}
	})
}

// FuzzFrame feeds a stranger's frame to the decoder: it must answer with an error, within its memory.
func FuzzFrame(f *testing.F) {
	raw := testRaw(testChunk)
	m, frames := create(f, raw, CreateOptions{})
	f.Add(frames)
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	byContent, err := newWorkspace(m, false)
	if err != nil {
		f.Fatal(err)
	}
	byFrame, err := newWorkspace(m, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) == 0 || len(frame) > len(byContent.frame)-1 {
			return
		}
		c := Chunk{RawBytes: testChunk, FrameBytes: int64(len(frame)), FrameSHA256: sha256.Sum256(frame), RawSHA256: m.Chunks[0].RawSHA256}
		corrupt := byContent.decode(bytes.NewReader(frame), c, func(int64) {})
		if corrupt == nil && !bytes.Equal(byContent.raw[:testChunk], raw) {
			t.Fatal("a frame with other content was accepted")
		}
		// What its digest vouches for has its own content.
		if corrupt := byFrame.decode(bytes.NewReader(frame), c, func(int64) {}); corrupt != nil && corrupt.Got == c.FrameSHA256 {
			t.Fatalf("a frame with the right digest was refused for its digest: %v", corrupt)
		}
		c.FrameSHA256[0]++
		if corrupt := byFrame.decode(bytes.NewReader(frame), c, func(int64) {}); corrupt == nil {
			t.Fatal("a frame with another digest was accepted")
		}
	})
}

func ExampleManifest_Compatible() {
	m := &Manifest{Architecture: "amd64", Firmware: []string{"bios", "uefi"}, SectorBytes: 512, MinDiskBytes: 1 << 30}
	fmt.Println(m.Compatible(Machine{Architecture: "amd64", Firmware: "uefi", SectorBytes: 4096, DiskBytes: 1 << 40}))
	// Output: image is laid out in 512-byte sectors; the disk has 4096-byte sectors: use an image built for them
}

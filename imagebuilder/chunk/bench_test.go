package chunk

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

const benchBytes = 128 << 20

// BenchmarkCreate makes an image of 128 MiB; the floor is the same compressor without digests or chunks, one stream.
func BenchmarkCreate(b *testing.B) {
	raw := testRaw(benchBytes)
	b.Run("chunks", func(b *testing.B) {
		b.SetBytes(benchBytes)
		for b.Loop() {
			if _, err := Create(b.Context(), bytes.NewReader(raw), benchBytes, io.Discard, CreateOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("floor-zstd-stream", func(b *testing.B) {
		b.SetBytes(benchBytes)
		for b.Loop() {
			encoder, err := zstd.NewWriter(io.Discard)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := encoder.Write(raw); err != nil {
				b.Fatal(err)
			}
			if err := encoder.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkWrite writes an image of 128 MiB to a file; the floor decompresses the same frames as one stream and writes
// what is not zero with O_DIRECT, without digests.
func BenchmarkWrite(b *testing.B) {
	raw := testRaw(benchBytes)
	m, frames := create(b, raw, CreateOptions{ChunkBytes: MaxChunkBytes})
	path := filepath.Join(b.TempDir(), "disk")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		b.Fatal(err)
	}
	disk, err := OpenDisk(path)
	if err != nil {
		b.Fatal(err)
	}
	defer disk.Close()
	b.Run("verified", func(b *testing.B) {
		b.SetBytes(benchBytes)
		for b.Loop() {
			if _, err := Write(b.Context(), m, ReaderFetcher{bytes.NewReader(frames)}, disk, WriteOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("floor-zstd-to-sparse-direct", func(b *testing.B) {
		b.SetBytes(benchBytes)
		buffer := alignedBuffer(MaxChunkBytes)
		for b.Loop() {
			decoder, err := zstd.NewReader(bytes.NewReader(frames))
			if err != nil {
				b.Fatal(err)
			}
			for offset := int64(0); offset < benchBytes; offset += MaxChunkBytes {
				if _, err := io.ReadFull(decoder, buffer); err != nil {
					b.Fatal(err)
				}
				for at := 0; at < len(buffer); at += minZeroBytes {
					if part := buffer[at : at+minZeroBytes]; !isZero(part) {
						if _, err := disk.WriteAt(part, offset+int64(at)); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			decoder.Close()
		}
	})
}

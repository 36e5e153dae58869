package chunk

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// CreateOptions say what the image is for and how it is compressed.
type CreateOptions struct {
	Architecture string   // zero: "amd64"
	Firmware     []string // zero: bios and uefi
	SectorBytes  int      // zero: 512
	MinDiskBytes int64    // zero: the raw size
	ChunkBytes   int64    // raw bytes per chunk; zero: MaxChunkBytes
	Workers      int      // chunks compressed at once; zero: one per CPU
	// Progress is called from one goroutine at a time, after each chunk, in disk order.
	Progress func(doneBytes, totalBytes int64)
}

// Create compresses the first rawBytes of raw into frames written to dst and returns their manifest. The output depends
// on raw and the options alone. When raw is an *os.File its holes are not read. Memory is bounded by
// about three chunks per worker.
func Create(ctx context.Context, raw io.ReaderAt, rawBytes int64, dst io.Writer, o CreateOptions) (*Manifest, error) {
	m := &Manifest{
		FormatVersion: FormatVersion, Architecture: o.Architecture, Firmware: slices.Clone(o.Firmware),
		SectorBytes: o.SectorBytes, MinDiskBytes: o.MinDiskBytes, RawBytes: rawBytes,
	}
	if m.Architecture == "" {
		m.Architecture = "amd64"
	}
	if m.Firmware == nil {
		m.Firmware = []string{"bios", "uefi"}
	}
	slices.Sort(m.Firmware)
	if m.SectorBytes == 0 {
		m.SectorBytes = 512
	}
	if m.MinDiskBytes == 0 {
		m.MinDiskBytes = rawBytes
	}
	size := o.ChunkBytes
	if size == 0 {
		size = MaxChunkBytes
	}
	if size < 0 || size > MaxChunkBytes || size%int64(m.SectorBytes) != 0 {
		return nil, fmt.Errorf("creating image: chunk size %d is not a positive multiple of %d up to %d", size, m.SectorBytes, MaxChunkBytes)
	}
	if rawBytes <= 0 || rawBytes > size*MaxChunks {
		return nil, fmt.Errorf("creating image: raw size %d is not between 1 and %d bytes", rawBytes, size*MaxChunks)
	}
	for offset := int64(0); offset < rawBytes; offset += size {
		m.Chunks = append(m.Chunks, Chunk{RawOffset: offset, RawBytes: min(size, rawBytes-offset)})
	}
	c := &creator{raw: raw, manifest: m, workers: o.Workers, progress: o.Progress}
	if c.workers <= 0 {
		c.workers = runtime.GOMAXPROCS(0)
	}
	if f, ok := raw.(*os.File); ok {
		extents, err := dataExtents(f, rawBytes)
		if err != nil {
			return nil, fmt.Errorf("creating image: finding the holes of %s: %w", f.Name(), err)
		}
		c.extents = extents
		c.sparse = true
	}
	if err := c.run(ctx, dst); err != nil {
		return nil, fmt.Errorf("creating image: %w", err)
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("creating image: %w", err)
	}
	return m, nil
}

type creator struct {
	raw      io.ReaderAt
	manifest *Manifest
	workers  int
	progress func(done, total int64)
	sparse   bool
	extents  []extent
}

// compressed is one chunk on its way from a worker to the writer.
type compressed struct {
	frame []byte
	zero  bool
	raw   SHA256
	sum   SHA256
	err   error
}

func (c *creator) run(ctx context.Context, dst io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()

	type job struct {
		index  int
		result chan compressed
	}
	jobs := make(chan job)
	// The queue keeps results in disk order; its length bounds the frames that wait for a slow chunk before them.
	queue := make(chan chan compressed, 2*c.workers)
	// Buffers that the writer is done with; there are never more frames under way than fit.
	spare := make(chan []byte, 3*c.workers+2)

	group.Go(func() {
		defer close(jobs)
		defer close(queue)
		for i := range c.manifest.Chunks {
			result := make(chan compressed, 1)
			select {
			case queue <- result:
			case <-ctx.Done():
				return
			}
			select {
			case jobs <- job{i, result}:
			case <-ctx.Done():
				result <- compressed{err: ctx.Err()}
				return
			}
		}
	})
	for range c.workers {
		encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(MaxChunkBytes))
		if err != nil {
			return fmt.Errorf("starting zstd: %w", err)
		}
		group.Go(func() {
			buffer := make([]byte, c.manifest.Chunks[0].RawBytes)
			zeros := newZeroDigests()
			for j := range jobs {
				var frame []byte
				select {
				case frame = <-spare:
				default:
				}
				j.result <- c.compress(encoder, zeros, buffer, frame[:0], c.manifest.Chunks[j.index])
			}
		})
	}

	var offset int64
	for i := range c.manifest.Chunks {
		result, ok := <-queue
		if !ok {
			return ctx.Err()
		}
		r := <-result
		if r.err != nil {
			return r.err
		}
		if _, err := dst.Write(r.frame); err != nil {
			return fmt.Errorf("writing frame %d: %w", i, err)
		}
		chunk := &c.manifest.Chunks[i]
		chunk.RawSHA256, chunk.FrameSHA256, chunk.Zero = r.raw, r.sum, r.zero
		chunk.FrameOffset, chunk.FrameBytes = offset, int64(len(r.frame))
		offset += chunk.FrameBytes
		select {
		case spare <- r.frame:
		default:
		}
		if c.progress != nil {
			c.progress(chunk.RawOffset+chunk.RawBytes, c.manifest.RawBytes)
		}
	}
	return ctx.Err()
}

func (c *creator) compress(encoder *zstd.Encoder, zeros zeroDigests, buffer, frame []byte, chunk Chunk) compressed {
	buffer = buffer[:chunk.RawBytes]
	result := compressed{}
	if c.sparse && !overlaps(c.extents, chunk.RawOffset, chunk.RawBytes) {
		clear(buffer)
		result.zero = true
	} else {
		if n, err := c.raw.ReadAt(buffer, chunk.RawOffset); n != len(buffer) {
			return compressed{err: fmt.Errorf("reading raw disk at offset %d: %w", chunk.RawOffset, err)}
		}
		result.zero = isZero(buffer)
	}
	if result.zero {
		result.raw = zeros.of(chunk.RawBytes)
	} else {
		result.raw = sha256.Sum256(buffer)
	}
	result.frame = encoder.EncodeAll(buffer, frame)
	result.sum = sha256.Sum256(result.frame)
	return result
}

// extent is a range of a file that holds data.
type extent struct{ offset, length int64 }

// overlaps reports whether any extent, sorted by offset, touches the range.
func overlaps(extents []extent, offset, length int64) bool {
	i, _ := slices.BinarySearchFunc(extents, offset, func(e extent, at int64) int {
		if e.offset+e.length <= at {
			return -1
		}
		return 1
	})
	return i < len(extents) && extents[i].offset < offset+length
}

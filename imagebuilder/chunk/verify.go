package chunk

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"sync"
)

// Verify reads the whole image back from r and compares every chunk with the manifest. The error is a *CorruptChunkError
// for the first chunk found that differs.
func Verify(ctx context.Context, m *Manifest, r io.ReaderAt) error {
	if err := m.Validate(); err != nil {
		return err
	}
	return m.each(ctx, m.Chunks[0].RawBytes, func(i int, buffer []byte) error {
		c := m.Chunks[i]
		buffer = buffer[:c.RawBytes]
		if n, err := r.ReadAt(buffer, c.RawOffset); n != len(buffer) {
			return fmt.Errorf("verifying image: reading disk offset %d: %w", c.RawOffset, noEOF(err))
		}
		if got := SHA256(sha256.Sum256(buffer)); got != c.RawSHA256 {
			return &CorruptChunkError{Index: i, Where: "disk", RawOffset: c.RawOffset, FrameOffset: c.FrameOffset, Want: c.RawSHA256, Got: got}
		}
		return nil
	})
}

// VerifyFrames compares a frames file with the manifest: corruption at rest shows here before a machine fetches it.
func VerifyFrames(ctx context.Context, m *Manifest, r io.ReaderAt) error {
	return m.eachFrame(ctx, r, checkFrame)
}

// VerifyContent compares a frames file that came from elsewhere with the manifest: every frame by its digest, and what it
// holds by the raw digest that the image's name covers. An image that passes may be written with
// WriteOptions.AuthenticFrames.
func VerifyContent(ctx context.Context, m *Manifest, r io.ReaderAt) error {
	spaces := make(chan *workspace, runtime.GOMAXPROCS(0))
	defer func() {
		close(spaces)
		for w := range spaces {
			w.close()
		}
	}()
	return m.eachFrame(ctx, r, func(frame []byte, c Chunk) *CorruptChunkError {
		if corrupt := checkFrame(frame, c); corrupt != nil {
			return corrupt
		}
		var work *workspace
		select {
		case work = <-spaces:
		default:
			var err error
			if work, err = newWorkspace(m, false); err != nil {
				return &CorruptChunkError{Cause: err}
			}
		}
		defer func() { spaces <- work }()
		return work.verify(frame, c)
	})
}

// eachFrame calls check for every frame of a frames file, from several goroutines at once.
func (m *Manifest) eachFrame(ctx context.Context, r io.ReaderAt, check func(frame []byte, c Chunk) *CorruptChunkError) error {
	if err := m.Validate(); err != nil {
		return err
	}
	var longest int64
	for _, c := range m.Chunks {
		longest = max(longest, c.FrameBytes)
	}
	return m.each(ctx, longest, func(i int, buffer []byte) error {
		c := m.Chunks[i]
		buffer = buffer[:c.FrameBytes]
		var corrupt *CorruptChunkError
		if n, err := r.ReadAt(buffer, c.FrameOffset); n != len(buffer) {
			corrupt = &CorruptChunkError{Cause: fmt.Errorf("%d of %d bytes are there: %w", n, len(buffer), noEOF(err))}
		} else if corrupt = check(buffer, c); corrupt == nil {
			return nil
		}
		corrupt.Index, corrupt.Where, corrupt.Attempts = i, "frame", 1
		corrupt.RawOffset, corrupt.FrameOffset = c.RawOffset, c.FrameOffset
		return corrupt
	})
}

// each calls check for every chunk from one goroutine per CPU, each with a buffer of its own.
func (m *Manifest) each(ctx context.Context, bufferBytes int64, check func(i int, buffer []byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	indexes := make(chan int)
	var group sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(m.Chunks)) {
		group.Go(func() {
			buffer := alignedBuffer(int(bufferBytes))
			for i := range indexes {
				if err := check(i, buffer); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	for i := 0; i < len(m.Chunks) && ctx.Err() == nil; i++ {
		select {
		case indexes <- i:
		case <-ctx.Done():
		}
	}
	close(indexes)
	group.Wait()
	return context.Cause(ctx)
}

// ReaderFetcher fetches from a local frames file; R is read from several goroutines at once.
type ReaderFetcher struct{ R io.ReaderAt }

// Fetch implements Fetcher.
func (f ReaderFetcher) Fetch(_ context.Context, offset, length int64) (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(f.R, offset, length)), nil
}

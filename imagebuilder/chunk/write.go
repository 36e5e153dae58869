package chunk

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"unsafe"

	"github.com/klauspost/compress/zstd"
)

const (
	// sparseBytes is the granularity at which zero runs inside a chunk are found, and minZeroBytes the shortest run that
	// is worth a ZeroAt of its own instead of being written as data.
	sparseBytes  = 64 << 10
	minZeroBytes = 256 << 10
	// headBytes is cleared before anything is written: it holds every partition table a firmware looks at.
	headBytes = 1 << 20
	// bufferAlign suits O_DIRECT on every disk (open(2): the logical block size; 4096 covers 512e and 4Kn).
	bufferAlign = 4096
)

// Fetcher gives ranges of the frames file.
type Fetcher interface {
	// Fetch opens exactly length bytes at offset. It is called from several goroutines at once and must honour ctx;
	// retries after a broken connection are its business, the content is not: the writer checks every byte.
	Fetch(ctx context.Context, offset, length int64) (io.ReadCloser, error)
}

// Target is the disk that is written. Its methods are called from several goroutines at once on ranges that do not
// overlap; offsets and lengths are multiples of the image's sector.
type Target interface {
	io.ReaderAt
	io.WriterAt
	// ZeroAt makes the range read back as zeros, for good: a discard is not enough.
	ZeroAt(offset, length int64) error
}

// WriteOptions tune Write.
type WriteOptions struct {
	Workers int // chunks in work at once, each with about two chunks of memory; zero: 4
	// Prove reads each chunk back from the disk first and leaves it alone when its digest is already right: a
	// write that was cut short continues without fetching again.
	Prove bool
	// AuthenticFrames says that the manifest's frame digests can be trusted as its raw ones can, because the digest of its
	// whole text came over a trusted channel. A chunk is then checked by its frame before that is decompressed, which is a
	// third or a quarter of the bytes, and the decompressor by the frame's own checksum (RFC 8878 section 3.1.1). When
	// it is false, the raw digests decide, which the image's name covers.
	AuthenticFrames bool
	// Refetches is how often a frame whose bytes are wrong or too few is fetched again; zero: 3, negative: never.
	Refetches int
	// Progress is called after each chunk, from one goroutine at a time.
	Progress func(Progress)
}

// Progress is how far a Write is.
type Progress struct {
	DoneBytes    int64 // raw bytes that are right on the disk
	TotalBytes   int64 // raw bytes of the image
	FetchedBytes int64 // frame bytes received so far
}

// Result counts what a Write did; chunks are either fetched, proved or zeroed.
type Result struct {
	FetchedChunks, ProvedChunks, ZeroedChunks int
	FetchedBytes                              int64 // frame bytes received, wrong ones included
	WrittenBytes                              int64 // raw bytes of data handed to the disk; zero runs are not in it
	Refetches                                 int   // frames that arrived wrong
}

// CorruptChunkError says that bytes do not match the manifest: a frame that stayed wrong after all refetches, or a disk
// that reads back something else.
type CorruptChunkError struct {
	Index       int
	Where       string // "frame" or "disk"
	RawOffset   int64
	FrameOffset int64
	Want, Got   SHA256
	Attempts    int   // how often the frame was fetched
	Cause       error // when the bytes did not even arrive or decompress
}

func (e *CorruptChunkError) Error() string {
	if e.Where == "disk" {
		return fmt.Sprintf("chunk %d at disk offset %d reads back as SHA-256 %s; want %s: the disk does not hold what was written", e.Index, e.RawOffset, e.Got, e.Want)
	}
	text := fmt.Sprintf("chunk %d (disk offset %d, frame offset %d) is corrupt after %d attempts", e.Index, e.RawOffset, e.FrameOffset, e.Attempts)
	if e.Cause != nil {
		return text + ": " + e.Cause.Error()
	}
	return fmt.Sprintf("%s: SHA-256 is %s; want %s", text, e.Got, e.Want)
}

func (e *CorruptChunkError) Unwrap() error { return e.Cause }

// Write puts the image on the target. No byte is written before its digest was checked. The first chunk, which holds the
// partition table, goes last, and unless it is already right the head of the disk is cleared first: a disk whose
// write was cut short is never taken for a bootable one. Flushing is the caller's (Disk.Close does it).
func Write(ctx context.Context, m *Manifest, src Fetcher, dst Target, o WriteOptions) (Result, error) {
	if err := m.Validate(); err != nil {
		return Result{}, err
	}
	w := &writer{manifest: m, src: src, dst: dst, options: o}
	if w.options.Workers <= 0 {
		w.options.Workers = 4
	}
	switch {
	case o.Refetches == 0:
		w.options.Refetches = 3
	case o.Refetches < 0:
		w.options.Refetches = 0
	}
	err := w.run(ctx)
	if err != nil {
		err = fmt.Errorf("writing image: %w", err)
	}
	return w.result, err
}

type writer struct {
	manifest *Manifest
	src      Fetcher
	dst      Target
	options  WriteOptions

	mu     sync.Mutex // guards what follows
	result Result
	done   int64
}

func (w *writer) run(ctx context.Context) error {
	firstProved := false
	if w.options.Prove {
		var err error
		if firstProved, err = w.prove(0, alignedBuffer(int(w.manifest.Chunks[0].RawBytes))); err != nil {
			return err
		}
	}
	if firstProved {
		w.finish(0, func(r *Result) { r.ProvedChunks++ })
	} else if err := w.dst.ZeroAt(0, min(headBytes, w.manifest.Chunks[0].RawBytes)); err != nil {
		return fmt.Errorf("clearing the head of the disk: %w", err)
	}
	if err := w.spread(ctx, 1, len(w.manifest.Chunks)); err != nil {
		return err
	}
	if firstProved {
		return nil
	}
	return w.spread(ctx, 0, 1)
}

// spread writes the chunks from first to end with all workers and returns the first error.
func (w *writer) spread(ctx context.Context, first, end int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	runs := make(chan run)
	var group sync.WaitGroup
	for range min(w.options.Workers, end-first) {
		group.Go(func() {
			work, err := newWorkspace(w.manifest, w.options.AuthenticFrames)
			if err != nil {
				cancel(err)
				return
			}
			defer work.close()
			for r := range runs {
				if err := w.write(ctx, work, r); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	for i := first; i < end && ctx.Err() == nil; {
		r := w.nextRun(i, end)
		select {
		case runs <- r:
		case <-ctx.Done():
		}
		i = r.end
	}
	close(runs)
	group.Wait()
	return context.Cause(ctx)
}

// run is a range of chunks that one worker takes: one chunk with data, or neighbouring zero chunks.
type run struct {
	first, end int
	zero       bool
}

// maxZeroRun bounds how many zero chunks become one ZeroAt (1 GiB), so that progress moves and ctx is looked at.
const maxZeroRun = 256

func (w *writer) nextRun(i, end int) run {
	chunks := w.manifest.Chunks
	if !chunks[i].Zero || w.options.Prove {
		return run{i, i + 1, chunks[i].Zero}
	}
	last := i + 1
	for last < end && chunks[last].Zero && last-i < maxZeroRun {
		last++
	}
	return run{i, last, true}
}

func (w *writer) write(ctx context.Context, work *workspace, r run) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	chunk := w.manifest.Chunks[r.first]
	if w.options.Prove {
		proved, err := w.prove(r.first, work.raw)
		if err != nil {
			return err
		}
		if proved {
			w.finish(r.first, func(s *Result) { s.ProvedChunks++ })
			return nil
		}
	}
	if r.zero {
		last := w.manifest.Chunks[r.end-1]
		if err := w.dst.ZeroAt(chunk.RawOffset, last.RawOffset+last.RawBytes-chunk.RawOffset); err != nil {
			return fmt.Errorf("zeroing %d chunks at disk offset %d: %w", r.end-r.first, chunk.RawOffset, err)
		}
		for i := r.first; i < r.end; i++ {
			w.finish(i, func(s *Result) { s.ZeroedChunks++ })
		}
		return nil
	}
	raw, err := w.fetch(ctx, work, r.first)
	if err != nil {
		return err
	}
	written, err := writeSparse(w.dst, raw, chunk.RawOffset)
	if err != nil {
		return fmt.Errorf("writing chunk %d at disk offset %d: %w", r.first, chunk.RawOffset, err)
	}
	w.finish(r.first, func(s *Result) { s.FetchedChunks++; s.WrittenBytes += written })
	return nil
}

func (w *writer) finish(index int, count func(*Result)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	count(&w.result)
	w.done += w.manifest.Chunks[index].RawBytes
	if w.options.Progress != nil {
		w.options.Progress(Progress{DoneBytes: w.done, TotalBytes: w.manifest.RawBytes, FetchedBytes: w.result.FetchedBytes})
	}
}

func (w *writer) prove(index int, buffer []byte) (bool, error) {
	chunk := w.manifest.Chunks[index]
	buffer = buffer[:chunk.RawBytes]
	if n, err := w.dst.ReadAt(buffer, chunk.RawOffset); n != len(buffer) {
		return false, fmt.Errorf("reading disk offset %d to prove chunk %d: %w", chunk.RawOffset, index, err)
	}
	if chunk.Zero {
		return isZero(buffer), nil
	}
	return sha256.Sum256(buffer) == chunk.RawSHA256, nil
}

// fetch returns the verified raw bytes of a chunk, in a buffer of work.
func (w *writer) fetch(ctx context.Context, work *workspace, index int) ([]byte, error) {
	chunk := w.manifest.Chunks[index]
	for attempt := 1; ; attempt++ {
		body, err := w.src.Fetch(ctx, chunk.FrameOffset, chunk.FrameBytes)
		if err != nil {
			return nil, fmt.Errorf("fetching chunk %d (frame offset %d, %d bytes): %w", index, chunk.FrameOffset, chunk.FrameBytes, err)
		}
		corrupt := work.decode(body, chunk, w.count)
		if err := body.Close(); err != nil && corrupt == nil {
			corrupt = &CorruptChunkError{Cause: fmt.Errorf("closing its transfer: %w", err)}
		}
		if corrupt == nil {
			return work.raw[:chunk.RawBytes], nil
		}
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		w.mu.Lock()
		w.result.Refetches++
		w.mu.Unlock()
		if attempt > w.options.Refetches {
			corrupt.Index, corrupt.Where, corrupt.Attempts = index, "frame", attempt
			corrupt.RawOffset, corrupt.FrameOffset = chunk.RawOffset, chunk.FrameOffset
			return nil, corrupt
		}
	}
}

func (w *writer) count(n int64) {
	w.mu.Lock()
	w.result.FetchedBytes += n
	w.mu.Unlock()
}

// workspace is the memory of one worker.
type workspace struct {
	frame     []byte
	raw       []byte
	decoder   *zstd.Decoder
	authentic bool // frame digests are trusted
}

func newWorkspace(m *Manifest, authentic bool) (*workspace, error) {
	var longest int64
	for _, c := range m.Chunks {
		longest = max(longest, c.FrameBytes)
	}
	// The limit on the capacity makes a frame that claims more than its chunk an error instead of an allocation.
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2*MaxChunkBytes), zstd.WithDecodeAllCapLimit(true),
		zstd.IgnoreChecksum(!authentic)) // the frame's own, which a digest of the content makes superfluous
	if err != nil {
		return nil, fmt.Errorf("starting zstd: %w", err)
	}
	return &workspace{frame: make([]byte, longest+1), raw: alignedBuffer(int(m.Chunks[0].RawBytes)), decoder: decoder, authentic: authentic}, nil
}

func (w *workspace) close() { w.decoder.Close() }

// decode reads a frame and leaves its verified content in w.raw. It returns nil or an error without its place.
func (w *workspace) decode(body io.Reader, chunk Chunk, count func(int64)) *CorruptChunkError {
	// One byte more than asked shows a server that ignored the range.
	frame := w.frame[:chunk.FrameBytes+1]
	n, err := io.ReadFull(body, frame)
	count(int64(n))
	switch {
	case int64(n) > chunk.FrameBytes:
		return &CorruptChunkError{Cause: fmt.Errorf("more than the %d bytes asked for arrived", chunk.FrameBytes)}
	case int64(n) < chunk.FrameBytes:
		return &CorruptChunkError{Cause: fmt.Errorf("%d of %d bytes arrived: %w", n, chunk.FrameBytes, noEOF(err))}
	}
	return w.verify(frame[:n], chunk)
}

// verify leaves the content of a frame in w.raw if it is what the manifest says. Without SHA instructions a digest is
// what a write takes longest for, so exactly one is taken of each chunk: of the frame when its digest is trusted, of
// the content otherwise. The other one only says what is wrong.
func (w *workspace) verify(frame []byte, chunk Chunk) *CorruptChunkError {
	if w.authentic {
		if corrupt := checkFrame(frame, chunk); corrupt != nil {
			return corrupt
		}
	}
	raw, err := w.decoder.DecodeAll(frame, w.raw[:0:chunk.RawBytes])
	if err == nil && int64(len(raw)) == chunk.RawBytes {
		// The decoder has checked the content against the frame's checksum, if it has one.
		var header zstd.Header
		if w.authentic && header.Decode(frame) == nil && header.HasCheckSum {
			return nil
		}
		if sha256.Sum256(raw) == chunk.RawSHA256 {
			return nil
		}
	}
	if corrupt := checkFrame(frame, chunk); corrupt != nil {
		return corrupt
	}
	if err != nil {
		return &CorruptChunkError{Cause: fmt.Errorf("decompressing: %w", err)}
	}
	return &CorruptChunkError{Want: chunk.RawSHA256, Got: sha256.Sum256(raw)}
}

func checkFrame(frame []byte, chunk Chunk) *CorruptChunkError {
	if got := SHA256(sha256.Sum256(frame)); got != chunk.FrameSHA256 {
		return &CorruptChunkError{Want: chunk.FrameSHA256, Got: got}
	}
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) || err == nil {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeSparse writes data as few large writes and its long zero runs as ZeroAt. It returns the bytes written as data.
func writeSparse(dst Target, raw []byte, offset int64) (int64, error) {
	var written int64
	flush := func(from, to int) error {
		if from == to {
			return nil
		}
		written += int64(to - from)
		_, err := dst.WriteAt(raw[from:to], offset+int64(from))
		return err
	}
	data := 0 // start of what is not yet written
	for at := 0; at < len(raw); {
		end := at
		for end < len(raw) && isZero(raw[end:min(end+sparseBytes, len(raw))]) {
			end = min(end+sparseBytes, len(raw))
		}
		if end-at >= minZeroBytes {
			if err := flush(data, at); err != nil {
				return written, err
			}
			if err := dst.ZeroAt(offset+int64(at), int64(end-at)); err != nil {
				return written, err
			}
			data = end
		}
		at = max(end, at+sparseBytes)
	}
	return written, flush(data, len(raw))
}

// alignedBuffer returns n bytes that O_DIRECT accepts.
func alignedBuffer(n int) []byte {
	buffer := make([]byte, n+bufferAlign)
	skip := 0
	if rest := int(uintptr(unsafe.Pointer(unsafe.SliceData(buffer))) % bufferAlign); rest != 0 {
		skip = bufferAlign - rest
	}
	return buffer[skip : skip+n : skip+n]
}

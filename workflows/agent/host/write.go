package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
	"github.com/edge-provision/edge-provision/workflows/agent"
)

// write puts an image on a disk.
func (h *Host) write(ctx context.Context, w agent.Write, report func(agent.Progress) error) (result *agent.WriteResult, err error) {
	fetcher := &fetcher{host: h, ref: w.FramesURL}
	fetcher.alive()
	manifest, authentic, err := h.manifest(ctx, w, fetcher)
	if err != nil {
		return nil, err
	}
	disk, found, err := h.open(ctx, w.Disk)
	if err != nil {
		return nil, err
	}
	defer func() {
		if closeErr := disk.Close(); closeErr != nil && err == nil {
			result, err = nil, failing(agent.CodeDisk, "writing out the last of %s: %w", w.Disk, closeErr)
		}
	}()
	if err := h.compatible(manifest, disk); err != nil {
		return nil, err
	}
	if !w.Resume {
		if _, err := consented(disk, w.Disk, w.Consent); err != nil {
			return nil, err
		}
	}
	if err := report(agent.Progress{Phase: agent.PhaseBegin, Total: manifest.RawBytes}); err != nil {
		return nil, refused(agent.CodeFetch, "the controller did not acknowledge that %s is about to be written: %w", w.Disk, err)
	}
	h.log.Info("writing image", "image", w.Image, "disk", found.Name, "serial", found.Serial, "bytes", manifest.RawBytes, "resume", w.Resume)

	phase := agent.PhaseWrite
	if w.Resume {
		phase = agent.PhaseProve
	}
	progress := func(p chunk.Progress) {
		if p.FetchedBytes > 0 {
			phase = agent.PhaseWrite
		}
		// Only PhaseBegin can fail.
		_ = report(agent.Progress{Phase: phase, Bytes: p.DoneBytes, Total: p.TotalBytes, FetchedBytes: fetcher.received.Load()})
	}
	counts, err := chunk.Write(ctx, manifest, fetcher, disk, chunk.WriteOptions{Prove: w.Resume, AuthenticFrames: authentic, Progress: progress})
	if err != nil {
		return nil, writeFailure(ctx, w.Disk, err)
	}
	if err := report(agent.Progress{Phase: agent.PhaseSync, Bytes: manifest.RawBytes, Total: manifest.RawBytes, FetchedBytes: fetcher.received.Load()}); err != nil {
		return nil, err
	}
	if err := disk.Flush(); err != nil {
		return nil, failing(agent.CodeDisk, "writing out the last of %s: %w", w.Disk, err)
	}
	size := manifest.Chunks[0].RawBytes
	return &agent.WriteResult{
		Bytes: manifest.RawBytes, FetchedBytes: fetcher.received.Load(), WrittenBytes: counts.WrittenBytes,
		// The last chunk may be shorter than the others.
		ProvedBytes: min(int64(counts.ProvedChunks)*size, manifest.RawBytes),
		ZeroBytes:   min(int64(counts.ZeroedChunks)*size, manifest.RawBytes),
		Refetches:   counts.Refetches, Retries: int(fetcher.retries.Load()),
	}, nil
}

// compatible refuses an image that is made for another machine or disk.
func (h *Host) compatible(manifest *chunk.Manifest, disk Disk) error {
	err := manifest.Compatible(chunk.Machine{
		Architecture: h.cfg.Architecture, Firmware: h.cfg.Firmware,
		SectorBytes: disk.SectorBytes(), DiskBytes: disk.Bytes(),
	})
	var wrong *chunk.IncompatibleError
	if !errors.As(err, &wrong) {
		return err
	}
	codes := map[string]agent.Code{"sector": agent.CodeSectorSize, "disk": agent.CodeDiskSize}
	code, ok := codes[wrong.Field]
	if !ok {
		code = agent.CodeArchitecture
	}
	return refused(code, "%w", err)
}

// writeFailure classifies an error of chunk.Write.
func writeFailure(ctx context.Context, ref agent.DiskRef, err error) error {
	var fetch *fetchError
	var corrupt *chunk.CorruptChunkError
	code := agent.CodeDisk
	switch {
	case ctx.Err() != nil:
		code = agent.CodeCancelled
	case errors.As(err, &fetch):
		code = agent.CodeFetch
	case errors.As(err, &corrupt):
		code = agent.CodeCorrupt
	}
	return failing(code, "%s is half written: %w", ref, err)
}

// manifest fetches the manifest and holds it to the digests that came over the
// session. authentic says that its digests of frames can be trusted too.
func (h *Host) manifest(ctx context.Context, w agent.Write, f *fetcher) (manifest *chunk.Manifest, authentic bool, err error) {
	raw, err := f.get(ctx, w.ManifestURL, 0, 0, chunk.MaxManifestBytes)
	if err != nil {
		return nil, false, &failure{code: agent.CodeFetch, untouched: true, err: fmt.Errorf("fetching the manifest of image %s: %w", w.Image, err)}
	}
	manifest, err = chunk.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, false, refused(agent.CodeManifest, "the manifest of image %s: %w", w.Image, err)
	}
	if got := manifest.Digest(); got != w.Image {
		return nil, false, refused(agent.CodeManifest, "the manifest at %s is that of image %s; want %s", w.ManifestURL, got, w.Image)
	}
	if w.ManifestText == "" {
		return manifest, false, nil
	}
	// The same image, compressed anew since the task was given, is no fault:
	// its raw digests still are those of the name.
	text := sha256.Sum256(raw)
	authentic = "sha256:"+hex.EncodeToString(text[:]) == w.ManifestText
	if !authentic {
		h.log.Warn("the manifest is not written as the controller said; its frames are not trusted, and raw content is checked, which takes longer", "image", w.Image)
	}
	return manifest, authentic, nil
}

// fetchError says that bytes could not be had.
type fetchError struct{ err error }

func (e *fetchError) Error() string { return e.err.Error() }
func (e *fetchError) Unwrap() error { return e.err }

// fetcher implements chunk.Fetcher. It returns only whole ranges, and repeats
// what was cut off, until nothing at all has arrived for Config.Patience.
type fetcher struct {
	host     *Host
	ref      string
	lastByte atomic.Int64 // nanoseconds of Config.Now
	received atomic.Int64 // body bytes, those of cut transfers too
	retries  atomic.Int64
}

const (
	// stallTimeout ends a transfer that brings nothing.
	stallTimeout = 30 * time.Second
	firstBackoff = 250 * time.Millisecond
	maxBackoff   = 4 * time.Second
)

func (f *fetcher) alive() { f.lastByte.Store(f.host.cfg.Now().UnixNano()) }

// Fetch implements chunk.Fetcher.
func (f *fetcher) Fetch(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	body, err := f.get(ctx, f.ref, offset, length, length)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(body)), nil
}

// get fetches ref, or a range of it when length is positive.
func (f *fetcher) get(ctx context.Context, ref string, offset, length, limit int64) ([]byte, error) {
	backoff := firstBackoff
	for {
		body, err := f.attempt(ctx, ref, offset, length, limit)
		if err == nil {
			f.alive()
			return body, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		silent := f.host.cfg.Now().Sub(time.Unix(0, f.lastByte.Load()))
		if silent >= f.host.cfg.Patience {
			return nil, &fetchError{fmt.Errorf("nothing arrived from %s for %s: %w", ref, silent.Round(time.Second), err)}
		}
		f.retries.Add(1)
		f.host.log.Debug("fetching again", "url", ref, "offset", offset, "error", err)
		timer := time.NewTimer(backoff)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// attempt makes one request and reads its whole body.
func (f *fetcher) attempt(ctx context.Context, ref string, offset, length, limit int64) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTimeout, func() {
		cancel(fmt.Errorf("nothing arrived for %s", stallTimeout))
	})
	defer stop(stall)
	body, err := f.host.cfg.Getter.Get(ctx, ref, offset, length)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var buffer bytes.Buffer
	if length > 0 {
		buffer.Grow(int(length) + bytes.MinRead)
	}
	// One byte more than allowed shows a server that ignored the range.
	_, err = buffer.ReadFrom(&watched{r: io.LimitReader(body, limit+1), f: f, stall: stall})
	switch n := int64(buffer.Len()); {
	case err != nil:
		return nil, fmt.Errorf("after %d bytes: %w", n, err)
	case n > limit:
		return nil, fmt.Errorf("the answer is larger than %d bytes", limit)
	case length > 0 && n != length:
		return nil, fmt.Errorf("%d of %d bytes arrived: %w", n, length, io.ErrUnexpectedEOF)
	}
	return buffer.Bytes(), nil
}

func stop(t *time.Timer) { t.Stop() }

// watched counts what arrives and keeps the stall timer from firing meanwhile.
type watched struct {
	r     io.Reader
	f     *fetcher
	stall *time.Timer
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.f.received.Add(int64(n))
		w.f.alive()
		w.stall.Reset(stallTimeout)
	}
	return n, err
}

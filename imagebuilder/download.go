package imagebuilder

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
)

const (
	// downloadTries is how often a transfer that broke is taken up again without having moved in between.
	downloadTries = 5
	// downloadStall is how long a transfer may stand still before it counts as broken.
	downloadStall = time.Minute
	downloadPause = time.Second // before the first new try; doubles
)

// download fetches one file of known digest and continues where an earlier one, of this run or another, was cut.
type download struct {
	client   *http.Client
	url      string
	want     chunk.SHA256
	path     string // of the finished file; path + ".part" until then
	log      *slog.Logger
	progress func(done, total int64)
	pause    time.Duration // zero: downloadPause
}

// permanentError is an answer that will not change by asking again.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

func (d *download) run(ctx context.Context) error {
	if sum, err := hashFile(ctx, d.path); err == nil && sum == d.want {
		return nil
	}
	if d.client == nil {
		d.client = http.DefaultClient
	}
	if d.pause == 0 {
		d.pause = downloadPause
	}
	if err := os.MkdirAll(filepath.Dir(d.path), 0o755); err != nil {
		return fmt.Errorf("downloading %s: %w", redactURL(d.url), err)
	}
	part := d.path + ".part"
	resumed, err := d.fill(ctx, part)
	if err != nil {
		return fmt.Errorf("downloading %s: %w", redactURL(d.url), err)
	}
	sum, err := hashFile(ctx, part)
	if err == nil && sum != d.want && resumed {
		// The file at the address changed between the parts, or the kept part was damaged: once from the start.
		d.log.Warn("a continued download has the wrong digest and starts again", "url", redactURL(d.url))
		if err = os.Remove(part); err == nil {
			if _, err = d.fill(ctx, part); err == nil {
				sum, err = hashFile(ctx, part)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("downloading %s: %w", redactURL(d.url), err)
	}
	if sum != d.want {
		return errors.Join(fmt.Errorf("downloading %s: SHA-256 is %s; want %s: the file there is another one", redactURL(d.url), sum, d.want), os.Remove(part))
	}
	return os.Rename(part, d.path)
}

// fill downloads until the part file is whole. It reports whether bytes were kept from before.
func (d *download) fill(ctx context.Context, part string) (resumed bool, err error) {
	f, err := os.OpenFile(part, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	resumed = have > 0
	pause := d.pause
	for try := 1; ; try++ {
		before := have
		var done bool
		if done, have, err = d.once(ctx, f, have); done {
			return resumed, f.Sync()
		}
		var permanent permanentError
		if errors.As(err, &permanent) || ctx.Err() != nil {
			return resumed, errors.Join(err, ctx.Err())
		}
		if have > before {
			try, pause = 0, d.pause
		}
		if try >= downloadTries {
			return resumed, fmt.Errorf("after %d tries, with %d bytes here: %w", try, have, err)
		}
		d.log.Warn("a download broke and continues", "url", redactURL(d.url), "bytes", have, "error", err)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		resumed, pause = resumed || have > 0, 2*pause
	}
}

// once makes one request for what is missing. It returns how much of the file is here now.
func (d *download) once(ctx context.Context, f *os.File, have int64) (done bool, now int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url, nil)
	if err != nil {
		return false, have, permanentError{err}
	}
	if have > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	stall := time.AfterFunc(downloadStall, func() { cancel(fmt.Errorf("no byte came for %s", downloadStall)) })
	defer stall.Stop()
	response, err := d.client.Do(request)
	if err != nil {
		return false, have, errors.Join(err, context.Cause(ctx))
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusOK:
		// The whole file, even where a part was asked for.
		have = 0
		if err := f.Truncate(0); err != nil {
			return false, 0, permanentError{err}
		}
	case response.StatusCode == http.StatusPartialContent && have > 0:
		var start int64
		if _, err := fmt.Sscanf(response.Header.Get("Content-Range"), "bytes %d-", &start); err != nil || start != have {
			return false, have, permanentError{fmt.Errorf("asked for bytes from %d, the server sent %q", have, response.Header.Get("Content-Range"))}
		}
	case response.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		// Nothing is left to send: the digest decides.
		return true, have, nil
	case response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests:
		return false, have, fmt.Errorf("the server answered %s", response.Status)
	default:
		return false, have, permanentError{fmt.Errorf("the server answered %s", response.Status)}
	}
	total := int64(0)
	if response.ContentLength >= 0 {
		total = have + response.ContentLength
	}
	if total > maxImportBytes {
		return false, have, permanentError{fmt.Errorf("the file has %d bytes; want up to %d", total, int64(maxImportBytes))}
	}
	buffer := make([]byte, 1<<20)
	for {
		n, err := response.Body.Read(buffer)
		if n > 0 {
			stall.Reset(downloadStall)
			if have+int64(n) > maxImportBytes {
				return false, have, permanentError{fmt.Errorf("the file has more than %d bytes", int64(maxImportBytes))}
			}
			if _, err := f.WriteAt(buffer[:n], have); err != nil {
				return false, have, permanentError{err}
			}
			have += int64(n)
			d.progress(have, total)
		}
		if errors.Is(err, io.EOF) {
			return true, have, nil
		}
		if err != nil {
			return false, have, errors.Join(fmt.Errorf("the transfer ended at %d of %d bytes: %w", have, total, err), context.Cause(ctx))
		}
	}
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

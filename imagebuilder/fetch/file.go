// Package fetch brings a file of known digest over HTTP: continued after a cut,
// bounded in size, and there under its name only when its digest is right.
package fetch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
)

const (
	// tries is how often a transfer that broke is taken up again without having moved in between.
	tries = 5
	// stallAfter is how long a transfer may stand still before it counts as broken.
	stallAfter = time.Minute
	firstPause = time.Second // before the first new try; doubles
)

// File is one file to fetch. It continues where an earlier fetch to the same
// path, of this run or another, was cut.
type File struct {
	Client *http.Client // nil: http.DefaultClient
	URL    string
	SHA256 chunk.SHA256
	// Path of the finished file; what has come so far is in Path + ".part".
	Path     string
	MaxBytes int64                   // a longer file is refused
	Log      *slog.Logger            // nil: nothing is logged
	Progress func(done, total int64) // nil: nobody listens; total is zero where nobody knows
	Pause    time.Duration           // before the first new try, doubled each time; zero: a second
}

// permanentError is an answer that will not change by asking again.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// Run fetches the file unless it is there. An error keeps what has come for the
// next Run, except where its digest is wrong: that is removed.
func (d File) Run(ctx context.Context) error {
	if sum, err := hashFile(ctx, d.Path); err == nil && sum == d.SHA256 {
		return nil
	}
	if d.Client == nil {
		d.Client = http.DefaultClient
	}
	if d.Pause == 0 {
		d.Pause = firstPause
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Progress == nil {
		d.Progress = func(int64, int64) {}
	}
	if err := os.MkdirAll(filepath.Dir(d.Path), 0o755); err != nil {
		return fmt.Errorf("downloading %s: %w", Redact(d.URL), err)
	}
	part := d.Path + ".part"
	resumed, err := d.fill(ctx, part)
	if err != nil {
		return fmt.Errorf("downloading %s: %w", Redact(d.URL), err)
	}
	sum, err := hashFile(ctx, part)
	if err == nil && sum != d.SHA256 && resumed {
		// The file at the address changed between the parts, or the kept part was damaged: once from the start.
		d.Log.Warn("a continued download has the wrong digest and starts again", "url", Redact(d.URL))
		if err = os.Remove(part); err == nil {
			if _, err = d.fill(ctx, part); err == nil {
				sum, err = hashFile(ctx, part)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("downloading %s: %w", Redact(d.URL), err)
	}
	if sum != d.SHA256 {
		return errors.Join(fmt.Errorf("downloading %s: SHA-256 of the %d bytes there is %s; want %s: it is another file, or one that was cut off; compare its size with the publisher's, and correct the digest if the publisher says so", Redact(d.URL), fileBytes(part), sum, d.SHA256), os.Remove(part))
	}
	return os.Rename(part, d.Path)
}

// fill downloads until the part file is whole. It reports whether bytes were kept from before.
func (d *File) fill(ctx context.Context, part string) (resumed bool, err error) {
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
	pause := d.Pause
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
			try, pause = 0, d.Pause
		}
		if try >= tries {
			return resumed, fmt.Errorf("after %d tries, with %d bytes here: %w; run again to go on from there", try, have, err)
		}
		d.Log.Warn("a download broke and continues", "url", Redact(d.URL), "bytes", have, "error", err)
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
func (d *File) once(ctx context.Context, f *os.File, have int64) (done bool, now int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.URL, nil)
	if err != nil {
		return false, have, permanentError{err}
	}
	if have > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	stall := time.AfterFunc(stallAfter, func() { cancel(fmt.Errorf("no byte came for %s", stallAfter)) })
	defer stall.Stop()
	response, err := d.Client.Do(request)
	if err != nil {
		// The client's own error repeats the address as it is.
		var about *url.Error
		if errors.As(err, &about) {
			err = about.Err
		}
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
	if total > d.MaxBytes {
		return false, have, permanentError{fmt.Errorf("the file has %d bytes; want up to %d", total, d.MaxBytes)}
	}
	buffer := make([]byte, 1<<20)
	for {
		n, err := response.Body.Read(buffer)
		if n > 0 {
			stall.Reset(stallAfter)
			if have+int64(n) > d.MaxBytes {
				return false, have, permanentError{fmt.Errorf("the file has more than %d bytes", d.MaxBytes)}
			}
			if _, err := f.WriteAt(buffer[:n], have); err != nil {
				return false, have, permanentError{err}
			}
			have += int64(n)
			d.Progress(have, total)
		}
		if errors.Is(err, io.EOF) {
			return true, have, nil
		}
		if err != nil {
			return false, have, errors.Join(fmt.Errorf("the transfer ended at %d of %d bytes: %w", have, total, err), context.Cause(ctx))
		}
	}
}

// fileBytes is a file's length; zero when it cannot be told.
func fileBytes(name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}

// hashFile digests a file; the error of one that is not there is fs.ErrNotExist.
func hashFile(ctx context.Context, name string) (sum chunk.SHA256, err error) {
	f, err := os.Open(name)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	buffer := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		n, err := f.Read(buffer)
		h.Write(buffer[:n])
		if errors.Is(err, io.EOF) {
			return chunk.SHA256(h.Sum(nil)), nil
		}
		if err != nil {
			return sum, err
		}
	}
}

// Redact removes from an address what lets somebody in: user and password, and
// the query, which often holds a token. What is no URL is returned as it is.
func Redact(address string) string {
	if !strings.Contains(address, "://") {
		return address
	}
	u, err := url.Parse(address)
	if err != nil {
		return "an address that cannot be read"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
)

// flaky serves content and breaks the first connections after some bytes.
type flaky struct {
	content []byte
	breaks  atomic.Int64
	asked   atomic.Int64
	noRange bool
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.asked.Add(1)
	if f.noRange {
		r.Header.Del("Range")
	}
	if f.breaks.Add(-1) >= 0 {
		var start int
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &start); err == nil {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(f.content)-1, len(f.content)))
			w.Header().Set("Content-Length", fmt.Sprint(len(f.content)-start))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", fmt.Sprint(len(f.content)))
		}
		if _, err := w.Write(f.content[start:min(start+5000, len(f.content))]); err != nil {
			panic(err)
		}
		panic(http.ErrAbortHandler)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
}

func testFile(t *testing.T, content []byte, url string) *File {
	t.Helper()
	want := chunk.SHA256(sha256.Sum256(content))
	return &File{URL: url, SHA256: want, Path: filepath.Join(t.TempDir(), "file"), MaxBytes: 1 << 20, Pause: time.Millisecond}
}

func TestDownloadContinuesAfterEveryCut(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 4000)
	for _, noRange := range []bool{false, true} {
		f := &flaky{content: content, noRange: noRange}
		f.breaks.Store(4)
		server := httptest.NewServer(f)
		defer server.Close()
		d := testFile(t, content, server.URL)
		if err := d.Run(t.Context()); err != nil {
			t.Fatalf("noRange %v: %v", noRange, err)
		}
		if got, err := os.ReadFile(d.Path); err != nil || !bytes.Equal(got, content) || f.asked.Load() != 5 {
			t.Errorf("noRange %v: %d bytes after %d requests, %v; want the file after 5", noRange, len(got), f.asked.Load(), err)
		}
		if err := d.Run(t.Context()); err != nil || f.asked.Load() != 5 {
			t.Errorf("a finished download was asked for again (%v)", err)
		}
	}
}

func TestDownloadStartsAgainWhenTheKeptPartIsBad(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 400)
	server := httptest.NewServer(&flaky{content: content})
	defer server.Close()
	d := testFile(t, content, server.URL)
	if err := os.WriteFile(d.Path+".part", []byte("rotten"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestDownloadRefusals(t *testing.T) {
	content := []byte(strings.Repeat("x", 20000))
	for _, c := range []struct {
		name, want string
		handler    http.Handler
	}{
		{"missing", "404", http.NotFoundHandler()},
		{"down", "503", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })},
		{"another file", "it is another file, or one that was cut off", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "other") })},
		{"cut off at the server", "the 15000 bytes there", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content[:15000]) })},
		{"always cut at once", "run again to go on from there", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "20000")
			w.WriteHeader(200)
			panic(http.ErrAbortHandler)
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(c.handler)
			defer server.Close()
			d := testFile(t, content, server.URL)
			if err := d.Run(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Run = %v; want an error with %q", err, c.want)
			}
			if _, err := os.Stat(d.Path); err == nil {
				t.Error("a failed download has a finished file")
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := testFile(t, content, "http://127.0.0.1:1/").Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Run after cancel = %v", err)
	}
}

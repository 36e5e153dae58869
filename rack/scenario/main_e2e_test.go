//go:build e2e

package scenario

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/imagebuilder"
	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
)

// times is how long each scenario took, in the order in which they ended.
var times struct {
	sync.Mutex
	lines []string
	total time.Duration
}

func TestMain(m *testing.M) {
	code := m.Run()
	if len(times.lines) > 0 {
		fmt.Printf("\nTime of each scenario:\n%s\n  %-52s %7.1f s\n",
			strings.Join(times.lines, "\n"), "all", times.total.Seconds())
	}
	os.Exit(code)
}

// scenario begins a test of this package: it needs root, and its time is
// printed when all have run.
func scenario(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: a rack is a network namespace with taps")
	}
	began := time.Now()
	t.Cleanup(func() {
		took := time.Since(began)
		times.Lock()
		defer times.Unlock()
		verdict := ""
		switch {
		case t.Failed():
			verdict = "  FAILED"
		case t.Skipped():
			verdict = "  skipped"
		}
		times.lines = append(times.lines, fmt.Sprintf("  %-52s %7.1f s%s", t.Name(), took.Seconds(), verdict))
		if !strings.Contains(t.Name(), "/") {
			times.total += took
		}
	})
}

// program is the path of bin/edge-provision; EDGE_E2E_BIN names another
// directory that has it and edge-agent.
func program(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("EDGE_E2E_BIN")
	if dir == "" {
		dir = filepath.Join("..", "..", "bin")
	}
	path, err := filepath.Abs(filepath.Join(dir, "edge-provision"))
	if err != nil {
		t.Fatalf("finding the program = %v", err)
	}
	for _, p := range []string{path, filepath.Join(filepath.Dir(path), "edge-agent")} {
		if _, err := os.Stat(p); err != nil {
			t.Fatalf("%v; run make build", err)
		}
	}
	return path
}

// cacheDir is the cache that all scenarios share, and that apply uses when it is
// not told otherwise.
func cacheDir(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("EDGE_E2E_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatalf("finding the cache directory = %v", err)
	}
	return filepath.Join(dir, "edge-provision")
}

// buildLimit bounds the build of an image from packages and of the installer.
const buildLimit = 15 * time.Minute

// image builds what the site declares unless the cache has it, and returns the
// image named address.
func (l *lab) image(address string) imagebuilder.Artifact {
	l.t.Helper()
	built := l.must(buildLimit, "image", "build", l.site)
	for line := range strings.Lines(built.stdout) {
		fields := strings.Fields(line)
		if len(fields) > 1 && fields[0] == address {
			a, err := (&imagebuilder.Builder{CacheDir: l.cache}).Open(fields[1])
			if err != nil {
				l.t.Fatalf("opening the image that was built = %v", err)
			}
			return a
		}
	}
	l.t.Fatalf("image build printed %q; want a line of %s", built.stdout, address)
	return imagebuilder.Artifact{}
}

// raw is the image as the plain disk that it stands for, made by the zstd
// program and not by our own code.
func (l *lab) raw(a imagebuilder.Artifact) string {
	l.t.Helper()
	path := filepath.Join(l.dir, "image.raw")
	ctx, cancel := context.WithTimeout(l.t.Context(), 2*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "zstd", "-q", "-f", "-d", a.FramesPath, "-o", path).CombinedOutput(); err != nil {
		l.t.Fatalf("zstd -d %s = %v, %s", a.FramesPath, err, out)
	}
	return path
}

// wire is what a write of the whole image fetches, and the largest of its
// frames, in bytes.
func wire(m *chunk.Manifest) (total, largest int64) {
	for _, c := range m.Chunks {
		if !c.Zero {
			total += c.FrameBytes
			largest = max(largest, c.FrameBytes)
		}
	}
	return total, largest
}

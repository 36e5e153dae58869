//go:build e2e

package imagebuilder

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestMeasureImageBuild builds an image with an empty cache, download included, between two floors: mmdebstrap with the
// same options for the same packages from the same archive and mke2fs of the result, and nothing else: no lock, no boot
// loader, no disk, no frames. The report is added to the file that EDGE_BENCH names; nothing is asserted about
// time: `make bench` runs it.
func TestMeasureImageBuild(t *testing.T) {
	if os.Getenv("EDGE_BENCH") == "" {
		t.Skip("a measurement, not a test: run by make bench")
	}
	if os.Geteuid() != 0 {
		t.Skip("building an image needs root")
	}
	spec, err := e2eSpec().normalize()
	if err != nil {
		t.Fatal(err)
	}
	first := floorOfBuild(t, spec)
	b := &Builder{CacheDir: t.TempDir()}
	began := time.Now()
	built, err := b.BuildOS(t.Context(), e2eSpec())
	if err != nil {
		t.Fatalf("BuildOS = %v", err)
	}
	ours := time.Since(began)
	second := floorOfBuild(t, spec)
	began = time.Now()
	again, err := b.BuildOS(t.Context(), e2eSpec())
	if err != nil || !again.Cached || again.Digest != built.Digest {
		t.Fatalf("second BuildOS = %s, cached %t, %v; want %s from the cache", again.Digest, again.Cached, err, built.Digest)
	}
	unchanged := time.Since(began)

	report, err := os.OpenFile(os.Getenv("EDGE_BENCH"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatalf("opening the report = %v", err)
	}
	defer report.Close()
	floor := (first + second) / 2
	fmt.Fprintf(report, "\nimage of %d packages from an empty cache %5.1f s = %.2f × %5.1f s, mmdebstrap and mke2fs alone (%.1f s before, %.1f s after)\n",
		len(built.Lock.Packages), ours.Seconds(), ours.Seconds()/floor.Seconds(), floor.Seconds(), first.Seconds(), second.Seconds())
	fmt.Fprintf(report, "unchanged image build                  %6.2f s\n", unchanged.Seconds())
}

// floorOfBuild is how long the packages of a spec take to become an ext4 file system without us.
func floorOfBuild(t *testing.T, spec OSSpec) time.Duration {
	t.Helper()
	sources, err := machineSources("/etc/apt", spec.Release)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	list := filepath.Join(dir, "archive.sources")
	if err := writeFile(list, []byte(sources), 0o644); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	began := time.Now()
	args := append(mmdebstrapOptions(spec), `--aptopt=Acquire::Check-Valid-Until "false"`, spec.Release, root, list)
	if _, err := (command{private: true}).run(t.Context(), "mmdebstrap", args...); err != nil {
		t.Fatalf("mmdebstrap = %v", err)
	}
	if _, err := (command{}).run(t.Context(), "mke2fs", "-q", "-F", "-t", "ext4", "-d", root, filepath.Join(dir, "fs"), "600M"); err != nil {
		t.Fatalf("mke2fs = %v", err)
	}
	return time.Since(began)
}

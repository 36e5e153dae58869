//go:build e2e

package imagebuilder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkBuildOS builds an image with an empty cache, download included; the floor is mmdebstrap of the same packages
// from the same archive and mke2fs of the result, and nothing else: no lock, no boot loader, no frames.
func BenchmarkBuildOS(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("building an image needs root")
	}
	spec, err := e2eSpec().normalize()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("build", func(b *testing.B) {
		for b.Loop() {
			if _, err := (&Builder{CacheDir: b.TempDir()}).BuildOS(b.Context(), e2eSpec()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("floor-mmdebstrap-mke2fs", func(b *testing.B) {
		sources, err := machineSources("/etc/apt", spec.Release)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			dir := b.TempDir()
			list := filepath.Join(dir, "archive.sources")
			if err := writeFile(list, []byte(sources), 0o644); err != nil {
				b.Fatal(err)
			}
			root := filepath.Join(dir, "root")
			if _, err := (command{private: true}).run(b.Context(), "mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--format=directory",
				"--include="+strings.Join(spec.Packages, ","), "--aptopt=Acquire::Check-Valid-Until \"false\"", spec.Release, root, list); err != nil {
				b.Fatal(err)
			}
			if _, err := (command{}).run(b.Context(), "mke2fs", "-q", "-F", "-t", "ext4", "-d", root, filepath.Join(dir, "fs"), "900M"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

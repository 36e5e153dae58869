//go:build e2e

package scenario

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/imagebuilder"
)

// TestErasingNeedsConsent has a machine whose disk carries a system, a BMC
// password that is wrong at first, and an image that is damaged in the cache.
// Each is refused with its reason, and nothing is lost; with the machine's
// serial typed and the image repaired it is installed.
func TestErasingNeedsConsent(t *testing.T) {
	l := newLab(t, "consent.hcl")
	image := l.image("image.edge-os")
	old := l.raw(image)
	l.raise(l.site)

	ok := l.sub("wrong BMC password", func(l *lab) {
		wrong := []string{"--var", "bmc_password=mistyped", l.site}
		first := l.want(1, l.apply(wrong...))
		if !strings.Contains(first.stderr, "refused") || !strings.Contains(first.stderr, "172.22.1.11") {
			l.t.Errorf("apply says %q; want that 172.22.1.11 refused the credential", first.stderr)
		}
		again := l.want(1, l.apply(wrong...))
		if !strings.Contains(again.stderr, "not tried, because") {
			l.t.Errorf("the second apply says %q; want that the credential is not tried", again.stderr)
		}
		if m := l.machine(node); m.Boots != 0 {
			l.t.Errorf("the machine booted %d times; want 0", m.Boots)
		}
	})
	_ = ok && l.sub("without consent", func(l *lab) {
		r := l.want(1, l.apply(l.site))
		if !strings.Contains(r.stdout, "NEEDS CONSENT") || !strings.Contains(r.stderr, "was not consented to") {
			l.t.Errorf("apply says %q and %q; want that consent is needed and was not given", r.stdout, r.stderr)
		}
		l.eventually("the machine that was looked at is off again", settleLimit, func() bool { return !l.machine(node).On })
		if at := l.difference(l.disk(node, 0), old, l.size(old)); at >= 0 {
			l.t.Errorf("the disk was changed at byte %d; want it untouched", at)
		}
	})
	const serial = "RACK-NODE\n"
	var n int
	_ = ok && !t.Failed() && l.sub("image damaged in the cache", func(l *lab) {
		n = l.damage(image)
		r := l.want(1, l.run(applyLimit, serial, l.inside("apply", "--auto-approve", l.site)))
		if !strings.Contains(r.stderr, "chunk "+strconv.Itoa(n)) {
			l.t.Errorf("apply says %q; want it to name chunk %d", r.stderr, n)
		}
	})
	_ = !t.Failed() && l.sub("repaired, and the serial typed", func(l *lab) {
		l.cache = cacheDir(l.t)
		r := l.want(0, l.run(applyLimit, serial, l.inside("apply", "--auto-approve", l.site)))
		if !strings.Contains(r.stderr, "is as declared") {
			l.t.Errorf("apply says %q; want that the site is as declared", r.stderr)
		}
	})
}

// damage makes the lab use a copy of the cache in which one byte of one chunk of
// the image is another, and returns the number of that chunk.
func (l *lab) damage(a imagebuilder.Artifact) int {
	l.t.Helper()
	fresh := filepath.Join(l.dir, "cache")
	if err := os.Mkdir(fresh, 0o755); err != nil {
		l.t.Fatal(err)
	}
	for _, part := range []string{"images", "builds", "installers", "locks", "debs"} {
		if out, err := exec.CommandContext(l.t.Context(), "cp", "-a", filepath.Join(l.cache, part), fresh).CombinedOutput(); err != nil {
			l.t.Fatalf("copying the cache = %v, %s", err, out)
		}
	}
	n := 0
	for a.Manifest.Chunks[n].Zero || n < len(a.Manifest.Chunks)/3 {
		n++
	}
	at := a.Manifest.Chunks[n].FrameOffset + a.Manifest.Chunks[n].FrameBytes/2
	relative, err := filepath.Rel(l.cache, a.FramesPath)
	if err != nil {
		l.t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(fresh, relative), os.O_RDWR, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		l.t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b, at); err != nil {
		l.t.Fatal(err)
	}
	l.cache = fresh
	return n
}

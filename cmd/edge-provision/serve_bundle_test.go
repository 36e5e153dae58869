package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/edge-provision/edge-provision/workflows/bundle"
	"github.com/edge-provision/edge-provision/workflows/control"
)

// bundled is a plant whose files come from a bundle.
type bundled struct {
	*plant
	key, public, file string
}

func newBundled(t *testing.T) *bundled {
	t.Helper()
	p := newPlant(t)
	b := &bundled{plant: p, key: p.beside("bundle.key"), file: p.beside("site.bundle")}
	b.public = strings.TrimSpace(p.must(exitOK, "", "bundle", "key", "-o", b.key))
	return b
}

// beside is a file beside the site.
func (p *plant) beside(name string) string { return filepath.Join(filepath.Dir(p.site()), name) }

// declare writes a site with one imported image for each name; the files are
// there to build a bundle from.
func (b *bundled) declare(images ...string) {
	b.t.Helper()
	text := fmt.Sprintf("site \"plant\" {\n  trusted_keys = [%q]\n}\n%s", b.public, plantMachine)
	for _, name := range images {
		disk := bytes.Repeat([]byte(name), 1<<20/len(name))[:1<<20]
		disk[510], disk[511] = 0x55, 0xaa // of a disk that a BIOS boots
		if err := os.WriteFile(b.beside(name+".img"), disk, 0o600); err != nil {
			b.t.Fatal(err)
		}
		text += fmt.Sprintf("image %q {\n  source = \"%s.img\"\n  format = \"raw\"\n  digest = \"sha256:%x\"\n}\n", name, name, sha256.Sum256(disk))
	}
	b.write(text)
}

// build builds the bundle, and takes away what it was built from.
func (b *bundled) build(images ...string) {
	b.t.Helper()
	b.declare(images...)
	b.must(exitOK, "", "bundle", "build", b.site(), "-o", b.file, "--key", b.key, "--update")
	for _, name := range images {
		if err := os.Remove(b.beside(name + ".img")); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := os.RemoveAll(b.beside("cache")); err != nil {
		b.t.Fatal(err)
	}
}

// damaged is a bundle with one bit of a content changed; what is between contents
// belongs to none.
func (b *bundled) damaged(whole []byte) []byte {
	b.t.Helper()
	r, err := bundle.Read(bytes.NewReader(whole), int64(len(whole)), b.file)
	if err != nil {
		b.t.Fatal(err)
	}
	in, err := r.Blob(r.Contents().Blobs[0].SHA256)
	if err != nil {
		b.t.Fatal(err)
	}
	content, err := io.ReadAll(in)
	at := bytes.Index(whole, content)
	if err != nil || len(content) == 0 || at < 0 {
		b.t.Fatalf("the first content of the bundle is at %d with %d bytes, %v; want it found", at, len(content), err)
	}
	out := bytes.Clone(whole)
	out[at+len(content)/2] ^= 1
	return out
}

// TestServeTakesEverythingFromABundle has nothing but the bundle: a client that
// names none goes by it too, and a reload takes up the file that lies there then.
func TestServeTakesEverythingFromABundle(t *testing.T) {
	b := newBundled(t)
	b.build("pear")
	d := b.serve(nil, "-bundle", b.file)
	b.wants(b.must(exitOK, "", "plan", "-detailed-exitcode", b.site()), "No changes.")

	b.declare("pear", "plum")
	const lacks = "image.plum as it is declared now"
	b.wants(b.must(exitError, "", "plan", b.site()), lacks)
	b.wants(b.must(exitError, "", "apply", "-auto-approve", b.site()), lacks)
	d.signal(syscall.SIGHUP)
	d.says("it is served as it was before")
	b.wants(d.out.String(), lacks)

	b.build("pear", "plum")
	d.signal(syscall.SIGHUP)
	d.says("as it is now in")
	b.wants(b.apply(), "No changes.")
	d.signal(syscall.SIGTERM)
	d.ends(exitOK)
}

// TestServeRefusesABundleBeforeItServes by the rules of apply.
func TestServeRefusesABundleBeforeItServes(t *testing.T) {
	b := newBundled(t)
	b.build("pear")
	whole, err := os.ReadFile(b.file)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(want string) {
		t.Helper()
		b.wants(b.must(exitError, "", "serve", "-listen=off", "-bundle", b.file, b.site()), want)
		if _, err := os.Lstat(control.Path(b.data, "plant")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after a refusal there is a socket (%v); want that nothing was served", err)
		}
	}
	if err := os.WriteFile(b.file, b.damaged(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("damaged")
	if err := os.WriteFile(b.file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	b.declare("plum")
	refused("image.plum as it is declared now")
	trusted := b.public
	b.public = "ed25519:" + strings.Repeat("A", 43) + "="
	b.declare("pear")
	refused("trust")
	b.public = trusted
	b.declare("pear")
	b.serve(nil, "-bundle", b.file)
}

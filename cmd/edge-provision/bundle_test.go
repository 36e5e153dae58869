package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/edge-provision/edge-provision/workflows/bundle"
)

// offline is the example of a site without internet, with files in the place of
// K3s and a registry on loopback in the place of the shop's.
type offline struct {
	dir, site string
	args      []string // variables
	mirror    string
}

const offlineSecret = "the-till's-own-secret"

func newOffline(t *testing.T) *offline {
	t.Helper()
	o := &offline{dir: t.TempDir()}
	if err := os.CopyFS(o.dir, os.DirFS(repository+"/hcl-examples/offline/site")); err != nil {
		t.Fatal(err)
	}
	o.site = filepath.Join(o.dir, "site.hcl")
	t.Setenv("XDG_DATA_HOME", filepath.Join(o.dir, "data"))
	t.Setenv("XDG_CACHE_HOME", filepath.Join(o.dir, "cache"))
	for _, v := range []string{"k3s", "k3s_images"} {
		content := bytes.Repeat([]byte(v), 1000)
		if err := os.WriteFile(filepath.Join(o.dir, v), content, 0o600); err != nil {
			t.Fatal(err)
		}
		o.args = append(o.args, "--var", fmt.Sprintf("%s={source=%q,sha256=\"%x\"}", v, v, sha256.Sum256(content)))
	}
	o.args = append(o.args, "--var", "till_key="+offlineSecret)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	o.mirror = strings.TrimPrefix(server.URL, "http://")
	image, err := random.Image(3000, 2)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(o.mirror + "/registry.example/shop/till:2026.11")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	return o
}

// run runs the program and returns what it said.
func (o *offline) run(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), make(chan struct{}), append(args, o.args...), strings.NewReader(""), &out, &errs); code != want {
		t.Fatalf("edge-provision %q exits with %d; want %d\n%s%s", args, code, want, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// build makes a key that the site trusts, and the bundle.
func (o *offline) build(t *testing.T) string {
	t.Helper()
	key, file := filepath.Join(o.dir, "bundle.key"), filepath.Join(o.dir, "site.bundle")
	public, _ := o.run(t, exitOK, "bundle", "key", "-o", key)
	text, err := os.ReadFile(o.site)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.ReplaceAll(text, []byte("ed25519:"+strings.Repeat("A", 43)+"="), bytes.TrimSpace([]byte(public)))
	if err := os.WriteFile(o.site, text, 0o600); err != nil {
		t.Fatal(err)
	}
	o.run(t, exitOK, "bundle", "build", o.site, "-o", file, "--key", key, "--registry-mirror", o.mirror)
	return file
}

// TestTheOfflineExampleIsBuilt builds the bundle of the example and looks for
// every kind of thing in it, and for no secret.
func TestTheOfflineExampleIsBuilt(t *testing.T) {
	o := newOffline(t)
	file := o.build(t)
	o.run(t, exitOK, "bundle", "verify", "--site", o.site, file)
	b, err := bundle.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, want := range []struct{ kind, name string }{
		{bundle.KindFile, "k3s"},
		{bundle.KindFile, "k3s_images"},
		{bundle.KindFile, "app.yaml"},
		{bundle.KindImage, "registry.example/shop/till:2026.11"},
		{bundle.KindStack, "2026.11"},
	} {
		if _, ok := b.Contents().Find(want.kind, want.name); !ok {
			t.Errorf("the bundle has no %s %s; it has %+v", want.kind, want.name, b.Contents().Items)
		}
	}
	for _, path := range []string{file, filepath.Join(o.dir, "site.lock.hcl")} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte(offlineSecret)) {
			t.Errorf("%s holds the value of a sensitive variable", path)
		}
	}
	// The image's digest is pinned now: the next build needs no registry.
	again := filepath.Join(o.dir, "again.bundle")
	o.run(t, exitOK, "bundle", "build", o.site, "-o", again, "--key", filepath.Join(o.dir, "bundle.key"), "--registry-mirror", o.mirror)
	first, errFirst := os.ReadFile(file)
	second, errSecond := os.ReadFile(again)
	if errFirst != nil || errSecond != nil || !bytes.Equal(first, second) {
		t.Errorf("two builds of one site differ (%v, %v); want equal bytes", errFirst, errSecond)
	}
}

// TestAMovedTagDoesNotChangeABundle: the lock file keeps the digest behind a
// tag, and only --update follows the tag.
func TestAMovedTagDoesNotChangeABundle(t *testing.T) {
	o := newOffline(t)
	o.build(t)
	lockPath := filepath.Join(o.dir, "site.lock.hcl")
	before, err := bundle.ReadLock(lockPath)
	if err != nil {
		t.Fatal(err)
	}
	image, err := random.Image(3000, 2)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(o.mirror + "/registry.example/shop/till:2026.11")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	build := []string{"bundle", "build", o.site, "-o", filepath.Join(o.dir, "next.bundle"), "--key", filepath.Join(o.dir, "bundle.key"), "--registry-mirror", o.mirror}
	o.run(t, exitOK, build...)
	if after, err := bundle.ReadLock(lockPath); err != nil || len(before.Compare(after)) > 0 {
		t.Errorf("a moved tag changed the lock file: %v, %v", before.Compare(after), err)
	}
	stdout, _ := o.run(t, exitOK, append(build, "--update")...)
	if !strings.Contains(stdout, "~ image registry.example/shop/till:2026.11 sha256:") {
		t.Errorf("bundle build --update says %q; want the image that changed", stdout)
	}
}

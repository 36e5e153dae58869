package artifact

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// platforms is an image for two architectures and what belongs to none.
func platforms(t *testing.T) (index v1.ImageIndex, ours, other v1.Image) {
	t.Helper()
	make := func() v1.Image {
		i, err := random.Image(2000, 2)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	ours, other = make(), make()
	return mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: ours, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: make(), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}},
	), ours, other
}

func digest(t *testing.T, d interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := d.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// newRegistry is a real registry on loopback that counts what it is asked.
func newRegistry(t *testing.T) (host string, asked *atomic.Int64) {
	t.Helper()
	asked = &atomic.Int64{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), asked
}

func push(t *testing.T, tag string, index v1.ImageIndex) {
	t.Helper()
	ref, err := name.ParseReference(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
}

func TestPullFromARegistry(t *testing.T) {
	index, ours, other := platforms(t)
	host, asked := newRegistry(t)
	push(t, host+"/calico/node:v3.32.1", index)
	s := newStore(t, Config{})
	found, err := s.Resolve(t.Context(), Image{Name: host + "/calico/node:v3.32.1"})
	if err != nil || found != digest(t, index) {
		t.Fatalf("Resolve() = %s, %v; want %s", found, err, digest(t, index))
	}
	tree, err := s.Pull(t.Context(), Image{Name: host + "/calico/node:v3.32.1", Digest: found})
	if err != nil {
		t.Fatal(err)
	}
	// The index, one manifest, its configuration and two layers.
	if len(tree.Blobs) != 5 || tree.Root.Digest.String() != found || !tree.Root.MediaType.IsIndex() {
		t.Errorf("Pull() = %d contents under %v; want 5 under the index", len(tree.Blobs), tree.Root)
	}
	has := func(i v1.Image) bool {
		for _, b := range tree.Blobs {
			if b.Digest.String() == digest(t, i) {
				return true
			}
		}
		return false
	}
	if !has(ours) || has(other) {
		t.Errorf("the part for amd64 is kept: %v, that for s390x: %v; want only the first", has(ours), has(other))
	}
	before := asked.Load()
	if _, err := s.Pull(t.Context(), Image{Name: host + "/calico/node@" + found}); err != nil {
		t.Fatal(err)
	}
	if n := asked.Load() - before; n > 1 {
		t.Errorf("a kept image took %d requests; want only the question who is there", n)
	}
}

func TestPullFromLocalCopies(t *testing.T) {
	image, err := random.Image(3000, 3)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(image); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("docker.io/library/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(filepath.Join(dir, "saved.tar"), tag, image); err != nil {
		t.Fatal(err)
	}
	packed := newStore(t, Config{SiteDir: dir})
	tree, err := packed.Pull(t.Context(), Image{Name: "app:1", Digest: digest(t, image), Source: "layout"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "layout.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if err := packed.WriteArchive(t.Context(), f, tree); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"layout", "layout.tar", "saved.tar"} {
		t.Run(source, func(t *testing.T) {
			s := newStore(t, Config{SiteDir: dir})
			found, err := s.Resolve(t.Context(), Image{Name: "app:1", Source: source})
			if err != nil || found != digest(t, image) {
				t.Fatalf("Resolve() = %s, %v; want %s", found, err, digest(t, image))
			}
			got, err := s.Pull(t.Context(), Image{Name: "app:1", Digest: found, Source: source})
			if err != nil || len(got.Blobs) != 5 || got.Name != "docker.io/library/app:1" {
				t.Errorf("Pull() = %s with %d contents, %v; want docker.io/library/app:1 with 5", got.Name, len(got.Blobs), err)
			}
			wrong := "sha256:" + strings.Repeat("0", 64)
			if _, err := s.Pull(t.Context(), Image{Name: "app:1", Digest: wrong, Source: source}); err == nil || !strings.Contains(err.Error(), source) {
				t.Errorf("Pull(%s) = %v; want an error that names %s", wrong, err, source)
			}
		})
	}
}

func TestImageArchiveIsWhatContainerdImports(t *testing.T) {
	index, _, _ := platforms(t)
	host, _ := newRegistry(t)
	push(t, host+"/a/b:1", index)
	image := Image{Name: host + "/a/b:1", Digest: digest(t, index)}
	read := func(s *Store) []byte {
		f, err := s.ImageArchive(t.Context(), image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		text, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	first := newStore(t, Config{})
	a, again, b := read(first), read(first), read(newStore(t, Config{}))
	if !bytes.Equal(a, b) || !bytes.Equal(a, again) {
		t.Error("two archives of one image differ; want equal bytes")
	}
	entries, err := ScanTar(bytes.NewReader(a), int64(len(a)), nil)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		files[e.Name] = a[e.Offset : e.Offset+e.Size]
	}
	var top v1.IndexManifest
	if err := json.Unmarshal(files["index.json"], &top); err != nil {
		t.Fatal(err)
	}
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations[AnnotationContainerdName] != host+"/a/b:1" || top.Manifests[0].Digest.String() != image.Digest {
		t.Errorf("index.json names %+v; want the image under its name and digest", top.Manifests)
	}
	for n, text := range files {
		if hexa, ok := strings.CutPrefix(n, "blobs/sha256/"); ok && sum(text) != hexa {
			t.Errorf("%s holds content %s", n, sum(text))
		}
	}
}

func TestOfflineImagesComeFromTheBundle(t *testing.T) {
	index, _, _ := platforms(t)
	host, asked := newRegistry(t)
	push(t, host+"/a/b:1", index)
	online := newStore(t, Config{})
	tree, err := online.Pull(t.Context(), Image{Name: host + "/a/b:1", Digest: digest(t, index)})
	if err != nil {
		t.Fatal(err)
	}
	held := shelf{tree.Name: []byte(tree.Root.Digest.String())}
	for _, b := range tree.Blobs {
		text, err := content(t, online, Ref{SHA256: b.Digest.Hex})
		if err != nil {
			t.Fatal(err)
		}
		held[b.Digest.Hex] = text
	}
	before := asked.Load()
	offline := newStore(t, Config{Bundle: held})
	// The bundle knows the digest of a name that the site gives without one.
	if got, err := offline.Pull(t.Context(), Image{Name: host + "/a/b:1"}); err != nil || len(got.Blobs) != len(tree.Blobs) {
		t.Errorf("Pull() = %d contents, %v; want %d", len(got.Blobs), err, len(tree.Blobs))
	}
	for name, image := range map[string]Image{
		"an image that is not there": {Name: host + "/a/c:1"},
		"another digest":             {Name: host + "/a/b:1", Digest: "sha256:" + strings.Repeat("0", 64)},
	} {
		if _, err := offline.Pull(t.Context(), image); err == nil || !strings.Contains(err.Error(), "bundle test") {
			t.Errorf("Pull(%s) = %v; want an error with the bundle's name", name, err)
		}
	}
	layers := held
	for _, b := range tree.Blobs {
		if b.MediaType.IsLayer() {
			delete(layers, b.Digest.Hex)
			break
		}
	}
	if _, err := newStore(t, Config{Bundle: layers}).Pull(t.Context(), Image{Name: host + "/a/b:1"}); err == nil {
		t.Error("Pull() of an image that lacks a layer = nil; want an error")
	}
	if asked.Load() != before {
		t.Errorf("the registry was asked %d times while offline; want never", asked.Load()-before)
	}
}

func TestPullRefusals(t *testing.T) {
	index, _, _ := platforms(t)
	host, _ := newRegistry(t)
	push(t, host+"/a/b:1", index)
	onlyOther := mutate.RemoveManifests(index, func(d v1.Descriptor) bool { return d.Platform != nil && d.Platform.Architecture == "amd64" })
	push(t, host+"/a/other:1", onlyOther)
	for _, c := range []struct {
		name  string
		image Image
		want  string
	}{
		{"no digest", Image{Name: host + "/a/b:1"}, "has no digest"},
		{"two digests", Image{Name: host + "/a/b@" + digest(t, index), Digest: "sha256:" + strings.Repeat("0", 64)}, "its name says"},
		{"no such image", Image{Name: host + "/a/x:1", Digest: "sha256:" + strings.Repeat("0", 64)}, "asking registry"},
		{"another architecture", Image{Name: host + "/a/other:1", Digest: digest(t, onlyOther)}, "no part for linux on amd64"},
		{"a bad name", Image{Name: "A B", Digest: digest(t, index)}, "container image"},
		{"a bad digest", Image{Name: host + "/a/b:1", Digest: "md5:1"}, "is not \"sha256:\""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := newStore(t, Config{}).Pull(t.Context(), c.image); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Pull() = %v; want an error with %q", err, c.want)
			}
		})
	}
}

func TestFullName(t *testing.T) {
	for in, want := range map[string]string{
		"nginx":                                     "docker.io/library/nginx:latest",
		"nginx:1.27":                                "docker.io/library/nginx:1.27",
		"calico/node:v3.32.1":                       "docker.io/calico/node:v3.32.1",
		"docker.io/calico/node:v3.32.1":             "docker.io/calico/node:v3.32.1",
		"quay.io/tigera/operator:v1.42.3":           "quay.io/tigera/operator:v1.42.3",
		"registry.example:5000/a:1":                 "registry.example:5000/a:1",
		"nginx:1@sha256:" + strings.Repeat("0", 64): "docker.io/library/nginx:1",
	} {
		if got, err := FullName(in); err != nil || got != want {
			t.Errorf("FullName(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func FuzzScanTar(f *testing.F) {
	var buffer bytes.Buffer
	w := NewTar(&buffer)
	for _, err := range []error{w.File("oci-layout", []byte("{}")), w.File("index.json", bytes.Repeat([]byte("x"), 600)), w.Close()} {
		if err != nil {
			f.Fatal(err)
		}
	}
	f.Add(buffer.Bytes())
	f.Add(buffer.Bytes()[:700])
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, err := ScanTar(bytes.NewReader(text), int64(len(text)), nil)
		if err != nil {
			return
		}
		for _, e := range entries {
			if e.Offset < 0 || e.Size < 0 || e.Offset+e.Size > int64(len(text)) {
				t.Fatalf("ScanTar() lists %+v in %d bytes", e, len(text))
			}
		}
	})
}

func TestAMirrorStandsForRegistriesWithPorts(t *testing.T) {
	index, _, _ := platforms(t)
	host, _ := newRegistry(t)
	push(t, host+"/reg.site.local/portworx/px-operator:26.2.1", index)
	s := newStore(t, Config{RegistryMirror: host})
	image := Image{Name: "reg.site.local:5000/portworx/px-operator:26.2.1"}
	var err error
	if image.Digest, err = s.Resolve(t.Context(), image); err != nil || image.Digest != digest(t, index) {
		t.Fatalf("Resolve() = %s, %v; want %s", image.Digest, err, digest(t, index))
	}
	if tree, err := s.Pull(t.Context(), image); err != nil || tree.Name != image.Name {
		t.Errorf("Pull() = %s, %v; want the image under its own name", tree.Name, err)
	}
}

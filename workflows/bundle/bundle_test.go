package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/edge-provision/edge-provision/imagebuilder"
	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
	"github.com/edge-provision/edge-provision/workflows/artifact"
)

// sample is everything that a small site needs.
type sample struct {
	dir   string
	store *artifact.Store
	spec  Spec
	key   PublicKey
	raw   []byte // of the operating system image
}

func signer(t testing.TB) (ed25519.PrivateKey, PublicKey) {
	t.Helper()
	file, public, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseKey(file)
	if err != nil {
		t.Fatal(err)
	}
	return key, public
}

// noise is content that does not compress, the same for equal seeds.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// chunkBytes keeps images of tests small.
const chunkBytes = 64 << 10

func osImage(t testing.TB, dir string, raw []byte) OSImage {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var frames, manifest bytes.Buffer
	m, err := chunk.Create(t.Context(), bytes.NewReader(raw), int64(len(raw)), &frames, chunk.CreateOptions{Architecture: "amd64", Firmware: []string{"uefi"}, SectorBytes: 512, ChunkBytes: chunkBytes})
	if err == nil {
		err = m.Encode(&manifest)
	}
	i := OSImage{Address: "image.edge-os", Spec: "spec-1", ManifestPath: filepath.Join(dir, "manifest.json"), FramesPath: filepath.Join(dir, "frames.zst")}
	err = errors.Join(err, os.WriteFile(i.ManifestPath, manifest.Bytes(), 0o600), os.WriteFile(i.FramesPath, frames.Bytes(), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func newSample(t testing.TB) *sample {
	t.Helper()
	s := &sample{dir: t.TempDir()}
	var err error
	if s.store, err = artifact.New(artifact.Config{Dir: filepath.Join(s.dir, "cache"), SiteDir: s.dir}); err != nil {
		t.Fatal(err)
	}
	s.spec.Key, s.key = signer(t)
	s.spec.Site = "shop"
	if err := os.WriteFile(filepath.Join(s.dir, "k3s"), noise(1, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	s.spec.Files = []File{
		{Kind: KindFile, Name: "https://me:hunter2@github.example/k3s?token=hunter2", Source: "https://me:hunter2@github.example/k3s?token=hunter2", UsedBy: []string{"workflow.w.step.k3s.c"}, Path: filepath.Join(s.dir, "k3s")},
		{Kind: KindDocument, Name: "workflow.w.step.manifest.m/app.yaml", Content: []byte("kind: ConfigMap\n"), UsedBy: []string{"workflow.w.step.manifest.m"}},
		{Kind: KindInstaller, Name: "kernel", Content: noise(2, 700)},
	}
	// Seven chunks of noise, then two of zeros that are one content.
	s.raw = append(noise(3, 7*chunkBytes), make([]byte, 2*chunkBytes)...)
	s.spec.OSImages = []OSImage{osImage(t, filepath.Join(s.dir, "os"), s.raw)}
	image, err := random.Image(2000, 2)
	if err != nil {
		t.Fatal(err)
	}
	path, err := layout.Write(filepath.Join(s.dir, "layout"), empty.Index)
	if err == nil {
		err = path.AppendImage(image)
	}
	if err != nil {
		t.Fatal(err)
	}
	digest, err := s.store.Resolve(t.Context(), artifact.Image{Name: "app:1", Source: "layout"})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := s.store.Pull(t.Context(), artifact.Image{Name: "app:1", Source: "layout", Digest: digest})
	if err != nil {
		t.Fatal(err)
	}
	s.spec.Images = []Image{{Tree: tree, UsedBy: []string{"workflow.w.step.manifest.m"}}}
	return s
}

func build(t testing.TB, store *artifact.Store, spec Spec) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, _, err := Build(t.Context(), store, spec, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func read(t testing.TB, text []byte) *Reader {
	t.Helper()
	r, err := Read(bytes.NewReader(text), int64(len(text)), "test.bundle")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestABundleHoldsWhatWasPutIn(t *testing.T) {
	s := newSample(t)
	r := read(t, build(t, s.store, s.spec))
	if err := errors.Join(r.Trust([]PublicKey{s.key}), r.Verify(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	// Offline, a store with the bundle hands all of it out.
	store, err := artifact.New(artifact.Config{Dir: t.TempDir(), Bundle: r})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range r.Contents().Of(KindFile) {
		f, err := store.Open(t.Context(), artifact.Ref{SHA256: strings.TrimPrefix(i.Digest, "sha256:")})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		if err = errors.Join(err, f.Close()); err != nil || !bytes.Equal(got, noise(1, 5000)) {
			t.Errorf("file %s has %d bytes, %v; want what was put in", i.Name, len(got), err)
		}
	}
	tree, err := store.Pull(t.Context(), artifact.Image{Name: "app:1"})
	if err != nil || tree.Root.Digest != s.spec.Images[0].Tree.Root.Digest {
		t.Errorf("Pull(app:1) = %v, %v; want the image", tree.Root.Digest, err)
	}
	// The operating system image becomes one of the builder's cache.
	item := r.Contents().Of(KindOSImage)[0]
	manifest, frames, err := r.OSImage(item)
	if err != nil {
		t.Fatal(err)
	}
	b := &imagebuilder.Builder{CacheDir: t.TempDir()}
	a, err := b.Put(t.Context(), manifest, frames, imagebuilder.Source{Kind: "bundle"})
	if err != nil || a.Digest != item.Digest {
		t.Fatalf("Put() = %s, %v; want %s", a.Digest, err, item.Digest)
	}
	if err := a.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	original, err := os.ReadFile(s.spec.OSImages[0].FramesPath)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(a.FramesPath); err != nil || !bytes.Equal(got, original) {
		t.Errorf("the frames have %d bytes, %v; want the %d that were put in", len(got), err, len(original))
	}
}

func TestEqualContentsGiveEqualBytes(t *testing.T) {
	s := newSample(t)
	first := build(t, s.store, s.spec)
	slices.Reverse(s.spec.Files)
	s.spec.Files = append(s.spec.Files, s.spec.Files[0])
	s.spec.Images = append(s.spec.Images, s.spec.Images[0])
	if !bytes.Equal(first, build(t, s.store, s.spec)) {
		t.Error("the same things in another order, some twice, give other bytes; want equal ones")
	}
}

func TestNoCredentialIsInABundle(t *testing.T) {
	s := newSample(t)
	text := build(t, s.store, s.spec)
	if bytes.Contains(text, []byte("hunter2")) {
		t.Error("the bundle holds the password of a source")
	}
	r := read(t, text)
	if lock := LockOf(r.Contents()).Encode(); bytes.Contains(lock, []byte("hunter2")) {
		t.Errorf("the lock file holds the password of a source:\n%s", lock)
	}
}

func TestASecretInAnyContentRefusesTheBundle(t *testing.T) {
	s := newSample(t)
	secret := string(noise(9, 24))
	s.spec.Secrets = []string{"short", secret}
	before := s.spec.Files
	for name, content := range map[string][]byte{
		"at the start":           []byte(secret + "rest"),
		"at the end":             append(noise(4, 100000), secret...),
		"across two reads":       slices.Concat(noise(5, 32<<10-7), []byte(secret), noise(5, 100)),
		"alone":                  []byte(secret),
		"across many short ones": slices.Concat(noise(6, 3), []byte(secret), noise(6, 3)),
	} {
		s.spec.Files = append(slices.Clone(before), File{Kind: KindDocument, Name: "d", Content: content})
		var out bytes.Buffer
		if _, _, err := Build(t.Context(), s.store, s.spec, &out); err == nil || !strings.Contains(err.Error(), "document d holds the value of a sensitive variable") || strings.Contains(err.Error(), secret) {
			t.Errorf("Build() with a secret %s = %v; want it refused, without the value", name, err)
		}
	}
	s.spec.Files = append(slices.Clone(before), File{Kind: KindDocument, Name: "d", Content: []byte("a short one is in everything")})
	build(t, s.store, s.spec)
}

func TestTrust(t *testing.T) {
	s := newSample(t)
	r := read(t, build(t, s.store, s.spec))
	_, stranger := signer(t)
	for name, keys := range map[string][]PublicKey{"no key": nil, "a stranger's key": {stranger}} {
		if err := r.Trust(keys); !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), s.key.String()) {
			t.Errorf("Trust(%s) = %v; want ErrUntrusted with the signer's key", name, err)
		}
	}
	if err := r.Trust([]PublicKey{stranger, s.key}); err != nil {
		t.Errorf("Trust() of the signer's key = %v; want nil", err)
	}
}

func TestADeltaNeedsItsBase(t *testing.T) {
	s := newSample(t)
	whole := build(t, s.store, s.spec)
	// One chunk of the image and one file change.
	raw := slices.Clone(s.raw)
	raw[3] ^= 1
	s.spec.OSImages = []OSImage{osImage(t, filepath.Join(s.dir, "os2"), raw)}
	s.spec.Files[0].Path = filepath.Join(s.dir, "k3s-2")
	if err := os.WriteFile(s.spec.Files[0].Path, noise(11, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	s.spec.Base = read(t, whole)
	text := build(t, s.store, s.spec)
	if len(text)*2 > len(whole) {
		t.Errorf("the delta has %d bytes, its base %d; want less than half", len(text), len(whole))
	}
	delta := read(t, text)
	if err := delta.Verify(t.Context(), nil); !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), read(t, whole).Digest()) {
		t.Errorf("Verify() without the base = %v; want ErrIncomplete with the base's digest", err)
	}
	other := newSample(t)
	if err := delta.UseBase(read(t, build(t, other.store, other.spec))); err == nil {
		t.Error("UseBase() of another bundle = nil; want it refused")
	}
	if err := read(t, whole).UseBase(delta); err == nil {
		t.Error("UseBase() of a whole bundle = nil; want it refused")
	}
	if err := delta.UseBase(read(t, whole)); err != nil {
		t.Fatal(err)
	}
	if err := delta.Verify(t.Context(), nil); err != nil {
		t.Errorf("Verify() with the base = %v; want nil", err)
	}
	item := delta.Contents().Of(KindOSImage)[0]
	if _, frames, err := delta.OSImage(item); err != nil {
		t.Error(err)
	} else if n, err := io.Copy(io.Discard, frames); err != nil || n == 0 {
		t.Errorf("the image of the delta has %d bytes of frames, %v", n, err)
	}
	// A base that rotted is found by the delta's Verify.
	i := slices.IndexFunc(delta.Contents().Blobs, func(b Blob) bool { return b.InBase })
	used := delta.Contents().Blobs[i].SHA256
	rotten := rewrite(t, whole, func(h tar.Header, c []byte) []entry {
		if h.Name == "blobs/sha256/"+used {
			c[0] ^= 1
		}
		return []entry{{h, c}}
	})
	again := read(t, text)
	if err := again.UseBase(read(t, rotten)); err != nil {
		t.Fatal(err)
	}
	if err := again.Verify(t.Context(), nil); !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), used) {
		t.Errorf("Verify() with a rotten base = %v; want %s named", err, used)
	}
	s.spec.Base = delta
	if _, _, err := Build(t.Context(), s.store, s.spec, io.Discard); err == nil || !strings.Contains(err.Error(), "itself a delta") {
		t.Errorf("Build() over a delta = %v; want it refused", err)
	}
}

// rewrite changes the files of a bundle; what change returns for a file is
// written instead of it.
func rewrite(t testing.TB, text []byte, change func(h tar.Header, content []byte) []entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	in := tar.NewReader(bytes.NewReader(text))
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range change(*h, content) {
			if e.Typeflag == tar.TypeReg {
				e.Size = int64(len(e.content))
			}
			if err := w.WriteHeader(&e.Header); err != nil {
				t.Fatal(err)
			}
			if e.Typeflag != tar.TypeReg {
				continue
			}
			if _, err := w.Write(e.content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type entry struct {
	tar.Header
	content []byte
}

func TestVerifyNamesWhatIsMissingAndWhatIsDamaged(t *testing.T) {
	s := newSample(t)
	text := build(t, s.store, s.spec)
	contents := read(t, text).Contents()
	for _, b := range contents.Blobs {
		name := "blobs/sha256/" + b.SHA256
		for fault, change := range map[string]func(tar.Header, []byte) []entry{
			"is missing": func(h tar.Header, c []byte) []entry {
				if h.Name == name {
					return nil
				}
				return []entry{{h, c}}
			},
			"is damaged": func(h tar.Header, c []byte) []entry {
				if h.Name == name {
					c[len(c)/2] ^= 1
				}
				return []entry{{h, c}}
			},
			"bytes with": func(h tar.Header, c []byte) []entry {
				if h.Name == name {
					c = append(c, 0)
				}
				return []entry{{h, c}}
			},
		} {
			r := read(t, rewrite(t, text, change))
			err := r.Verify(t.Context(), nil)
			if !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), b.SHA256) || !strings.Contains(err.Error(), fault) {
				t.Errorf("Verify() where %s %s = %v; want it named", b.SHA256, fault, err)
			}
		}
	}
}

func TestChangedDescriptionsAreRefused(t *testing.T) {
	s := newSample(t)
	text := build(t, s.store, s.spec)
	listed := map[string]bool{}
	for _, b := range read(t, text).Contents().Blobs {
		listed["blobs/sha256/"+b.SHA256] = true
	}
	n := 0
	rewrite(t, text, func(h tar.Header, _ []byte) []entry {
		if h.Name != "oci-layout" && !listed[h.Name] {
			n++
			bad := rewrite(t, text, func(o tar.Header, c []byte) []entry {
				if o.Name == h.Name {
					c[len(c)/2] ^= 1
				}
				return []entry{{o, c}}
			})
			r, err := Read(bytes.NewReader(bad), int64(len(bad)), "bad.bundle")
			if err == nil {
				err = r.Trust([]PublicKey{s.key})
			}
			// index.json only says where to look: what it says in passing may change.
			if err == nil && (h.Name != "index.json" || r.Digest() != read(t, text).Digest()) {
				t.Errorf("a bundle whose %s was changed is read and trusted", h.Name)
			}
		}
		return nil
	})
	if n != 7 {
		t.Errorf("%d descriptions were changed; want 7: index.json, index, manifest, contents, and three of the signature", n)
	}
}

func TestASignatureOfAnotherBundleIsNone(t *testing.T) {
	a, b := newSample(t), newSample(t)
	b.spec.Key = a.spec.Key
	b.spec.Files[0].Path = filepath.Join(b.dir, "other")
	if err := os.WriteFile(b.spec.Files[0].Path, []byte("evil"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, b.key = signer(t)
	stranger, _ := signer(t)
	b.spec.Key = stranger
	good, evil := read(t, build(t, a.store, a.spec)), build(t, b.store, b.spec)
	// The stranger signs, and lies about who he is.
	lie := bytes.ReplaceAll(evil, []byte(read(t, evil).Signers()[0].String()), []byte(good.Signers()[0].String()))
	r, err := Read(bytes.NewReader(lie), int64(len(lie)), "lie.bundle")
	if err == nil {
		err = r.Trust([]PublicKey{a.key})
	}
	if err == nil {
		t.Error("a bundle that names a trusted key and was signed by another is trusted")
	}
}

func TestHostileArchivesAreRefused(t *testing.T) {
	s := newSample(t)
	text := build(t, s.store, s.spec)
	add := func(name string, kind byte, content []byte) func(tar.Header, []byte) []entry {
		return func(h tar.Header, c []byte) []entry {
			out := []entry{{h, c}}
			if h.Name == "oci-layout" {
				out = append(out, entry{tar.Header{Typeflag: kind, Name: name, Linkname: "/etc/passwd", Mode: 0o644}, content})
			}
			return out
		}
	}
	for name, c := range map[string]struct {
		change func(tar.Header, []byte) []entry
		want   string
	}{
		"a path that climbs":       {add("blobs/sha256/../../../../etc/cron.d/x", tar.TypeReg, []byte("x")), "has no place"},
		"an absolute path":         {add("/etc/passwd", tar.TypeReg, []byte("x")), "has no place"},
		"a link":                   {add("blobs/sha256/"+strings.Repeat("a", 64), tar.TypeSymlink, nil), "no regular file"},
		"a hard link":              {add("blobs/sha256/"+strings.Repeat("a", 64), tar.TypeLink, nil), "no regular file"},
		"a device":                 {add("blobs/sha256/"+strings.Repeat("a", 64), tar.TypeBlock, nil), "no regular file"},
		"a folder":                 {add("blobs/", tar.TypeDir, nil), "no regular file"},
		"a file that is not named": {add("blobs/sha256/"+strings.Repeat("a", 64), tar.TypeReg, []byte("x")), "does not name"},
		"two index files":          {add("index.json", tar.TypeReg, []byte("{}")), ""},
		"a giant index": {func(h tar.Header, c []byte) []entry {
			if h.Name == "index.json" {
				c = append(c, bytes.Repeat([]byte(" "), maxIndexBytes)...)
			}
			return []entry{{h, c}}
		}, "want up to"},
		"a content twice": {func(h tar.Header, c []byte) []entry {
			if strings.HasPrefix(h.Name, "blobs/") {
				return []entry{{h, c}, {h, c}}
			}
			return []entry{{h, c}}
		}, "twice"},
		"no index": {func(h tar.Header, c []byte) []entry {
			if h.Name == "index.json" {
				return nil
			}
			return []entry{{h, c}}
		}, "lacks index.json"},
	} {
		bad := rewrite(t, text, c.change)
		if _, err := Read(bytes.NewReader(bad), int64(len(bad)), "bad.bundle"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Read() of a bundle with %s = %v; want an error with %q", name, err, c.want)
		}
	}
}

func TestACutBundleIsRefused(t *testing.T) {
	s := newSample(t)
	s.spec.OSImages = nil
	text := build(t, s.store, s.spec)
	files, err := artifact.ScanTar(bytes.NewReader(text), int64(len(text)), nil)
	if err != nil {
		t.Fatal(err)
	}
	last := files[len(files)-1]
	for cut := 0; cut < int(last.Offset+last.Size); cut += 97 {
		r, err := Read(bytes.NewReader(text[:cut]), int64(cut), "cut.bundle")
		if err == nil {
			err = errors.Join(r.Trust([]PublicKey{s.key}), r.Verify(t.Context(), nil))
		}
		if err == nil {
			t.Fatalf("a bundle cut at %d of %d bytes is read, trusted and whole", cut, len(text))
		}
	}
}

func TestBuildStopsWithItsContext(t *testing.T) {
	s := newSample(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.spec.Check = func(*Contents) error { cancel(); return nil }
	if _, _, err := Build(ctx, s.store, s.spec, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("Build() after cancel = %v; want context.Canceled", err)
	}
}

func TestOneNameWithTwoContentsIsRefused(t *testing.T) {
	s := newSample(t)
	s.spec.Files = append(s.spec.Files, File{Kind: KindInstaller, Name: "kernel", Content: []byte("another"), UsedBy: []string{"x"}})
	if _, _, err := Build(t.Context(), s.store, s.spec, io.Discard); err == nil || !strings.Contains(err.Error(), "let both name one") {
		t.Errorf("Build() = %v; want it refused", err)
	}
}

func TestKeys(t *testing.T) {
	file, public, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParsePublicKey(public.String()); err != nil || again != public {
		t.Errorf("ParsePublicKey(%s) = %s, %v", public, again, err)
	}
	for _, bad := range []string{"", "ed25519:", "ed25519:AAAA", strings.TrimPrefix(public.String(), "ed25519:"), public.String() + "A", string(file)} {
		if _, err := ParsePublicKey(bad); err == nil {
			t.Errorf("ParsePublicKey(%q) = nil; want an error", bad)
		}
	}
	for _, bad := range [][]byte{nil, []byte("x"), bytes.Replace(file, []byte("PRIVATE"), []byte("PUBLIC"), 1)[:40]} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("ParseKey(%q) = nil; want an error", bad)
		}
	}
}

func FuzzRead(f *testing.F) {
	s := newSample(f)
	s.spec.OSImages = nil
	text := build(f, s.store, s.spec)
	f.Add(text)
	f.Add(text[:2048])
	f.Add(rewrite(f, text, func(h tar.Header, c []byte) []entry { return []entry{{h, c}, {h, c}} }))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Read(bytes.NewReader(text), int64(len(text)), "fuzz.bundle")
		if err != nil {
			return
		}
		// Whatever is read and trusted is the bundle that was signed.
		if r.Trust([]PublicKey{s.key}) == nil && r.Verify(t.Context(), nil) == nil {
			for _, i := range r.Contents().Of(KindFile) {
				if i.Digest != "sha256:"+i.Blobs[0] {
					t.Fatalf("a trusted bundle holds %+v", i)
				}
			}
		}
	})
}

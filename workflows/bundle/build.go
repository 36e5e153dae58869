package bundle

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
	"github.com/edge-provision/edge-provision/workflows/artifact"
)

// Spec is what goes into a bundle.
type Spec struct {
	Site     string
	Files    []File
	Images   []Image
	OSImages []OSImage
	// Base, when not nil, holds what the bundle may leave out.
	Base *Reader
	// Key signs it.
	Key ed25519.PrivateKey
	// Secrets must not be in the bundle: one that is found refuses it.
	Secrets []string
	// Check is asked before anything is written; nil: everything may be.
	Check func(*Contents) error
	// Progress is called while bytes are written; nil: nobody listens.
	Progress func(done, total int64)
}

// File is one file of a bundle.
type File struct {
	Kind, Name string
	Source     string // where it came from; credentials are taken out
	UsedBy     []string
	Spec       string // the digest of what a document was rendered from, or empty
	// Content is the file; Path is where it is when Content is nil.
	Content []byte
	Path    string
}

// Image is one container image, which is in the store already.
type Image struct {
	Tree   artifact.Tree
	Source string
	UsedBy []string
}

// OSImage is one operating system image.
type OSImage struct {
	Address string
	// Spec is the digest of its declaration.
	Spec                     string
	ManifestPath, FramesPath string
}

// section is where the bytes of a content are.
type section struct {
	size   int64
	text   []byte // nil: in the file
	path   string
	offset int64
	what   string
}

func (s section) open() (io.ReadCloser, error) {
	if s.path == "" {
		return io.NopCloser(bytes.NewReader(s.text)), nil
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, s.offset, s.size), f}, nil
}

// builder gathers what goes into a bundle.
type builder struct {
	store    *artifact.Store
	spec     Spec
	contents Contents
	blobs    map[string]section
	parts    []v1.Descriptor // of the bundle's index
}

// Build writes a bundle. Equal contents give equal bytes.
func Build(ctx context.Context, store *artifact.Store, spec Spec, w io.Writer) (*Contents, string, error) {
	b := &builder{store: store, spec: spec, blobs: map[string]section{}, contents: Contents{FormatVersion: FormatVersion, Site: spec.Site, Items: []Item{}, Blobs: []Blob{}}}
	digest, err := b.build(ctx, w)
	if err != nil {
		return nil, "", fmt.Errorf("building bundle of %s: %w", spec.Site, err)
	}
	return &b.contents, digest, nil
}

func (b *builder) build(ctx context.Context, w io.Writer) (string, error) {
	if err := b.gather(ctx); err != nil {
		return "", err
	}
	if err := b.list(); err != nil {
		return "", err
	}
	if b.spec.Check != nil {
		if err := b.spec.Check(&b.contents); err != nil {
			return "", err
		}
	}
	// What describes the bundle is kept apart from what it lists.
	described := map[string]section{}
	put := func(what string, v any) (v1.Hash, int64, error) {
		text, ok := v.([]byte)
		if !ok {
			var err error
			if text, err = json.Marshal(v); err != nil {
				return v1.Hash{}, 0, err
			}
		}
		sum := sha256.Sum256(text)
		h := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
		described[h.Hex] = section{size: int64(len(text)), text: text, what: what}
		return h, int64(len(text)), nil
	}
	index, err := b.index(put)
	if err != nil {
		return "", err
	}
	top, err := b.signed(put, index)
	if err != nil {
		return "", err
	}
	return index.Digest.String(), b.write(ctx, w, top, described)
}

// gather collects items and their contents.
func (b *builder) gather(ctx context.Context) error {
	for _, f := range b.spec.Files {
		if err := b.file(ctx, f); err != nil {
			return fmt.Errorf("%s %s: %w", f.Kind, artifact.Redact(f.Name), err)
		}
	}
	for _, i := range b.spec.OSImages {
		if err := b.osImage(i); err != nil {
			return fmt.Errorf("%s: %w", i.Address, err)
		}
	}
	for _, i := range b.spec.Images {
		item := Item{Kind: KindImage, Name: i.Tree.Name, Source: artifact.Redact(i.Source), Digest: i.Tree.Root.Digest.String(), UsedBy: users(i.UsedBy)}
		for _, d := range i.Tree.Blobs {
			f, err := b.store.Open(ctx, artifact.Ref{SHA256: d.Digest.Hex})
			if err != nil {
				return fmt.Errorf("image %s: %w", i.Tree.Name, err)
			}
			b.add(&item, d.Digest.Hex, section{size: d.Size, path: f.Name()})
			if err := f.Close(); err != nil {
				return err
			}
		}
		if merged, err := b.merge(item); merged || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		root := i.Tree.Root
		root.Annotations = map[string]string{artifact.AnnotationContainerdName: i.Tree.Name}
		b.parts = append(b.parts, root)
		b.contents.Items = append(b.contents.Items, item)
	}
	return nil
}

// users is a sorted list without doubles.
func users(names []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

func (b *builder) add(item *Item, sum string, s section) {
	s.what = item.Kind + " " + item.Name
	if _, ok := b.blobs[sum]; !ok {
		b.blobs[sum] = s
	}
	item.Bytes += s.size
	item.Blobs = append(item.Blobs, sum)
}

func (b *builder) file(ctx context.Context, f File) error {
	item := Item{Kind: f.Kind, Name: artifact.Redact(f.Name), Source: artifact.Redact(f.Source), UsedBy: users(f.UsedBy), Spec: f.Spec}
	s := section{text: f.Content, size: int64(len(f.Content))}
	h := sha256.New()
	if f.Content == nil {
		in, err := os.Open(f.Path)
		if err != nil {
			return err
		}
		s.path = f.Path
		s.size, err = io.Copy(h, reader{ctx, in})
		if err = errors.Join(err, in.Close()); err != nil {
			return err
		}
	} else {
		h.Write(f.Content)
	}
	sum := hex.EncodeToString(h.Sum(nil))
	item.Digest = "sha256:" + sum
	b.add(&item, sum, s)
	if merged, err := b.merge(item); merged || err != nil {
		return err
	}
	b.contents.Items = append(b.contents.Items, item)
	return nil
}

// merge joins an item to an equal one that is there already.
func (b *builder) merge(item Item) (bool, error) {
	for i, other := range b.contents.Items {
		if compareItems(other, item) != 0 {
			continue
		}
		if other.Digest != item.Digest {
			return false, fmt.Errorf("%s %s is wanted as %s by %s and as %s by %s: let both name one", item.Kind, item.Name,
				other.Digest, strings.Join(other.UsedBy, ", "), item.Digest, strings.Join(item.UsedBy, ", "))
		}
		b.contents.Items[i].UsedBy = users(append(other.UsedBy, item.UsedBy...))
		return true, nil
	}
	return false, nil
}

// osImage adds an image chunk by chunk, so that a delta carries only the chunks
// that changed.
func (b *builder) osImage(i OSImage) error {
	text, err := os.ReadFile(i.ManifestPath)
	if err != nil {
		return err
	}
	m, err := chunk.ParseManifest(bytes.NewReader(text))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	item := Item{Kind: KindOSImage, Name: i.Address, Digest: m.Digest(), Spec: i.Spec, UsedBy: []string{i.Address}}
	config := v1.Descriptor{MediaType: TypeManifest, Size: int64(len(text)), Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}}
	b.add(&item, config.Digest.Hex, section{text: text, size: config.Size})
	doc := ociManifest{SchemaVersion: 2, MediaType: string(types.OCIManifestSchema1), ArtifactType: TypeOSImage, Config: config}
	seen := map[string]bool{}
	for _, c := range m.Chunks {
		name := c.FrameSHA256.String()
		if seen[name] {
			continue
		}
		seen[name] = true
		b.add(&item, name, section{path: i.FramesPath, offset: c.FrameOffset, size: c.FrameBytes})
		doc.Layers = append(doc.Layers, v1.Descriptor{MediaType: TypeChunk, Size: c.FrameBytes, Digest: v1.Hash{Algorithm: "sha256", Hex: name}})
	}
	manifest, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	msum := sha256.Sum256(manifest)
	part := v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: int64(len(manifest)), Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(msum[:])}, ArtifactType: TypeOSImage}
	b.add(&item, part.Digest.Hex, section{text: manifest, size: part.Size})
	b.parts = append(b.parts, part)
	b.contents.Items = append(b.contents.Items, item)
	return nil
}

// ociManifest is a manifest with the fields that the bundle uses (OCI image
// specification 1.1); v1.Manifest lacks artifactType.
type ociManifest struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	ArtifactType  string          `json:"artifactType,omitempty"`
	Config        v1.Descriptor   `json:"config"`
	Layers        []v1.Descriptor `json:"layers"`
	Subject       *v1.Descriptor  `json:"subject,omitempty"`
}

// list sorts the items, lists the contents and finds what the base has.
func (b *builder) list() error {
	slices.SortFunc(b.contents.Items, compareItems)
	inBase := map[string]bool{}
	if b.spec.Base != nil {
		b.contents.Base = b.spec.Base.Digest()
		for _, blob := range b.spec.Base.Contents().Blobs {
			// A delta of a delta would need the whole chain on site.
			if blob.InBase {
				return fmt.Errorf("base %s is itself a delta: build against a whole bundle", b.spec.Base.Source())
			}
			inBase[blob.SHA256] = true
		}
	}
	for _, sum := range slices.Sorted(maps.Keys(b.blobs)) {
		b.contents.Blobs = append(b.contents.Blobs, Blob{SHA256: sum, Bytes: b.blobs[sum].size, InBase: inBase[sum]})
	}
	return b.contents.validate()
}

// index makes the bundle's own index and the manifest of its files.
func (b *builder) index(put func(what string, v any) (v1.Hash, int64, error)) (v1.Descriptor, error) {
	config, size, err := put("contents", b.contents)
	if err != nil {
		return v1.Descriptor{}, err
	}
	doc := ociManifest{
		SchemaVersion: 2, MediaType: string(types.OCIManifestSchema1), ArtifactType: TypeBundle,
		Config: v1.Descriptor{MediaType: TypeContents, Digest: config, Size: size}, Layers: []v1.Descriptor{},
	}
	for _, i := range b.contents.Items {
		if i.Kind != KindImage && i.Kind != KindOSImage {
			doc.Layers = append(doc.Layers, v1.Descriptor{
				MediaType: TypeFile, Size: i.Bytes, Digest: v1.Hash{Algorithm: "sha256", Hex: i.Blobs[0]},
				Annotations: map[string]string{"org.opencontainers.image.title": i.Kind + " " + i.Name},
			})
		}
	}
	manifest, size, err := put("manifest", doc)
	if err != nil {
		return v1.Descriptor{}, err
	}
	slices.SortStableFunc(b.parts, func(x, y v1.Descriptor) int {
		return cmp.Or(strings.Compare(x.Annotations[artifact.AnnotationContainerdName], y.Annotations[artifact.AnnotationContainerdName]), strings.Compare(x.Digest.Hex, y.Digest.Hex))
	})
	first := v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: manifest, Size: size, ArtifactType: TypeBundle}
	index, size, err := put("index", v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: append([]v1.Descriptor{first}, b.parts...)})
	return v1.Descriptor{MediaType: types.OCIImageIndex, Digest: index, Size: size, Annotations: map[string]string{artifact.AnnotationRefName: "bundle"}}, err
}

// signed makes the layout's index.json: the bundle's index and its signature,
// as OCI tools attach one (image specification 1.1, "subject").
func (b *builder) signed(put func(what string, v any) (v1.Hash, int64, error), index v1.Descriptor) ([]byte, error) {
	s, err := sign(b.spec.Key, index.Digest.String())
	if err != nil {
		return nil, err
	}
	layer, size, err := put("signature", s)
	if err != nil {
		return nil, err
	}
	empty, emptySize, err := put("empty", []byte("{}"))
	if err != nil {
		return nil, err
	}
	subject := v1.Descriptor{MediaType: index.MediaType, Digest: index.Digest, Size: index.Size}
	manifest, manifestSize, err := put("signature", ociManifest{
		SchemaVersion: 2, MediaType: string(types.OCIManifestSchema1), ArtifactType: TypeSignature,
		Config: v1.Descriptor{MediaType: typeEmpty, Digest: empty, Size: emptySize},
		Layers: []v1.Descriptor{{MediaType: TypeSigned, Digest: layer, Size: size}}, Subject: &subject,
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{
		index, {MediaType: types.OCIManifestSchema1, Digest: manifest, Size: manifestSize, ArtifactType: TypeSignature},
	}})
}

// write writes the layout: what describes it first, so that a reader knows the
// rest before it comes.
func (b *builder) write(ctx context.Context, w io.Writer, top []byte, described map[string]section) error {
	out := artifact.NewTar(w)
	if err := errors.Join(out.File("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)), out.File("index.json", top)); err != nil {
		return err
	}
	secrets := newSearch(b.spec.Secrets)
	var done, total int64
	for _, blob := range b.contents.Blobs {
		if !blob.InBase {
			total += blob.Bytes
		}
	}
	copyOne := func(sum string, s section) error {
		in, err := s.open()
		if err != nil {
			return err
		}
		h := sha256.New()
		found := secrets.reset()
		err = out.Copy("blobs/sha256/"+sum, s.size, io.TeeReader(reader{ctx, in}, io.MultiWriter(h, found)))
		if err = errors.Join(err, in.Close()); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != sum {
			return fmt.Errorf("%s changed while it was read: its SHA-256 is %s; want %s: run the build again", s.what, got, sum)
		}
		if found.hit {
			return fmt.Errorf("%s holds the value of a sensitive variable: a bundle is copied to many places and must hold none; let the step take the value from the variable on site", s.what)
		}
		done += s.size
		if b.spec.Progress != nil {
			b.spec.Progress(done, total)
		}
		return nil
	}
	for _, sum := range slices.Sorted(maps.Keys(described)) {
		if _, doubled := b.blobs[sum]; doubled {
			continue
		}
		if err := copyOne(sum, described[sum]); err != nil {
			return err
		}
	}
	for _, blob := range b.contents.Blobs {
		if blob.InBase {
			continue
		}
		if err := copyOne(blob.SHA256, b.blobs[blob.SHA256]); err != nil {
			return err
		}
	}
	return out.Close()
}

// reader ends when its context does.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// search looks for secrets in what is written to it.
type search struct {
	words [][]byte
	tail  []byte
	long  int
	hit   bool
}

// minSecretBytes is the shortest value that is looked for: shorter ones are
// found by chance in any program.
const minSecretBytes = 6

func newSearch(secrets []string) *search {
	s := &search{}
	for _, word := range secrets {
		if len(word) >= minSecretBytes {
			s.words = append(s.words, []byte(word))
			s.long = max(s.long, len(word))
		}
	}
	return s
}

func (s *search) reset() *search {
	s.tail, s.hit = s.tail[:0], false
	return s
}

// Write implements io.Writer; a word may lie across two writes.
func (s *search) Write(p []byte) (int, error) {
	if len(s.words) == 0 || s.hit {
		return len(p), nil
	}
	joint := append(s.tail, p[:min(len(p), s.long)]...)
	for _, w := range s.words {
		if bytes.Contains(joint, w) || bytes.Contains(p, w) {
			s.hit = true
			return len(p), nil
		}
	}
	keep := s.long - 1
	if len(p) >= keep {
		s.tail = append(s.tail[:0], p[len(p)-keep:]...)
	} else {
		all := append(s.tail, p...)
		s.tail = append([]byte(nil), all[max(0, len(all)-keep):]...)
	}
	return len(p), nil
}

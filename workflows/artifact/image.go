package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// maxManifestBytes bounds a manifest or index, as registries do (OCI
	// distribution specification 1.1, section "Pushing Manifests").
	maxManifestBytes = 4 << 20
	// maxImageBlobs bounds what one image may name: its configurations and
	// layers on all platforms that are kept.
	maxImageBlobs = 1024
	// maxImageDepth bounds indexes within indexes.
	maxImageDepth = 3
	// imageArchitecture is the platform whose part of an image is kept: the one
	// that machines are imaged for.
	imageOS, imageArchitecture = "linux", "amd64"
)

// Tree is a container image in the store.
type Tree struct {
	// Name is the image's name in full.
	Name string
	// Root describes the manifest or index that Digest named.
	Root v1.Descriptor
	// Blobs are the root, the manifests, configurations and layers, each once,
	// sorted by digest. Of an index only the parts for linux on amd64 are there.
	Blobs []v1.Descriptor
}

// origin is where the content of an image comes from.
type origin interface {
	// resolve finds the digest of the image that has none.
	resolve(ctx context.Context) (digest string, err error)
	// fetch brings a blob to a path. size is -1 where nobody knows it.
	fetch(ctx context.Context, d v1.Descriptor, path string) error
	// close frees what reading took.
	close() error
}

// FullName is an image's name as container runtimes complete it:
// "nginx" is "docker.io/library/nginx:latest".
func FullName(image string) (string, error) {
	image, _, _ = strings.Cut(image, "@")
	ref, err := name.ParseReference(image, name.WithDefaultRegistry("docker.io"))
	if err != nil {
		return "", fmt.Errorf("container image %.200q: %w", image, err)
	}
	repository := ref.Context().RepositoryStr()
	registry := ref.Context().RegistryStr()
	if registry == "docker.io" && !strings.Contains(repository, "/") {
		repository = "library/" + repository
	}
	if registry == "index.docker.io" {
		registry = "docker.io"
	}
	return registry + "/" + repository + ":" + ref.Identifier(), nil
}

// Resolve asks the image's source for its digest. It trusts the answer, so its
// callers write the digest down: from then on the content is held to it.
func (s *Store) Resolve(ctx context.Context, image Image) (string, error) {
	image, err := s.complete(image)
	if err != nil {
		return "", err
	}
	if s.config.Bundle != nil {
		return s.bundled(image)
	}
	o, err := s.origin(ctx, image)
	if err != nil {
		return "", fmt.Errorf("container image %s: %w", image.Name, err)
	}
	digest, err := o.resolve(ctx)
	if err = errors.Join(err, o.close()); err != nil {
		return "", fmt.Errorf("container image %s: %w", image.Name, err)
	}
	return digest, nil
}

// complete gives an image its full name, and the digest that stands in it.
func (s *Store) complete(image Image) (Image, error) {
	if _, digest, ok := strings.Cut(image.Name, "@"); ok {
		if image.Digest != "" && image.Digest != digest {
			return image, fmt.Errorf("container image %s: its name says %s and its digest %s", image.Name, digest, image.Digest)
		}
		image.Digest = digest
	}
	if image.Digest != "" {
		if _, err := cutDigest(image.Digest); err != nil {
			return image, fmt.Errorf("container image %s: %w", image.Name, err)
		}
	}
	full, err := FullName(image.Name)
	image.Name = full
	return image, err
}

// bundled is the digest that the bundle has for an image.
func (s *Store) bundled(image Image) (string, error) {
	digest, err := s.config.Bundle.Image(image.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("container image %s: %w (%s): build the bundle again from this site", image.Name, ErrNotInBundle, s.config.Bundle.Source())
	case err != nil:
		return "", err
	case image.Digest != "" && image.Digest != digest:
		return "", fmt.Errorf("container image %s: the bundle %s has %s; the site wants %s: build the bundle again from this site", image.Name, s.config.Bundle.Source(), digest, image.Digest)
	}
	return digest, nil
}

// Pull brings a container image into the store, whole and verified.
func (s *Store) Pull(ctx context.Context, image Image) (_ Tree, err error) {
	image, err = s.complete(image)
	if err != nil {
		return Tree{}, err
	}
	var o origin
	switch {
	case s.config.Bundle != nil:
		if image.Digest, err = s.bundled(image); err != nil {
			return Tree{}, err
		}
	case image.Digest == "" && s.config.Digest != nil:
		if image.Digest, err = s.config.Digest(ctx, image.Name); err != nil {
			return Tree{}, fmt.Errorf("container image %s: %w", image.Name, err)
		}
	}
	if image.Digest == "" {
		return Tree{}, fmt.Errorf("container image %s has no digest: write NAME@sha256:…, or build a bundle, whose lock file keeps the digest", image.Name)
	}
	if s.config.Bundle == nil {
		if o, err = s.origin(ctx, image); err != nil {
			return Tree{}, fmt.Errorf("container image %s: %w", image.Name, err)
		}
		defer func() { err = errors.Join(err, o.close()) }()
	}
	w := walk{store: s, origin: o, what: image.Name, seen: map[string]v1.Descriptor{}}
	hash, err := v1.NewHash(image.Digest)
	if err != nil {
		return Tree{}, fmt.Errorf("container image %s: %w", image.Name, err)
	}
	root, err := w.manifest(ctx, v1.Descriptor{Digest: hash, Size: -1}, 0)
	if err != nil {
		return Tree{}, fmt.Errorf("container image %s@%s: %w", image.Name, image.Digest, err)
	}
	tree := Tree{Name: image.Name, Root: root}
	for _, d := range w.seen {
		tree.Blobs = append(tree.Blobs, d)
	}
	slices.SortFunc(tree.Blobs, func(a, b v1.Descriptor) int { return strings.Compare(a.Digest.Hex, b.Digest.Hex) })
	return tree, err
}

// walk follows an image from its root to its layers.
type walk struct {
	store  *Store
	origin origin // nil: the bundle
	what   string
	seen   map[string]v1.Descriptor
}

// blob brings one blob into the store and opens it.
func (w *walk) blob(ctx context.Context, d v1.Descriptor) (*os.File, error) {
	if d.Digest.Algorithm != "sha256" || !validHex(d.Digest.Hex) {
		return nil, fmt.Errorf("digest %.90q is not of the kind sha256", d.Digest)
	}
	if len(w.seen) >= maxImageBlobs {
		return nil, fmt.Errorf("it names more than %d parts", maxImageBlobs)
	}
	f, err := w.store.open(ctx, d.Digest.Hex, w.what, func(ctx context.Context, path string) error { return w.origin.fetch(ctx, d, path) })
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && d.Size >= 0 && info.Size() != d.Size {
		err = fmt.Errorf("%s has %d bytes; the manifest says %d", d.Digest, info.Size(), d.Size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	w.seen[d.Digest.Hex] = v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: info.Size()}
	return f, nil
}

// document is the common part of manifests and indexes (OCI image
// specification 1.1; Docker's schema 2 has the same fields).
type document struct {
	MediaType types.MediaType `json:"mediaType"`
	Config    *v1.Descriptor  `json:"config"`
	Layers    []v1.Descriptor `json:"layers"`
	Manifests []v1.Descriptor `json:"manifests"`
}

// manifest follows a manifest or index and returns its completed descriptor.
func (w *walk) manifest(ctx context.Context, d v1.Descriptor, depth int) (v1.Descriptor, error) {
	f, err := w.blob(ctx, d)
	if err != nil {
		return d, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxManifestBytes+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return d, err
	}
	if len(text) > maxManifestBytes {
		return d, fmt.Errorf("manifest %s has more than %d bytes", d.Digest, maxManifestBytes)
	}
	var doc document
	if err := json.Unmarshal(text, &doc); err != nil {
		return d, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if doc.MediaType != "" {
		d.MediaType = doc.MediaType
	}
	if d.MediaType == "" {
		d.MediaType = types.OCIManifestSchema1
		if doc.Manifests != nil {
			d.MediaType = types.OCIImageIndex
		}
	}
	d = v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: int64(len(text))}
	w.seen[d.Digest.Hex] = d
	switch {
	case d.MediaType.IsIndex():
		return d, w.index(ctx, doc, depth)
	case !d.MediaType.IsImage() || doc.Config == nil:
		return d, fmt.Errorf("manifest %s is a %.80q; want an image or an index of images", d.Digest, d.MediaType)
	}
	for _, part := range append([]v1.Descriptor{*doc.Config}, doc.Layers...) {
		if _, ok := w.seen[part.Digest.Hex]; ok {
			continue
		}
		if len(part.URLs) > 0 {
			return d, fmt.Errorf("layer %s is kept at other addresses, which are not asked", part.Digest)
		}
		f, err := w.blob(ctx, part)
		if err != nil {
			return d, err
		}
		if err := f.Close(); err != nil {
			return d, err
		}
	}
	return d, nil
}

// index follows the parts of an index that are for our machines.
func (w *walk) index(ctx context.Context, doc document, depth int) error {
	if depth >= maxImageDepth {
		return fmt.Errorf("indexes are nested deeper than %d", maxImageDepth)
	}
	found := false
	for _, child := range doc.Manifests {
		if p := child.Platform; p != nil && (p.OS != imageOS || p.Architecture != imageArchitecture) {
			continue
		}
		if _, ok := w.seen[child.Digest.Hex]; ok {
			continue
		}
		found = true
		if _, err := w.manifest(ctx, child, depth+1); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("it has no part for %s on %s", imageOS, imageArchitecture)
	}
	return nil
}

// ImageArchive hands out a container image as a tar file of an OCI image layout
// that containerd imports under the image's name. An equal image gives equal
// bytes. The caller closes the file.
func (s *Store) ImageArchive(ctx context.Context, image Image) (*os.File, error) {
	tree, err := s.Pull(ctx, image)
	if err != nil {
		return nil, err
	}
	f, err := s.archive(ctx, tree)
	if err != nil {
		return nil, fmt.Errorf("archiving container image %s: %w", tree.Name, err)
	}
	return f, nil
}

// ArchiveRef makes the archive of a container image and names it as a file that
// Open hands out.
func (s *Store) ArchiveRef(ctx context.Context, image Image) (Ref, error) {
	f, err := s.ImageArchive(ctx, image)
	if err != nil {
		return Ref{}, err
	}
	h := sha256.New()
	_, err = io.Copy(h, &contextReader{ctx: ctx, r: f})
	if err = errors.Join(err, f.Close()); err != nil {
		return Ref{}, fmt.Errorf("archiving container image %s: %w", image.Name, err)
	}
	ref := Ref{Source: image.Name + ".tar", SHA256: hex.EncodeToString(h.Sum(nil))}
	s.mu.Lock()
	s.derived[ref.SHA256] = f.Name()
	s.mu.Unlock()
	return ref, nil
}

func (s *Store) archive(ctx context.Context, tree Tree) (_ *os.File, err error) {
	dir := s.config.Dir
	if err := os.MkdirAll(dir+"/archives", 0o755); err != nil {
		return nil, err
	}
	key := sha256.Sum256([]byte("1 " + tree.Name + "@" + tree.Root.Digest.String()))
	path := dir + "/archives/" + hex.EncodeToString(key[:])
	if sum, err := os.ReadFile(path + ".sha256"); err == nil && validHex(string(sum)) {
		f, err := os.Open(path)
		if err == nil {
			if err = s.check(ctx, f, string(sum)); err == nil {
				return f, nil
			}
			err = errors.Join(err, f.Close())
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	part, err := os.CreateTemp(dir+"/archives", ".new-*")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, part.Close(), os.Remove(part.Name()))
		}
	}()
	h := sha256.New()
	if err := s.WriteArchive(ctx, io.MultiWriter(part, h), tree); err != nil {
		return nil, err
	}
	if err := errors.Join(part.Chmod(0o644), part.Sync(), os.WriteFile(path+".sha256", []byte(hex.EncodeToString(h.Sum(nil))), 0o644), os.Rename(part.Name(), path)); err != nil {
		return nil, err
	}
	if err := part.Close(); err != nil {
		return nil, err
	}
	return os.Open(path)
}

// Names that OCI image layouts and containerd give to images in an index.
const (
	AnnotationRefName        = "org.opencontainers.image.ref.name"
	AnnotationContainerdName = "io.containerd.image.name"
)

// WriteArchive writes images as a tar file of one OCI image layout. Equal images
// give equal bytes, in whatever order they are named.
func (s *Store) WriteArchive(ctx context.Context, w io.Writer, trees ...Tree) error {
	trees = slices.Clone(trees)
	slices.SortFunc(trees, func(a, b Tree) int { return strings.Compare(a.Name, b.Name) })
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	blobs := map[string]v1.Descriptor{}
	for _, t := range trees {
		root := t.Root
		root.Annotations = map[string]string{AnnotationContainerdName: t.Name, AnnotationRefName: t.Name[strings.LastIndex(t.Name, ":")+1:]}
		index.Manifests = append(index.Manifests, root)
		for _, b := range t.Blobs {
			blobs[b.Digest.Hex] = b
		}
	}
	text, err := json.Marshal(index)
	if err != nil {
		return err
	}
	out := NewTar(w)
	if err := errors.Join(out.File("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)), out.File("index.json", text)); err != nil {
		return err
	}
	sums := make([]string, 0, len(blobs))
	for sum := range blobs {
		sums = append(sums, sum)
	}
	slices.Sort(sums)
	for _, sum := range sums {
		f, err := s.kept(ctx, sum)
		if err != nil {
			return err
		}
		err = out.Copy("blobs/sha256/"+sum, blobs[sum].Size, &contextReader{ctx: ctx, r: f})
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return out.Close()
}

// digestBytes is the digest of a text that is in memory.
func digestBytes(p []byte) v1.Hash {
	sum := sha256.Sum256(p)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// keepBytes writes a text whose digest has to be right.
func (s *Store) keepBytes(ctx context.Context, p []byte, d v1.Descriptor, where, path string) error {
	return s.keep(ctx, bytes.NewReader(p), int64(len(p)), d.Digest.Hex, where, path)
}

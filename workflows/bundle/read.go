package bundle

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
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
	"github.com/edge-provision/edge-provision/workflows/artifact"
)

// Reader reads a bundle. What it knows after Open is only consistent in itself:
// Trust says who vouches for it, and Verify that it is whole. It is safe for
// concurrent use.
type Reader struct {
	path     string
	file     io.ReaderAt
	closer   io.Closer
	entries  map[string]artifact.Entry // by SHA-256
	digest   string
	contents Contents
	blobs    map[string]Blob
	signers  []PublicKey // whose signatures are right
	base     *Reader
}

var blobName = regexp.MustCompile(`^blobs/sha256/([0-9a-f]{64})$`)

// Open reads what a bundle says of itself, without its contents. The caller
// closes it.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening bundle: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	var r *Reader
	if err == nil {
		r, err = Read(f, info.Size(), path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r.closer = f
	return r, nil
}

// Read reads a bundle from where its bytes are; name names it in messages.
func Read(file io.ReaderAt, size int64, name string) (*Reader, error) {
	r := &Reader{path: name, file: file, entries: map[string]artifact.Entry{}, blobs: map[string]Blob{}}
	if err := r.read(size); err != nil {
		return nil, fmt.Errorf("reading bundle %s: %w", name, err)
	}
	return r, nil
}

func (r *Reader) read(size int64) error {
	files, err := artifact.ScanTar(r.file, size, func(name string, kind byte) error {
		return fmt.Errorf("%.200q is no regular file (type %q): it is no bundle, or somebody changed it", name, kind)
	})
	if err != nil {
		return err
	}
	var top *artifact.Entry
	layout := false
	for i, e := range files {
		m := blobName.FindStringSubmatch(e.Name)
		switch {
		case m != nil:
			if _, ok := r.entries[m[1]]; ok {
				return fmt.Errorf("content %s is in it twice", m[1])
			}
			r.entries[m[1]] = e
		case e.Name == "index.json" && top == nil:
			top = &files[i]
		case e.Name == "oci-layout" && !layout:
			layout = true
		default:
			return fmt.Errorf("file %.200q has no place in it, or is in it twice", e.Name)
		}
	}
	if top == nil || !layout {
		return errors.New("it lacks index.json or oci-layout: it is no OCI image layout")
	}
	text, err := r.small(*top, maxIndexBytes)
	if err != nil {
		return fmt.Errorf("index.json: %w", err)
	}
	return r.follow(text)
}

// follow goes from index.json to the contents, each step held to the digest
// that the one before it gives.
func (r *Reader) follow(top []byte) error {
	var layout v1.IndexManifest
	if err := json.Unmarshal(top, &layout); err != nil {
		return fmt.Errorf("index.json: %w", err)
	}
	if len(layout.Manifests) == 0 || len(layout.Manifests) > maxSignatures+1 || !layout.Manifests[0].MediaType.IsIndex() {
		return errors.New("index.json does not name a bundle and its signatures")
	}
	used := map[string]bool{}
	r.digest = layout.Manifests[0].Digest.String()
	var index v1.IndexManifest
	if err := r.document(layout.Manifests[0], maxIndexBytes, used, &index); err != nil {
		return err
	}
	var manifest ociManifest
	if len(index.Manifests) == 0 {
		return errors.New("its index names nothing")
	}
	if err := r.document(index.Manifests[0], maxIndexBytes, used, &manifest); err != nil {
		return err
	}
	if manifest.ArtifactType != TypeBundle || manifest.Config.MediaType != TypeContents {
		return fmt.Errorf("it is an OCI image layout of a %.80q, and no bundle", manifest.ArtifactType)
	}
	if err := r.document(manifest.Config, maxContentsBytes, used, &r.contents); err != nil {
		return err
	}
	if err := r.contents.validate(); err != nil {
		return err
	}
	for _, b := range r.contents.Blobs {
		r.blobs[b.SHA256] = b
	}
	for _, s := range layout.Manifests[1:] {
		if err := r.signature(s, used); err != nil {
			return fmt.Errorf("a signature: %w", err)
		}
	}
	for sum := range r.entries {
		if _, listed := r.blobs[sum]; !listed && !used[sum] {
			return fmt.Errorf("it holds content %s, which its index does not name", sum)
		}
	}
	return nil
}

// document reads a small JSON content.
func (r *Reader) document(d v1.Descriptor, limit int64, used map[string]bool, v any) error {
	e, ok := r.entries[d.Digest.Hex]
	if !ok || d.Digest.Algorithm != "sha256" {
		return fmt.Errorf("%.100q is missing", d.Digest)
	}
	text, err := r.small(e, limit)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	sum := sha256.Sum256(text)
	if got := hex.EncodeToString(sum[:]); got != d.Digest.Hex || int64(len(text)) != d.Size {
		return fmt.Errorf("%s is damaged: its SHA-256 is %s", d.Digest, got)
	}
	used[d.Digest.Hex] = true
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	return nil
}

func (r *Reader) small(e artifact.Entry, limit int64) ([]byte, error) {
	if e.Size > limit {
		return nil, fmt.Errorf("it has %d bytes; want up to %d", e.Size, limit)
	}
	text := make([]byte, e.Size)
	_, err := r.file.ReadAt(text, e.Offset)
	if errors.Is(err, io.EOF) && len(text) == 0 {
		err = nil
	}
	return text, err
}

func (r *Reader) signature(d v1.Descriptor, used map[string]bool) error {
	var m ociManifest
	if err := r.document(d, maxSignatureBytes, used, &m); err != nil {
		return err
	}
	if m.ArtifactType != TypeSignature || len(m.Layers) != 1 || m.Subject == nil || m.Subject.Digest.String() != r.digest {
		return fmt.Errorf("%s is not a signature of this bundle", d.Digest)
	}
	var s signature
	if err := r.document(m.Layers[0], maxSignatureBytes, used, &s); err != nil {
		return err
	}
	var empty struct{}
	if err := r.document(m.Config, maxSignatureBytes, used, &empty); err != nil {
		return err
	}
	key, ok := s.valid(r.digest)
	if !ok {
		return fmt.Errorf("%s does not fit the bundle: the bundle or the signature was changed", d.Digest)
	}
	r.signers = append(r.signers, key)
	return nil
}

// Close closes the file, and the base's.
func (r *Reader) Close() error {
	var err error
	if r.closer != nil {
		err = r.closer.Close()
	}
	if r.base != nil {
		err = errors.Join(err, r.base.Close())
	}
	return err
}

// Digest names the bundle: "sha256:…" of its index.
func (r *Reader) Digest() string { return r.digest }

// Contents says what is in it.
func (r *Reader) Contents() *Contents { return &r.contents }

// Signers are the keys whose signature of this bundle is right.
func (r *Reader) Signers() []PublicKey { return slices.Clone(r.signers) }

// Source names the bundle in messages.
func (r *Reader) Source() string { return "bundle " + r.path }

// Trust refuses a bundle that none of the keys signed; the error wraps
// ErrUntrusted. The keys never come from the bundle.
func (r *Reader) Trust(keys []PublicKey) error {
	for _, k := range keys {
		if slices.Contains(r.signers, k) {
			return nil
		}
	}
	by := "nobody"
	if len(r.signers) > 0 {
		by = strings.Join(texts(r.signers), ", ")
	}
	if len(keys) == 0 {
		return fmt.Errorf("bundle %s: %w: no key is trusted, and it is signed by %s: write trusted_keys = [\"ed25519:…\"] into the site block, or give --trust-key, with a key that you have from whoever builds your bundles", r.path, ErrUntrusted, by)
	}
	return fmt.Errorf("bundle %s: %w: it is signed by %s; trusted are %s", r.path, ErrUntrusted, by, strings.Join(texts(keys), ", "))
}

func texts(keys []PublicKey) []string {
	var out []string
	for _, k := range keys {
		out = append(out, k.String())
	}
	return out
}

// UseBase gives a delta the bundle that it builds on. The base is closed with
// the delta. It needs no trusted signature of its own: its digest is in the
// delta, which has one.
func (r *Reader) UseBase(base *Reader) error {
	if r.contents.Base == "" {
		return fmt.Errorf("bundle %s is whole and has no base", r.path)
	}
	if base.digest != r.contents.Base {
		return fmt.Errorf("bundle %s builds on %s; %s is %s", r.path, r.contents.Base, base.path, base.digest)
	}
	r.base = base
	return nil
}

// Blob implements artifact.Bundle.
func (r *Reader) Blob(sum string) (io.ReadCloser, error) {
	b, ok := r.blobs[sum]
	if !ok {
		return nil, fmt.Errorf("sha256:%s in %s: %w", sum, r.Source(), fs.ErrNotExist)
	}
	from := r
	if b.InBase {
		if r.base == nil {
			return nil, fmt.Errorf("sha256:%s is in the base %s of %s: give it with --base", sum, r.contents.Base, r.Source())
		}
		from = r.base
	}
	e, ok := from.entries[sum]
	if !ok {
		return nil, fmt.Errorf("sha256:%s is missing from %s: %w", sum, from.Source(), ErrIncomplete)
	}
	return io.NopCloser(io.NewSectionReader(from.file, e.Offset, e.Size)), nil
}

// Image implements artifact.Bundle.
func (r *Reader) Image(name string) (string, error) {
	if i, ok := r.contents.Find(KindImage, name); ok {
		return i.Digest, nil
	}
	return "", fmt.Errorf("container image %s in %s: %w", name, r.Source(), fs.ErrNotExist)
}

// maxFaults is how many missing or damaged contents are named.
const maxFaults = 100

// Verify reads every content and compares it with its digest. The error names
// each that is missing or damaged, with what it belongs to, and wraps
// ErrIncomplete. progress may be nil.
func (r *Reader) Verify(ctx context.Context, progress func(done, total int64)) error {
	if r.contents.Base != "" && r.base == nil {
		return fmt.Errorf("bundle %s: %w: it builds on %s, which is not given: give that bundle with --base", r.path, ErrIncomplete, r.contents.Base)
	}
	owner := map[string]string{}
	for _, i := range r.contents.Items {
		for _, b := range i.Blobs {
			if owner[b] == "" {
				owner[b] = i.Kind + " " + i.Name
			}
		}
	}
	total := r.contents.Bytes()
	var done int64
	var faults []string
	for _, b := range r.contents.Blobs {
		fault, err := r.check(ctx, b)
		if err != nil {
			return fmt.Errorf("verifying bundle %s: %w", r.path, err)
		}
		if fault != "" {
			faults = append(faults, fmt.Sprintf("%s (%s) %s", "sha256:"+b.SHA256, owner[b.SHA256], fault))
		}
		if done += b.Bytes; progress != nil {
			progress(done, total)
		}
	}
	if err := r.consistent(); err != nil && len(faults) == 0 {
		faults = append(faults, err.Error())
	}
	if len(faults) == 0 {
		return nil
	}
	more := ""
	if len(faults) > maxFaults {
		more = fmt.Sprintf("\n  and %d more", len(faults)-maxFaults)
		faults = faults[:maxFaults]
	}
	return fmt.Errorf("bundle %s: %w:\n  %s%s\nCopy it again, or build it again", r.path, ErrIncomplete, strings.Join(faults, "\n  "), more)
}

// check compares one content with its digest.
func (r *Reader) check(ctx context.Context, b Blob) (fault string, err error) {
	in, err := r.Blob(b.SHA256)
	switch {
	case errors.Is(err, ErrIncomplete):
		return "is missing", nil
	case err != nil:
		return "", err
	}
	h := sha256.New()
	n, err := io.Copy(h, reader{ctx, in})
	if err != nil {
		return "", err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != b.SHA256 || n != b.Bytes {
		return fmt.Sprintf("is damaged: %d bytes with SHA-256 %s; want %d bytes", n, got, b.Bytes), nil
	}
	return "", nil
}

// consistent compares what the contents say of operating system images with
// the images' own manifests, which is more than one digest.
func (r *Reader) consistent() error {
	for _, i := range r.contents.Of(KindOSImage) {
		m, err := r.osManifest(i)
		if err != nil {
			return err
		}
		for _, c := range m.Chunks {
			if !slices.Contains(i.Blobs, c.FrameSHA256.String()) {
				return fmt.Errorf("%s lacks chunk %s", i.Name, c.FrameSHA256)
			}
		}
	}
	return nil
}

func (r *Reader) osManifest(i Item) (*chunk.Manifest, error) {
	text, err := r.read1(i.Blobs[0], chunk.MaxManifestBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", i.Name, err)
	}
	m, err := chunk.ParseManifest(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", i.Name, err)
	}
	if m.Digest() != i.Digest {
		return nil, fmt.Errorf("%s is listed as %s and holds %s", i.Name, i.Digest, m.Digest())
	}
	return m, nil
}

// read1 reads one verified content that fits into memory.
func (r *Reader) read1(sum string, limit int64) ([]byte, error) {
	if b := r.blobs[sum]; b.Bytes > limit {
		return nil, fmt.Errorf("sha256:%s has %d bytes; want up to %d", sum, b.Bytes, limit)
	}
	in, err := r.Blob(sum)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, err
	}
	if got := sha256.Sum256(text); hex.EncodeToString(got[:]) != sum {
		return nil, fmt.Errorf("sha256:%s is damaged: %w", sum, ErrIncomplete)
	}
	return text, nil
}

// Document returns a small item's content, verified.
func (r *Reader) Document(i Item) ([]byte, error) { return r.read1(i.Blobs[0], maxContentsBytes) }

// OSImage gives an image's manifest, as bytes and parsed, and its frames.
func (r *Reader) OSImage(i Item) (manifest []byte, frames io.Reader, err error) {
	m, err := r.osManifest(i)
	if err != nil {
		return nil, nil, err
	}
	if manifest, err = r.read1(i.Blobs[0], chunk.MaxManifestBytes); err != nil {
		return nil, nil, err
	}
	return manifest, &frameReader{r: r, chunks: m.Chunks}, nil
}

// frameReader joins an image's chunks to its frames file.
type frameReader struct {
	r      *Reader
	chunks []chunk.Chunk
	now    io.Reader
}

// Read implements io.Reader.
func (f *frameReader) Read(p []byte) (int, error) {
	for {
		if f.now != nil {
			n, err := f.now.Read(p)
			if !errors.Is(err, io.EOF) {
				return n, err
			}
			if f.now = nil; n > 0 {
				return n, nil
			}
		}
		if len(f.chunks) == 0 {
			return 0, io.EOF
		}
		next, err := f.r.Blob(f.chunks[0].FrameSHA256.String())
		if err != nil {
			return 0, err
		}
		f.now, f.chunks = next, f.chunks[1:]
	}
}

package imagebuilder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
)

// Names of the files of a stored image, in CacheDir/images/HEX/, where HEX is the digest without "sha256:".
const (
	ManifestFile = "manifest.json"
	FramesFile   = "frames.zst"
	sourceFile   = "source.json"
)

// ErrNoImage says that the cache has no image of that digest.
var ErrNoImage = errors.New("image is not in the cache")

// Artifact is an image in the cache.
type Artifact struct {
	Digest       string // "sha256:…" of the raw content, see chunk.Manifest.Digest
	Manifest     *chunk.Manifest
	ManifestText string // "sha256:…" of the manifest file as it is, frame digests included
	Dir          string
	ManifestPath string
	FramesPath   string
	FramesBytes  int64  // length of the frames file
	Source       Source // where it came from
	Lock         *Lock  // packages of an image built by BuildOS; nil for an imported one
	Cached       bool   // nothing was built: the image was there
}

// Source is what is known of an image's origin. It is no part of the digest.
type Source struct {
	Kind         string `json:"kind"` // "debian" or "import"
	Release      string `json:"release,omitempty"`
	Kernel       string `json:"kernel,omitempty"`
	Location     string `json:"location,omitempty"`      // path or URL of an import, without credentials
	SourceDigest string `json:"source_digest,omitempty"` // "sha256:…" of the imported file as it was fetched
	Lock         *Lock  `json:"lock,omitempty"`
}

func digestDir(cacheDir, digest string) (string, error) {
	sum, ok := strings.CutPrefix(digest, "sha256:")
	if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != 32 || sum != strings.ToLower(sum) {
		return "", fmt.Errorf("image digest %.90q is not \"sha256:\" and 64 lower-case hexadecimal digits", digest)
	}
	return filepath.Join(cacheDir, "images", sum), nil
}

// Open returns a stored image after checking that its manifest bears the digest and its frames file has the right length.
// Verify checks every byte. The error wraps ErrNoImage when the image is not there.
func (b *Builder) Open(digest string) (Artifact, error) {
	dir, err := digestDir(b.cacheDir(), digest)
	if err != nil {
		return Artifact{}, err
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return Artifact{}, fmt.Errorf("opening image %s in %s: %w", digest, b.cacheDir(), ErrNoImage)
	}
	a, err := Inspect(dir)
	if err != nil {
		return Artifact{}, err
	}
	if a.Digest != digest {
		return Artifact{}, fmt.Errorf("opening image %s: its manifest describes %s: remove %s and build or import it again", digest, a.Digest, dir)
	}
	return a, nil
}

// Inspect reads the image in a directory (or the directory of the manifest or frames file that path names).
func Inspect(path string) (Artifact, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Artifact{}, fmt.Errorf("inspecting image: %w", err)
	}
	if !info.IsDir() {
		path = filepath.Dir(path)
	}
	a := Artifact{Dir: path, ManifestPath: filepath.Join(path, ManifestFile), FramesPath: filepath.Join(path, FramesFile)}
	f, err := os.Open(a.ManifestPath)
	if err != nil {
		return Artifact{}, fmt.Errorf("inspecting image: %w", err)
	}
	defer f.Close()
	text := sha256.New()
	if a.Manifest, err = chunk.ParseManifest(io.TeeReader(f, text)); err != nil {
		return Artifact{}, fmt.Errorf("inspecting image %s: %w", path, err)
	}
	a.Digest = a.Manifest.Digest()
	a.ManifestText = "sha256:" + hex.EncodeToString(text.Sum(nil))
	if info, err = os.Stat(a.FramesPath); err != nil {
		return Artifact{}, fmt.Errorf("inspecting image: %w", err)
	}
	if a.FramesBytes = info.Size(); a.FramesBytes != a.Manifest.FramesBytes() {
		return Artifact{}, fmt.Errorf("inspecting image %s: frames file has %d bytes; its manifest says %d: remove the directory and build or import the image again", path, a.FramesBytes, a.Manifest.FramesBytes())
	}
	if err := readJSON(filepath.Join(path, sourceFile), &a.Source); err != nil && !errors.Is(err, os.ErrNotExist) {
		return Artifact{}, fmt.Errorf("inspecting image: %w", err)
	}
	a.Lock = a.Source.Lock
	return a, nil
}

// Verify compares every byte of the stored frames with the manifest. The error wraps *chunk.CorruptChunkError
// where the disk has rotted.
func (a Artifact) Verify(ctx context.Context) error {
	f, err := os.Open(a.FramesPath)
	if err != nil {
		return fmt.Errorf("verifying image %s: %w", a.Digest, err)
	}
	defer f.Close()
	if err := chunk.VerifyFrames(ctx, a.Manifest, f); err != nil {
		return fmt.Errorf("verifying image %s in %s: %w", a.Digest, a.Dir, err)
	}
	return nil
}

// store compresses a raw disk into the cache. dir is the work directory of the build.
func (b *Builder) store(ctx context.Context, dir, rawPath string, o chunk.CreateOptions, source Source) (Artifact, error) {
	raw, err := os.Open(rawPath)
	if err != nil {
		return Artifact{}, fmt.Errorf("storing image: %w", err)
	}
	defer raw.Close()
	info, err := raw.Stat()
	if err != nil {
		return Artifact{}, fmt.Errorf("storing image: %w", err)
	}
	made := filepath.Join(dir, "image")
	if err := os.Mkdir(made, 0o755); err != nil {
		return Artifact{}, fmt.Errorf("storing image: %w", err)
	}
	frames, err := os.OpenFile(filepath.Join(made, FramesFile), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err != nil {
		return Artifact{}, fmt.Errorf("storing image: %w", err)
	}
	o.Progress = func(done, total int64) { b.progress("compress", done, total) }
	m, err := chunk.Create(ctx, raw, info.Size(), frames, o)
	if err == nil {
		err = frames.Sync()
	}
	if err = errors.Join(err, frames.Close()); err != nil {
		return Artifact{}, fmt.Errorf("storing image: %w", err)
	}
	var text strings.Builder
	if err := m.Encode(&text); err != nil {
		return Artifact{}, fmt.Errorf("storing image: %w", err)
	}
	if err := writeFile(filepath.Join(made, ManifestFile), []byte(text.String()), 0o644); err != nil {
		return Artifact{}, fmt.Errorf("storing image: %w", err)
	}
	if err := writeJSON(filepath.Join(made, sourceFile), source); err != nil {
		return Artifact{}, fmt.Errorf("storing image: %w", err)
	}
	return b.publish(ctx, made, m.Digest())
}

// Put keeps an image that was made elsewhere, such as one from a bundle, after comparing every frame and what it holds with
// the manifest: machines rely on the frames' digests alone. It reads nothing of frames when the image is there already.
func (b *Builder) Put(ctx context.Context, manifest []byte, frames io.Reader, source Source) (_ Artifact, err error) {
	m, err := chunk.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return Artifact{}, fmt.Errorf("storing image: %w", err)
	}
	if a, err := b.Open(m.Digest()); err == nil && a.Verify(ctx) == nil {
		return a, nil
	}
	key := keyOf("put", m.Digest())
	unlock, err := b.lock(ctx, key)
	if err != nil {
		return Artifact{}, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	dir, err := b.workDir(key)
	if err != nil {
		return Artifact{}, err
	}
	defer func() { err = errors.Join(err, removeTree(dir)) }()
	made := filepath.Join(dir, "image")
	if err := os.Mkdir(made, 0o755); err != nil {
		return Artifact{}, fmt.Errorf("storing image: %w", err)
	}
	if err := b.putFrames(ctx, m, filepath.Join(made, FramesFile), frames); err != nil {
		return Artifact{}, fmt.Errorf("storing image %s: %w", m.Digest(), err)
	}
	if err := writeFile(filepath.Join(made, ManifestFile), manifest, 0o644); err != nil {
		return Artifact{}, fmt.Errorf("storing image: %w", err)
	}
	if err := writeJSON(filepath.Join(made, sourceFile), source); err != nil {
		return Artifact{}, fmt.Errorf("storing image: %w", err)
	}
	return b.publish(ctx, made, m.Digest())
}

func (b *Builder) putFrames(ctx context.Context, m *chunk.Manifest, path string, frames io.Reader) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	n, err := io.Copy(f, io.LimitReader(contextReader{ctx, frames}, m.FramesBytes()+1))
	if err != nil {
		return err
	}
	if n != m.FramesBytes() {
		return fmt.Errorf("its frames have %d bytes; the manifest says %d", n, m.FramesBytes())
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return chunk.VerifyContent(ctx, m, f)
}

// publish moves a finished image to its place. An image of the same digest that is there already stays if it is
// whole: machines may be fetching it.
func (b *Builder) publish(ctx context.Context, made, digest string) (Artifact, error) {
	dir, err := digestDir(b.cacheDir(), digest)
	if err != nil {
		return Artifact{}, err
	}
	if a, err := b.Open(digest); err == nil && a.Verify(ctx) == nil {
		return a, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return Artifact{}, fmt.Errorf("storing image: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return Artifact{}, fmt.Errorf("replacing a damaged image: %w", err)
	}
	if err := os.Rename(made, dir); err != nil {
		return Artifact{}, fmt.Errorf("storing image: %w", err)
	}
	return b.Open(digest)
}

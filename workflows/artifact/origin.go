package artifact

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// origin opens the place that an image comes from.
func (s *Store) origin(ctx context.Context, image Image) (origin, error) {
	if image.Source == "" {
		return s.registry(ctx, image)
	}
	path, err := s.local(image.Source)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return &layoutOrigin{store: s, image: image, where: path, open: func(name string) (io.ReadCloser, int64, error) {
			f, err := os.Open(filepath.Join(path, filepath.FromSlash(name)))
			if err != nil {
				return nil, 0, err
			}
			info, err := f.Stat()
			if err != nil {
				return nil, 0, errors.Join(err, f.Close())
			}
			return f, info.Size(), nil
		}}, nil
	}
	return s.archived(image, path)
}

// remoteOrigin is an origin that speaks the OCI distribution protocol.
type remoteOrigin struct {
	store  *Store
	image  Image
	ref    name.Repository
	tag    string
	client *http.Client
}

func (s *Store) registry(ctx context.Context, image Image) (origin, error) {
	host, rest, _ := strings.Cut(image.Name, "/")
	colon := strings.LastIndex(rest, ":")
	if host == "docker.io" {
		host = name.DefaultRegistry
	}
	if s.config.RegistryMirror != "" {
		// A colon has no place in the path of a repository.
		mirrored, _, _ := strings.Cut(strings.SplitN(image.Name, "/", 2)[0], ":")
		host = strings.TrimSuffix(s.config.RegistryMirror, "/") + "/" + mirrored
	}
	repository, err := name.NewRepository(host + "/" + rest[:colon])
	if err != nil {
		return nil, err
	}
	r := &remoteOrigin{store: s, image: image, ref: repository, tag: rest[colon+1:]}
	auth := authn.Anonymous
	if s.config.Keychain != nil {
		if auth, err = s.config.Keychain.Resolve(repository); err != nil {
			return nil, fmt.Errorf("finding credentials for %s: %w", repository.RegistryStr(), err)
		}
	}
	base := http.DefaultTransport
	if s.config.HTTP != nil && s.config.HTTP.Transport != nil {
		base = s.config.HTTP.Transport
	}
	authorized, err := transport.NewWithContext(ctx, repository.Registry, auth, base, []string{repository.Scope(transport.PullScope)})
	if err != nil {
		return nil, fmt.Errorf("asking registry %s: %w", repository.RegistryStr(), err)
	}
	r.client = &http.Client{Transport: authorized}
	return r, nil
}

func (r *remoteOrigin) resolve(ctx context.Context) (string, error) {
	d, err := remote.Head(r.ref.Tag(r.tag), remote.WithContext(ctx), remote.WithTransport(r.client.Transport))
	if err != nil {
		return "", fmt.Errorf("asking registry %s: %w", r.ref.RegistryStr(), err)
	}
	return d.Digest.String(), nil
}

// fetch brings manifests whole, and everything else in pieces that survive a
// cut.
func (r *remoteOrigin) fetch(ctx context.Context, d v1.Descriptor, path string) error {
	if d.Size < 0 || d.MediaType.IsIndex() || d.MediaType.IsImage() {
		m, err := remote.Get(r.ref.Digest(d.Digest.String()), remote.WithContext(ctx), remote.WithTransport(r.client.Transport))
		if err != nil {
			return fmt.Errorf("asking registry %s: %w", r.ref.RegistryStr(), err)
		}
		return r.store.keepBytes(ctx, m.Manifest, d, "registry "+r.ref.RegistryStr(), path)
	}
	address := fmt.Sprintf("%s://%s/v2/%s/blobs/%s", r.ref.Scheme(), r.ref.RegistryStr(), r.ref.RepositoryStr(), d.Digest)
	return r.store.download(ctx, r.client, address, d.Digest.Hex, r.image.Name, path)
}

func (r *remoteOrigin) close() error { return nil }

// layoutOrigin is an origin that is an OCI image layout: a directory, or a tar file
// of one.
type layoutOrigin struct {
	store *Store
	image Image
	where string
	open  func(name string) (io.ReadCloser, int64, error)
	done  func() error
}

func (l *layoutOrigin) close() error {
	if l.done == nil {
		return nil
	}
	return l.done()
}

// resolve finds the image in the layout's index: the one of its name, or the
// only one.
func (l *layoutOrigin) resolve(context.Context) (string, error) {
	text, err := l.read("index.json")
	if err != nil {
		return "", err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(text, &index); err != nil {
		return "", fmt.Errorf("reading index.json of %s: %w", l.where, err)
	}
	for _, m := range index.Manifests {
		if m.Annotations[AnnotationContainerdName] == l.image.Name || m.Annotations[AnnotationRefName] == l.image.Name {
			return m.Digest.String(), nil
		}
	}
	if len(index.Manifests) != 1 {
		return "", fmt.Errorf("%s holds %d images and none is named %s: give the digest of the one that is meant", l.where, len(index.Manifests), l.image.Name)
	}
	return index.Manifests[0].Digest.String(), nil
}

func (l *layoutOrigin) read(name string) ([]byte, error) {
	f, _, err := l.open(name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", l.where, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxManifestBytes+1))
	if err == nil && len(text) > maxManifestBytes {
		err = fmt.Errorf("%s of %s has more than %d bytes", name, l.where, maxManifestBytes)
	}
	return text, errors.Join(err, f.Close())
}

func (l *layoutOrigin) fetch(ctx context.Context, d v1.Descriptor, path string) error {
	f, size, err := l.open("blobs/sha256/" + d.Digest.Hex)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s lacks %s: it is not whole, or the digest is of another image", l.where, d.Digest)
	}
	if err != nil {
		return err
	}
	return errors.Join(l.store.keep(ctx, f, size, d.Digest.Hex, l.where, path), f.Close())
}

// archived opens a tar file: an OCI image layout, or what `docker save` writes.
func (s *Store) archived(image Image, path string) (origin, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	entries, err := ScanTar(f, info.Size(), nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	byName := make(map[string]Entry, len(entries))
	for _, e := range entries {
		byName[strings.TrimPrefix(e.Name, "./")] = e
	}
	if _, ok := byName["oci-layout"]; ok {
		return &layoutOrigin{store: s, image: image, where: path, done: f.Close, open: func(name string) (io.ReadCloser, int64, error) {
			e, ok := byName[name]
			if !ok {
				return nil, 0, fmt.Errorf("%s in %s: %w", name, path, fs.ErrNotExist)
			}
			return io.NopCloser(io.NewSectionReader(f, e.Offset, e.Size)), e.Size, nil
		}}, nil
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	if _, ok := byName["manifest.json"]; !ok {
		return nil, fmt.Errorf("%s is neither an OCI image layout nor an archive of `docker save`: it has neither oci-layout nor manifest.json", path)
	}
	return newSaved(s, image, path)
}

// savedOrigin is an origin that `docker save` wrote: layers are not compressed there,
// so their digests, and the image's, come from compressing them here.
type savedOrigin struct {
	store *Store
	where string
	image v1.Image
}

func newSaved(s *Store, image Image, path string) (origin, error) {
	tag, err := name.NewTag(image.Name)
	if err != nil {
		return nil, err
	}
	img, err := tarball.ImageFromPath(path, &tag)
	if err != nil {
		// An archive of one image may bear another name.
		if img, err = tarball.ImageFromPath(path, nil); err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
	}
	return &savedOrigin{store: s, where: path, image: img}, nil
}

func (d *savedOrigin) resolve(context.Context) (string, error) {
	h, err := d.image.Digest()
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", d.where, err)
	}
	return h.String(), nil
}

func (d *savedOrigin) fetch(ctx context.Context, want v1.Descriptor, path string) error {
	manifest, err := d.image.RawManifest()
	if err != nil {
		return fmt.Errorf("reading %s: %w", d.where, err)
	}
	if digestBytes(manifest) == want.Digest {
		return d.store.keepBytes(ctx, manifest, want, d.where, path)
	}
	if want.Size < 0 {
		return fmt.Errorf("%s holds image %s; want %s: it is another image, or was compressed by another program; give the digest that it has here", d.where, digestBytes(manifest), want.Digest)
	}
	if want.MediaType == types.DockerConfigJSON || want.MediaType == types.OCIConfigJSON {
		config, err := d.image.RawConfigFile()
		if err != nil {
			return fmt.Errorf("reading %s: %w", d.where, err)
		}
		return d.store.keepBytes(ctx, config, want, d.where, path)
	}
	layer, err := d.image.LayerByDigest(want.Digest)
	if err != nil {
		return fmt.Errorf("reading %s: %w", d.where, err)
	}
	r, err := layer.Compressed()
	if err != nil {
		return fmt.Errorf("reading %s: %w", d.where, err)
	}
	return errors.Join(d.store.keep(ctx, r, want.Size, want.Digest.Hex, d.where, path), r.Close())
}

func (d *savedOrigin) close() error { return nil }

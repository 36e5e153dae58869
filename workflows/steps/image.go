package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/edge-provision/edge-provision/imagebuilder"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/pxe"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Images makes the images that a site declares and publishes them to machines.
// Which digest a declaration became is remembered in the catalog, so that a
// plan can tell without building.
type Images struct {
	Builder *imagebuilder.Builder
	// Dir is where relative sources of imported images are: Site.Dir.
	Dir     string
	Catalog *store.Store
	// Service publishes; nil while nothing is served.
	Service *Service
	// Refresh builds from the newest packages that the archive has, instead of
	// those of the last build.
	Refresh bool

	mu       sync.Mutex
	building map[string]*sync.Mutex // by spec: equal images of one site are built once
}

// ImageSpec is the digest of an image's declaration: two declarations with one
// digest ask for the same image.
func ImageSpec(i *site.Image) string {
	if i.Imported() {
		return workflows.DigestOf([]any{"import", i.Source, i.Digest, i.Format, i.Firmware, i.Architecture})
	}
	return workflows.DigestOf([]any{"os", osSpec(i)})
}

// osSpec is a declared image as the builder wants it.
func osSpec(i *site.Image) imagebuilder.OSSpec {
	return imagebuilder.OSSpec{
		Distribution: i.Distribution, Release: i.Release, Architecture: i.Architecture,
		Packages: i.Packages, Kernel: string(i.Kernel), KernelArgs: i.KernelArgs,
		SizeBytes: i.SizeBytes, APTSources: i.APTSources,
	}
}

// importSpec is a declared import as the builder wants it.
func (im *Images) importSpec(i *site.Image) imagebuilder.ImportSpec {
	source := i.Source
	if !strings.Contains(source, "://") && !filepath.IsAbs(source) {
		source = filepath.Join(im.Dir, source)
	}
	return imagebuilder.ImportSpec{
		Source: source, Digest: i.Digest, Format: string(i.Format), Firmware: i.Firmware, Architecture: i.Architecture,
	}
}

func imageKey(spec string) string { return "image/" + spec }

// Digest returns the digest of a declared image that is in the cache, or "" for
// one that has to be built first.
func (im *Images) Digest(ctx context.Context, i *site.Image) (string, error) {
	digest, err := im.Catalog.Settings().Get(ctx, imageKey(ImageSpec(i)))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", i.Address, err)
	}
	if _, err := im.Builder.Open(string(digest)); err != nil {
		return "", nil // the cache was cleaned, or damaged: it is built again
	}
	return string(digest), nil
}

// Fits tells the logical sector that an image is made for and the smallest disk
// that it fits; zero while that is not known. What is built from packages is
// always made for the same sector.
func (im *Images) Fits(i *site.Image, digest string) (sectorBytes int, minDiskBytes int64) {
	if digest != "" {
		if a, err := im.Builder.Open(digest); err == nil {
			return a.Manifest.SectorBytes, a.Manifest.MinDiskBytes
		}
	}
	if !i.Imported() {
		return imagebuilder.OSSectorBytes, 0
	}
	return 0, 0
}

// Build returns the image of a declaration, from the cache or made now.
func (im *Images) Build(ctx context.Context, i *site.Image) (imagebuilder.Artifact, error) {
	spec := ImageSpec(i)
	unlock := im.one(spec)
	defer unlock()
	var (
		a   imagebuilder.Artifact
		err error
	)
	refresh := im.Refresh && !i.Imported()
	if digest, known := im.Digest(ctx, i); known == nil && digest != "" && !refresh {
		return im.Builder.Open(digest)
	}
	if i.Imported() {
		a, err = im.Builder.Import(ctx, im.importSpec(i))
	} else {
		wanted := osSpec(i)
		wanted.Refresh = refresh
		a, err = im.Builder.BuildOS(ctx, wanted)
	}
	if err != nil {
		return a, fmt.Errorf("%s (%s): %w", i.Address, i.DeclRange, err)
	}
	return a, im.Catalog.Settings().Put(ctx, imageKey(spec), []byte(a.Digest))
}

// Adopt remembers which image of the cache a declaration means, so that it is
// not built: one that a bundle brought.
func (im *Images) Adopt(ctx context.Context, spec, digest string) error {
	if _, err := im.Builder.Open(digest); err != nil {
		return err
	}
	return im.Catalog.Settings().Put(ctx, imageKey(spec), []byte(digest))
}

// one admits one builder of a spec at a time.
func (im *Images) one(spec string) (unlock func()) {
	im.mu.Lock()
	if im.building == nil {
		im.building = map[string]*sync.Mutex{}
	}
	lock, ok := im.building[spec]
	if !ok {
		lock = &sync.Mutex{}
		im.building[spec] = lock
	}
	im.mu.Unlock()
	lock.Lock()
	return lock.Unlock
}

// Publish implements ImageSource.
func (im *Images) Publish(ctx context.Context, i *site.Image, network *site.Network) (Published, error) {
	a, err := im.Build(ctx, i)
	if err != nil {
		return Published{}, err
	}
	name := strings.ReplaceAll(a.Digest, ":", "-")
	manifest, err := os.Stat(a.ManifestPath)
	if err != nil {
		return Published{}, fmt.Errorf("%s: %w", i.Address, err)
	}
	urls, err := im.Service.Publish(network,
		pxe.Asset{Name: name + ".json", Kind: pxe.AssetImage, Path: a.ManifestPath, Size: manifest.Size()},
		pxe.Asset{Name: name + ".zst", Kind: pxe.AssetImage, Path: a.FramesPath, Size: a.FramesBytes},
	)
	if err != nil {
		return Published{}, err
	}
	return Published{Digest: a.Digest, ManifestURL: urls[0], ManifestText: a.ManifestText, FramesURL: urls[1]}, nil
}

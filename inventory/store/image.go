package store

import (
	"context"
	"time"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/image"
)

// Image is a bootable disk in the controller's image store.
type Image struct {
	// Digest is "sha256:" and hex over the image's canonical manifest.
	Digest       string
	Name         string // as site.hcl calls it
	Architecture string // GOARCH form
	// SpecDigest is over what the image was built from.
	SpecDigest  string
	Path        string
	RawBytes    int64
	StoredBytes int64
	CreatedAt   time.Time
}

// PutImage records an image, replacing what was recorded under its digest.
func (s *Store) PutImage(ctx context.Context, i Image) error {
	if i.CreatedAt.IsZero() {
		i.CreatedAt = s.now()
	}
	return s.write(ctx, "recording image "+i.Digest, func(tx *ent.Tx) error {
		return tx.Image.Create().SetID(i.Digest).SetName(i.Name).SetArchitecture(i.Architecture).SetSpecDigest(i.SpecDigest).
			SetPath(i.Path).SetRawBytes(i.RawBytes).SetStoredBytes(i.StoredBytes).SetCreatedAt(stamp(i.CreatedAt)).
			OnConflictColumns(image.FieldID).UpdateNewValues().Exec(ctx)
	})
}

// Image returns the image with a digest, or ErrNotFound.
func (s *Store) Image(ctx context.Context, digest string) (Image, error) {
	r, err := s.main.client.Image.Get(ctx, digest)
	if err != nil {
		return Image{}, s.explain("reading image "+digest, err)
	}
	return imageOf(r), nil
}

// Images returns all images, the newest first.
func (s *Store) Images(ctx context.Context) ([]Image, error) {
	rows, err := s.main.client.Image.Query().Order(ent.Desc(image.FieldCreatedAt, image.FieldID)).All(ctx)
	if err != nil {
		return nil, s.explain("listing images", err)
	}
	out := make([]Image, len(rows))
	for i, r := range rows {
		out[i] = imageOf(r)
	}
	return out, nil
}

func imageOf(r *ent.Image) Image {
	return Image{
		Digest: r.ID, Name: r.Name, Architecture: r.Architecture, SpecDigest: r.SpecDigest, Path: r.Path,
		RawBytes: r.RawBytes, StoredBytes: r.StoredBytes, CreatedAt: r.CreatedAt.UTC(),
	}
}

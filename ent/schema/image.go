package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// Image is a bootable disk in the local image store.
type Image struct{ ent.Schema }

// Fields of an image.
func (Image) Fields() []ent.Field {
	return []ent.Field{
		field.String("id").Immutable().Comment(`"sha256:" and hex over the canonical manifest`),
		field.String("name"),
		field.String("architecture").Optional().Comment("GOARCH form"),
		field.String("spec_digest").Optional().Comment("digest of the specification it was built from"),
		field.String("path").Optional().Comment("directory of the image on the controller"),
		field.Int64("raw_bytes"),
		field.Int64("stored_bytes"),
		field.Time("created_at"),
	}
}

// Indexes of an image.
func (Image) Indexes() []ent.Index {
	return []ent.Index{index.Fields("name"), index.Fields("spec_digest")}
}

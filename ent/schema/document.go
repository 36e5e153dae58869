package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/edge"
	"entgo.io/ent/schema/field"
)

// Document is the content of a facts report, named by its digest.
type Document struct{ ent.Schema }

// Fields of a document.
func (Document) Fields() []ent.Field {
	return []ent.Field{
		field.String("id").Immutable().Comment(`"sha256:" and hex over content`),
		field.Bytes("content").Immutable().Comment("canonical JSON of inventory.Facts"),
	}
}

// Edges of a document.
func (Document) Edges() []ent.Edge {
	return []ent.Edge{edge.To("observations", Observation.Type)}
}

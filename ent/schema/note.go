package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/edge"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
	"github.com/google/uuid"
)

// Note is a fact about the progress of one address within a run that a restart
// must know, such as the start of an image write on a certain disk.
type Note struct{ ent.Schema }

// Fields of a note.
func (Note) Fields() []ent.Field {
	return []ent.Field{
		field.UUID("run_id", uuid.UUID{}).Immutable(),
		field.String("address").Immutable(),
		field.String("key").Immutable(),
		field.String("value"),
		field.Time("time"),
	}
}

// Edges of a note.
func (Note) Edges() []ent.Edge {
	return []ent.Edge{
		edge.From("run", Run.Type).Ref("notes").Field("run_id").Unique().Required().Immutable(),
	}
}

// Indexes of a note.
func (Note) Indexes() []ent.Index {
	return []ent.Index{
		index.Fields("run_id", "address", "key").Unique(),
		index.Fields("address", "key"),
	}
}

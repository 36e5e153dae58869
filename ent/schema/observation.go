package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/edge"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// Observation says that a source saw exactly one document of a machine from
// first_seen to last_seen. A different report starts a new observation; an
// equal one moves last_seen.
type Observation struct{ ent.Schema }

// Mixin of an observation.
func (Observation) Mixin() []ent.Mixin { return []ent.Mixin{ofMachine{ref: "observations"}} }

// Fields of an observation.
func (Observation) Fields() []ent.Field {
	return []ent.Field{
		field.String("source").Immutable(),
		field.String("digest").Immutable(),
		field.Time("first_seen"),
		field.Time("last_seen"),
	}
}

// Edges of an observation.
func (Observation) Edges() []ent.Edge {
	return []ent.Edge{
		edge.From("document", Document.Type).Ref("observations").Field("digest").Unique().Required().Immutable(),
	}
}

// Indexes of an observation.
func (Observation) Indexes() []ent.Index {
	return []ent.Index{
		index.Fields("machine_id", "source", "first_seen"),
		index.Fields("digest"),
	}
}

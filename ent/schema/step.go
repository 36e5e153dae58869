package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/edge"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
	"github.com/google/uuid"
)

// Step is one attempt at one address within a run: the journal's line, written
// before the work and completed after it.
type Step struct{ ent.Schema }

// Fields of a step.
func (Step) Fields() []ent.Field {
	return []ent.Field{
		field.UUID("run_id", uuid.UUID{}).Immutable(),
		field.String("address").Immutable(),
		field.Int("attempt").Immutable(),
		field.String("state"),
		field.String("inputs_digest").Immutable(),
		field.Bytes("outputs").Optional().Comment("sealed by the caller"),
		field.String("error").Optional(),
		field.Time("started_at").Immutable(),
		field.Time("finished_at").Optional().Nillable(),
	}
}

// Edges of a step.
func (Step) Edges() []ent.Edge {
	return []ent.Edge{
		edge.From("run", Run.Type).Ref("steps").Field("run_id").Unique().Required().Immutable(),
	}
}

// Indexes of a step.
func (Step) Indexes() []ent.Index {
	return []ent.Index{index.Fields("run_id", "address", "attempt").Unique()}
}

package schema

import (
	"encoding/json"

	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema/edge"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
	"github.com/google/uuid"
)

// Run is one execution of a plan.
type Run struct{ ent.Schema }

// Fields of a run.
func (Run) Fields() []ent.Field {
	return []ent.Field{
		field.UUID("id", uuid.UUID{}).Immutable().Comment("UUIDv7"),
		field.String("site").Immutable(),
		field.String("plan_digest").Immutable(),
		field.JSON("actions", json.RawMessage{}).Optional().Immutable(),
		field.String("state"),
		field.String("error").Optional(),
		field.Time("started_at").Immutable(),
		field.Time("finished_at").Optional().Nillable(),
		field.Time("cancel_requested_at").Optional().Nillable(),
	}
}

// Edges of a run.
func (Run) Edges() []ent.Edge {
	return []ent.Edge{
		edge.To("steps", Step.Type).Annotations(entsql.OnDelete(entsql.Cascade)),
		edge.To("notes", Note.Type).Annotations(entsql.OnDelete(entsql.Cascade)),
	}
}

// Indexes of a run.
func (Run) Indexes() []ent.Index {
	return []ent.Index{index.Fields("site", "state"), index.Fields("started_at")}
}

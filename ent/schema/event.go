package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
	"github.com/google/uuid"
)

// Event is one thing that happened to a machine. Events are only appended, and
// removed only by retention; they outlive the machine they speak of.
type Event struct{ ent.Schema }

// Fields of an event.
func (Event) Fields() []ent.Field {
	return []ent.Field{
		field.Int64("id"),
		field.Time("time").Immutable(),
		field.String("site").Optional().Immutable(),
		field.String("mac").Optional().Nillable().Immutable(),
		field.UUID("machine_id", uuid.UUID{}).Optional().Nillable().Immutable(),
		field.String("kind").Immutable(),
		field.String("run").Optional().Nillable().Immutable(),
		field.String("step").Optional().Immutable(),
		field.String("boot").Optional().Immutable(),
		field.String("message").Optional().Immutable(),
		field.JSON("attrs", map[string]string{}).Optional().Immutable(),
	}
}

// Indexes of an event.
func (Event) Indexes() []ent.Index {
	return []ent.Index{
		index.Fields("machine_id", "time"),
		index.Fields("mac", "time"),
		index.Fields("run"),
		index.Fields("time"),
	}
}

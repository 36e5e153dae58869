package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
	"github.com/google/uuid"
)

// Operation is work that somebody asked the API for and that outlives the
// request. The same key of the same actor never starts a second one.
type Operation struct{ ent.Schema }

// Fields of an operation.
func (Operation) Fields() []ent.Field {
	return []ent.Field{
		field.UUID("id", uuid.UUID{}).Immutable().Comment("UUIDv7"),
		field.String("actor").Immutable(),
		field.String("idempotency_key").Immutable(),
		field.String("request_digest").Immutable().Comment("of the route and the body"),
		field.String("kind").Immutable(),
		field.UUID("machine_id", uuid.UUID{}).Optional().Nillable().Immutable(),
		field.String("site").Optional().Immutable(),
		field.String("state"),
		field.String("result").Optional(),
		field.String("error").Optional(),
		field.Time("created_at").Immutable(),
		field.Time("finished_at").Optional().Nillable(),
	}
}

// Indexes of an operation.
func (Operation) Indexes() []ent.Index {
	return []ent.Index{
		index.Fields("actor", "idempotency_key").Unique(),
		index.Fields("machine_id"),
		index.Fields("state"),
		index.Fields("created_at"),
	}
}

package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
	"github.com/google/uuid"
)

// Session is an agent's session, got for a token. Only the hash of its secret
// is kept.
type Session struct{ ent.Schema }

// Fields of a session.
func (Session) Fields() []ent.Field {
	return []ent.Field{
		field.String("id").Immutable().Comment("hash of the session's secret"),
		field.UUID("machine_id", uuid.UUID{}).Optional().Nillable(),
		field.String("mac").Immutable(),
		field.String("boot").Immutable(),
		field.String("address").Comment("address the session is used from"),
		field.Time("created_at").Immutable(),
		field.Time("last_seen"),
		field.Time("expires"),
	}
}

// Indexes of a session.
func (Session) Indexes() []ent.Index {
	return []ent.Index{index.Fields("machine_id"), index.Fields("expires")}
}

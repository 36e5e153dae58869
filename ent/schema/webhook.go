package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
	"github.com/google/uuid"
)

// Webhook is somebody who is told of events. The events after its cursor are its
// outbox: they are delivered in order, and the cursor moves when a delivery was
// acknowledged.
type Webhook struct{ ent.Schema }

// Fields of a webhook.
func (Webhook) Fields() []ent.Field {
	return []ent.Field{
		field.UUID("id", uuid.UUID{}).Immutable().Comment("UUIDv7"),
		field.String("url").Immutable(),
		field.Bytes("secret").Immutable().Comment("signs deliveries; sealed by the caller"),
		field.JSON("kinds", []string{}).Optional().Immutable().Comment("of events; empty: all"),
		field.String("created_by").Optional().Immutable(),
		field.Time("created_at").Immutable(),
		field.Int64("cursor").Comment("id of the last event that was delivered or passed over"),
		field.Int("attempts").Default(0).Comment("failed ones since the last delivery"),
		field.Time("next_try_at").Optional().Nillable(),
		field.String("last_error").Optional(),
	}
}

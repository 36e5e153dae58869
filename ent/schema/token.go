package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
	"github.com/google/uuid"
)

// Token admits one boot of one machine once. Only its hash is kept.
type Token struct{ ent.Schema }

// Fields of a token.
func (Token) Fields() []ent.Field {
	return []ent.Field{
		field.String("id").Immutable().Comment("hash of the token"),
		field.UUID("machine_id", uuid.UUID{}).Optional().Nillable().Immutable(),
		field.String("mac").Immutable(),
		field.String("boot").Immutable(),
		field.String("address").Immutable().Comment("address leased to the MAC"),
		field.Time("created_at").Immutable(),
		field.Time("expires"),
		field.Time("used_at").Optional().Nillable(),
	}
}

// Indexes of a token.
func (Token) Indexes() []ent.Index {
	return []ent.Index{index.Fields("expires"), index.Fields("mac")}
}

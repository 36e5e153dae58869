package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
)

// Refusal remembers a credential that a BMC refused, so that it is not tried
// again until it changes. Only a keyed digest of it is kept.
type Refusal struct{ ent.Schema }

// Fields of a refusal.
func (Refusal) Fields() []ent.Field {
	return []ent.Field{
		field.String("id").Immutable().Comment("keyed digest of address, user and password"),
		field.String("target").Comment("the BMC's address, for a person"),
		field.Time("time"),
	}
}

package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// Membership says that a machine is in a class of its site.
type Membership struct{ ent.Schema }

// Mixin of a membership.
func (Membership) Mixin() []ent.Mixin { return []ent.Mixin{ofMachine{ref: "memberships"}} }

// Fields of a membership.
func (Membership) Fields() []ent.Field {
	return []ent.Field{
		field.String("class").Immutable().Comment("its name in site.hcl"),
		field.Time("entered_at").Immutable(),
	}
}

// Indexes of a membership.
func (Membership) Indexes() []ent.Index {
	return []ent.Index{
		index.Fields("machine_id", "class").Unique(),
		index.Fields("class", "machine_id"),
	}
}

package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// Tag is what a person wrote on a machine: an asset number, a location.
type Tag struct{ ent.Schema }

// Mixin of a tag.
func (Tag) Mixin() []ent.Mixin { return []ent.Mixin{ofMachine{ref: "tags"}} }

// Fields of a tag.
func (Tag) Fields() []ent.Field {
	return []ent.Field{
		field.String("key").Immutable(),
		field.String("value"),
		field.Time("set_at"),
	}
}

// Indexes of a tag.
func (Tag) Indexes() []ent.Index {
	return []ent.Index{
		index.Fields("machine_id", "key").Unique(),
		index.Fields("key", "value", "machine_id"),
	}
}

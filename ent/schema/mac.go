package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema"
	"entgo.io/ent/schema/field"
)

// MAC is one Ethernet address a machine was ever seen with.
type MAC struct{ ent.Schema }

// Annotations of a MAC.
func (MAC) Annotations() []schema.Annotation {
	return []schema.Annotation{entsql.Annotation{Table: "macs"}}
}

// Mixin of a MAC.
func (MAC) Mixin() []ent.Mixin { return []ent.Mixin{ofMachine{ref: "macs"}} }

// Fields of a MAC.
func (MAC) Fields() []ent.Field {
	return []ent.Field{
		field.String("mac").Unique().Immutable().Comment("lower case, colons"),
	}
}

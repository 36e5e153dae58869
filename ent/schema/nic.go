package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// NIC is the projection of one Ethernet port of a machine.
type NIC struct{ ent.Schema }

// Annotations of a NIC.
func (NIC) Annotations() []schema.Annotation {
	return []schema.Annotation{entsql.Annotation{Table: "nics"}}
}

// Mixin of a NIC.
func (NIC) Mixin() []ent.Mixin { return []ent.Mixin{ofMachine{ref: "nics"}} }

// Fields of a NIC.
func (NIC) Fields() []ent.Field {
	return []ent.Field{
		field.String("name").Optional().Nillable(),
		field.String("mac").Optional().Nillable(),
		field.String("driver").Optional().Nillable(),
		field.String("pci").Optional().Nillable(),
		field.String("vendor").Optional().Nillable(),
		field.String("device").Optional().Nillable(),
		field.Int("speed_mbps").Optional().Nillable().Comment("megabits per second"),
		field.Bool("boot").Optional().Nillable(),
	}
}

// Indexes of a NIC.
func (NIC) Indexes() []ent.Index {
	return []ent.Index{index.Fields("mac"), index.Fields("driver", "machine_id")}
}

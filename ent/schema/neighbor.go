package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// Neighbor is the projection of what one Ethernet port of a machine is connected
// to.
type Neighbor struct{ ent.Schema }

// Mixin of a neighbor.
func (Neighbor) Mixin() []ent.Mixin { return []ent.Mixin{ofMachine{ref: "neighbors"}} }

// Fields of a neighbor.
func (Neighbor) Fields() []ent.Field {
	return []ent.Field{
		field.String("mac").Optional().Nillable().Comment("of the machine's own port"),
		field.String("chassis").Optional().Nillable(),
		field.String("port").Optional().Nillable(),
		field.String("port_description").Optional().Nillable(),
		field.String("system").Optional().Nillable(),
		field.String("address").Optional().Nillable(),
		field.Int("vlan").Optional().Nillable(),
	}
}

// Indexes of a neighbor.
func (Neighbor) Indexes() []ent.Index {
	return []ent.Index{index.Fields("mac"), index.Fields("chassis"), index.Fields("system", "machine_id")}
}

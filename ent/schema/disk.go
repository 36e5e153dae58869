package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// Disk is the projection of one disk of a machine.
type Disk struct{ ent.Schema }

// Mixin of a disk.
func (Disk) Mixin() []ent.Mixin { return []ent.Mixin{ofMachine{ref: "disks"}} }

// Fields of a disk.
func (Disk) Fields() []ent.Field {
	return []ent.Field{
		field.String("name"),
		field.String("stable_id").StorageKey("by_id").Optional().Nillable().
			Comment("name under /dev/disk/by-id; ent itself has a ByID"),
		field.String("wwn").Optional().Nillable(),
		field.String("serial").Optional().Nillable(),
		field.String("vendor").Optional().Nillable(),
		field.String("model").Optional().Nillable(),
		field.String("firmware_rev").Optional().Nillable(),
		field.Int64("bytes").Optional().Nillable(),
		field.Int("logical_block_bytes").Optional().Nillable(),
		field.Int("physical_block_bytes").Optional().Nillable(),
		field.Bool("rotational").Optional().Nillable(),
		field.String("bus").Optional().Nillable(),
		field.String("path").Optional().Nillable(),
	}
}

// Indexes of a disk.
func (Disk) Indexes() []ent.Index {
	return []ent.Index{
		index.Fields("bytes", "machine_id"),
		index.Fields("serial"),
		index.Fields("wwn"),
		index.Fields("model", "machine_id"),
	}
}

package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// MemoryModule is the projection of one memory module of a machine.
type MemoryModule struct{ ent.Schema }

// Mixin of a memory module.
func (MemoryModule) Mixin() []ent.Mixin { return []ent.Mixin{ofMachine{ref: "memory_modules"}} }

// Fields of a memory module.
func (MemoryModule) Fields() []ent.Field {
	return []ent.Field{
		field.String("locator").Optional().Nillable(),
		field.Int64("bytes").Optional().Nillable(),
		field.String("type").Optional().Nillable(),
		field.Int("speed_mts").Optional().Nillable().Comment("megatransfers per second"),
		field.String("manufacturer").Optional().Nillable(),
		field.String("part").Optional().Nillable(),
		field.String("serial").Optional().Nillable(),
		field.Bool("ecc").Optional().Nillable(),
	}
}

// Indexes of a memory module.
func (MemoryModule) Indexes() []ent.Index {
	return []ent.Index{index.Fields("serial"), index.Fields("part")}
}

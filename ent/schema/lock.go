package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// Lock is the right to work on one address. The row outlives its release, so
// that the fencing token only ever grows.
type Lock struct{ ent.Schema }

// Fields of a lock.
func (Lock) Fields() []ent.Field {
	return []ent.Field{
		field.String("site").Immutable(),
		field.String("address").Immutable(),
		field.Bool("held"),
		field.Int64("fence"),
		field.String("host").Optional(),
		field.String("boot_id").Optional().Comment("of the host's kernel"),
		field.Int("pid").Optional(),
		field.Int64("pid_start").Optional().Comment("clock ticks since boot, proc(5) stat field 22"),
		field.String("owner").Optional().Comment("run or command, for a person"),
		field.Time("acquired_at"),
		field.Time("heartbeat"),
	}
}

// Indexes of a lock.
func (Lock) Indexes() []ent.Index {
	return []ent.Index{index.Fields("site", "address").Unique()}
}

package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// Reaction is work that starts because a machine is in a class: once for each
// machine, class and definition of the class. It is written before the work
// starts.
type Reaction struct{ ent.Schema }

// Mixin of a reaction.
func (Reaction) Mixin() []ent.Mixin { return []ent.Mixin{ofMachine{ref: "reactions"}} }

// Fields of a reaction.
func (Reaction) Fields() []ent.Field {
	return []ent.Field{
		field.Int64("id"),
		field.String("site").Immutable(),
		field.String("class").Immutable(),
		field.String("digest").Comment("of the class's rule and of what it starts"),
		field.String("state"),
		field.String("address").Optional().Comment("that the machine was bound to when it started"),
		field.String("reason").Optional().Comment("why it waits, or how it ended"),
		field.Int("attempts").Default(0),
		field.Time("queued_at").Immutable(),
		field.Time("started_at").Optional().Nillable(),
		field.Time("finished_at").Optional().Nillable(),
	}
}

// Indexes of a reaction.
func (Reaction) Indexes() []ent.Index {
	return []ent.Index{
		index.Fields("machine_id", "class", "digest").Unique(),
		index.Fields("site", "id"),
	}
}

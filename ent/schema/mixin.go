// Package schema is the catalog's data model, one file per entity.
package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/edge"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
	"entgo.io/ent/schema/mixin"
	"github.com/google/uuid"
)

// ofMachine makes an entity a child of a machine: it carries machine_id and
// vanishes with the machine.
type ofMachine struct {
	mixin.Schema
	// ref is the name of the machine's edge to the entity.
	ref string
	// one is set when a machine has at most one of the entity.
	one bool
}

// Fields of every child of a machine.
func (m ofMachine) Fields() []ent.Field {
	return []ent.Field{
		field.UUID("machine_id", uuid.UUID{}).Immutable(),
	}
}

// Edges of every child of a machine.
func (m ofMachine) Edges() []ent.Edge {
	return []ent.Edge{
		edge.From("machine", Machine.Type).Ref(m.ref).Field("machine_id").Unique().Required().Immutable(),
	}
}

// Indexes of every child of a machine.
func (m ofMachine) Indexes() []ent.Index {
	if m.one {
		return nil // the edge is unique already
	}
	return []ent.Index{index.Fields("machine_id")}
}

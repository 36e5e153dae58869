package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// Snapshot is the hardware of a machine as it was frozen, when the machine was
// commissioned or when somebody accepted a difference. The newest one counts;
// those before it are the history.
type Snapshot struct{ ent.Schema }

// Mixin of a snapshot.
func (Snapshot) Mixin() []ent.Mixin { return []ent.Mixin{ofMachine{ref: "snapshots"}} }

// Fields of a snapshot.
func (Snapshot) Fields() []ent.Field {
	return []ent.Field{
		field.Int("number").Immutable().Comment("from 1, of this machine"),
		field.String("digest").Immutable().Comment("sha256: and hex over content"),
		field.Bytes("content").Immutable().Comment("the merged facts, canonical JSON"),
		field.Time("taken_at").Immutable(),
		field.String("run").Optional().Nillable().Immutable().Comment("the run that commissioned the machine"),
		field.String("accepted_by").Optional().Nillable().Immutable().Comment("who accepted the difference from the one before"),
		field.Bytes("signature").Immutable().Comment("Ed25519 by the catalog's snapshot key"),
	}
}

// Indexes of a snapshot.
func (Snapshot) Indexes() []ent.Index {
	return []ent.Index{index.Fields("machine_id", "number").Unique()}
}

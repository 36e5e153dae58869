package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// FactChange says that a source reported another value of a fact than before.
// Like every projection it can be rebuilt from the documents.
type FactChange struct{ ent.Schema }

// Annotations of a change.
func (FactChange) Annotations() []schema.Annotation {
	return []schema.Annotation{entsql.Annotation{Table: "fact_changes"}}
}

// Mixin of a change.
func (FactChange) Mixin() []ent.Mixin { return []ent.Mixin{ofMachine{ref: "fact_changes"}} }

// Fields of a change.
func (FactChange) Fields() []ent.Field {
	return []ent.Field{
		field.String("path").Immutable().Comment("as in an expression, without facts: bios.version; a list as a whole; each part above it has a row too"),
		field.Time("at").Immutable(),
	}
}

// Indexes of a change.
func (FactChange) Indexes() []ent.Index {
	return []ent.Index{
		index.Fields("machine_id", "path", "at"),
		index.Fields("path", "at", "machine_id"),
	}
}

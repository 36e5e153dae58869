package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// Applied is what was last applied at an address. Retention never removes it.
type Applied struct{ ent.Schema }

// Annotations of an applied record.
func (Applied) Annotations() []schema.Annotation {
	return []schema.Annotation{entsql.Annotation{Table: "applied"}}
}

// Fields of an applied record.
func (Applied) Fields() []ent.Field {
	return []ent.Field{
		field.String("site").Immutable(),
		field.String("address"),
		field.String("digest").Comment("digest of the inputs"),
		field.Bytes("outputs").Optional().Comment("sealed by the caller"),
		field.String("kind").Optional().Comment("step type, or machine; empty in records of older programs"),
		field.Bytes("inputs").Optional().Comment("of the last success, sealed by the caller"),
		field.Bytes("attempt").Optional().Comment("inputs of work that began and did not end well, sealed by the caller"),
		field.JSON("depends_on", []string{}).Optional(),
		field.Int("schema_version"),
		field.String("run"),
		field.Time("time"),
	}
}

// Indexes of an applied record.
func (Applied) Indexes() []ent.Index {
	return []ent.Index{index.Fields("site", "address").Unique()}
}

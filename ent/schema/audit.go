package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// Audit is one request to change something: written before it is carried out, and
// completed after.
type Audit struct{ ent.Schema }

// Annotations of an audit record.
func (Audit) Annotations() []schema.Annotation {
	return []schema.Annotation{entsql.Annotation{Table: "audit"}}
}

// Fields of an audit record.
func (Audit) Fields() []ent.Field {
	return []ent.Field{
		field.Int64("id"),
		field.Time("time").Immutable(),
		field.String("actor").Immutable().Comment("id of a token, local, or command-line"),
		field.String("actor_name").Optional().Immutable(),
		field.String("role").Optional().Immutable(),
		field.String("remote").Optional().Immutable().Comment("IP address"),
		field.String("method").Optional().Immutable(),
		field.String("path").Optional().Immutable(),
		field.String("action").Immutable().Comment("operationId, or a command"),
		field.String("target").Optional(),
		field.String("request").Optional().Immutable(),
		field.Int("status").Optional().Nillable().Comment("HTTP status; absent: never answered"),
		field.Time("finished_at").Optional().Nillable(),
	}
}

// Indexes of an audit record.
func (Audit) Indexes() []ent.Index {
	return []ent.Index{index.Fields("time"), index.Fields("actor", "id")}
}

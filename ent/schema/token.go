package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema"
	"entgo.io/ent/schema/field"
)

// Token lets a program use the API in a role until it expires. Its secret is not
// kept.
type Token struct{ ent.Schema }

// Annotations of a token.
func (Token) Annotations() []schema.Annotation {
	return []schema.Annotation{entsql.Annotation{Table: "api_tokens"}}
}

// Fields of a token.
func (Token) Fields() []ent.Field {
	return []ent.Field{
		field.String("id").Immutable().Comment("the public part, lower-case base32"),
		field.String("name").Immutable(),
		field.Bytes("hash").Immutable().Comment("SHA-256 of the secret, which is 32 random bytes"),
		field.String("role").Immutable(),
		field.String("created_by").Optional().Immutable().Comment("id of a token; empty: the command line"),
		field.Time("created_at").Immutable(),
		field.Time("expires_at").Immutable(),
		field.Time("revoked_at").Optional().Nillable(),
		field.Time("last_used_at").Optional().Nillable(),
	}
}

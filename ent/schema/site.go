package schema

import (
	"time"

	"entgo.io/ent"
	"entgo.io/ent/schema/edge"
	"entgo.io/ent/schema/field"
)

// Site is one place; its id is the name that site.hcl gives it.
type Site struct{ ent.Schema }

// Fields of a site.
func (Site) Fields() []ent.Field {
	return []ent.Field{
		field.String("id").NotEmpty().Immutable(),
		field.JSON("labels", map[string]string{}).Optional(),
		field.Time("created_at").Default(time.Now).Immutable(),
	}
}

// Edges of a site.
func (Site) Edges() []ent.Edge {
	return []ent.Edge{edge.To("machines", Machine.Type)}
}

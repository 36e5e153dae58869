package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// Lease is an address given to a MAC on a network, or an address that a client
// declined and that rests until it expires.
type Lease struct{ ent.Schema }

// Fields of a lease.
func (Lease) Fields() []ent.Field {
	return []ent.Field{
		field.String("network").Immutable(),
		field.String("mac").Immutable(),
		field.String("address").Comment("dotted quad"),
		field.String("client_id").Optional(),
		field.String("hostname").Optional(),
		field.String("state"),
		field.Time("starts"),
		field.Time("expires"),
	}
}

// Indexes of a lease: one lease per MAC and one holder per address. A declined
// address has no MAC's claim on it, and a released lease no claim on an address.
func (Lease) Indexes() []ent.Index {
	return []ent.Index{
		index.Fields("network", "mac").Unique().
			Annotations(entsql.IndexWhere("state <> 'declined'")),
		index.Fields("network", "address").Unique().
			Annotations(entsql.IndexWhere("state <> 'released'")),
		index.Fields("expires"),
		index.Fields("mac"),
		index.Fields("address"),
	}
}

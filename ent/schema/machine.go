package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema/edge"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
	"github.com/google/uuid"
)

// Machine is one physical computer.
type Machine struct{ ent.Schema }

// Fields of a machine.
func (Machine) Fields() []ent.Field {
	return []ent.Field{
		field.UUID("id", uuid.UUID{}).Immutable().Comment("UUIDv7, never taken from hardware"),
		field.String("site").Immutable(),
		field.String("address").Optional().Nillable().Comment(`address in site.hcl, such as machine.node["a"]`),
		field.String("state"),
		field.String("serial").Optional().Nillable().Comment("SMBIOS system serial unless known junk"),
		field.String("smbios_uuid").Optional().Nillable().Comment("text order of RFC 9562, lower case, unless known junk"),
		field.String("image").Optional().Nillable().Comment("digest of the image whose write finished last"),
		field.String("host_key").Optional().Nillable().Comment("SSH host key in authorized_keys form, reported by the agent"),
		field.Time("first_seen").Immutable(),
		field.Time("last_seen"),
		field.String("drift").Optional().Nillable().Comment("none, changed or forged against the newest snapshot; NULL without one"),
		field.String("drift_digest").Optional().Nillable().Comment("of the difference that was told last"),
		field.Time("drift_since").Optional().Nillable(),
		field.Time("looked_at").Optional().Nillable().Comment("when a program last looked at the hardware"),
	}
}

// Edges of a machine.
func (Machine) Edges() []ent.Edge {
	cascade := entsql.OnDelete(entsql.Cascade)
	return []ent.Edge{
		edge.From("home", Site.Type).Ref("machines").Field("site").Unique().Required().Immutable(),
		edge.To("macs", MAC.Type).Annotations(cascade),
		edge.To("observations", Observation.Type).Annotations(cascade),
		edge.To("facts", MachineFacts.Type).Unique().Annotations(cascade),
		edge.To("disks", Disk.Type).Annotations(cascade),
		edge.To("nics", NIC.Type).Annotations(cascade),
		edge.To("neighbors", Neighbor.Type).Annotations(cascade),
		edge.To("memory_modules", MemoryModule.Type).Annotations(cascade),
		edge.To("pci_functions", PCIFunction.Type).Annotations(cascade),
		edge.To("tags", Tag.Type).Annotations(cascade),
		edge.To("fact_changes", FactChange.Type).Annotations(cascade),
		edge.To("snapshots", Snapshot.Type).Annotations(cascade),
		edge.To("memberships", Membership.Type).Annotations(cascade),
		edge.To("reactions", Reaction.Type).Annotations(cascade),
	}
}

// Indexes of a machine.
func (Machine) Indexes() []ent.Index {
	return []ent.Index{
		index.Fields("site", "address").Unique(),
		index.Fields("smbios_uuid"),
		index.Fields("serial", "id"),
		index.Fields("state", "id"),
		index.Fields("address", "id"),
		index.Fields("last_seen", "id"),
		index.Fields("drift", "id"),
	}
}

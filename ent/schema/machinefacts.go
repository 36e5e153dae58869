package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// MachineFacts is the projection of the scalar facts of a machine. Like every
// projection it can be rebuilt from the documents, and absent is NULL. The lists
// have tables of their own; here stands which of them were observed, because no
// rows may mean either that there are none or that nobody looked.
type MachineFacts struct{ ent.Schema }

// Annotations of the projection.
func (MachineFacts) Annotations() []schema.Annotation {
	return []schema.Annotation{entsql.Annotation{Table: "machine_facts"}}
}

// Mixin of the projection.
func (MachineFacts) Mixin() []ent.Mixin { return []ent.Mixin{ofMachine{ref: "facts", one: true}} }

// Fields of the projection.
func (MachineFacts) Fields() []ent.Field {
	return []ent.Field{
		field.Int64("memory_bytes").Optional().Nillable(),
		field.String("cpu_model").Optional().Nillable(),
		field.String("cpu_vendor").Optional().Nillable(),
		field.String("cpu_architecture").Optional().Nillable(),
		field.Int("cpu_cores").Optional().Nillable(),
		field.Int("cpu_threads").Optional().Nillable(),
		field.Int("cpu_sockets").Optional().Nillable(),
		field.Int("cpu_max_speed_mhz").Optional().Nillable(),
		field.String("system_manufacturer").Optional().Nillable(),
		field.String("system_product").Optional().Nillable(),
		field.String("system_serial").Optional().Nillable(),
		field.String("bios_vendor").Optional().Nillable(),
		field.String("bios_version").Optional().Nillable(),
		field.String("bios_date").Optional().Nillable(),
		field.String("firmware_mode").Optional().Nillable(),
		field.Bool("secure_boot").Optional().Nillable(),
		field.String("tpm_version").Optional().Nillable(),
		field.String("bmc_address").Optional().Nillable(),
		field.String("kernel_release").Optional().Nillable(),
		field.Bool("disks_observed").Default(false),
		field.Bool("nics_observed").Default(false),
		field.Bool("memory_modules_observed").Default(false),
		field.Bool("pci_functions_observed").Default(false),
		field.Bool("neighbors_observed").Default(false),
	}
}

// Indexes of the projection. Those that pages are ordered by end in the
// machine's id, which orders machines with equal values.
func (MachineFacts) Indexes() []ent.Index {
	return []ent.Index{
		index.Fields("memory_bytes", "machine_id"),
		index.Fields("cpu_cores", "machine_id"),
		index.Fields("system_manufacturer", "system_product"),
		index.Fields("system_product", "machine_id"),
		// For beginnings of it, whatever the order of strings in PostgreSQL's locale.
		index.Fields("system_product", "machine_id").StorageKey("machinefacts_system_product_beginning").
			Annotations(entsql.OpClassColumn("system_product", "text_pattern_ops")),
		index.Fields("system_serial"),
		index.Fields("bios_version", "machine_id"),
	}
}

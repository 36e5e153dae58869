package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema"
	"entgo.io/ent/schema/field"
	"entgo.io/ent/schema/index"
)

// PCIFunction is the projection of one PCI function of a machine.
type PCIFunction struct{ ent.Schema }

// Annotations of a PCI function.
func (PCIFunction) Annotations() []schema.Annotation {
	return []schema.Annotation{entsql.Annotation{Table: "pci_functions"}}
}

// Mixin of a PCI function.
func (PCIFunction) Mixin() []ent.Mixin { return []ent.Mixin{ofMachine{ref: "pci_functions"}} }

// Fields of a PCI function.
func (PCIFunction) Fields() []ent.Field {
	return []ent.Field{
		field.String("address"),
		field.String("class").Optional().Nillable(),
		field.String("vendor").Optional().Nillable(),
		field.String("device").Optional().Nillable(),
		field.String("driver").Optional().Nillable(),
	}
}

// Indexes of a PCI function.
func (PCIFunction) Indexes() []ent.Index {
	return []ent.Index{index.Fields("vendor", "device"), index.Fields("class"), index.Fields("driver")}
}

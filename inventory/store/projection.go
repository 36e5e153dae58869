package store

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/disk"
	"github.com/edge-provision/edge-provision/ent/machine"
	"github.com/edge-provision/edge-provision/ent/machinefacts"
	"github.com/edge-provision/edge-provision/ent/memorymodule"
	"github.com/edge-provision/edge-provision/ent/neighbor"
	"github.com/edge-provision/edge-provision/ent/nic"
	"github.com/edge-provision/edge-provision/ent/pcifunction"
	"github.com/edge-provision/edge-provision/ent/predicate"
	"github.com/edge-provision/edge-provision/inventory"
)

// RebuildProjection makes the projection of every machine anew from its
// documents.
func (s *Store) RebuildProjection(ctx context.Context) error {
	const op = "rebuilding the projection of facts"
	ids, err := s.main.client.Machine.Query().Where(machine.HasObservations()).IDs(ctx)
	if err != nil {
		return s.explain(op, err)
	}
	for _, id := range ids { // one transaction each: leases must not wait for all
		err := s.write(ctx, op, func(tx *ent.Tx) error {
			if err := rebuildChanges(ctx, tx, id); err != nil {
				return err
			}
			_, err := s.project(ctx, tx, id)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// projectionVersion counts the changes of what the projection holds. A catalog
// whose projection is of an older version is brought up to date when it is
// opened.
const projectionVersion = "4"

// upgradeProjection makes the projection what this program expects of it.
func (s *Store) upgradeProjection(ctx context.Context) error {
	const key = "projection.version"
	have, err := s.Settings().Get(ctx, key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if string(have) == projectionVersion {
		return s.mendProjections(ctx)
	}
	if err := s.RebuildProjection(ctx); err != nil {
		return err
	}
	return s.Settings().Put(ctx, key, []byte(projectionVersion))
}

// listless selects projections that tell of no list that it was looked for. An older
// program makes such ones of every machine, when it goes on running after this one
// has given the tables their columns.
func listless() predicate.MachineFacts {
	return machinefacts.And(machinefacts.DisksObserved(false), machinefacts.NicsObserved(false), machinefacts.NeighborsObserved(false),
		machinefacts.MemoryModulesObserved(false), machinefacts.PciFunctionsObserved(false))
}

// hasList reports whether some list was looked for.
func hasList(f inventory.Facts) bool {
	return f.Disks != nil || f.NICs != nil || f.Neighbors != nil || f.PCI != nil || f.Memory != nil && f.Memory.Modules != nil
}

// mendProjections projects anew what an older program projected into the tables of
// this one.
func (s *Store) mendProjections(ctx context.Context) error {
	const op = "looking for projections of an older program"
	rows, err := s.main.client.MachineFacts.Query().Where(listless()).All(ctx)
	if err != nil {
		return s.explain(op, err)
	}
	return inBatches(rows, func(part []*ent.MachineFacts) error {
		ids := make([]uuid.UUID, len(part))
		for i, r := range part {
			ids[i] = r.MachineID
		}
		known, err := s.FactsOf(ctx, ids...)
		if err != nil {
			return err
		}
		for id, f := range known {
			if !hasList(f) {
				continue
			}
			if err := s.write(ctx, op, func(tx *ent.Tx) error { _, err := s.project(ctx, tx, id); return err }); err != nil {
				return err
			}
		}
		return nil
	})
}

// mendProjection is mendProjections for one machine, which reports f again.
func (s *Store) mendProjection(ctx context.Context, tx *ent.Tx, id uuid.UUID, f inventory.Facts) error {
	if !hasList(f) {
		return nil
	}
	old, err := tx.MachineFacts.Query().Where(machinefacts.MachineID(id), listless()).Exist(ctx)
	if err != nil || !old {
		return err
	}
	_, err = s.project(ctx, tx, id)
	return err
}

// project replaces the projection of a machine with its merged current facts, and
// returns the documents that it merged.
func (s *Store) project(ctx context.Context, tx *ent.Tx, id uuid.UUID) (map[inventory.Source]inventory.Document, error) {
	docs, err := factsAt(ctx, tx.Client(), id, time.Time{})
	if err != nil {
		return nil, err
	}
	if err := unproject(ctx, tx, id); err != nil {
		return nil, err
	}
	return docs, projectFacts(ctx, tx, id, merge(docs))
}

func projectFacts(ctx context.Context, tx *ent.Tx, id uuid.UUID, f inventory.Facts) error {
	if err := projectMachine(ctx, tx, id, f); err != nil {
		return err
	}
	if err := projectDisks(ctx, tx, id, f.Disks); err != nil {
		return err
	}
	if err := projectNICs(ctx, tx, id, f.NICs); err != nil {
		return err
	}
	if err := projectNeighbors(ctx, tx, id, f.Neighbors); err != nil {
		return err
	}
	if f.Memory != nil {
		if err := projectModules(ctx, tx, id, f.Memory.Modules); err != nil {
			return err
		}
	}
	return projectPCI(ctx, tx, id, f.PCI)
}

func unproject(ctx context.Context, tx *ent.Tx, id uuid.UUID) error {
	deletes := []interface {
		Exec(context.Context) (int, error)
	}{
		tx.MachineFacts.Delete().Where(machinefacts.MachineID(id)),
		tx.Disk.Delete().Where(disk.MachineID(id)),
		tx.NIC.Delete().Where(nic.MachineID(id)),
		tx.Neighbor.Delete().Where(neighbor.MachineID(id)),
		tx.MemoryModule.Delete().Where(memorymodule.MachineID(id)),
		tx.PCIFunction.Delete().Where(pcifunction.MachineID(id)),
	}
	for _, d := range deletes {
		if _, err := d.Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

// some is nil for the zero value: absent is NULL, not zero.
func some[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func projectMachine(ctx context.Context, tx *ent.Tx, id uuid.UUID, f inventory.Facts) error {
	row := tx.MachineFacts.Create().SetMachineID(id).
		SetDisksObserved(f.Disks != nil).SetNicsObserved(f.NICs != nil).SetNeighborsObserved(f.Neighbors != nil).SetPciFunctionsObserved(f.PCI != nil)
	if f.Memory != nil {
		row.SetNillableMemoryBytes(some(f.Memory.Bytes)).SetMemoryModulesObserved(f.Memory.Modules != nil)
	}
	if c := f.CPU; c != nil {
		row.SetNillableCPUModel(some(c.Model)).SetNillableCPUVendor(some(c.Vendor)).
			SetNillableCPUArchitecture(some(c.Architecture)).SetNillableCPUCores(some(c.Cores)).
			SetNillableCPUThreads(some(c.Threads)).SetNillableCPUSockets(some(c.Sockets)).
			SetNillableCPUMaxSpeedMhz(some(c.MaxSpeedMHz))
	}
	if sys := f.System; sys != nil {
		row.SetNillableSystemManufacturer(some(sys.Manufacturer)).SetNillableSystemProduct(some(sys.Product)).
			SetNillableSystemSerial(some(sys.Serial))
	}
	if b := f.BIOS; b != nil {
		row.SetNillableBiosVendor(some(b.Vendor)).SetNillableBiosVersion(some(b.Version)).SetNillableBiosDate(some(b.Date))
	}
	if fw := f.Firmware; fw != nil {
		row.SetNillableFirmwareMode(some(fw.Mode)).SetNillableSecureBoot(fw.SecureBoot)
	}
	if f.TPM != nil {
		row.SetNillableTpmVersion(some(f.TPM.Version))
	}
	if f.BMC != nil {
		row.SetNillableBmcAddress(some(f.BMC.Address))
	}
	if f.Kernel != nil {
		row.SetNillableKernelRelease(some(f.Kernel.Release))
	}
	return row.Exec(ctx)
}

// projectBatch bounds a bulk insert: SQLite takes 32,766 arguments.
const projectBatch = 500

func projectDisks(ctx context.Context, tx *ent.Tx, id uuid.UUID, disks []inventory.Disk) error {
	return inBatches(disks, func(part []inventory.Disk) error {
		return tx.Disk.MapCreateBulk(part, func(row *ent.DiskCreate, i int) {
			d := part[i]
			row.SetMachineID(id).SetName(d.Name).SetNillableStableID(some(d.ByID)).SetNillableWwn(some(d.WWN)).
				SetNillableSerial(some(d.Serial)).SetNillableVendor(some(d.Vendor)).SetNillableModel(some(d.Model)).
				SetNillableFirmwareRev(some(d.FirmwareRev)).SetNillableBytes(some(d.Bytes)).
				SetNillableLogicalBlockBytes(some(d.LogicalBlock)).SetNillablePhysicalBlockBytes(some(d.PhysicalBlock)).
				SetNillableRotational(d.Rotational).SetNillableBus(some(d.Bus)).SetNillablePath(some(d.Path))
		}).Exec(ctx)
	})
}

func projectNICs(ctx context.Context, tx *ent.Tx, id uuid.UUID, nics []inventory.NIC) error {
	return inBatches(nics, func(part []inventory.NIC) error {
		return tx.NIC.MapCreateBulk(part, func(row *ent.NICCreate, i int) {
			n := part[i]
			row.SetMachineID(id).SetNillableName(some(n.Name)).SetNillableDriver(some(n.Driver)).
				SetNillablePci(some(n.PCI)).SetNillableVendor(some(n.Vendor)).SetNillableDevice(some(n.Device)).
				SetNillableSpeedMbps(some(n.SpeedMbs)).SetBoot(n.Boot)
			if !n.MAC.IsZero() {
				row.SetMAC(n.MAC.String())
			}
		}).Exec(ctx)
	})
}

func projectNeighbors(ctx context.Context, tx *ent.Tx, id uuid.UUID, neighbors []inventory.Neighbor) error {
	return inBatches(neighbors, func(part []inventory.Neighbor) error {
		return tx.Neighbor.MapCreateBulk(part, func(row *ent.NeighborCreate, i int) {
			n := part[i]
			row.SetMachineID(id).SetMAC(n.MAC.String()).SetNillableChassis(some(n.Chassis)).SetNillablePort(some(n.Port)).
				SetNillablePortDescription(some(n.PortDescription)).SetNillableSystem(some(n.System)).
				SetNillableAddress(some(n.Address)).SetNillableVlan(some(n.VLAN))
		}).Exec(ctx)
	})
}

func projectModules(ctx context.Context, tx *ent.Tx, id uuid.UUID, modules []inventory.MemoryModule) error {
	return inBatches(modules, func(part []inventory.MemoryModule) error {
		return tx.MemoryModule.MapCreateBulk(part, func(row *ent.MemoryModuleCreate, i int) {
			m := part[i]
			row.SetMachineID(id).SetNillableLocator(some(m.Locator)).SetNillableBytes(some(m.Bytes)).
				SetNillableType(some(m.Type)).SetNillableSpeedMts(some(m.SpeedMTs)).
				SetNillableManufacturer(some(m.Manufacturer)).SetNillablePart(some(m.Part)).
				SetNillableSerial(some(m.Serial)).SetNillableEcc(m.ECC)
		}).Exec(ctx)
	})
}

func projectPCI(ctx context.Context, tx *ent.Tx, id uuid.UUID, functions []inventory.PCI) error {
	return inBatches(functions, func(part []inventory.PCI) error {
		return tx.PCIFunction.MapCreateBulk(part, func(row *ent.PCIFunctionCreate, i int) {
			p := part[i]
			row.SetMachineID(id).SetAddress(p.Address).SetNillableClass(some(p.Class)).
				SetNillableVendor(some(p.Vendor)).SetNillableDevice(some(p.Device)).SetNillableDriver(some(p.Driver))
		}).Exec(ctx)
	})
}

func inBatches[T any](list []T, insert func([]T) error) error {
	for len(list) > 0 {
		n := min(projectBatch, len(list))
		if err := insert(list[:n]); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

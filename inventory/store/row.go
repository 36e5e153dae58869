package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"entgo.io/ent/dialect"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/disk"
	"github.com/edge-provision/edge-provision/ent/machinefacts"
	"github.com/edge-provision/edge-provision/ent/memorymodule"
	"github.com/edge-provision/edge-provision/ent/neighbor"
	"github.com/edge-provision/edge-provision/ent/nic"
	"github.com/edge-provision/edge-provision/ent/pcifunction"
	"github.com/edge-provision/edge-provision/inventory"
)

// tuple is one row of a table, in the order of its columns: nil, a string, an int64,
// a bool or a time. Absent is nil, which is NULL, and not zero.
type tuple []any

// table is one table of rows that belong to machines. Beside its columns it has an
// id, which orders the rows of a machine, and machine_id.
type table struct {
	name    string
	columns []string
}

// projectedTable is a table of the projection, with what stands in it of a machine.
type projectedTable struct {
	table
	rows func(inventory.Facts) []tuple
}

// tables are the projection. The names of columns are ent's, and
// TestProjectionHoldsEveryColumn keeps both together.
var tables = []projectedTable{
	{table{machinefacts.Table, []string{
		machinefacts.FieldMemoryBytes,
		machinefacts.FieldCPUModel, machinefacts.FieldCPUVendor, machinefacts.FieldCPUArchitecture, machinefacts.FieldCPUCores,
		machinefacts.FieldCPUThreads, machinefacts.FieldCPUSockets, machinefacts.FieldCPUMaxSpeedMhz,
		machinefacts.FieldSystemManufacturer, machinefacts.FieldSystemProduct, machinefacts.FieldSystemSerial,
		machinefacts.FieldBiosVendor, machinefacts.FieldBiosVersion, machinefacts.FieldBiosDate,
		machinefacts.FieldFirmwareMode, machinefacts.FieldSecureBoot,
		machinefacts.FieldTpmVersion, machinefacts.FieldBmcAddress, machinefacts.FieldKernelRelease,
		machinefacts.FieldDisksObserved, machinefacts.FieldNicsObserved, machinefacts.FieldMemoryModulesObserved,
		machinefacts.FieldPciFunctionsObserved, machinefacts.FieldNeighborsObserved,
	}}, machineRows},
	{table{disk.Table, []string{
		disk.FieldName, disk.FieldStableID, disk.FieldWwn, disk.FieldSerial, disk.FieldVendor, disk.FieldModel, disk.FieldFirmwareRev,
		disk.FieldBytes, disk.FieldLogicalBlockBytes, disk.FieldPhysicalBlockBytes, disk.FieldRotational, disk.FieldBus, disk.FieldPath,
	}}, diskRows},
	{table{nic.Table, []string{
		nic.FieldName, nic.FieldMAC, nic.FieldDriver, nic.FieldPci, nic.FieldVendor, nic.FieldDevice, nic.FieldSpeedMbps, nic.FieldBoot,
	}}, nicRows},
	{table{neighbor.Table, []string{
		neighbor.FieldMAC, neighbor.FieldChassis, neighbor.FieldPort, neighbor.FieldPortDescription, neighbor.FieldSystem,
		neighbor.FieldAddress, neighbor.FieldVlan,
	}}, neighborRows},
	{table{memorymodule.Table, []string{
		memorymodule.FieldLocator, memorymodule.FieldBytes, memorymodule.FieldType, memorymodule.FieldSpeedMts,
		memorymodule.FieldManufacturer, memorymodule.FieldPart, memorymodule.FieldSerial, memorymodule.FieldEcc,
	}}, moduleRows},
	{table{pcifunction.Table, []string{
		pcifunction.FieldAddress, pcifunction.FieldClass, pcifunction.FieldVendor, pcifunction.FieldDevice, pcifunction.FieldDriver,
	}}, functionRows},
}

func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func number[T int | int64](n T) any {
	if n == 0 {
		return nil
	}
	return int64(n)
}

func truth(b *bool) any {
	if b == nil {
		return nil
	}
	return *b
}

func machineRows(f inventory.Facts) []tuple {
	var (
		memory   inventory.Memory
		cpu      inventory.CPU
		system   inventory.System
		bios     inventory.BIOS
		firmware inventory.Firmware
		tpm      inventory.TPM
		bmc      inventory.BMCFacts
		kernel   inventory.Kernel
	)
	setTo(&memory, f.Memory)
	setTo(&cpu, f.CPU)
	setTo(&system, f.System)
	setTo(&bios, f.BIOS)
	setTo(&firmware, f.Firmware)
	setTo(&tpm, f.TPM)
	setTo(&bmc, f.BMC)
	setTo(&kernel, f.Kernel)
	return []tuple{{
		number(memory.Bytes),
		text(cpu.Model), text(cpu.Vendor), text(cpu.Architecture), number(cpu.Cores), number(cpu.Threads), number(cpu.Sockets), number(cpu.MaxSpeedMHz),
		text(system.Manufacturer), text(system.Product), text(system.Serial),
		text(bios.Vendor), text(bios.Version), text(bios.Date),
		text(firmware.Mode), truth(firmware.SecureBoot),
		text(tpm.Version), text(bmc.Address), text(kernel.Release),
		f.Disks != nil, f.NICs != nil, memory.Modules != nil, f.PCI != nil, f.Neighbors != nil,
	}}
}

// setTo leaves what is absent zero.
func setTo[T any](part, observed *T) {
	if observed != nil {
		*part = *observed
	}
}

func diskRows(f inventory.Facts) []tuple {
	return rowsOf(f.Disks, func(d inventory.Disk) tuple {
		return tuple{
			d.Name, text(d.ByID), text(d.WWN), text(d.Serial), text(d.Vendor), text(d.Model), text(d.FirmwareRev),
			number(d.Bytes), number(d.LogicalBlock), number(d.PhysicalBlock), truth(d.Rotational), text(d.Bus), text(d.Path),
		}
	})
}

func nicRows(f inventory.Facts) []tuple {
	return rowsOf(f.NICs, func(n inventory.NIC) tuple {
		var address any
		if !n.MAC.IsZero() {
			address = n.MAC.String()
		}
		return tuple{text(n.Name), address, text(n.Driver), text(n.PCI), text(n.Vendor), text(n.Device), number(n.SpeedMbs), n.Boot}
	})
}

func neighborRows(f inventory.Facts) []tuple {
	return rowsOf(f.Neighbors, func(n inventory.Neighbor) tuple {
		return tuple{n.MAC.String(), text(n.Chassis), text(n.Port), text(n.PortDescription), text(n.System), text(n.Address), number(n.VLAN)}
	})
}

func moduleRows(f inventory.Facts) []tuple {
	if f.Memory == nil {
		return nil
	}
	return rowsOf(f.Memory.Modules, func(m inventory.MemoryModule) tuple {
		return tuple{text(m.Locator), number(m.Bytes), text(m.Type), number(m.SpeedMTs), text(m.Manufacturer), text(m.Part), text(m.Serial), truth(m.ECC)}
	})
}

func functionRows(f inventory.Facts) []tuple {
	return rowsOf(f.PCI, func(p inventory.PCI) tuple {
		return tuple{p.Address, text(p.Class), text(p.Vendor), text(p.Device), text(p.Driver)}
	})
}

func rowsOf[T any](list []T, of func(T) tuple) []tuple {
	out := make([]tuple, len(list))
	for i, v := range list {
		out[i] = of(v)
	}
	return out
}

// replace makes the rows of machines those that are wanted. A machine whose rows
// they are already costs a look at them, which is far cheaper than to write them
// with all their indexes again.
func (s *Store) replace(ctx context.Context, tx *ent.Tx, t table, machines []uuid.UUID, wanted map[uuid.UUID][]tuple) error {
	present, err := s.present(ctx, tx, t, machines, wanted)
	if err != nil {
		return err
	}
	var stale []uuid.UUID
	var missing []tuple
	for _, id := range machines {
		if present[id] == same {
			continue
		}
		if present[id] == different {
			stale = append(stale, id)
		}
		for _, r := range wanted[id] {
			missing = append(missing, append(tuple{id}, r...))
		}
	}
	if err := s.remove(ctx, tx, t, stale); err != nil {
		return err
	}
	return s.insert(ctx, tx, t, missing)
}

// presence is how the rows that a table has of a machine stand to those wanted.
type presence int

const (
	absent presence = iota // there is none
	same
	different
)

// present compares the rows of machines with those that are wanted.
func (s *Store) present(ctx context.Context, tx *ent.Tx, t table, machines []uuid.UUID, wanted map[uuid.UUID][]tuple) (map[uuid.UUID]presence, error) {
	query, args := s.ofMachines("SELECT machine_id, "+t.list()+" FROM "+t.name, machines)
	rows, err := tx.QueryContext(ctx, query+" ORDER BY id", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out, seen := map[uuid.UUID]presence{}, map[uuid.UUID]int{}
	var id uuid.UUID
	have := make(tuple, len(t.columns))
	targets := make([]any, 1+len(have))
	targets[0] = &id
	for i := range have {
		targets[1+i] = &have[i]
	}
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return nil, err
		}
		n := seen[id]
		seen[id]++
		if n < len(wanted[id]) && out[id] != different && wanted[id][n].equal(have) {
			out[id] = same
		} else {
			out[id] = different
		}
	}
	for id, n := range seen {
		if n < len(wanted[id]) {
			out[id] = different
		}
	}
	return out, rows.Err()
}

// remove deletes all rows of machines.
func (s *Store) remove(ctx context.Context, tx *ent.Tx, t table, machines []uuid.UUID) error {
	return inBatches(machines, func(part []uuid.UUID) error {
		query, args := s.ofMachines("DELETE FROM "+t.name, part)
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	})
}

// ofMachines restricts a statement to the rows of machines.
func (s *Store) ofMachines(statement string, machines []uuid.UUID) (string, []any) {
	args := make([]any, len(machines))
	for i, id := range machines {
		args[i] = id
	}
	return statement + " WHERE machine_id IN (" + s.placeholders(1, len(machines)) + ")", args
}

// placeholders are those of count arguments, of which the first has a number.
func (s *Store) placeholders(first, count int) string {
	if s.dialect != dialect.Postgres {
		return strings.TrimSuffix(strings.Repeat("?, ", count), ", ")
	}
	out := make([]string, count)
	for i := range out {
		out[i] = s.placeholder(first + i)
	}
	return strings.Join(out, ", ")
}

// list are the columns as SQL names them.
func (t table) list() string { return `"` + strings.Join(t.columns, `", "`) + `"` }

// equal compares with a row as a driver reads it. SQLite has no bool, but 0 and 1.
func (r tuple) equal(read tuple) bool {
	return slices.EqualFunc(r, read, func(want, have any) bool {
		switch want := want.(type) {
		case bool:
			if n, ok := have.(int64); ok {
				have = n != 0
			}
			return have == want
		case time.Time:
			at, ok := have.(time.Time)
			return ok && at.Equal(want)
		}
		return have == want
	})
}

// insertedRows bounds one statement. SQLite takes 32,766 arguments, and there is
// little to gain beyond some hundred rows.
const insertedRows = 200

// insert adds rows of machines, which begin with the machine's id.
func (s *Store) insert(ctx context.Context, tx *ent.Tx, t table, rows []tuple) error {
	for part := range slices.Chunk(rows, insertedRows) {
		query, args, err := s.insertion(t, part)
		if err == nil {
			_, err = tx.ExecContext(ctx, query, args...)
		}
		if err != nil {
			return fmt.Errorf("table %s: %w", t.name, err)
		}
	}
	return nil
}

// insertion is the statement that adds rows. PostgreSQL takes them as one argument: a
// connection keeps what it has prepared, which would be a statement of up to some
// thousand arguments for every number of rows.
func (s *Store) insertion(t table, rows []tuple) (query string, args []any, err error) {
	into := "INSERT INTO " + t.name + " (machine_id, " + t.list() + ") "
	if s.dialect == dialect.Postgres {
		list, err := t.json(rows)
		return into + "SELECT machine_id, " + t.list() + " FROM json_populate_recordset(CAST(NULL AS " + t.name + "), CAST($1 AS json))", []any{list}, err
	}
	groups := make([]string, len(rows))
	for i, r := range rows {
		groups[i] = "(" + s.placeholders(1, len(r)) + ")"
		args = append(args, r...)
	}
	return into + "VALUES " + strings.Join(groups, ", "), args, nil
}

// json are rows, which begin with the machine's id, as a list of objects with the names
// of the columns. What is absent is left out.
func (t table) json(rows []tuple) (string, error) {
	out := []byte{'['}
	for _, r := range rows {
		for i, v := range r {
			if v == nil {
				continue
			}
			value, err := json.Marshal(v)
			if err != nil {
				return "", err
			}
			if i == 0 {
				out = append(out, `{"machine_id":`...)
			} else {
				out = append(out, `,"`+t.columns[i-1]+`":`...)
			}
			out = append(out, value...)
		}
		out = append(out, "},"...)
	}
	return string(append(out[:len(out)-1], ']')), nil
}

package query

// From is what the condition of SQL expects in its query's FROM clause.
const From = "machines LEFT JOIN machine_facts ON machine_facts.machine_id = machines.id"

// The tables of the catalog, as ent/schema declares them. A fact that is not
// listed here can be used in memory but not in a query of the catalog.

// column is where a fact is kept; an absent fact is NULL there.
type column struct {
	name string
	// uuid marks a column of PostgreSQL's type uuid (text in SQLite).
	uuid bool
	// neverNull marks a condition that is false where the column is NULL.
	neverNull bool
	// maybeEmpty marks a string that is empty where it was not observed.
	maybeEmpty bool
	// index says how the column is indexed.
	index indexed
	// prefixes says that PostgreSQL has an index of the column by code point;
	// SQLite's indexes all are.
	prefixes bool
}

// indexed is how rows are found by a column's value.
type indexed int

const (
	notIndexed indexed = iota
	// byValue: an index begins with the column.
	byValue
	// byValueAndMachine: an index holds the column and then the machine's id,
	// so that rows with one value come in the order of machines.
	byValueAndMachine
)

// columns maps the path of a single fact to its column in From.
var columns = map[string]column{
	"machine.id":          {name: "machines.id", uuid: true, index: byValue},
	"machine.site":        {name: "machines.site"},
	"machine.address":     {name: "machines.address", index: byValueAndMachine},
	"machine.state":       {name: "machines.state", index: byValueAndMachine},
	"machine.serial":      {name: "machines.serial", index: byValueAndMachine},
	"machine.smbios_uuid": {name: "machines.smbios_uuid", index: byValue},
	"machine.image":       {name: "machines.image"},
	"machine.drift":       {name: "machines.drift", index: byValueAndMachine},
	"machine.first_seen":  {name: "machines.first_seen"},
	"machine.last_seen":   {name: "machines.last_seen", index: byValueAndMachine},
	"machine.looked_at":   {name: "machines.looked_at"},
	"machine.drift_since": {name: "machines.drift_since"},

	"facts.memory.bytes":         {name: "machine_facts.memory_bytes", index: byValueAndMachine},
	"facts.cpu.model":            {name: "machine_facts.cpu_model"},
	"facts.cpu.vendor":           {name: "machine_facts.cpu_vendor"},
	"facts.cpu.architecture":     {name: "machine_facts.cpu_architecture"},
	"facts.cpu.cores":            {name: "machine_facts.cpu_cores", index: byValueAndMachine},
	"facts.cpu.threads":          {name: "machine_facts.cpu_threads"},
	"facts.cpu.sockets":          {name: "machine_facts.cpu_sockets"},
	"facts.cpu.max_speed_mhz":    {name: "machine_facts.cpu_max_speed_mhz"},
	"facts.system.manufacturer":  {name: "machine_facts.system_manufacturer", index: byValue},
	"facts.system.product":       {name: "machine_facts.system_product", index: byValueAndMachine, prefixes: true},
	"facts.system.serial":        {name: "machine_facts.system_serial", index: byValue},
	"facts.bios.vendor":          {name: "machine_facts.bios_vendor"},
	"facts.bios.version":         {name: "machine_facts.bios_version", index: byValueAndMachine},
	"facts.bios.date":            {name: "machine_facts.bios_date"},
	"facts.firmware.mode":        {name: "machine_facts.firmware_mode"},
	"facts.firmware.secure_boot": {name: "machine_facts.secure_boot"},
	"facts.tpm.version":          {name: "machine_facts.tpm_version"},
	"facts.bmc.address":          {name: "machine_facts.bmc_address"},
	"facts.kernel.release":       {name: "machine_facts.kernel_release"},
}

// table is where a list is kept: a row for each element, with machine_id.
type table struct {
	name string
	// columns maps an element's field to its column; "" is an element that is
	// itself a string.
	columns map[string]column
	// observed is the column in From that is true when the list is not absent, which
	// no rows do not tell; empty for a list that never is.
	observed string
	// ofMAC: the rows belong to a MAC, not to a machine.
	ofMAC bool
	// lasting: only rows of active, unexpired leases count.
	lasting bool
}

// tables maps the path of a list to its table.
var tables = map[string]table{
	"machine.macs":    {name: "macs", columns: map[string]column{"": {name: "mac", index: byValue}}},
	"machine.classes": {name: "memberships", columns: map[string]column{"": {name: "class", index: byValueAndMachine}}},
	"machine.leases": {name: "leases", ofMAC: true, lasting: true, columns: map[string]column{
		"network": {name: "network"}, "mac": {name: "mac", index: byValue}, "address": {name: "address", index: byValue},
		"client_id": {name: "client_id", maybeEmpty: true}, "hostname": {name: "hostname", maybeEmpty: true},
	}},
	"facts.disks": {name: "disks", observed: "machine_facts.disks_observed", columns: indexing(same(
		"name", "by_id", "wwn", "serial", "vendor", "model", "firmware_rev", "bytes", "logical_block_bytes",
		"physical_block_bytes", "rotational", "bus", "path"),
		map[string]indexed{"bytes": byValueAndMachine, "model": byValueAndMachine, "serial": byValue, "wwn": byValue})},
	"facts.nics": {name: "nics", observed: "machine_facts.nics_observed", columns: indexing(with(same(
		"name", "mac", "driver", "pci", "vendor", "device", "speed_mbps"),
		"boot", column{name: "boot", neverNull: true}),
		map[string]indexed{"driver": byValueAndMachine, "mac": byValue})},
	"facts.memory.modules": {name: "memory_modules", observed: "machine_facts.memory_modules_observed", columns: indexing(same(
		"locator", "bytes", "type", "speed_mts", "manufacturer", "part", "serial", "ecc"),
		map[string]indexed{"part": byValue, "serial": byValue})},
	"facts.neighbors": {name: "neighbors", observed: "machine_facts.neighbors_observed", columns: indexing(same(
		"mac", "chassis", "port", "port_description", "system", "address", "vlan"),
		map[string]indexed{"mac": byValue, "chassis": byValue, "system": byValueAndMachine})},
	"facts.pci": {name: "pci_functions", observed: "machine_facts.pci_functions_observed", columns: indexing(same(
		"address", "class", "vendor", "device", "driver"),
		map[string]indexed{"class": byValue, "driver": byValue, "vendor": byValue})},
}

// askClass says how to ask for what only memory knows.
const askClass = `A class can ask: use it in the match of a class of site.hcl, and contains(machine.classes, "NAME") here.`

// instead says what to ask for in place of a fact that is not kept, where that is
// something else than a class.
var instead = map[string]string{
	"facts.system.uuid":       "Ask for machine.smbios_uuid, which is the same unless it is known junk.",
	"facts.chassis.asset_tag": "Write it on the machine as a tag, as by edge-provision inventory tag MACHINE asset=0042, and ask for machine.tags.asset.",
}

// columnOf is where a fact is kept, if it is; the column's name is qualified for a
// fact of a machine only.
func columnOf(r *ref) (c column, ok bool) {
	if r.v == nil {
		c, ok = columns[r.root+"."+r.path()]
	} else {
		c, ok = tables[r.v.source.String()].columns[r.path()]
	}
	return c, ok
}

// isKept says whether the catalog can be asked for a value below an object.
func isKept(r *ref) bool {
	_, ok := columnOf(r)
	return ok || r.typ.values != nil
}

// factsPresent is true for a machine that has been inspected.
const factsPresent = "machine_facts.machine_id IS NOT NULL"

// same are columns that bear the names of their facts.
func same(names ...string) map[string]column {
	out := make(map[string]column, len(names))
	for _, n := range names {
		out[n] = column{name: n}
	}
	return out
}

func with(columns map[string]column, fact string, c column) map[string]column {
	columns[fact] = c
	return columns
}

func indexing(columns map[string]column, marks map[string]indexed) map[string]column {
	for fact, i := range marks {
		c := columns[fact]
		c.index = i
		columns[fact] = c
	}
	return columns
}

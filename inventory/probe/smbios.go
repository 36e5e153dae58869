package probe

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/edge-provision/edge-provision/inventory"
)

// smbios reads the tables that the firmware left (DMTF DSP0134).
func (m *machine) smbios(_ context.Context, facts *inventory.Facts) error {
	if m.src.Container {
		return nil
	}
	table, err := m.file("sys/firmware/dmi/tables/DMI")
	if errors.Is(err, fs.ErrNotExist) {
		m.dmiFiles(facts)
		return nil
	}
	if err != nil {
		m.dmiFiles(facts)
		return err
	}
	entry, err := m.file("sys/firmware/dmi/tables/smbios_entry_point")
	if err != nil {
		return err
	}
	version, err := smbiosVersion(entry)
	if err != nil {
		return err
	}
	structures, err := parseSMBIOS(table)
	addSMBIOS(facts, structures, version)
	return err
}

// dmiFiles reads the few strings that the kernel exports one by one.
func (m *machine) dmiFiles(facts *inventory.Facts) {
	const dir = "sys/class/dmi/id"
	system := inventory.System{
		Manufacturer: m.text(dir, "sys_vendor"), Product: m.text(dir, "product_name"),
		Version: m.text(dir, "product_version"), Serial: m.text(dir, "product_serial"),
		UUID: strings.ToLower(m.text(dir, "product_uuid")), SKU: m.text(dir, "product_sku"), Family: m.text(dir, "product_family"),
	}
	if system != (inventory.System{}) {
		facts.System = &system
	}
	bios := inventory.BIOS{Vendor: m.text(dir, "bios_vendor"), Version: m.text(dir, "bios_version"), Date: m.text(dir, "bios_date")}
	if bios != (inventory.BIOS{}) {
		facts.BIOS = &bios
	}
	board := inventory.Board{
		Manufacturer: m.text(dir, "board_vendor"), Product: m.text(dir, "board_name"),
		Version: m.text(dir, "board_version"), Serial: m.text(dir, "board_serial"),
	}
	if board != (inventory.Board{}) {
		facts.Baseboard = &board
	}
}

// smbiosVersion reads an entry point, DSP0134 section 5.2: major<<8 | minor.
func smbiosVersion(entry []byte) (int, error) {
	switch {
	case bytes.HasPrefix(entry, []byte("_SM3_")) && len(entry) >= 9:
		return int(entry[7])<<8 | int(entry[8]), nil
	case bytes.HasPrefix(entry, []byte("_SM_")) && len(entry) >= 8:
		return int(entry[6])<<8 | int(entry[7]), nil
	}
	return 0, errors.New("the SMBIOS entry point has an unknown anchor")
}

// structure is one SMBIOS structure: its formatted area, header included, and
// its strings.
type structure struct {
	kind    byte
	area    []byte
	strings []string
}

// maxStructures bounds the work on a table that makes no sense.
const maxStructures = 4096

// parseSMBIOS splits a table into structures. What comes before damage is kept.
func parseSMBIOS(table []byte) ([]structure, error) {
	var all []structure
	for len(table) >= 4 {
		length := int(table[1])
		if length < 4 || length > len(table) {
			return all, fmt.Errorf("SMBIOS structure %d of type %d claims %d bytes of %d", len(all), table[0], length, len(table))
		}
		s := structure{kind: table[0], area: table[:length]}
		rest := table[length:]
		// Strings end each with a NUL, the set with one more; a set without
		// strings is two NULs.
		end := bytes.Index(rest, []byte{0, 0})
		if end < 0 {
			return all, fmt.Errorf("SMBIOS structure %d of type %d has strings without an end", len(all), table[0])
		}
		if end > 0 {
			for text := range bytes.SplitSeq(rest[:end], []byte{0}) {
				s.strings = append(s.strings, printable(string(text)))
			}
		}
		if all = append(all, s); len(all) > maxStructures {
			return all, fmt.Errorf("the SMBIOS table has more than %d structures", maxStructures)
		}
		const endOfTable = 127
		if s.kind == endOfTable {
			break
		}
		table = rest[end+2:]
	}
	return all, nil
}

// text is the string whose number is at offset; empty when there is none, or
// when it only says so.
func (s structure) text(offset int) string {
	n := int(s.byte(offset))
	if n == 0 || n > len(s.strings) {
		return ""
	}
	switch text := s.strings[n-1]; strings.ToLower(text) {
	case "not specified", "to be filled by o.e.m.", "none", "n/a", "unknown", "default string", "no dimm":
		return ""
	default:
		return text
	}
}

func (s structure) byte(offset int) byte {
	if offset >= len(s.area) {
		return 0
	}
	return s.area[offset]
}

func (s structure) word(offset int) uint16 {
	if offset+2 > len(s.area) {
		return 0
	}
	return binary.LittleEndian.Uint16(s.area[offset:])
}

func (s structure) dword(offset int) uint32 {
	if offset+4 > len(s.area) {
		return 0
	}
	return binary.LittleEndian.Uint32(s.area[offset:])
}

// addSMBIOS puts structures into facts. Section numbers are DSP0134's.
func addSMBIOS(facts *inventory.Facts, structures []structure, version int) {
	var modules []inventory.MemoryModule
	var memoryBytes int64
	var slots, emptySlots int
	var sockets, cores, threads, maxMHz int
	for _, s := range structures {
		switch s.kind {
		case 0: // 7.1
			facts.BIOS = &inventory.BIOS{Vendor: s.text(4), Version: s.text(5), Date: s.text(8)}
		case 1: // 7.2
			facts.System = &inventory.System{
				Manufacturer: s.text(4), Product: s.text(5), Version: s.text(6), Serial: s.text(7),
				UUID: systemUUID(s, version), SKU: s.text(0x19), Family: s.text(0x1a),
			}
		case 2: // 7.3; the first board is the main one on every machine seen
			if facts.Baseboard == nil {
				facts.Baseboard = &inventory.Board{Manufacturer: s.text(4), Product: s.text(5), Version: s.text(6), Serial: s.text(7)}
			}
		case 3: // 7.4
			if facts.Chassis == nil {
				facts.Chassis = &inventory.Chassis{Manufacturer: s.text(4), Type: chassisTypes[s.byte(5)&0x7f], Serial: s.text(7), AssetTag: s.text(8)}
			}
		case 4: // 7.5; bit 6 of the status says that the socket is populated
			if s.byte(0x18)&0x40 == 0 {
				continue
			}
			sockets++
			cores += count(s, 0x23, 0x2a)
			threads += count(s, 0x25, 0x2e)
			maxMHz = max(maxMHz, int(s.word(0x14)))
		case 17: // 7.18
			slots++
			if s.word(0x0c) == 0 {
				emptySlots++
			}
			if module, ok := memoryModule(s); ok {
				modules = append(modules, module)
				memoryBytes += module.Bytes
			}
		}
	}
	if len(modules) > 0 {
		facts.Memory = &inventory.Memory{Bytes: memoryBytes, Modules: modules}
	} else if facts.Memory != nil && slots > 0 && slots == emptySlots {
		facts.Memory.Modules = []inventory.MemoryModule{} // the memory is soldered in
	}
	if cpu := facts.CPU; cpu != nil {
		// The kernel counts what is switched on, the firmware what is there;
		// the kernel's word goes first.
		for _, v := range []struct {
			have *int
			from int
		}{{&cpu.Sockets, sockets}, {&cpu.Cores, cores}, {&cpu.Threads, threads}, {&cpu.MaxSpeedMHz, maxMHz}} {
			if *v.have == 0 {
				*v.have = v.from
			}
		}
	}
}

// count is a number of cores or threads: one byte, of which 0xff means that the
// word at the second offset holds it.
func count(s structure, short, long int) int {
	if n := s.byte(short); n != 0xff {
		return int(n)
	}
	return int(s.word(long))
}

// systemUUID is the UUID of type 1 in text order: its first three fields are
// little-endian since SMBIOS 2.6 (7.2.1).
func systemUUID(s structure, version int) string {
	if len(s.area) < 0x18 {
		return ""
	}
	u := bytes.Clone(s.area[8:0x18])
	if bytes.Count(u, []byte{0}) == 16 || bytes.Count(u, []byte{0xff}) == 16 {
		return ""
	}
	if version >= 0x0206 {
		u[0], u[1], u[2], u[3] = u[3], u[2], u[1], u[0]
		u[4], u[5], u[6], u[7] = u[5], u[4], u[7], u[6]
	}
	h := hex.EncodeToString(u)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// memoryModule reads type 17; ok is false for an empty slot, and for one of which
// the firmware does not know what is in it.
func memoryModule(s structure) (inventory.MemoryModule, bool) {
	var size int64
	switch w := s.word(0x0c); {
	case w == 0 || w == 0xffff:
		return inventory.MemoryModule{}, false
	case w == 0x7fff:
		size = int64(s.dword(0x1c)&0x7fffffff) << 20
	case w&0x8000 != 0:
		size = int64(w&0x7fff) << 10
	default:
		size = int64(w) << 20
	}
	module := inventory.MemoryModule{
		Locator: s.text(0x10), Bytes: size, Type: memoryTypes[s.byte(0x12)],
		Manufacturer: s.text(0x17), Serial: s.text(0x18), Part: s.text(0x1a),
	}
	module.SpeedMTs = cmp.Or(s.speed(0x20, 0x58), s.speed(0x15, 0x54))
	total, data := s.word(0x08), s.word(0x0a)
	if total != 0 && total != 0xffff && data != 0 && data != 0xffff {
		ecc := total > data
		module.ECC = &ecc
	}
	return module, true
}

// speed is a configured or a greatest speed: one word, of which 0xffff means that
// the double word at the second offset holds it, and 0 that it is not known.
func (s structure) speed(short, long int) int {
	if n := s.word(short); n != 0xffff {
		return int(n)
	}
	return int(s.dword(long) & 0x7fffffff)
}

// memoryTypes is table 77 of 7.18.2; types that no machine of this century has
// are left out.
var memoryTypes = map[byte]string{
	0x07: "RAM", 0x0f: "SDRAM", 0x12: "DDR", 0x13: "DDR2", 0x14: "DDR2 FB-DIMM", 0x18: "DDR3",
	0x1a: "DDR4", 0x1b: "LPDDR", 0x1c: "LPDDR2", 0x1d: "LPDDR3", 0x1e: "LPDDR4", 0x1f: "NVDIMM",
	0x20: "HBM", 0x21: "HBM2", 0x22: "DDR5", 0x23: "LPDDR5", 0x24: "HBM3",
}

// chassisTypes is table 17 of 7.4.1.
var chassisTypes = map[byte]string{
	0x03: "Desktop", 0x04: "Low Profile Desktop", 0x05: "Pizza Box", 0x06: "Mini Tower", 0x07: "Tower",
	0x08: "Portable", 0x09: "Laptop", 0x0a: "Notebook", 0x0d: "All in One", 0x0f: "Space-saving",
	0x10: "Lunch Box", 0x11: "Main Server Chassis", 0x12: "Expansion Chassis", 0x15: "Peripheral Chassis",
	0x16: "RAID Chassis", 0x17: "Rack Mount Chassis", 0x18: "Sealed-case PC", 0x19: "Multi-system Chassis",
	0x1a: "Compact PCI", 0x1b: "Advanced TCA", 0x1c: "Blade", 0x1d: "Blade Enclosure", 0x1e: "Tablet",
	0x1f: "Convertible", 0x20: "Detachable", 0x21: "IoT Gateway", 0x22: "Embedded PC", 0x23: "Mini PC", 0x24: "Stick PC",
}

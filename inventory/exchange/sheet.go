package exchange

import (
	"encoding/csv"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// Known is a machine of a catalog with the merged view of its facts.
type Known struct {
	inventory.Machine
	Facts inventory.Facts
}

// column is one of CSV's: empty where it is not known.
type column struct {
	name  string
	value func(m Known) string
}

var sheet = []column{
	{"machine", func(m Known) string { return m.Address }},
	{"site", func(m Known) string { return m.Site }},
	{"id", func(m Known) string { return m.ID.String() }},
	{"state", func(m Known) string { return string(m.State) }},
	{"serial", func(m Known) string { return m.Serial }},
	{"mac", func(m Known) string { return macs(m.Machine) }},
	{"smbios_uuid", func(m Known) string {
		if m.SMBIOSUUID == uuid.Nil {
			return ""
		}
		return m.SMBIOSUUID.String()
	}},
	{"manufacturer", func(m Known) string { return system(m.Facts).Manufacturer }},
	{"product", func(m Known) string { return system(m.Facts).Product }},
	{"bios_version", func(m Known) string {
		if m.Facts.BIOS == nil {
			return ""
		}
		return m.Facts.BIOS.Version
	}},
	{"cpu_threads", func(m Known) string {
		if m.Facts.CPU == nil {
			return ""
		}
		return number(int64(m.Facts.CPU.Threads))
	}},
	{"memory_bytes", func(m Known) string {
		if m.Facts.Memory == nil {
			return ""
		}
		return number(m.Facts.Memory.Bytes)
	}},
	{"disks", func(m Known) string {
		if m.Facts.Disks == nil {
			return ""
		}
		return strconv.Itoa(len(m.Facts.Disks))
	}},
	{"disks_bytes", func(m Known) string {
		if m.Facts.Disks == nil {
			return ""
		}
		var sum int64
		for _, d := range m.Facts.Disks {
			sum += d.Bytes
		}
		return strconv.FormatInt(sum, 10)
	}},
	{"image", func(m Known) string { return m.Image }},
	{"classes", func(m Known) string { return strings.Join(m.Classes, " ") }},
	{"drift", func(m Known) string { return string(m.Drift) }},
	{"first_seen", func(m Known) string { return moment(m.FirstSeen) }},
	{"last_seen", func(m Known) string { return moment(m.LastSeen) }},
	{"looked_at", func(m Known) string { return moment(m.LookedAt) }},
}

// CSV writes machines for spreadsheets and for Read, which takes serial, mac,
// smbios_uuid, site and the tags of them: a line with the names of the columns, then
// one a machine. Numbers are in the unit of their column's name, times in RFC 3339,
// and every tag that any machine has is a column of its own, tag.KEY.
func CSV(out io.Writer, machines []Known) error {
	columns := slices.Concat(sheet, tagColumns(machines))
	head := make([]string, len(columns))
	for i, c := range columns {
		head[i] = c.name
	}
	w := csv.NewWriter(out)
	if err := w.Write(head); err != nil {
		return err
	}
	row := make([]string, len(columns))
	for _, m := range machines {
		for i, c := range columns {
			row[i] = inert(c.value(m))
		}
		if err := w.Write(row); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

// tagColumns are a column for each tag that any machine has, sorted.
func tagColumns(machines []Known) []column {
	var keys []string
	for _, m := range machines {
		for key := range m.Tags {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	var out []column
	for _, key := range slices.Compact(keys) {
		out = append(out, column{"tag." + key, func(m Known) string { return m.Tags[key] }})
	}
	return out
}

// NetBox writes machines in the columns of NetBox's import of devices. role is
// the device role that all of them get.
func NetBox(out io.Writer, role string, machines []Known) error {
	w := csv.NewWriter(out)
	if err := w.Write([]string{"name", "role", "manufacturer", "device_type", "serial", "asset_tag", "status", "site", "comments"}); err != nil {
		return err
	}
	tags := assetTags(machines)
	for _, m := range machines {
		manufacturer, product := "Unknown", "Unknown"
		if s := system(m.Facts); s.Product != "" {
			manufacturer, product = s.Manufacturer, s.Product
		}
		row := []string{m.name(), role, manufacturer, product, m.Serial, tags[m.ID], "active", m.Site, macs(m.Machine)}
		for i := range row {
			row[i] = inert(row[i])
		}
		if err := w.Write(row); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

// name is what people call the machine.
func (m Known) name() string {
	switch {
	case m.Tags["name"] != "":
		return m.Tags["name"]
	case m.Address != "":
		return m.Site + " " + m.Address
	case m.Serial != "":
		return m.Serial
	case len(m.MACs) > 0:
		return m.MACs[0].String()
	}
	return m.ID.String()
}

// assetTags are the asset numbers of machines, by id: the tag that people gave, else
// the chassis's. NetBox refuses a second device of a number, and firmware that nobody
// told one says the same in every machine; so that of many chassis is none.
func assetTags(machines []Known) map[uuid.UUID]string {
	bearers := map[string]int{}
	for _, m := range machines {
		bearers[chassisTag(m)]++
	}
	out := map[uuid.UUID]string{}
	for _, m := range machines {
		if out[m.ID] = m.Tags["asset_tag"]; out[m.ID] == "" && bearers[chassisTag(m)] == 1 {
			out[m.ID] = chassisTag(m)
		}
	}
	return out
}

func chassisTag(m Known) string {
	if m.Facts.Chassis == nil || inventory.JunkSerial(m.Facts.Chassis.AssetTag) {
		return ""
	}
	return m.Facts.Chassis.AssetTag
}

func system(f inventory.Facts) inventory.System {
	if f.System == nil {
		return inventory.System{}
	}
	return *f.System
}

func macs(m inventory.Machine) string {
	var out []string
	for _, a := range m.MACs {
		out = append(out, a.String())
	}
	return strings.Join(out, " ")
}

// number is empty for what was not found, which facts give as zero.
func number(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// lead is what makes a formula of a cell where a spreadsheet opens the file, or has
// been put before one to make it text.
const lead = "=+-@\t\r'"

// inert keeps a stranger's text from being a formula: an apostrophe before it says
// that it is text.
func inert(v string) string {
	if v != "" && strings.ContainsRune(lead, rune(v[0])) {
		return "'" + v
	}
	return v
}

// bare is a text without what inert put before it.
func bare(v string) string {
	if len(v) > 1 && v[0] == '\'' && strings.ContainsRune(lead, rune(v[1])) {
		return v[1:]
	}
	return v
}

package bmc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/edge-provision/edge-provision/inventory"
)

// facts follows the links from the service root. HPE's Smart Array before iLO 5
// 2.30, and what else vendors show in documents of their own, is not read.
func (s *redfishSession) facts(ctx context.Context) (Reading, error) {
	s.http.begin(ctx)
	r := &inventoryReader{session: s, left: maxFactRequests}
	reading := Reading{Source: inventory.SourceRedfish, Facts: inventory.Facts{SchemaVersion: inventory.SchemaVersion}}
	err := r.machine(ctx, &reading.Facts)
	reading.Missing = r.missing
	return reading, err
}

// inventoryReader reads documents within a budget of requests.
type inventoryReader struct {
	session *redfishSession
	left    int
	// expand says that collections are asked for with their members in one answer
	// (DSP0266 section 7.3.2).
	expand  bool
	missing []string
}

func (r *inventoryReader) get(ctx context.Context, path string, doc any) error {
	if r.left == 0 {
		return &fault{kind: faultResponse, err: fmt.Errorf("%w: more than %d requests", errBudget, maxFactRequests)}
	}
	r.left--
	return r.session.get(ctx, path, doc)
}

var errBudget = errors.New("the BMC's inventory is larger than is read")

// absent turns an error about one document into a note, unless it ends the reading:
// what the BMC does not have, does not show to this account, or shows in a form
// that makes no sense is left out.
func (r *inventoryReader) absent(what string, err error) error {
	var f *fault
	if !errors.As(err, &f) || errors.Is(err, errBudget) || errors.Is(err, errTooLarge) {
		return err
	}
	switch f.kind {
	case faultUnsupported, faultPrivilege, faultResponse:
		r.missing = append(r.missing, what+": "+f.Error())
		return nil
	case faultBusy, faultUnreachable, faultRefused, faultCertificate, faultPerson:
	}
	return err
}

// optional reads a document that a BMC need not have; ok says that it was read.
func (r *inventoryReader) optional(ctx context.Context, what string, at link, doc any) (ok bool, err error) {
	if at == "" {
		return false, nil
	}
	if err := r.get(ctx, string(at), doc); err != nil {
		return false, r.absent(what, err)
	}
	return true, nil
}

// links reads a collection, following its pages.
func (r *inventoryReader) links(ctx context.Context, at link) ([]json.RawMessage, error) {
	var all []json.RawMessage
	path, expanded := string(at), r.expand
	if expanded {
		path += "?$expand=.($levels=1)"
	}
	for path != "" {
		var page struct {
			Members []json.RawMessage
			Next    text `json:"Members@odata.nextLink"`
		}
		err := r.get(ctx, path, &page)
		var f *fault
		if err != nil && expanded && errors.As(err, &f) && (f.kind == faultResponse || f.kind == faultUnsupported) && !errors.Is(err, errBudget) {
			// It said that it expands, and does not.
			r.expand, expanded, all, path = false, false, nil, string(at)
			continue
		}
		if err != nil {
			return nil, err
		}
		if all = append(all, page.Members...); len(all) > maxFactMembers {
			return nil, &fault{kind: faultResponse, err: fmt.Errorf("it lists more than %d members", maxFactMembers)}
		}
		path = string(page.Next)
	}
	return all, nil
}

// collect reads all members of a collection; ok is false when it is not there, or
// when one of them cannot be read, because a part of a list is no list.
func collect[T any](ctx context.Context, r *inventoryReader, what string, at link) (members []T, ok bool, err error) {
	if at == "" {
		return nil, false, nil
	}
	raw, err := r.links(ctx, at)
	if err != nil {
		return nil, false, r.absent(what, err)
	}
	members = make([]T, 0, len(raw))
	for _, m := range raw {
		var (
			keys map[string]json.RawMessage
			to   link
			doc  T
		)
		if err := json.Unmarshal(m, &keys); err == nil {
			_ = to.UnmarshalJSON(m)
		}
		if _, whole := keys["Id"]; whole {
			err = json.Unmarshal(m, &doc)
		} else if err = r.get(ctx, string(to), &doc); err != nil {
			return nil, false, r.absent(what, err)
		}
		if err != nil {
			return nil, false, r.absent(what, &fault{kind: faultResponse, err: fmt.Errorf("a member makes no sense: %s", clip(err.Error()))})
		}
		members = append(members, doc)
	}
	return members, true, nil
}

// only is the one member of a collection that is expected to have one.
func (r *inventoryReader) only(ctx context.Context, at link) (link, error) {
	if at == "" {
		return "", nil
	}
	raw, err := r.links(ctx, at)
	if err != nil || len(raw) != 1 {
		return "", err
	}
	var to link
	err = to.UnmarshalJSON(raw[0])
	return to, err
}

// machine reads everything.
func (r *inventoryReader) machine(ctx context.Context, f *inventory.Facts) error {
	var root struct {
		Systems, Managers, Chassis link
		ProtocolFeaturesSupported  struct {
			ExpandQuery struct{ NoLinks bool }
		}
	}
	if err := r.get(ctx, "/redfish/v1/", &root); err != nil {
		return err
	}
	at, err := r.only(ctx, root.Systems)
	if err != nil {
		return err
	}
	if at == "" {
		return &fault{kind: faultUnsupported, err: errors.New("the BMC manages no system or several (a blade chassis?), and only one is supported")}
	}
	var system computerSystem
	if err := r.get(ctx, string(at), &system); err != nil {
		return err
	}
	r.expand = root.ProtocolFeaturesSupported.ExpandQuery.NoLinks
	system.describe(f)
	for _, part := range []func(context.Context, computerSystem, *inventory.Facts) error{r.processors, r.memory, r.disks, r.ports} {
		if err := part(ctx, system, f); err != nil {
			return err
		}
	}
	chassis, manager := system.Links.Chassis.first(), system.Links.ManagedBy.first()
	if chassis == "" {
		if chassis, err = r.only(ctx, root.Chassis); err != nil {
			return err
		}
	}
	if err := r.chassis(ctx, chassis, system, f); err != nil {
		return err
	}
	if manager == "" {
		if manager, err = r.only(ctx, root.Managers); err != nil {
			return err
		}
	}
	return r.manager(ctx, manager, f)
}

func (r *inventoryReader) processors(ctx context.Context, system computerSystem, f *inventory.Facts) error {
	all, ok, err := collect[processor](ctx, r, "processors", system.Processors)
	if err != nil {
		return err
	}
	summary := system.ProcessorSummary
	cpu := inventory.CPU{
		Model: genuine(summary.Model), Sockets: summary.Count.whole(),
		Cores: summary.CoreCount.whole(), Threads: summary.LogicalProcessorCount.whole(),
	}
	all = slices.DeleteFunc(all, func(p processor) bool {
		return !p.Status.present() || p.ProcessorType != "" && p.ProcessorType != "CPU"
	})
	if ok && len(all) > 0 {
		first := all[0]
		cpu.Model = cmp.Or(genuine(first.Model), cpu.Model)
		cpu.Sockets, cpu.Cores, cpu.Threads = len(all), 0, 0
		for _, p := range all {
			cpu.Cores += p.TotalCores.whole()
			cpu.Threads += p.TotalThreads.whole()
		}
		cpu.Vendor = processorVendors[strings.ToLower(strings.Fields(string(first.Manufacturer) + " ?")[0])]
		cpu.Architecture = instructionSets[string(first.InstructionSet)]
	}
	if cpu.Model != "" || cpu.Sockets+cpu.Cores+cpu.Threads > 0 {
		f.CPU = &cpu
	}
	return nil
}

// processorVendors are what processors call their makers, by the first word, in
// lower case, of what BMCs call them.
var processorVendors = map[string]string{
	"intel": "GenuineIntel", "intel(r)": "GenuineIntel", "genuineintel": "GenuineIntel",
	"amd": "AuthenticAMD", "authenticamd": "AuthenticAMD", "advanced": "AuthenticAMD",
}

// instructionSets are Go's names of DSP0268's.
var instructionSets = map[string]string{"x86-64": "amd64", "x86": "386", "ARM-A64": "arm64"}

func (r *inventoryReader) memory(ctx context.Context, system computerSystem, f *inventory.Facts) error {
	all, ok, err := collect[memoryModule](ctx, r, "memory modules", system.Memory)
	if err != nil {
		return err
	}
	memory := inventory.Memory{Bytes: system.MemorySummary.TotalSystemMemoryGiB.gibibytes()}
	if ok {
		memory.Modules = []inventory.MemoryModule{}
		var sum int64
		for _, m := range all {
			if module, populated := m.module(); populated {
				memory.Modules = append(memory.Modules, module)
				sum += module.Bytes
			}
		}
		memory.Bytes = cmp.Or(sum, memory.Bytes)
		if sum == 0 {
			// It lists slots and says of none what is in it.
			memory.Modules = nil
		}
	}
	if memory.Bytes > 0 {
		f.Memory = &memory
	}
	return nil
}

func (r *inventoryReader) disks(ctx context.Context, system computerSystem, f *inventory.Facts) error {
	units, ok, err := collect[storage](ctx, r, "storage", system.Storage)
	if err != nil {
		return err
	}
	found := []inventory.Disk{}
	for _, unit := range units {
		for _, at := range unit.Drives {
			var d drive
			if len(found) >= maxFactMembers {
				ok = false
				break
			}
			read, err := r.optional(ctx, "drive", at, &d)
			if err != nil {
				return err
			}
			if ok = ok && read; !read {
				break
			}
			if disk, plugged := d.disk(); plugged {
				found = append(found, disk)
			}
		}
	}
	// Controllers without RAID, the AHCI of a board, may stand in SimpleStorage only.
	if len(found) == 0 {
		simple, some, err := collect[simpleStorage](ctx, r, "simple storage", system.SimpleStorage)
		if err != nil {
			return err
		}
		for _, unit := range simple {
			for _, d := range unit.Devices {
				if disk, plugged := d.disk(); plugged {
					found = append(found, disk)
				}
			}
		}
		ok = ok || some
	}
	// An empty list is no proof that there is no disk: the AHCI of a board, or a
	// controller that has not started, is often shown by nothing at all.
	if ok && len(found) > 0 {
		f.Disks = found
	}
	return nil
}

func (r *inventoryReader) ports(ctx context.Context, system computerSystem, f *inventory.Facts) error {
	all, ok, err := collect[ethernetInterface](ctx, r, "Ethernet interfaces", system.EthernetInterfaces)
	if err != nil || !ok {
		return err
	}
	seen := map[inventory.MAC]bool{}
	for i, e := range all {
		mac := genuineMAC(e.PermanentMACAddress, e.MACAddress)
		// Partitions of one port, and the same port under two names, are one port.
		if mac.IsZero() || seen[mac] {
			continue
		}
		seen[mac] = true
		f.NICs = append(f.NICs, inventory.NIC{Name: cmp.Or(fact(e.ID), fmt.Sprint(i+1)), MAC: mac})
	}
	return nil
}

func (r *inventoryReader) chassis(ctx context.Context, at link, system computerSystem, f *inventory.Facts) error {
	var doc chassisDocument
	if _, err := r.optional(ctx, "chassis", at, &doc); err != nil {
		return err
	}
	serial := genuine(doc.SerialNumber)
	if tag := serviceTag(genuine(doc.Manufacturer), fact(doc.SKU)); tag != "" {
		serial = tag
	}
	f.Chassis = present(inventory.Chassis{
		Manufacturer: genuine(doc.Manufacturer), Type: redfishChassis[string(doc.ChassisType)], Serial: serial,
		AssetTag: cmp.Or(genuine(doc.AssetTag), genuine(system.AssetTag)),
	})
	return nil
}

// redfishChassis are SMBIOS's names of DSP0268's.
var redfishChassis = map[string]string{
	"RackMount": chassisTypes[0x17], "Blade": chassisTypes[0x1c], "Tower": chassisTypes[0x07],
}

func (r *inventoryReader) manager(ctx context.Context, at link, f *inventory.Facts) error {
	var doc managerDocument
	read, err := r.optional(ctx, "manager", at, &doc)
	if err != nil || !read {
		return err
	}
	out := inventory.BMCFacts{Firmware: fact(doc.FirmwareVersion), Vendor: genuine(doc.Manufacturer)}
	asked := ""
	if at, err := netip.ParseAddrPort(r.session.http.host); err == nil {
		asked = at.Addr().String()
	}
	ports, _, err := collect[ethernetInterface](ctx, r, "the BMC's Ethernet interfaces", doc.EthernetInterfaces)
	if err != nil {
		return err
	}
	for _, p := range ports {
		address, mac := p.address(), genuineMAC(p.PermanentMACAddress, p.MACAddress)
		own := address != "" && address == asked
		if !mac.IsZero() && (own || out.MAC == "" && address != "") {
			out.MAC, out.Address = mac.String(), address
		}
		if own {
			break
		}
	}
	f.BMC = present(out)
	return nil
}

// amount is a number that vendors also write as text, or leave null.
type amount float64

// UnmarshalJSON takes what is no number for none.
func (a *amount) UnmarshalJSON(b []byte) error {
	var n json.Number
	if json.Unmarshal(b, &n) != nil {
		return nil // absent
	}
	if v, err := n.Float64(); err == nil && v > 0 && !math.IsInf(v, 0) {
		*a = amount(v)
	}
	return nil
}

// whole is a count; 0 for what cannot be one.
func (a amount) whole() int {
	if a > 1<<20 {
		return 0
	}
	return int(a)
}

// bytes is a size of so many units; 0 for what no size is.
func (a amount) bytes(unit int64) int64 {
	if float64(a)*float64(unit) >= 1<<60 {
		return 0
	}
	return int64(math.Round(float64(a) * float64(unit)))
}

// gibibytes is a sum of memory. An iDRAC 9 turns its gigabytes, which are the
// modules' gibibytes, into gibibytes once more: 512 becomes 476.837. Modules come
// in whole gibibytes, so what becomes whole by undoing that was one.
func (a amount) gibibytes() int64 {
	const ratio = 1.073741824
	v := float64(a)
	if undone := v * ratio; v != math.Trunc(v) && math.Abs(undone-math.Round(undone)) < 1e-5*undone {
		return amount(math.Round(undone)).bytes(1 << 30)
	}
	return a.bytes(1 << 30)
}

// text is a text, or nothing where a vendor writes something else.
type text string

// UnmarshalJSON takes what is no text for none.
func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*t = text(s)
	}
	return nil
}

// link is where a reference (DSP0266 section 8.5) leads; empty when nowhere.
type link string

// UnmarshalJSON takes what is no reference for none.
func (l *link) UnmarshalJSON(b []byte) error {
	var o odataLink
	if json.Unmarshal(b, &o) == nil {
		*l = link(o.ID)
	}
	return nil
}

// linkList is a list of references.
type linkList []link

// UnmarshalJSON takes what is no list for an empty one.
func (l *linkList) UnmarshalJSON(b []byte) error {
	var all []link
	if json.Unmarshal(b, &all) == nil {
		*l = all
	}
	return nil
}

func (l linkList) first() link {
	if len(l) == 0 {
		return ""
	}
	return l[0]
}

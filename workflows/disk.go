package workflows

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/query"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// unmet finds the first requirement that the machine's facts do not meet.
func unmet(m *site.Machine, v MachineView) (hcl.Range, string) {
	doc := document(v)
	for _, r := range m.Require {
		result, err := r.Condition.Eval(doc)
		if err != nil {
			return r.Range("condition"), fmt.Sprintf("its requirement could not be evaluated: %v", err)
		}
		if result == query.True {
			continue
		}
		detail := r.Condition.Reason(doc)
		if r.Message != "" {
			detail = r.Message + ": " + detail
		}
		return r.Range("condition"), detail
	}
	return hcl.Range{}, ""
}

func document(v MachineView) query.Doc {
	machine := inventory.Machine{}
	if v.Machine != nil {
		machine = *v.Machine
	}
	return query.NewDoc(machine, v.Facts)
}

// rootDisk chooses the disk that the image is written to: exactly one must
// match, or the smallest one on request. detail says why none can be chosen.
func rootDisk(m *site.Machine, v MachineView) (disk inventory.Disk, matches int, at hcl.Range, detail string) {
	at = m.DeclRange
	if m.RootDisk.DeclRange.Filename != "" {
		at = m.RootDisk.DeclRange
	}
	doc := document(v)
	var matched []inventory.Disk
	for _, d := range v.Facts.Disks {
		if m.RootDisk.Match == nil {
			matched = append(matched, d)
			continue
		}
		at = m.RootDisk.Range("match")
		result, err := m.RootDisk.Match.Eval(doc.WithDisk(d))
		if err != nil {
			return disk, 0, at, fmt.Sprintf("root_disk could not be evaluated: %v", err)
		}
		if result == query.True {
			matched = append(matched, d)
		}
	}
	switch {
	case v.Facts.Disks == nil:
		return disk, len(matched), at, "nobody saw which disks the machine has: its agent reports none, and does not say that it could look for them. " +
			"Either it could not read them, or a driver still looked for its disks when the agent's patience ended, which its log and console tell; let the machine boot its installer anew"
	case len(v.Facts.Disks) == 0:
		return disk, len(matched), at, "the machine has no disk that an image could be written to; is its controller in RAID mode, or the disk unplugged?"
	case len(matched) == 0:
		return disk, len(matched), at, fmt.Sprintf("root_disk matches none of its disks: %s", listDisks(v.Facts.Disks))
	case len(matched) == 1:
		return matched[0], 1, at, ""
	case m.RootDisk.Select != site.SelectSmallest:
		return disk, len(matched), at, fmt.Sprintf("root_disk matches %d disks and must match exactly one: %s. Name one by wwn or serial, or say select = \"smallest\"",
			len(matched), listDisks(matched))
	}
	slices.SortStableFunc(matched, func(a, b inventory.Disk) int { return cmp.Compare(a.Bytes, b.Bytes) })
	if matched[0].Bytes == matched[1].Bytes {
		return disk, len(matched), at, fmt.Sprintf("select = \"smallest\" cannot choose between disks of one size: %s", listDisks(matched[:2]))
	}
	return matched[0], 1, at, ""
}

// listDisks describes disks so that a person can tell them apart.
func listDisks(disks []inventory.Disk) string {
	var out []string
	for _, d := range disks {
		out = append(out, DescribeDisk(NameDisk(d)))
	}
	return strings.Join(out, "; ")
}

// HasDisk reports whether a machine with these facts has the disk.
func HasDisk(f inventory.Facts, want DiskName) bool {
	return slices.ContainsFunc(f.Disks, func(d inventory.Disk) bool { return NameDisk(d).Same(want) })
}

// DescribeDisk is a disk in a few words: kernel name, size and lasting name.
func DescribeDisk(d DiskName) string {
	name := "no serial"
	switch {
	case d.Serial != "":
		name = "serial " + d.Serial
	case d.WWN != "":
		name = "wwn " + d.WWN
	case d.Path != "":
		name = d.Path
	}
	return fmt.Sprintf("%s (%s, %s)", d.Name, FormatBytes(d.Bytes), name)
}

// FormatBytes writes a size in the largest binary unit that keeps it readable.
func FormatBytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, i := float64(n)/unit, 0
	for value >= unit && i < 4 {
		value /= unit
		i++
	}
	text := fmt.Sprintf("%.1f", value)
	return strings.TrimSuffix(text, ".0") + " " + []string{"KiB", "MiB", "GiB", "TiB", "PiB"}[i]
}

// NewInstallRecord is the part of an installation that the declaration alone
// decides.
func NewInstallRecord(m *site.Machine) InstallRecord {
	r := InstallRecord{Hostname: m.Hostname}
	if m.IP.IsValid() {
		r.Address = m.IP.String()
	}
	type account struct {
		Name string
		Keys []string
		Sudo bool
	}
	var accounts []account
	for _, u := range m.Users {
		accounts = append(accounts, account{u.Name, u.AuthorizedKeys, u.Sudo})
	}
	r.Users = DigestOf(accounts)
	if n := m.Network; n != nil {
		r.Network = DigestOf([]any{n.CIDR.String(), n.Gateway, n.DNS, n.NTP, n.Domain, n.DHCP.Mode})
	}
	return r
}

// installInputs is the digest of everything that an installation is approved
// with.
func installInputs(m *site.Machine, a Action) string {
	return DigestOf([]any{NewInstallRecord(m), a.Image, a.Erase.Disk, m.Wipe})
}

// DigestOf names a value of strings, numbers, slices and structs by the SHA-256
// of its JSON form.
func DigestOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshalling an input: %v", err))
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

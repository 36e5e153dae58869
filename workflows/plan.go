// Package workflows is the engine: it compares a site as declared with the
// site as observed (Build, a pure function), and carries out what was approved
// (Engine.Run), journaled step by step. What a step does is not here but in
// workflows/steps.
package workflows

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// PlanVersion is the version of a plan's JSON form. A saved plan of another
// version is refused.
const PlanVersion = 1

// Plan is the difference between a site as declared and as observed.
type Plan struct {
	Version int      `json:"format_version"`
	Site    string   `json:"site"`
	Catalog string   `json:"catalog"`
	Actions []Action `json:"actions"`
	// Hardware is how the hardware of the machines stands against their
	// snapshots, for those that have one. Nothing is done about it.
	Hardware []Hardware `json:"hardware,omitempty"`
	// Classes tell which machines are in which class. An apply does nothing of
	// what they start, so that they are no part of what is approved.
	Classes []ClassView `json:"classes,omitempty"`
}

// ClassView is what a plan tells of a class of the site.
type ClassView struct {
	Name     string `json:"name"`
	Machines int    `json:"machines"`
	// Reactions say, each in one clause, what the daemon starts for a machine of
	// the class, or why it does not.
	Reactions []string `json:"reactions,omitempty"`
}

// Action is what a plan does about one address.
type Action struct {
	Address string `json:"address"`
	Kind    Kind   `json:"kind"`
	// Reason is one clause for a person: why this, and not something else.
	Reason string `json:"reason,omitempty"`
	// Machine is the id of the machine that a declaration by what it is was found to
	// mean: what is approved is done to this one, and to no other.
	Machine uuid.UUID `json:"machine,omitzero"`
	// Changes are lines of what differs.
	Changes []string `json:"changes,omitempty"`
	// Image is what is installed: an image address, and its digest or
	// "(known after it is built)".
	Image       string `json:"image,omitempty"`
	ImageDigest string `json:"image_digest,omitempty"`
	// Erase is the disk whose content will be lost.
	Erase *Erase `json:"erase,omitempty"`
	// Candidates is set when root_disk did not choose one disk.
	Candidates *Candidates `json:"root_disk_candidates,omitempty"`
	// Power is what happens to the machine's power on the way.
	Power PowerChange `json:"power,omitempty"`
	// DependsOn are the addresses that come first.
	DependsOn []string `json:"depends_on,omitempty"`
	// Inputs is the digest of what was approved; a step whose inputs are not
	// known yet has none.
	Inputs string `json:"inputs,omitempty"`
	// After names what has to happen before the rest is known.
	After []string `json:"known_after,omitempty"`
	// Loss lists data that a removal could destroy and that nothing brings
	// back. It is kept unless DataConsent is given.
	Loss []string `json:"loss,omitempty"`
	// DataConsent is ConsentNeeded while nobody consented to Loss.
	DataConsent Consent `json:"data_consent,omitempty"`
}

// DestroysData reports whether somebody consented to the action's Loss.
func (a Action) DestroysData() bool {
	return a.DataConsent == ConsentTyped || a.DataConsent == ConsentFlag
}

// Kind is what is done about an address.
type Kind string

// Kinds of actions. The first group changes something; the others say why
// nothing is.
const (
	KindInspect Kind = "inspect"  // boot the installer, learn the facts, hold; write nothing
	KindInstall Kind = "install"  // erase one disk, write the image
	KindPowerOn Kind = "power-on" // an installed machine is off
	KindBoot    Kind = "boot"     // installed, but not seen to answer yet
	KindBuild   Kind = "build"    // an image that is not in the cache
	KindRun     Kind = "run"      // a step
	KindRemove  Kind = "remove"   // destroy: what a step brought is taken away
	KindForget  Kind = "forget"   // destroy: only the catalog's record of it goes

	KindNone        Kind = "none"        // as declared
	KindDiffers     Kind = "differs"     // not as declared, and only -replace changes it
	KindUnreachable Kind = "unreachable" // cannot be asked; left alone
	KindRefused     Kind = "refused"     // must not be done as declared
	KindBlocked     Kind = "blocked"     // depends on one of the three above
	KindOrphan      Kind = "orphan"      // no longer declared; left alone
	KindSkipped     Kind = "skipped"     // its `when` is false
)

// Changes reports whether the kind of action touches anything.
func (k Kind) Changes() bool {
	switch k {
	case KindInspect, KindInstall, KindPowerOn, KindBoot, KindBuild, KindRun, KindRemove, KindForget:
		return true
	}
	return false
}

// Settled reports whether nothing is wrong with an address and nothing is to be
// done about it.
func (k Kind) Settled() bool { return k == KindNone || k == KindSkipped || k == KindOrphan }

// PowerChange is what happens to a machine's power.
type PowerChange string

// Changes of power.
const (
	PowerKept    PowerChange = ""
	PowerUp      PowerChange = "on"     // it is off and will be switched on
	PowerCycle   PowerChange = "cycle"  // it is on and will be switched off and on
	PowerResume  PowerChange = "resume" // it is on: cycled only if its installer is gone
	PowerUnasked PowerChange = "ask"    // its BMC cannot be asked now
	PowerPerson  PowerChange = "person" // it has no BMC: somebody has to switch it on
	PowerDown    PowerChange = "off"    // it will be switched off
)

// DiskName names a disk by what does not change between boots.
type DiskName struct {
	Name   string `json:"name"` // kernel name when it was seen; for a person
	WWN    string `json:"wwn,omitempty"`
	Serial string `json:"serial,omitempty"`
	Path   string `json:"path,omitempty"`
	Bytes  int64  `json:"bytes"`
}

// NameDisk takes a disk's lasting names from its facts.
func NameDisk(d inventory.Disk) DiskName {
	return DiskName{Name: d.Name, WWN: d.WWN, Serial: d.Serial, Path: d.Path, Bytes: d.Bytes}
}

// Same reports whether a and b certainly name one disk, whatever the kernel called
// it. Numbers that differ are of two disks; one that many disks bear, because nobody
// wrote one, proves nothing, so that the disk has to be where it was. Of a disk whose
// place is not known, as where it is on no PCI bus, that number is all there is.
func (a DiskName) Same(b DiskName) bool {
	if a.Bytes != b.Bytes || a.WWN != b.WWN || a.Serial != b.Serial {
		return false
	}
	if inventory.Numbered(a.WWN, a.Serial) {
		return true
	}
	return a.Path == b.Path && a.Path+a.WWN+a.Serial != ""
}

// Alike reports whether a and b may name one disk: they are the Same, or bear the
// same numbers, of which nobody wrote any.
func (a DiskName) Alike(b DiskName) bool {
	return a.Same(b) || a.Bytes == b.Bytes && a.WWN == b.WWN && a.Serial == b.Serial && a.WWN+a.Serial != ""
}

// Erase is a disk whose content will be lost, and by whose consent.
type Erase struct {
	Disk       DiskName `json:"disk"`
	Signatures []string `json:"signatures,omitempty"`
	Consent    Consent  `json:"consent"`
	// Serial is what a person types to consent: the machine's serial, or its
	// SMBIOS UUID where it has none.
	Serial string `json:"serial,omitempty"`
}

// Candidates counts the disks of a machine, and those that root_disk matched.
type Candidates struct {
	Matched int `json:"matched"`
	Of      int `json:"of"`
}

// Consent says why a disk may be erased, or data be destroyed.
type Consent string

// Reasons for which a disk may be erased, or data be destroyed.
const (
	ConsentBlank      Consent = "blank"      // it carries no signature
	ConsentDeclared   Consent = "declared"   // wipe = true in site.hcl
	ConsentUnfinished Consent = "unfinished" // this catalog's own write was cut off on it
	ConsentNeeded     Consent = "needed"     // somebody must type the serial, or the address
	ConsentTyped      Consent = "typed"      // somebody did
	ConsentFlag       Consent = "flag"       // -destroy-data named the address
)

// Counts is how many actions of each kind a plan has.
func (p Plan) Counts() map[Kind]int {
	counts := map[Kind]int{}
	for _, a := range p.Actions {
		counts[a.Kind]++
	}
	return counts
}

// Empty reports whether carrying out the plan would change nothing.
func (p Plan) Empty() bool {
	return !slices.ContainsFunc(p.Actions, func(a Action) bool { return a.Kind.Changes() })
}

// Settled reports whether the site is as declared, as far as could be asked.
func (p Plan) Settled() bool {
	return !slices.ContainsFunc(p.Actions, func(a Action) bool { return !a.Kind.Settled() })
}

// Find returns the action on an address.
func (p Plan) Find(address string) (Action, bool) {
	i := slices.IndexFunc(p.Actions, func(a Action) bool { return a.Address == address })
	if i < 0 {
		return Action{}, false
	}
	return p.Actions[i], true
}

// Block returns the plan with everything blocked that depends on something that
// cannot be asked, is refused, or is blocked itself.
func (p Plan) Block() Plan {
	p.Actions = slices.Clone(p.Actions)
	for changed := true; changed; {
		changed = false
		for i, a := range p.Actions {
			if cause := p.obstacle(a); cause != "" {
				p.Actions[i] = Action{Address: a.Address, Kind: KindBlocked, Reason: "it depends on " + cause, DependsOn: a.DependsOn}
				changed = true
			}
		}
	}
	return p
}

// obstacle is the first dependency that keeps an action from being carried out.
func (p Plan) obstacle(a Action) string {
	if !a.Kind.Changes() {
		return ""
	}
	for _, d := range a.DependsOn {
		switch on, _ := p.Find(d); on.Kind {
		case KindUnreachable, KindRefused, KindBlocked:
			return d
		}
	}
	return ""
}

// Digest names what the plan would do: two plans with one digest do the same.
// The reasons are left out, because an error in them may differ from one asking
// to the next (a port, a duration) while the plan stays the same; so is the
// hardware, which no action changes.
func (p Plan) Digest() string {
	p.Hardware = nil
	p.Actions = slices.Clone(p.Actions)
	for i := range p.Actions {
		p.Actions[i].Reason = ""
	}
	p.Classes = nil
	// A struct of strings, numbers and slices always marshals.
	b, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("marshalling a plan: %v", err))
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// MoreDestructive lists what p would lose that approved does not name: the
// reason to ask again.
func (p Plan) MoreDestructive(approved Plan) []string {
	var out []string
	for _, a := range p.Actions {
		old, _ := approved.Find(a.Address)
		switch {
		case a.Kind != KindNone && a.Machine != old.Machine && a.Machine != uuid.Nil && old.Machine != uuid.Nil:
			out = append(out, fmt.Sprintf("%s is another machine now: %s was shown, and it is %s", a.Address, old.Machine, a.Machine))
		case a.Erase != nil && (old.Erase == nil || !old.Erase.Disk.Same(a.Erase.Disk)):
			out = append(out, fmt.Sprintf("%s: %s would be erased", a.Address, a.Erase.Disk.Name))
		case a.Erase != nil && !subset(a.Erase.Signatures, old.Erase.Signatures):
			out = append(out, fmt.Sprintf("%s: %s carries more than was shown: %v", a.Address, a.Erase.Disk.Name, a.Erase.Signatures))
		case a.Power == PowerCycle && old.Power != PowerCycle:
			out = append(out, fmt.Sprintf("%s would be power-cycled", a.Address))
		case a.Power == PowerDown && old.Power != PowerDown:
			out = append(out, fmt.Sprintf("%s would be switched off", a.Address))
		case a.Kind == KindRemove && old.Kind != KindRemove:
			out = append(out, fmt.Sprintf("%s would be removed", a.Address))
		case !subset(a.Loss, old.Loss):
			out = append(out, fmt.Sprintf("%s holds more data than was shown: %v", a.Address, a.Loss))
		}
	}
	return out
}

func subset(small, large []string) bool {
	for _, s := range small {
		if !slices.Contains(large, s) {
			return false
		}
	}
	return true
}

// sortActions puts actions into the order of addresses given by order, which is
// the order of declaration; what is not in it comes last, by name.
func sortActions(actions []Action, order []string) {
	rank := make(map[string]int, len(order))
	for i, a := range order {
		rank[a] = i + 1
	}
	slices.SortStableFunc(actions, func(a, b Action) int {
		ra, rb := rank[a.Address], rank[b.Address]
		if ra == 0 {
			ra = len(order) + 1
		}
		if rb == 0 {
			rb = len(order) + 1
		}
		return cmp.Or(cmp.Compare(ra, rb), cmp.Compare(a.Address, b.Address))
	})
}

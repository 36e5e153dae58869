package workflows

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// BuildOptions narrow or widen a plan.
type BuildOptions struct {
	// Replace are the addresses of machines that are to be installed anew
	// whatever they are now.
	Replace []string
	// Target keeps these addresses and what they depend on; empty keeps all. A
	// name without key, a workflow or a module stands for all that is in it.
	Target []string
}

// Check refuses addresses that the site does not declare. It comes before
// anything is asked, because a mistyped target would otherwise be everything.
func (o BuildOptions) Check(s *site.Site) hcl.Diagnostics {
	var diags hcl.Diagnostics
	nodes := s.Graph().Nodes
	for i, address := range slices.Concat(o.Replace, o.Target) {
		if !slices.Contains(nodes, address) && (i < len(o.Replace) || len(s.Select(address)) == 0) {
			diags = append(diags, &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: "Unknown address",
				Detail: fmt.Sprintf("%s is not declared in this site. An address looks like machine.node[\"a\"]; quote it for the shell.", address),
			})
		}
	}
	return diags
}

// Build compares the site as declared with the site as observed. It is pure and
// deterministic: equal arguments give equal plans. The diagnostics explain each
// refused action with the line of site.hcl it comes from; they do not make the
// rest of the plan wrong.
func Build(s *site.Site, o Observation, opts BuildOptions) (Plan, hcl.Diagnostics) {
	b := builder{site: s, seen: o, opts: opts, actions: map[string]Action{}}
	graph := s.Graph()
	b.edges = map[string][]string{}
	for _, e := range graph.Edges {
		b.edges[e.From] = append(b.edges[e.From], e.To)
	}
	for _, m := range s.Machines {
		b.put(b.machine(m))
	}
	for _, i := range s.Images {
		if a, needed := b.image(i); needed {
			b.put(a)
		}
	}
	for _, w := range s.Workflows {
		for _, step := range w.Steps {
			b.decide(step)
		}
	}
	for _, address := range o.Orphans {
		b.put(Action{Address: address, Kind: KindOrphan, Reason: "no longer declared; it is left alone"})
	}
	b.keepTargets()

	plan := Plan{Version: PlanVersion, Site: s.Name, Catalog: o.Catalog}
	for _, a := range b.actions {
		plan.Actions = append(plan.Actions, a)
	}
	sortActions(plan.Actions, graph.Nodes)
	for _, a := range plan.Actions {
		if h := o.Machines[a.Address].Hardware; h != nil {
			h := *h
			h.Address = a.Address
			plan.Hardware = append(plan.Hardware, h)
		}
	}
	return plan.Block(), b.diagnostics()
}

type builder struct {
	site    *site.Site
	seen    Observation
	opts    BuildOptions
	edges   map[string][]string // address → what it depends on
	actions map[string]Action
	remarks []remark
}

// remark is a diagnostic about an address.
type remark struct {
	address string
	text    *hcl.Diagnostic
}

func (b *builder) say(address string, text *hcl.Diagnostic) {
	b.remarks = append(b.remarks, remark{address, text})
}

// diagnostics are those about what is in the plan: what is wrong with a machine
// that is no target must not fail the others.
func (b *builder) diagnostics() hcl.Diagnostics {
	var out hcl.Diagnostics
	for _, r := range b.remarks {
		if _, kept := b.actions[r.address]; kept {
			out = append(out, r.text)
		}
	}
	return out
}

func (b *builder) put(a Action) {
	a.DependsOn = b.below(a.Address)
	b.actions[a.Address] = a
}

// below lists what an address waits for: what it refers to, and what that would
// wait for where it is skipped.
func (b *builder) below(address string) []string {
	out := slices.Clone(b.edges[address])
	for _, d := range b.edges[address] {
		if b.actions[d].Kind == KindSkipped {
			out = append(out, b.below(d)...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (b *builder) image(i *site.Image) (Action, bool) {
	view := b.seen.Images[i.Address]
	needed := slices.ContainsFunc(b.site.Machines, func(m *site.Machine) bool {
		return m.Image != nil && m.Image.Address == i.Address && b.actions[m.Address].Kind == KindInstall
	})
	if !needed || view.Digest != "" {
		return Action{}, false
	}
	reason := "it is not in this controller's cache"
	if i.Imported() {
		reason = "it has not been imported yet"
	}
	return Action{Address: i.Address, Kind: KindBuild, Reason: reason}, true
}

// machine decides about one declared machine. The order of the cases is the
// order in which they win.
func (b *builder) machine(m *site.Machine) Action {
	v := b.seen.Machines[m.Address]
	a := Action{Address: m.Address}
	if m.Match != nil && v.Machine != nil {
		a.Machine = v.Machine.ID
	}
	replace := slices.Contains(b.opts.Replace, m.Address)
	b.doubt(m, v)
	switch {
	case m.Adopted():
		return b.adopted(a, m, v)
	case v.Unbound != "":
		return b.refuse(a, m.Range("match"), "Match fits several machines", v.Unbound)
	case m.Image == nil && v.Facts != nil:
		return b.none(a, "discovered; no image is declared")
	case m.Image == nil:
		return b.inspect(a, m, v)
	case v.Unfinished != nil && !v.lost(v.Unfinished.Disk):
		return b.resume(a, m, v)
	case v.Applied != nil && !replace:
		return b.installed(a, m, v)
	case v.renamed() && !replace:
		return b.refuse(a, m.DeclRange, "Machine was installed under another address", fmt.Sprintf(
			"this catalog installed it (%s) under an address that is not declared any more. Say moved { from = …, to = %s } to keep it, or `-replace='%s'` to erase it",
			short(v.Machine.Image), a.Address, a.Address))
	case v.Facts == nil:
		return b.inspect(a, m, v)
	case v.Released && !v.InInstaller:
		a = b.inspect(a, m, v)
		a.Reason = "given up by destroy; what its disk carries now has to be looked at first"
		return a
	case (v.Applied != nil || v.renamed()) && !v.InInstaller:
		// What is known of its disks is from before we wrote to one of them:
		// what would be lost is seen only in the installer.
		a = b.inspect(a, m, v)
		a.Reason = "to be replaced, as asked; what its disk carries now has to be looked at first"
		return a
	}
	return b.install(a, m, v)
}

func (b *builder) none(a Action, reason string) Action {
	a.Kind, a.Reason = KindNone, reason
	return a
}

func (b *builder) adopted(a Action, m *site.Machine, v MachineView) Action {
	switch v.Host {
	case Unreachable:
		a.Kind, a.Reason = KindUnreachable, v.HostDetail
		return a
	case Absent:
		return b.refuse(a, m.SSH.Range("host_key"), "Adopted machine is not let in", strings.TrimPrefix(v.HostDetail, a.Address+": "))
	}
	if v.FactsNote != "" {
		b.say(a.Address, &hcl.Diagnostic{
			Severity: hcl.DiagWarning, Summary: "Facts are incomplete", Subject: m.SSH.DeclRange.Ptr(),
			Detail: fmt.Sprintf("%s: %s", a.Address, v.FactsNote),
		})
	}
	// Absent facts meet no requirement, also where none could be gathered.
	if at, detail := unmet(m, v); detail != "" {
		return b.refuse(a, at, "Machine does not meet a requirement", detail)
	}
	return b.none(a, "adopted: reached over SSH, never powered or imaged")
}

// refuse records why an action must not be done, with its line of site.hcl.
func (b *builder) refuse(a Action, at hcl.Range, summary, detail string) Action {
	a.Kind, a.Reason = KindRefused, detail
	a.Erase, a.Power, a.Image, a.ImageDigest, a.Changes = nil, PowerKept, "", "", nil
	b.say(a.Address, &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: summary, Subject: at.Ptr(),
		Detail: fmt.Sprintf("%s: %s", a.Address, detail),
	})
	return a
}

// inspect boots a machine whose facts are unknown.
func (b *builder) inspect(a Action, m *site.Machine, v MachineView) Action {
	a.Kind, a.Reason = KindInspect, "never inspected; its facts are not known"
	return withPower(a, m, v)
}

// withPower adds what happens to the machine's power on the way, and why its BMC
// could not be asked.
func withPower(a Action, m *site.Machine, v MachineView) Action {
	a.Power = powerFor(m, v)
	if a.Power == PowerUnasked && v.PowerErr != "" {
		a.Reason += "; its BMC: " + v.PowerErr
	}
	return a
}

// powerFor is what has to happen to the power of a machine that must boot the
// installer.
func powerFor(m *site.Machine, v MachineView) PowerChange {
	switch {
	case v.InInstaller:
		return PowerKept
	case m.BMC.Driver == site.BMCNone:
		return PowerPerson
	case v.Power == PowerOff:
		return PowerUp
	case v.Power == PowerOn:
		return PowerCycle
	}
	return PowerUnasked
}

// lost reports whether somebody looked for the machine's disks since and this one
// was not among them.
func (v MachineView) lost(d DiskName) bool {
	return v.Facts != nil && v.Facts.Disks != nil && !HasDisk(*v.Facts, d)
}

// resume continues a write that was cut off; the disk is the one of the journal
// whatever root_disk would choose now.
func (b *builder) resume(a Action, m *site.Machine, v MachineView) Action {
	a.Kind, a.Reason = KindInstall, "its installation was cut off and will be continued"
	a.Image, a.ImageDigest = m.Image.Address, v.Unfinished.Image
	a = withPower(a, m, v)
	if a.Power == PowerCycle {
		a.Power = PowerResume
	}
	a.Erase = &Erase{Disk: v.Unfinished.Disk, Consent: ConsentUnfinished}
	a.Inputs = installInputs(m, a)
	return a
}

// installed compares a machine that this catalog installed with what it is now.
// It never plans to install it again: only -replace does.
func (b *builder) installed(a Action, m *site.Machine, v MachineView) Action {
	switch v.Host {
	case Present:
		changes := b.differences(m, v)
		if len(changes) == 0 {
			return b.none(a, "installed, and answers as itself")
		}
		a.Kind, a.Changes = KindDiffers, changes
		a.Reason = fmt.Sprintf("differs from its declaration; `-replace='%s'` would install it anew and erase its disk", a.Address)
		return a
	case Absent:
		a.Kind = KindDiffers
		a.Reason = fmt.Sprintf("%s; `-replace='%s'` would install it anew and erase its disk", v.HostDetail, a.Address)
		return a
	}
	if v.Unanswered {
		a.Kind, a.Reason = KindBoot, "installed, but its run was cut off before it answered"
		if v.Power == PowerOff {
			a.Power = PowerUp
		}
		return a
	}
	if v.Power == PowerOff {
		a.Kind, a.Reason, a.Power = KindPowerOn, "installed, but switched off", PowerUp
		return a
	}
	a.Kind, a.Reason = KindUnreachable, v.HostDetail
	if v.PowerErr != "" {
		a.Reason += "; and its BMC: " + v.PowerErr
	}
	return a
}

// differences lists how an installed machine is not what is declared.
func (b *builder) differences(m *site.Machine, v MachineView) []string {
	var out []string
	add := func(what, was, is string) {
		if was != is {
			out = append(out, fmt.Sprintf("%s: %s → %s", what, orNone(was), orNone(is)))
		}
	}
	image := b.seen.Images[m.Image.Address]
	// The declaration decides; the digest only where the declaration moved.
	if v.Applied.ImageSpec != image.Spec {
		add("image", v.Applied.Image, cmpOr(image.Digest, "(known after it is built)"))
	}
	if v.HostIdentity.Image != v.Applied.Image {
		add("image on the machine", v.HostIdentity.Image, v.Applied.Image)
	}
	if v.HostIdentity.Catalog != b.seen.Catalog {
		add("owner", "catalog "+v.HostIdentity.Catalog, "catalog "+b.seen.Catalog)
	}
	want := NewInstallRecord(m)
	add("hostname", v.Applied.Hostname, want.Hostname)
	add("address", v.Applied.Address, want.Address)
	if v.Applied.Users != want.Users {
		out = append(out, "users or their keys have changed")
	}
	if v.Applied.Network != want.Network {
		out = append(out, "gateway, DNS, NTP or prefix have changed")
	}
	return out
}

func orNone(s string) string { return cmpOr(s, "(none)") }

func cmpOr(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// install plans the erasure of one disk and the writing of the image, or says
// why it must not be.
func (b *builder) install(a Action, m *site.Machine, v MachineView) Action {
	if at, detail := unmet(m, v); detail != "" {
		return b.refuse(a, at, "Machine does not meet a requirement", detail)
	}
	disk, matches, at, detail := rootDisk(m, v)
	if detail != "" {
		a = b.refuse(a, at, "No single root disk", detail)
		a.Candidates = &Candidates{Matched: matches, Of: len(v.Facts.Disks)}
		return a
	}
	if detail := b.unfit(m, disk); detail != "" {
		return b.refuse(a, at, "Image does not fit the disk", detail)
	}
	replace := slices.Contains(b.opts.Replace, m.Address)
	given := v.Released && !replace // by us, and nobody said since that it may be erased
	if o := disk.Owner; o != nil && !replace && (!given || o.Catalog != b.seen.Catalog) {
		return b.refuse(a, m.DeclRange, "Disk carries an installed machine", fmt.Sprintf(
			"%s carries a system that catalog %s installed as %s of site %s, and this catalog (%s) has no record of it. "+
				"A consent in site.hcl is not taken for that: restore the catalog that installed it, or say `-replace='%s'` to erase it",
			DescribeDisk(NameDisk(disk)), o.Catalog, o.Address, o.Site, b.seen.Catalog, m.Address))
	}
	a.Kind, a.Reason = KindInstall, "not installed by this catalog yet"
	switch {
	case v.Applied != nil:
		a.Reason = "to be replaced, as asked"
	case given:
		a.Reason = "given up by destroy; wipe = true is no consent to erase what was left on it"
	}
	a.Image, a.ImageDigest = m.Image.Address, b.seen.Images[m.Image.Address].Digest
	a = withPower(a, m, v)
	b.warnDrive(m, disk, v.Facts)
	a.Erase = &Erase{Disk: NameDisk(disk), Signatures: slices.Clone(disk.Signatures), Consent: ConsentBlank}
	if len(disk.Signatures) > 0 {
		a.Erase.Consent, a.Erase.Serial = ConsentNeeded, TypedName(v)
		if m.Wipe && !given {
			a.Erase.Consent, a.Erase.Serial = ConsentDeclared, ""
		}
	}
	a.Inputs = installInputs(m, a)
	return a
}

// warnDrive says of a machine with BIOS and several disks that its firmware decides which
// of them is started: a machine that has asked the network first is sent to drive 0x80
// (pxe.Answer.BIOSDrive), and no name of a disk says which one that is.
func (b *builder) warnDrive(m *site.Machine, disk inventory.Disk, f *inventory.Facts) {
	if f.Firmware == nil || f.Firmware.Mode != "bios" || len(f.Disks) < 2 {
		return
	}
	at := m.DeclRange
	if m.RootDisk.DeclRange.Filename != "" {
		at = m.RootDisk.DeclRange
	}
	b.say(m.Address, &hcl.Diagnostic{
		Severity: hcl.DiagWarning, Summary: "The firmware decides which disk is started", Subject: at.Ptr(),
		Detail: fmt.Sprintf("%s: it boots by BIOS and has %d disks, and a BIOS starts the first of its own boot order, also after the network. "+
			"Put %s before the other disks in the setup of its firmware, or it may start another one. UEFI has no such doubt", m.Address, len(f.Disks), DescribeDisk(NameDisk(disk))),
	})
}

// unfit says why the machine's image cannot be started from a disk, as far as
// both are known.
func (b *builder) unfit(m *site.Machine, disk inventory.Disk) string {
	image := b.seen.Images[m.Image.Address]
	name := DescribeDisk(NameDisk(disk))
	switch {
	case image.SectorBytes != 0 && disk.LogicalBlock != 0 && image.SectorBytes != disk.LogicalBlock:
		return fmt.Sprintf("%s counts in sectors of %d bytes, and %s is made for %d: no firmware could start it from there. "+
			"Choose another disk by root_disk, reformat this one to sectors of %d bytes with its vendor's tool, or import an image that is made for %d",
			name, disk.LogicalBlock, m.Image.Address, image.SectorBytes, image.SectorBytes, disk.LogicalBlock)
	case disk.Bytes < image.MinDiskBytes:
		return fmt.Sprintf("%s has %d bytes, and %s needs at least %d. Choose another disk by root_disk, or declare a smaller image",
			name, disk.Bytes, m.Image.Address, image.MinDiskBytes)
	}
	return ""
}

// TypedName is what a person types to consent to the erasure of a machine's disk:
// its serial, or its SMBIOS UUID where it has none. Empty: neither is known.
func TypedName(v MachineView) string {
	if v.Machine != nil && v.Machine.Serial != "" {
		return v.Machine.Serial
	}
	if v.Facts != nil && v.Facts.System != nil {
		if v.Facts.System.Serial != "" {
			return v.Facts.System.Serial
		}
		return v.Facts.System.UUID
	}
	return ""
}

// decide puts a step's action after those of the steps that it depends on, in
// whatever order they are declared: what becomes of a step hangs on them.
func (b *builder) decide(s *site.Step) {
	if _, done := b.actions[s.Address]; done {
		return
	}
	for _, d := range b.edges[s.Address] {
		if below := b.site.StepByAddress(d); below != nil {
			b.decide(below)
		}
	}
	b.put(b.step(s))
}

// step decides about one step from its own inspection.
func (b *builder) step(s *site.Step) Action {
	v := b.seen.Steps[s.Address]
	a := Action{Address: s.Address, Inputs: v.Inputs, After: v.After, Changes: v.Changes}
	switch {
	case v.Skipped:
		a.Kind, a.Reason = KindSkipped, "its `when` is false"
	case b.waitsForChange(s.Address):
		a.Kind, a.Reason, a.Inputs = KindRun, "what it depends on changes first", ""
		a.After = b.changing(s.Address)
	case v.Refused:
		return b.refuse(a, s.DeclRange, "Step cannot be carried out as declared", v.Detail)
	case v.Presence == Unreachable:
		a.Kind, a.Reason = KindUnreachable, v.Detail
	case v.Presence == Present && len(v.Changes) == 0 && v.Unfinished:
		a.Kind, a.Reason = KindRun, "as declared, but its last run ended before that was verified and recorded"
	case v.Presence == Present && len(v.Changes) == 0 && v.Unrecorded && b.awaited(s.Address):
		a.Kind, a.Reason = KindRun, "as declared, but not recorded by this catalog, and other steps need its outputs"
	case v.Presence == Present && len(v.Changes) == 0:
		a.Kind, a.Reason = KindNone, "as declared"
	case v.Presence == Present:
		a.Kind, a.Reason = KindRun, "differs from its declaration"
	case len(v.After) > 0:
		a.Kind, a.Reason = KindRun, "its inputs are known after "+strings.Join(v.After, ", ")
	default:
		a.Kind, a.Reason = KindRun, "not done yet"
	}
	return a
}

// awaited reports whether the inputs of another step are not known yet and may
// wait for address.
func (b *builder) awaited(address string) bool {
	for _, v := range b.seen.Steps {
		if slices.Contains(v.After, address) {
			return true
		}
	}
	return false
}

// waitsForChange reports whether something below address is going to change. A
// step that waits is going to run itself, so that the direct dependencies tell.
func (b *builder) waitsForChange(address string) bool { return len(b.changing(address)) > 0 }

// changing lists what address waits for and that is going to change.
func (b *builder) changing(address string) []string {
	return slices.DeleteFunc(b.below(address), func(d string) bool { return !b.actions[d].Kind.Changes() })
}

// keepTargets drops what is neither a target nor below one.
func (b *builder) keepTargets() {
	if len(b.opts.Target) == 0 {
		return
	}
	keep := map[string]bool{}
	var walk func(string)
	walk = func(address string) {
		if keep[address] {
			return
		}
		keep[address] = true
		for _, d := range b.edges[address] {
			walk(d)
		}
	}
	for _, t := range b.opts.Target {
		for _, address := range b.site.Select(t) {
			walk(address)
		}
	}
	for address := range b.actions {
		if !keep[address] {
			delete(b.actions, address)
		}
	}
}

package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// wipeType erases the signatures of data disks of an installed machine, each
// named by its serial or WWN. It never touches a disk that is in use, which the
// root disk always is; the machine must say wipe = true. A disk is wiped once
// for each digest of its identity and the triggers, wherever the step stands
// and whatever it is called: both the catalog and the machine remember it, so
// that neither a renamed step nor a restored catalog wipes it again.
var wipeType = Type{
	Name: "wipe",
	Shape: site.StepType{
		Spec: hcldec.ObjectSpec{
			"machine":  attribute("machine", cty.DynamicPseudoType, true),
			"disks":    attribute("disks", cty.List(cty.String), true),
			"triggers": attribute("triggers", cty.Map(cty.String), false),
		},
		Outputs: map[string]cty.Type{},
	},
	New: newWipe,
}

type wipeStep struct {
	env      Env
	machine  string
	consent  bool
	disks    []string // serials or WWNs
	triggers map[string]string
	erased   []string // device paths that Do erased
}

func newWipe(inputs cty.Value, env Env) (Step, error) {
	list, err := machines(inputs.GetAttr("machine"))
	if err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("machine: it names %d machines; a wipe step is about one", len(list))
	}
	s := &wipeStep{env: env, machine: list[0], triggers: textMap(inputs, "triggers")}
	disks, _ := inputs.GetAttr("disks").UnmarkDeep()
	for _, d := range disks.AsValueSlice() {
		s.disks = append(s.disks, d.AsString())
	}
	if m, _ := inputs.GetAttr("machine").Unmark(); m.Type().IsObjectType() && m.Type().HasAttribute("wipe") {
		v, _ := m.GetAttr("wipe").Unmark()
		s.consent = v.True()
	}
	return s, nil
}

// key names one wipe of one disk in the catalog.
func (s *wipeStep) key(disk string) string { return s.digest("wipe", s.machine, disk) }

// fileKey names it on the machine, where it holds under any address.
func (s *wipeStep) fileKey(disk string) string {
	return strings.ReplaceAll(s.digest("wipe", disk), ":", "-")
}

func (s *wipeStep) digest(parts ...string) string {
	for _, k := range slices.Sorted(maps.Keys(s.triggers)) {
		parts = append(parts, k+"="+s.triggers[k])
	}
	return workflows.DigestOf(parts)
}

// markDir keeps the machine's own memory of wipes.
const markDir = "/var/lib/edge-provision/wiped/"

// memory is what is known of the wipe of one disk.
type memory struct {
	done  bool
	begun bool   // the catalog's
	there bool   // the machine's: it began
	look  string // how the disk looked then, by the machine
}

// remembered asks the catalog and the machine. What either knows is so.
func (s *wipeStep) remembered(ctx context.Context, h *remote.Host, disk string) (memory, error) {
	var m memory
	var err error
	if m.done, err = s.env.Marks.Marked(ctx, s.key(disk)); err != nil || m.done {
		return m, err
	}
	if m.begun, err = s.env.Marks.Marked(ctx, s.begunKey(disk)); err != nil {
		return m, err
	}
	file := markDir + s.fileKey(disk)
	r, err := h.Run(ctx, remote.Command{Line: fmt.Sprintf("if test -e %[1]s; then echo done; elif test -e %[1]s.begun; then echo begun; cat %[1]s.begun; fi", file)})
	if err != nil {
		return m, err
	}
	switch word, look, _ := strings.Cut(r.Stdout, "\n"); word {
	case "":
	case "done":
		m.done = true
	case "begun":
		m.there, m.look = true, look
	default:
		return m, fmt.Errorf("%s: reading what it remembers of the erasure of disk %q: it answers %q", s.machine, disk, r.Stdout)
	}
	return m, nil
}

// begunKey names the beginning of a wipe in the catalog, and with a look that of
// a disk which looked so.
func (s *wipeStep) begunKey(disk string, look ...string) string {
	return s.digest(append([]string{"wipe begun", s.machine, disk}, look...)...)
}

// target is a disk that is still to be wiped.
type target struct {
	device string
	// look tells what is on the disk from what else could be: a file system that
	// is made anew has another UUID, a partition table another content.
	look string
	// signatures are the kinds of what is recognised on it.
	signatures []string
}

// lookAt reads the signatures of a disk, and where most of them are.
func lookAt(ctx context.Context, h *remote.Host, device string) (target, error) {
	t := target{device: device}
	r, err := h.Run(ctx, remote.Command{Line: fmt.Sprintf("wipefs --no-act --noheadings --output TYPE,OFFSET,UUID,LABEL %[1]s && head -c 1048576 %[1]s | sha256sum", remote.Quote(device))})
	if err != nil {
		return t, err
	}
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	for _, l := range lines[:len(lines)-1] {
		kind, _, _ := strings.Cut(strings.TrimSpace(l), " ")
		t.signatures = append(t.signatures, kind)
	}
	t.look = workflows.DigestOf(lines)
	return t, nil
}

// proven refuses to go on with an erasure that was begun on a disk which does not
// look as it did then: whether it was erased before that is not known, and what
// it carries may have been put there since.
func (s *wipeStep) proven(ctx context.Context, disk string, m memory, t target) error {
	if len(t.signatures) == 0 {
		return nil
	}
	same, err := s.env.Marks.Marked(ctx, s.begunKey(disk, t.look))
	if err != nil {
		return err
	}
	if m.begun && !same || m.there && m.look != t.look {
		return fmt.Errorf("the erasure of disk %q (%s) was cut off, and what it carries now (%s) is not what it carried then; nothing more was erased. "+
			"To keep it, take the disk out of the step; to have it erased all the same, run `wipefs --all %s` on the machine: a disk that carries nothing is recorded. "+
			"Other triggers would have every disk of the step erased again", disk, t.device, strings.Join(t.signatures, ", "), t.device)
	}
	return nil
}

// Inspect implements Step. A disk whose erasure was begun is looked at, as its
// end may only not be known.
func (s *wipeStep) Inspect(ctx context.Context) (Finding, error) {
	finding := Finding{Presence: workflows.Present}
	err := onHosts(ctx, s.env.Hosts, []string{s.machine}, func(ctx context.Context, _ string, h *remote.Host) error {
		for _, d := range s.disks {
			m, err := s.remembered(ctx, h, d)
			if err != nil {
				return err
			}
			what := "ERASES every signature on disk " + d
			if !m.done && (m.begun || m.there) {
				targets, err := s.targets(ctx, h, d)
				if err != nil {
					return err
				}
				if len(targets[d].signatures) == 0 {
					what = "records that disk " + d + " carries no signature; its erasure was cut off"
				}
			}
			if !m.done {
				finding.Presence = workflows.Absent
				finding.Changes = append(finding.Changes, s.machine+": "+what)
			}
		}
		return nil
	})
	if err != nil {
		return unreachable(err)
	}
	return finding, nil
}

// Do implements Step. All disks are looked at before the first is touched.
func (s *wipeStep) Do(ctx context.Context) (cty.Value, error) {
	if !s.consent {
		return cty.NilVal, workflows.GiveUp(fmt.Errorf("%s does not say wipe = true, which is the consent to erase its disks", s.machine))
	}
	return cty.EmptyObjectVal, onHosts(ctx, s.env.Hosts, []string{s.machine}, func(ctx context.Context, _ string, h *remote.Host) error {
		targets, err := s.targets(ctx, h, s.disks...)
		if err != nil {
			return err
		}
		for _, disk := range s.disks {
			if _, due := targets[disk]; due {
				continue
			}
			// The machine may be the only one that knows, and may be replaced.
			if err := s.env.Marks.Mark(ctx, s.key(disk)); err != nil {
				return err
			}
		}
		for _, disk := range slices.Sorted(maps.Keys(targets)) {
			s.env.Say("%s: wiping %s (%s)", s.machine, targets[disk].device, disk)
			if err := s.wipe(ctx, h, disk, targets[disk]); err != nil {
				return err
			}
		}
		return nil
	})
}

// wipe erases one disk. That it begins is remembered first, with how the disk
// looks: one that was wiped and forgotten might carry data when it is wiped
// again. That it is done is remembered when nothing is left on the disk.
func (s *wipeStep) wipe(ctx context.Context, h *remote.Host, disk string, t target) error {
	for _, key := range []string{s.begunKey(disk, t.look), s.begunKey(disk)} {
		if err := s.env.Marks.Mark(ctx, key); err != nil {
			return err
		}
	}
	// Neither a controller that goes away nor one that is stopped ends it half-way,
	// which would leave a disk that looks as if somebody had used it since.
	line := fmt.Sprintf(`set -e; trap '' HUP INT PIPE TERM; mkdir -p %[1]s; printf %%s %[3]s >%[2]s.new; sync; mv %[2]s.new %[2]s.begun; sync
wipefs --all --force %[4]s >/dev/null; blockdev --flushbufs %[4]s
left=$(wipefs --no-act --noheadings %[4]s); test -z "$left" || { echo "it was erased, but still carries: $left" >&2; exit 1; }
mv %[2]s.begun %[2]s; sync`, markDir, markDir+s.fileKey(disk), remote.Quote(t.look), remote.Quote(t.device))
	if _, err := h.Run(ctx, remote.Command{Line: line}); err != nil {
		return err
	}
	s.erased = append(s.erased, t.device)
	return s.env.Marks.Mark(context.WithoutCancel(ctx), s.key(disk))
}

// blockDevice is what lsblk(8) says of a device.
type blockDevice struct {
	Path        string        `json:"path"`
	Type        string        `json:"type"`
	Serial      string        `json:"serial"`
	WWN         string        `json:"wwn"`
	Mountpoints []*string     `json:"mountpoints"`
	Children    []blockDevice `json:"children"`
}

// targets resolves declared names to disks that nothing uses, leaving out those
// that were wiped already, and looks at what is on them.
func (s *wipeStep) targets(ctx context.Context, h *remote.Host, disks ...string) (map[string]target, error) {
	out, err := h.Run(ctx, remote.Command{Line: "lsblk --json --output PATH,TYPE,SERIAL,WWN,MOUNTPOINTS"})
	if err != nil {
		return nil, err
	}
	var listing struct {
		Devices []blockDevice `json:"blockdevices"`
	}
	if err := json.Unmarshal([]byte(out.Stdout), &listing); err != nil {
		return nil, fmt.Errorf("%s: reading the answer of lsblk: %w", s.machine, err)
	}
	targets := map[string]target{}
	for _, name := range disks {
		m, err := s.remembered(ctx, h, name)
		if err != nil {
			return nil, err
		}
		if m.done {
			continue
		}
		device, err := pick(listing.Devices, name)
		if err != nil {
			return nil, workflows.GiveUp(fmt.Errorf("%s: %w", s.machine, err))
		}
		t, err := lookAt(ctx, h, device)
		if err != nil {
			return nil, err
		}
		if err := s.proven(ctx, name, m, t); err != nil {
			return nil, workflows.GiveUp(fmt.Errorf("%s: %w", s.machine, err))
		}
		targets[name] = t
	}
	return targets, nil
}

// pick finds the one disk with a serial or WWN and refuses one that is in use.
func pick(devices []blockDevice, name string) (string, error) {
	var found []blockDevice
	for _, d := range devices {
		if d.Type == "disk" && name != "" && (d.Serial == name || d.WWN == name) {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 0:
		return "", fmt.Errorf("no disk has serial or wwn %q", name)
	case len(found) > 1:
		return "", fmt.Errorf("%d disks have serial or wwn %q", len(found), name)
	}
	if used := inUse(found[0]); used != "" {
		return "", fmt.Errorf("disk %q (%s) is in use: %s; nothing was erased", name, found[0].Path, used)
	}
	return found[0].Path, nil
}

// inUse says what uses a device or a part of it: a mount, swap, or a volume
// stacked on it.
func inUse(d blockDevice) string {
	for _, m := range d.Mountpoints {
		if m != nil && *m != "" {
			return d.Path + " is mounted at " + *m
		}
	}
	for _, c := range d.Children {
		if c.Type != "part" {
			return c.Path + " (" + c.Type + ") is stacked on it"
		}
		if used := inUse(c); used != "" {
			return used
		}
	}
	return ""
}

// Verify implements Step: no signature may be left on what Do erased.
func (s *wipeStep) Verify(ctx context.Context) error {
	return onHosts(ctx, s.env.Hosts, []string{s.machine}, func(ctx context.Context, _ string, h *remote.Host) error {
		for _, device := range s.erased {
			left, err := h.Run(ctx, remote.Command{Line: "wipefs --no-act --noheadings " + remote.Quote(device)})
			if err != nil {
				return err
			}
			if found := strings.TrimSpace(left.Stdout); found != "" {
				return fmt.Errorf("%s: %s was erased, but still carries: %s", s.machine, device, found)
			}
		}
		return nil
	})
}

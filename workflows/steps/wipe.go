package steps

import (
	"context"
	"encoding/json"
	"errors"
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

// wiped reports whether either memory knows of the wipe.
func (s *wipeStep) wiped(ctx context.Context, h *remote.Host, disk string) (bool, error) {
	known, err := s.env.Marks.Marked(ctx, s.key(disk))
	if err != nil || known {
		return known, err
	}
	_, err = h.Run(ctx, remote.Command{Line: "test -e " + remote.Quote(markDir+s.fileKey(disk))})
	var exit *remote.ExitError
	if errors.As(err, &exit) {
		return false, nil
	}
	return err == nil, err
}

// Inspect implements Step.
func (s *wipeStep) Inspect(ctx context.Context) (Finding, error) {
	finding := Finding{Presence: workflows.Present}
	err := onHosts(ctx, s.env.Hosts, []string{s.machine}, func(ctx context.Context, _ string, h *remote.Host) error {
		for _, d := range s.disks {
			done, err := s.wiped(ctx, h, d)
			if err != nil {
				return err
			}
			if !done {
				finding.Presence = workflows.Absent
				finding.Changes = append(finding.Changes, fmt.Sprintf("%s: ERASES every signature on disk %s", s.machine, d))
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
		targets, err := s.targets(ctx, h)
		if err != nil {
			return workflows.GiveUp(err)
		}
		for _, disk := range slices.Sorted(maps.Keys(targets)) {
			s.env.Say("%s: wiping %s (%s)", s.machine, targets[disk], disk)
			// The memory comes first: a disk that was wiped and forgotten
			// might carry data when it is wiped again.
			if err := s.env.Marks.Mark(ctx, s.key(disk)); err != nil {
				return err
			}
			line := fmt.Sprintf("set -e; mkdir -p %[1]s; : > %[1]s%[2]s; sync; wipefs --all --force %[3]s; blockdev --flushbufs %[3]s",
				markDir, s.fileKey(disk), remote.Quote(targets[disk]))
			if _, err := h.Run(ctx, remote.Command{Line: line}); err != nil {
				return err
			}
			s.erased = append(s.erased, targets[disk])
		}
		return nil
	})
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

// targets resolves the declared names to device paths of disks that nothing
// uses, leaving out those that were wiped already.
func (s *wipeStep) targets(ctx context.Context, h *remote.Host) (map[string]string, error) {
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
	targets := map[string]string{}
	for _, name := range s.disks {
		done, err := s.wiped(ctx, h, name)
		if err != nil {
			return nil, err
		}
		if done {
			continue
		}
		device, err := pick(listing.Devices, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.machine, err)
		}
		targets[name] = device
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

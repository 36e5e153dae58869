package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/dispatch"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Observer asks a site what it is. It changes nothing: no power, no disk, no
// file.
type Observer struct {
	Site    *site.Site
	Catalog *store.Store
	// Foresight is what the site would make of the machines; nil: it is recorded.
	Foresight *Foresight
	// Unbound are the addresses whose machines cannot be told.
	Unbound Unbound
	Hosts   Hosts
	Powers  Powers
	// Dispatch tells which machines are in the installer now; nil when
	// nothing is being served.
	Dispatch *dispatch.Server
	// Images tells the digest of an image that is in the cache, or "".
	Images func(ctx context.Context, i *site.Image) (digest string, err error)
	// Fits tells what disk an image needs, given its digest if it has one; nil
	// knows of none.
	Fits func(i *site.Image, digest string) (sectorBytes int, minDiskBytes int64)
	// Runner makes steps, to have them inspect themselves.
	Runner *Runner
	// Adopter gathers the facts of machines that run, adopted or installed; nil
	// leaves them as they were last seen.
	Adopter *Adopter
	// BMCFacts asks BMCs what they know of machines that are not running; nil leaves
	// that as it was last told.
	BMCFacts *BMCFacts
	// Parallelism is how many machines are asked at once; 16 when zero.
	Parallelism int

	patience patience
}

// inspectTimeout bounds all questions to one machine together: a BMC that does
// not answer and a host that does not answer must not hold up a plan of a rack
// for long.
const inspectTimeout = 40 * time.Second

// Observe asks everything that a plan needs.
func (o *Observer) Observe(ctx context.Context) (workflows.Observation, error) {
	seen := workflows.Observation{
		Catalog:  o.Catalog.CatalogID().String(),
		Machines: map[string]workflows.MachineView{},
		Images:   map[string]workflows.ImageView{},
		Steps:    map[string]workflows.StepView{},
	}
	for _, i := range o.Site.Images {
		digest, err := o.Images(ctx, i)
		if err != nil {
			return seen, err
		}
		view := workflows.ImageView{Digest: digest, Spec: ImageSpec(i)}
		if o.Fits != nil {
			view.SectorBytes, view.MinDiskBytes = o.Fits(i, digest)
		}
		seen.Images[i.Address] = view
	}
	// What others recorded since, and what was changed past all programs.
	if err := o.Catalog.ReviewDrift(ctx, o.Site.Name); err != nil && !errors.Is(err, store.ErrNoSnapshotKey) {
		return seen, err
	}
	if err := o.machines(ctx, &seen); err != nil {
		return seen, err
	}
	if err := o.steps(ctx, &seen); err != nil {
		return seen, err
	}
	orphans, err := o.orphans(ctx)
	seen.Orphans = orphans
	return seen, err
}

// machines asks all machines at once.
func (o *Observer) machines(ctx context.Context, seen *workflows.Observation) error {
	limit := o.Parallelism
	if limit == 0 {
		limit = 16
	}
	slots := make(chan struct{}, limit)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, m := range o.Site.Machines {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			v, err := o.machine(ctx, m)
			mu.Lock()
			defer mu.Unlock()
			seen.Machines[m.Address] = v
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (o *Observer) machine(ctx context.Context, m *site.Machine) (workflows.MachineView, error) {
	patient, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	asking, cancel := context.WithTimeout(patient, inspectTimeout)
	defer cancel()
	var v workflows.MachineView
	if err := o.remembered(ctx, m, &v); err != nil {
		return v, err
	}
	if v.Applied != nil || m.Adopted() {
		if err := o.host(asking, patient, m, &v); err != nil {
			return v, err
		}
	}
	if err := o.hardware(ctx, &v); err != nil {
		return v, err
	}
	// A machine that answers as itself is on, and one whose agent talks to us too;
	// its BMC need not be asked.
	if v.Host != workflows.Present && !v.InInstaller && !m.Adopted() {
		o.power(asking, m, &v)
		if v.PowerErr == "" {
			return v, o.inside(ctx, m, &v)
		}
	}
	return v, nil
}

// inside has a BMC that has just answered tell what it knows of its machine, where
// it was not asked for long. That it cannot is no reason to plan otherwise, and is not
// told of: `bmc inventory` says why.
func (o *Observer) inside(ctx context.Context, m *site.Machine, v *workflows.MachineView) error {
	if o.BMCFacts == nil {
		return nil
	}
	var known map[inventory.Source]inventory.Document
	if v.Machine != nil {
		var err error
		if known, err = o.Catalog.Facts(ctx, v.Machine.ID); err != nil {
			return err
		}
	}
	within := o.patience.left(time.Now())
	due, err := o.BMCFacts.due(ctx, o.Site.Name, m, known, within)
	if err != nil || !due || within <= 0 {
		return err
	}
	if r, err := o.BMCFacts.try(ctx, o.Site.Name, m, v.Machine, within); err == nil {
		v.BMC = &r.Facts
	}
	return ctx.Err()
}

// remembered is what the catalog knows of the machine.
func (o *Observer) remembered(ctx context.Context, m *site.Machine, v *workflows.MachineView) error {
	row, err := o.find(ctx, m)
	if err != nil {
		return err
	}
	if why := o.Unbound[m.Address]; why != nil && row == nil {
		v.Unbound = why.Reason
	}
	if row != nil {
		v.Machine = row
		documents, err := o.Catalog.Facts(ctx, row.ID)
		if err != nil {
			return err
		}
		v.FactsSeen, v.Facts = documents[inventory.SourceAgent].LastSeen, inspected(documents)
		if d, ok := documents[bmcSource(m)]; ok {
			v.BMC = &d.Facts
		}
		if o.Dispatch != nil {
			_, v.InInstaller = o.Dispatch.Session(ctx, row.ID)
		}
	}
	if v.Applied, err = loadRecord(ctx, o.Catalog, o.Site.Name, o.Foresight.recorded(m.Address)); err != nil {
		return err
	}
	last, err := loadInstallation(ctx, o.Catalog.Settings(), o.Site.Name, o.Foresight.recorded(m.Address))
	if err != nil || last == nil {
		return err
	}
	if row != nil && last.unfinished(row.ID) {
		v.Unfinished = &last.Record
	}
	v.Unanswered, v.Released = last.Phase == phaseInstalled, last.Phase == phaseReleased
	return nil
}

// find is the machine's row: by its address, by its MAC, or for a machine that
// is declared by what it is, the one machine whose facts match.
func (o *Observer) find(ctx context.Context, m *site.Machine) (*inventory.Machine, error) {
	row, err := o.Foresight.Machine(ctx, o.Catalog, o.Site.Name, m.Address)
	if errors.Is(err, fs.ErrNotExist) && !m.MAC.IsZero() {
		row, err = o.Catalog.MachineByMAC(ctx, m.MAC)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &row, nil
}

// hardware compares what is known of a machine with its snapshot.
func (o *Observer) hardware(ctx context.Context, v *workflows.MachineView) error {
	if v.Machine == nil {
		return nil
	}
	r, err := o.Catalog.Drift(ctx, v.Machine.ID)
	if errors.Is(err, store.ErrNoSnapshotKey) || err == nil && r.Snapshot == nil {
		return nil
	}
	if err != nil {
		return err
	}
	v.Hardware = &workflows.Hardware{
		State: r.State, FrozenAt: r.Snapshot.TakenAt, Since: r.Since, LookedAt: r.LookedAt, Looked: v.Looked, Note: v.FactsNote, Changes: r.Changes,
	}
	if v.Hardware.Note == "" && v.Host != workflows.Present {
		v.Hardware.Note = v.HostDetail
	}
	return nil
}

// host asks the installed system whether it is the one that this catalog
// installed, and gathers facts from it as long as patient allows.
func (o *Observer) host(ctx, patient context.Context, m *site.Machine, v *workflows.MachineView) error {
	h, err := o.Hosts.Host(ctx, m.Address)
	var (
		wrongKey *remote.HostKeyError
		unpinned *remote.UnpinnedError
		refused  *remote.AuthError
	)
	switch {
	case errors.As(err, &wrongKey), errors.As(err, &unpinned), errors.As(err, &refused):
		v.Host, v.HostDetail = workflows.Absent, err.Error()
		return nil
	case err != nil:
		v.Host, v.HostDetail = workflows.Unreachable, err.Error()
		return nil
	}
	defer h.Close()
	v.Host = workflows.Present
	if m.Adopted() {
		return o.refresh(patient, m, h, v)
	}
	f, err := h.ReadFile(ctx, identityPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.HostDetail = identityPath + " is missing on it"
	case err != nil:
		v.Host, v.HostDetail = workflows.Unreachable, err.Error()
	default:
		if err := json.Unmarshal(f.Content, &v.HostIdentity); err != nil {
			v.HostDetail = fmt.Sprintf("%s on it cannot be read: %v", identityPath, err)
		}
	}
	if v.Host != workflows.Present || v.HostIdentity.Catalog != o.Catalog.CatalogID().String() {
		return nil
	}
	return o.refresh(patient, m, h, v)
}

// refresh gathers the facts of a machine that answers as itself.
func (o *Observer) refresh(ctx context.Context, m *site.Machine, h *remote.Host, v *workflows.MachineView) error {
	if o.Adopter == nil {
		return nil
	}
	_, missing, err := o.Adopter.Refresh(ctx, m, h, 0)
	var (
		lacking *FactsError
		broken  *remote.UnreachableError
	)
	switch {
	case errors.As(err, &lacking):
		v.FactsNote = "its facts were not gathered by edge-agent: " + lacking.Err.Error()
	case errors.As(err, &broken), err != nil && ctx.Err() != nil:
		if !m.Adopted() {
			// It proved who it is; only looking at it was cut off.
			v.FactsNote = "its facts were not gathered: " + err.Error()
			return nil
		}
		v.Host, v.HostDetail = workflows.Unreachable, err.Error()
	case err != nil:
		return err
	default:
		v.Looked = true
		if missing != "" && !m.Adopted() {
			v.FactsNote = "edge-agent could not see everything: " + missing
		} else if missing != "" {
			as := "user " + m.SSH.User
			if m.SSH.Sudo {
				as = "root, by sudo of " + as
			}
			v.FactsNote = "edge-agent could not see everything as " + as + ": " + missing
		}
		return o.remembered(ctx, m, v)
	}
	return nil
}

// identityPath is where edge-agent leaves the machine's identity.
const identityPath = "/etc/edge-provision/identity.json"

func (o *Observer) power(ctx context.Context, m *site.Machine, v *workflows.MachineView) {
	if m.BMC.Driver == site.BMCNone {
		return
	}
	controller, err := o.Powers.BMC(m.Address)
	if err != nil {
		v.PowerErr = err.Error()
		return
	}
	is, err := controller.PowerState(ctx)
	switch {
	case err != nil:
		v.PowerErr = err.Error()
	case is == bmc.PowerOn:
		v.Power = workflows.PowerOn
	case is == bmc.PowerOff:
		v.Power = workflows.PowerOff
	}
}

// steps has each step inspect itself, as far as its inputs are known.
func (o *Observer) steps(ctx context.Context, seen *workflows.Observation) error {
	defer o.Runner.declared.observe()()
	if err := o.Runner.announce(ctx, o.Runner.known(seen.Machines)); err != nil {
		return err
	}
	known := o.Runner.known(seen.Machines)
	for _, s := range o.Runner.ordered() {
		if on := silent(s, seen); on != "" {
			seen.Steps[s.Address] = workflows.StepView{Presence: workflows.Unreachable, Detail: on + " cannot be asked, and this depends on it"}
			continue
		}
		v, err := o.Runner.Inspect(ctx, s, known)
		if err != nil {
			return err
		}
		seen.Steps[s.Address] = v
		if err := o.Runner.learn(ctx, s, &known); err != nil {
			return err
		}
	}
	return nil
}

// silent is a step that s depends on and that could not be asked. Asking s would
// wait for the same silence once more.
func silent(s *site.Step, seen *workflows.Observation) string {
	for _, d := range s.DependsOn {
		if seen.Steps[d].Presence == workflows.Unreachable {
			return d
		}
	}
	return ""
}

// orphans are addresses with an applied record that site.hcl no longer has.
func (o *Observer) orphans(ctx context.Context) ([]string, error) {
	applied, err := o.Catalog.AppliedAll(ctx, o.Site.Name)
	if err != nil {
		return nil, err
	}
	declared := o.Site.Graph().Nodes
	var out []string
	for _, a := range applied {
		if address := o.Foresight.called(a.Address); !slices.Contains(declared, address) {
			out = append(out, address)
		}
	}
	slices.Sort(out)
	return out, nil
}

package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/class"
	"github.com/edge-provision/edge-provision/workflows/dispatch"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Provisioner takes declared machines from powered off to installed. A machine
// goes through these steps, and a resumed one enters where it stands:
//
//	intoInstaller   netboot it, or find its agent there already
//	inspect         wait for its facts and check that it is the right machine
//	write           the image to the approved disk, proved chunk by chunk
//	configure       give the disk this machine's identity
//	restart         into its own disk
//	greet           SSH answers with the key that was made on the machine
//	commission      look at its hardware once more, and freeze what was seen
type Provisioner struct {
	Site     *site.Site
	Catalog  *store.Store
	Keys     class.Digester // of class rules with a sensitive value
	Dispatch *dispatch.Server
	Wanted   *Wanted
	Powers   Powers
	Hosts    Hosts
	Clock    workflows.Clock
	// Images serves the image of a machine and says where.
	Images ImageSource
	// Adopter gathers facts from a machine that was installed; nil leaves those of
	// the installer.
	Adopter *Adopter
	// ControllerKey is the controller's SSH key as an authorized_keys line.
	ControllerKey string
	// Fence is the token of the lock under which this process acts.
	Fence int64
	// Tell receives progress; it must not block for long.
	Tell func(Progress)
	// Explain says where a machine's boot is stuck, in a sentence or more, for
	// the error of a boot that timed out. It may return "".
	Explain func(ctx context.Context, address string) string

	mu      sync.Mutex
	brought map[string]bool // machines this process brought into the installer; true: they were off
	set     []uuid.UUID     // machines that were put into Wanted
}

// ImageSource publishes images to the machines of a network.
type ImageSource interface {
	// Publish makes the image available and returns its URLs on the network.
	Publish(ctx context.Context, image *site.Image, network *site.Network) (Published, error)
}

// Published is an image that machines can fetch.
type Published struct {
	Digest       string
	ManifestURL  string
	ManifestText string // "sha256:…" of what is at ManifestURL
	FramesURL    string
}

// Progress is where one address stands, for the terminal.
type Progress struct {
	Address string
	Phase   string
	Message string
	// Bytes of Total are done in this phase; zero Total: unknown.
	Bytes, Total int64
}

// errGone ends a run for its machine: repeating cannot help.
var errGone = errors.New("the disk that was approved is not in the machine")

// reconnect is how long an agent may take to find a controller that was
// restarted: its own pause between tries is a few seconds, and it may be in the
// middle of one.
const reconnect = 45 * time.Second

func (p *Provisioner) say(address, phase, format string, args ...any) {
	p.Tell(Progress{Address: address, Phase: phase, Message: fmt.Sprintf(format, args...)})
}

// Inspect boots a machine without facts into the installer and leaves it there.
func (p *Provisioner) Inspect(ctx context.Context, m *site.Machine, a workflows.Action) error {
	if m.Match != nil {
		if err := p.discovered(ctx, m); err != nil {
			return err
		}
	}
	row, err := p.approved(ctx, m, a)
	if err != nil {
		return err
	}
	if _, err = p.intoInstaller(ctx, m, row); err != nil {
		return err
	}
	facts, err := p.Dispatch.WaitFacts(ctx, row.ID)
	if err == nil && facts.Disks == nil {
		_, err = p.lookAgain(ctx, m, row, "its disks were not seen")
	}
	return err
}

// lookAgain has the agent report the machine's hardware once more: a disk may have come
// since, of a controller that takes its time.
func (p *Provisioner) lookAgain(ctx context.Context, m *site.Machine, row inventory.Machine, why string) (inventory.Facts, error) {
	p.say(m.Address, "inspect", "%s; looking once more", why)
	ctx, cancel := context.WithTimeoutCause(ctx, m.BootTimeout, fmt.Errorf("%s did not report its hardware once more in %s, its boot_timeout", m.Address, m.BootTimeout))
	defer cancel()
	facts, err := p.Dispatch.RefreshFacts(ctx, row.ID)
	if err != nil {
		return facts, overdue(ctx, err)
	}
	return facts, nil
}

// discovered waits until a machine that is declared by what it is has been
// found on the network and bound to its address.
func (p *Provisioner) discovered(ctx context.Context, m *site.Machine) error {
	_, err := p.Catalog.MachineByAddress(ctx, p.Site.Name, m.Address)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := p.netboot(ctx, m, inventory.Machine{}); err != nil {
		return err
	}
	p.say(m.Address, "discover", "waiting for a machine that matches%s", asked(m, "; switch it on now, set to boot from the network"))
	ctx, cancel := context.WithTimeoutCause(ctx, m.BootTimeout,
		fmt.Errorf("no machine that matches %s was discovered in %s, its boot_timeout; its network must say unknown = \"discover\"", m.Address, m.BootTimeout))
	defer cancel()
	return until(ctx, p.Clock, 2*time.Second, func(ctx context.Context) error {
		unbound, err := Bind(ctx, p.Site, p.Catalog, p.Keys)
		if err != nil {
			return workflows.GiveUp(err)
		}
		if why := unbound[m.Address]; why != nil {
			return workflows.GiveUp(why)
		}
		_, err = p.Catalog.MachineByAddress(ctx, p.Site.Name, m.Address)
		return err
	})
}

// Install brings a machine to the state that the action was approved for.
func (p *Provisioner) Install(ctx context.Context, run uuid.UUID, m *site.Machine, a workflows.Action) error {
	row, err := p.approved(ctx, m, a)
	if err != nil {
		return err
	}
	last, err := loadInstallation(ctx, p.Catalog.Settings(), p.Site.Name, m.Address)
	if err != nil {
		return err
	}
	session, err := p.intoInstaller(ctx, m, row)
	if err != nil {
		return err
	}
	facts, err := p.Dispatch.WaitFacts(ctx, row.ID)
	if err != nil {
		return err
	}
	if err := p.approvedDisk(ctx, m, row, facts, a.Erase.Disk); err != nil {
		return err
	}
	image, err := p.Images.Publish(ctx, m.Image, m.Network)
	if err != nil {
		return err
	}
	current := p.enter(last, row.ID, m, a, image, session)
	current.Run = run.String()

	w := work{p: p, m: m, row: row, in: &current, run: run}
	if err := w.write(ctx, a, image); err != nil {
		return p.failed(ctx, row, err)
	}
	if err := w.configure(ctx); err != nil {
		return p.failed(ctx, row, err)
	}
	if err := w.restart(ctx); err != nil {
		return err
	}
	return w.greet(ctx)
}

// enter is the account of an installation that begins now, or goes on.
func (p *Provisioner) enter(last *installation, machine uuid.UUID, m *site.Machine, a workflows.Action, image Published, session dispatch.Session) installation {
	record := workflows.NewInstallRecord(m)
	record.Image, record.Disk, record.Boot = image.Digest, a.Erase.Disk, session.Boot
	record.ImageSpec = ImageSpec(m.Image)
	goesOn := last.unfinished(machine) && last.Record.Image == image.Digest && last.Record.Disk.Same(a.Erase.Disk)
	if !goesOn {
		return installation{ID: uuid.Must(uuid.NewV7()), Machine: machine, Attempt: 1, Record: record}
	}
	next := *last
	if last.Record.Boot != session.Boot {
		// The agent that worked on it is gone; this is another attempt.
		next.Attempt++
	}
	next.Machine, next.Record = machine, record
	return next
}

// Boot brings an installed machine up from its own disk: one that is off, or
// one whose run was cut off between the end of its installation and its first
// answer.
func (p *Provisioner) Boot(ctx context.Context, run uuid.UUID, m *site.Machine, a workflows.Action) error {
	row, err := p.approved(ctx, m, a)
	if err != nil {
		return err
	}
	last, err := loadInstallation(ctx, p.Catalog.Settings(), p.Site.Name, m.Address)
	if err != nil {
		return err
	}
	if last == nil {
		return fmt.Errorf("%s: it is recorded as installed, but its installation is not: the catalog was restored in parts", m.Address)
	}
	p.Wanted.Set(row.ID, false)
	w := work{p: p, m: m, row: row, in: last, run: run}
	if _, in := p.Dispatch.Session(ctx, row.ID); in {
		if err := w.restart(ctx); err != nil {
			return err
		}
		return w.greet(ctx)
	}
	controller, err := p.Powers.BMC(m.Address)
	if err != nil {
		return err
	}
	if m.BMC.Driver == site.BMCNone {
		w.asked = fmt.Sprintf("switch on %s (%s) now; ", m.Hostname, m.MAC)
	} else {
		p.say(m.Address, "boot", "switching on")
		if err := controller.SetPower(ctx, bmc.On); err != nil {
			return err
		}
	}
	return w.greet(ctx)
}

// ErrOtherMachine says that a declaration means another machine by now than the
// one that was approved.
var ErrOtherMachine = errors.New("it is another machine now than the one that was shown; run plan again")

// approved is the machine's row, if it is the machine that an action was approved
// for.
func (p *Provisioner) approved(ctx context.Context, m *site.Machine, a workflows.Action) (inventory.Machine, error) {
	row, err := p.row(ctx, m)
	if err == nil && a.Machine != uuid.Nil && a.Machine != row.ID {
		err = workflows.GiveUp(fmt.Errorf("%s: %w: %s was shown, and it is %s", m.Address, ErrOtherMachine, a.Machine, row.ID))
	}
	return row, err
}

// row is the machine's row in the catalog, made at its first mention.
func (p *Provisioner) row(ctx context.Context, m *site.Machine) (inventory.Machine, error) {
	if m.Match != nil {
		row, err := p.Catalog.MachineByAddress(ctx, p.Site.Name, m.Address)
		if err != nil {
			return row, fmt.Errorf("%s: no machine is bound to its match yet: %w", m.Address, err)
		}
		return row, nil
	}
	return p.Catalog.Declare(ctx, p.Site.Name, m.Address, m.MAC)
}

// setState moves the machine along workflows' table of transitions.
func (p *Provisioner) setState(ctx context.Context, id uuid.UUID, to inventory.State) error {
	row, err := p.Catalog.Machine(ctx, id)
	if err != nil {
		return err
	}
	if _, err := workflows.Transition(row.State, to); err != nil {
		return fmt.Errorf("machine %s: %w", id, err)
	}
	return p.Catalog.SetState(ctx, id, to)
}

// failed records that the installation of a machine ended in an error, unless
// the run was only cut off.
func (p *Provisioner) failed(ctx context.Context, row inventory.Machine, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return errors.Join(err, p.setState(ctx, row.ID, inventory.StateFailed))
}

// want has a machine stay in the installer, and boot into it, until it is
// installed, released, or the run has ended.
func (p *Provisioner) want(ctx context.Context, id uuid.UUID) error {
	p.mu.Lock()
	p.set = append(p.set, id)
	p.mu.Unlock()
	return p.Wanted.Join(ctx, id)
}

// End is called when the run has ended, however it did: its machines are wanted in
// the installer no longer. Wanted may outlive the run by months, and one that the
// run did not install would otherwise lose its own disk at its next boot. Agents
// that are at work, or wait, stay for the run that continues this one.
func (p *Provisioner) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range p.set {
		p.Wanted.Set(id, false)
	}
	p.set = nil
}

// intoInstaller makes sure that the machine's agent talks to us. A machine whose
// agent may be on its way back to a restarted controller is waited for before
// its power is touched.
func (p *Provisioner) intoInstaller(ctx context.Context, m *site.Machine, row inventory.Machine) (dispatch.Session, error) {
	if err := p.want(ctx, row.ID); err != nil {
		return dispatch.Session{}, err
	}
	if s, ok := p.present(ctx, m, row); ok {
		return s, p.hold(ctx, row)
	}
	if err := p.setState(ctx, row.ID, inventory.StateInspecting); err != nil {
		return dispatch.Session{}, err
	}
	timeout := fmt.Errorf("%s did not reach the installer in %s, its boot_timeout", m.Address, m.BootTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, m.BootTimeout, timeout)
	defer cancel()
	if err := p.netboot(ctx, m, row); err != nil {
		return dispatch.Session{}, overdue(ctx, err)
	}
	if m.BMC.Driver != site.BMCNone {
		p.say(m.Address, "netboot", "waiting for the installer")
	}
	s, err := p.Dispatch.WaitSession(ctx, row.ID)
	if err != nil {
		return s, p.explain(ctx, m, err)
	}
	p.say(m.Address, "inspect", "installer is up at %s", s.Address)
	if err := p.awaitFacts(ctx, row); err != nil {
		return s, p.explain(ctx, m, err)
	}
	return s, p.hold(ctx, row)
}

// awaitFacts waits for the machine's report. One that contradicts what the
// catalog knows is refused again and again, so that is looked for meanwhile.
func (p *Provisioner) awaitFacts(ctx context.Context, row inventory.Machine) error {
	since := p.Clock.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-p.Clock.After(time.Second):
			}
			conflicts, err := p.Catalog.Events(ctx, store.EventFilter{
				Machine: row.ID, Kinds: []inventory.EventKind{inventory.EventIdentityConflict}, Since: since, Limit: 1,
			})
			if err == nil && len(conflicts) > 0 {
				cancel(workflows.GiveUp(fmt.Errorf("%s: what it reports contradicts what the catalog knows: %s. "+
					"Correct its mac in site.hcl, or if its hardware was changed, forget what was known of it: edge-provision inventory forget %s",
					row.Address, conflicts[0].Message, row.ID)))
				return
			}
		}
	}()
	_, err := p.Dispatch.WaitFacts(ctx, row.ID)
	return err
}

// present finds the machine in the installer without touching it.
func (p *Provisioner) present(ctx context.Context, m *site.Machine, row inventory.Machine) (dispatch.Session, bool) {
	if s, ok := p.Dispatch.Session(ctx, row.ID); ok {
		return s, true
	}
	switch row.State {
	case inventory.StateInspecting, inventory.StateHeld, inventory.StateInstalling:
	default:
		return dispatch.Session{}, false
	}
	if m.BMC.Driver != site.BMCNone {
		if controller, err := p.Powers.BMC(m.Address); err == nil {
			var refused *bmc.CredentialError
			switch is, err := controller.PowerState(ctx); {
			case err == nil && is == bmc.PowerOff:
				return dispatch.Session{}, false
			case errors.As(err, &refused):
				// It was never switched on by us: netboot says why.
				return dispatch.Session{}, false
			}
		}
	}
	p.say(m.Address, "netboot", "an earlier run left it in the installer; waiting up to %s for its agent", reconnect)
	ctx, cancel := context.WithTimeout(ctx, reconnect)
	defer cancel()
	s, err := p.Dispatch.WaitSession(ctx, row.ID)
	if err != nil {
		return s, false
	}
	_, err = p.Dispatch.WaitFacts(ctx, row.ID)
	return s, err == nil
}

// hold records that the machine waits in the installer; one that is in the
// middle of an installation stays so.
func (p *Provisioner) hold(ctx context.Context, row inventory.Machine) error {
	now, err := p.Catalog.Machine(ctx, row.ID)
	if err != nil || now.State == inventory.StateInstalling || now.State == inventory.StateHeld {
		return err
	}
	if now.State != inventory.StateInspecting {
		if err := p.setState(ctx, row.ID, inventory.StateInspecting); err != nil {
			return err
		}
	}
	return p.setState(ctx, row.ID, inventory.StateHeld)
}

// asked is what a person has to do for a machine without BMC; of each address only
// the newest text is seen, so that it goes with what comes after.
func asked(m *site.Machine, text string) string {
	if m.BMC.Driver == site.BMCNone {
		return text
	}
	return ""
}

// netboot sets the one-time boot device and switches the machine on, or asks a
// person to.
func (p *Provisioner) netboot(ctx context.Context, m *site.Machine, row inventory.Machine) error {
	if m.BMC.Driver == site.BMCNone {
		p.say(m.Address, "netboot", "switch on %s (%s) now, set to boot from the network; waiting up to %s", m.Hostname, m.MAC, m.BootTimeout)
		return nil
	}
	controller, err := p.Powers.BMC(m.Address)
	if err != nil {
		return err
	}
	is, err := controller.PowerState(ctx)
	if err != nil {
		return err
	}
	efi, err := p.bootsEFI(ctx, row)
	if err != nil {
		return err
	}
	if err := controller.SetNextBoot(ctx, bmc.BootPXE, bmc.BootOptions{EFI: efi}); err != nil {
		return err
	}
	action, doing := bmc.On, "switching on"
	if is == bmc.PowerOn {
		action, doing = bmc.Cycle, "power-cycling"
	}
	p.mu.Lock()
	if p.brought == nil {
		p.brought = map[string]bool{}
	}
	p.brought[m.Address] = is == bmc.PowerOff
	p.mu.Unlock()
	p.say(m.Address, "netboot", "%s", doing)
	return controller.SetPower(ctx, action)
}

// bootsEFI says in which mode the one-time boot is asked for: the one that the
// machine was last seen in, or UEFI, which is what firmware of the last decade
// comes with.
func (p *Provisioner) bootsEFI(ctx context.Context, row inventory.Machine) (bool, error) {
	facts, err := KnownFacts(ctx, p.Catalog, row.ID)
	if err != nil {
		return false, err
	}
	return facts == nil || facts.Firmware == nil || facts.Firmware.Mode != "bios", nil
}

// Release sends the machines that this process brought into the installer, and
// that were not installed, back to where they were: off, or on their own disk.
func (p *Provisioner) Release(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, m := range p.Site.Machines {
		wasOff, brought := p.brought[m.Address]
		if !brought {
			continue
		}
		delete(p.brought, m.Address)
		errs = append(errs, p.release(ctx, m, wasOff))
	}
	return errors.Join(errs...)
}

func (p *Provisioner) release(ctx context.Context, m *site.Machine, wasOff bool) error {
	row, err := p.row(ctx, m)
	if err != nil {
		return err
	}
	p.Wanted.Set(row.ID, false)
	if _, in := p.Dispatch.Session(ctx, row.ID); !in || row.State == inventory.StateInstalled {
		return nil
	}
	kind := agent.KindReboot
	if wasOff {
		kind = agent.KindPoweroff
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the agent did not acknowledge in a minute"))
	defer cancel()
	p.say(m.Address, "release", "%s", kind)
	_, err = p.Dispatch.Do(ctx, row.ID, agent.Task{
		ID: "release/" + uuid.Must(uuid.NewV7()).String(), Run: "release", Step: m.Address, Attempt: 1, Fence: p.Fence, Kind: kind,
	}, nil)
	if err != nil {
		return fmt.Errorf("letting %s go: %w", m.Address, err)
	}
	if row.Image != "" {
		return p.setState(ctx, row.ID, inventory.StateInstalled)
	}
	return p.setState(ctx, row.ID, inventory.StateDeclared)
}

// overdue names the time limit that an error comes from, whatever was being done
// when it was reached.
func overdue(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return err
}

// explain adds to a timeout where the boot stopped.
func (p *Provisioner) explain(ctx context.Context, m *site.Machine, err error) error {
	err = overdue(ctx, err)
	if p.Explain == nil {
		return err
	}
	if where := p.Explain(context.WithoutCancel(ctx), m.Address); where != "" {
		return fmt.Errorf("%w\n%s", err, where)
	}
	return err
}

// approvedDisk checks that the approved disk is in the machine.
func (p *Provisioner) approvedDisk(ctx context.Context, m *site.Machine, row inventory.Machine, facts inventory.Facts, want workflows.DiskName) error {
	if workflows.HasDisk(facts, want) {
		return nil
	}
	facts, err := p.lookAgain(ctx, m, row, fmt.Sprintf("the disk %s was not seen", workflows.DescribeDisk(want)))
	if err != nil {
		return err
	}
	if err := hasDisk(facts, want); err != nil {
		return workflows.GiveUp(fmt.Errorf("%s: %w", m.Address, err))
	}
	return nil
}

// hasDisk checks that the approved disk is in the machine that reported facts.
func hasDisk(f inventory.Facts, want workflows.DiskName) error {
	if workflows.HasDisk(f, want) {
		return nil
	}
	return fmt.Errorf("%w: %s; run plan again", errGone, workflows.DescribeDisk(want))
}

// agentDisk is the disk as the agent is told to find it.
func agentDisk(d workflows.DiskName) agent.DiskRef {
	r := agent.DiskRef{WWN: d.WWN, Serial: d.Serial, Bytes: d.Bytes}
	if !inventory.Numbered(d.WWN, d.Serial) {
		r.ByPath = d.Path
	}
	return r
}

package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/class"
	"github.com/edge-provision/edge-provision/workflows/dispatch"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Discovery lets machines go that came into the installer by themselves and have
// nothing to wait for there: undeclared ones once their facts are recorded, and
// those that a class was to install and does not. Their next boot is from their
// own disk.
type Discovery struct {
	// Site is asked each time, because a daemon takes up an edited one.
	Site func() *site.Site
	// Turn is as Reactor's.
	Turn     sync.Locker
	Catalog  *store.Store
	Keys     class.Digester // of class rules with a sensitive value
	Dispatch *dispatch.Server
	// Wanted are the machines that a run works on; they are never let go.
	Wanted *Wanted
	// Busy says that a run is under way, which may come to want any machine that has
	// an address; nil: none ever is.
	Busy func() bool
	// Fence is the token of the lock under which this process acts.
	Fence int64
	// Patience is how long a machine waits for a person's apply that its class
	// does not install; DefaultPatience when zero.
	Patience time.Duration
	Tell     func(Progress)
	Now      func() time.Time // time.Now when nil

	let   map[string]bool      // boots that were told to go
	since map[string]time.Time // boots that nobody wants any more, and since when
}

// DefaultPatience is how long a machine that was refused stays in the installer. It
// is enough for somebody who sees the refusal to type apply, which then needs
// nobody at the machine; and a machine that ran before it was plugged in here must
// not be kept from its work for longer.
const DefaultPatience = 10 * time.Minute

// discoveryInterval is how often the catalog is looked at for machines that can
// be let go; nobody waits for them.
const discoveryInterval = 2 * time.Second

// Run works until ctx ends.
func (d *Discovery) Run(ctx context.Context) {
	ticker := time.NewTicker(discoveryInterval)
	defer ticker.Stop()
	for {
		if err := d.Pass(ctx); err != nil && ctx.Err() == nil {
			d.Tell(Progress{Address: "discovery", Phase: "error", Message: err.Error()})
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (d *Discovery) now() time.Time {
	if d.Now == nil {
		return time.Now()
	}
	return d.Now()
}

// Pass looks once at who is in the installer, and lets go who may. It is not for
// several goroutines at once.
func (d *Discovery) Pass(ctx context.Context) error {
	if d.let == nil {
		d.let, d.since = map[string]bool{}, map[string]time.Time{}
	}
	// A machine that is declared by what it is stays for its installation. Of several
	// that fit one declaration none is it: they go.
	declared, err := recordNow(d.Turn, d.Site, func(s *site.Site) error {
		_, err := Bind(ctx, s, d.Catalog, d.Keys)
		return err
	})
	if err != nil {
		return err
	}
	machines, err := d.Catalog.Machines(ctx, store.MachineFilter{Site: declared.Name})
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range machines {
		session, in := d.Dispatch.Session(ctx, m.ID)
		if !in || d.let[session.Boot] {
			continue
		}
		if m.Address == "" {
			errs = append(errs, d.discovered(ctx, m, session))
		} else {
			errs = append(errs, d.idle(ctx, declared, m, session))
		}
	}
	return errors.Join(errs...)
}

// discovered lets an undeclared machine go whose facts are recorded.
func (d *Discovery) discovered(ctx context.Context, m inventory.Machine, session dispatch.Session) error {
	documents, err := d.Catalog.Facts(ctx, m.ID)
	if err != nil {
		return err
	}
	if _, known := documents[inventory.SourceAgent]; !known {
		return nil
	}
	return d.dismiss(ctx, m, session, "discovered", fmt.Sprintf("recorded as %s; back to its own disk", m.ID))
}

// idle lets a machine go that a class was to install, once nobody wants it any
// more and Patience is over. Its screen says what it waits for, and until when.
func (d *Discovery) idle(ctx context.Context, s *site.Site, m inventory.Machine, session dispatch.Session) error {
	why, err := d.unwanted(ctx, s, m, session)
	if err != nil {
		return err
	}
	if why == "" || d.Wanted.Has(m.ID) || d.Busy != nil && d.Busy() {
		delete(d.since, session.Boot)
		return nil
	}
	patience := d.Patience
	if patience == 0 {
		patience = DefaultPatience
	}
	since, waits := d.since[session.Boot]
	if !waits {
		now := d.now()
		d.since[session.Boot] = now
		at := now.Add(patience).UTC().Format("15:04")
		return d.say(ctx, m, fmt.Sprintf("%s is not installed: %s. It restarts from its own disk at %s UTC, unless `edge-provision apply` installs it before.", m.Address, why, at))
	}
	if d.now().Sub(since) < patience {
		return nil
	}
	return d.dismiss(ctx, m, session, "let go", fmt.Sprintf("nobody wants it in the installer since %s (%s); back to its own disk", since.UTC().Format("15:04:05 UTC"), why))
}

// unwanted is why nobody wants a machine in the installer that was given an
// address; empty while somebody may. One that a class had no part in during this
// boot waits for the person who brought it there, and one whose disk may be written
// in part for the run that finishes it: its disk does not boot.
func (d *Discovery) unwanted(ctx context.Context, s *site.Site, m inventory.Machine, session dispatch.Session) (string, error) {
	if m.State == inventory.StateInstalling {
		return "", nil
	}
	last, err := loadInstallation(ctx, d.Catalog.Settings(), s.Name, m.Address)
	if err != nil || last.unfinished(m.ID) {
		return "", err
	}
	reactions, err := d.Catalog.Reactions(ctx, store.ReactionFilter{Machine: m.ID})
	if err != nil || len(reactions) == 0 || slices.ContainsFunc(reactions, func(r inventory.Reaction) bool { return !r.State.Final() }) {
		return "", err
	}
	newest := slices.MaxFunc(reactions, func(a, b inventory.Reaction) int { return a.FinishedAt.Compare(b.FinishedAt) })
	// A boot's time is cut to the millisecond, and none is begun and refused in one.
	if !newest.FinishedAt.Truncate(time.Millisecond).After(bootTime(session.Boot)) {
		return "", nil
	}
	return fmt.Sprintf("class %s: %s: %s", newest.Class, newest.State, newest.Reason), nil
}

// bootTime is when a boot began, of which Booter made the id; zero for an id of
// somebody else.
func bootTime(boot string) time.Time {
	id, err := uuid.Parse(boot)
	if err != nil || id.Version() != 7 {
		return time.Time{}
	}
	return time.Unix(id.Time().UnixTime())
}

// acknowledged is how long an agent may take to answer: it asks for work every
// half a minute at the latest.
const acknowledged = time.Minute

// give has the agent of a machine that no run wants do something that changes no
// disk, and calls then before a run that came to want it meanwhile goes on. Neither
// happens when somebody has other work for it.
func (d *Discovery) give(ctx context.Context, m inventory.Machine, t agent.Task, then func() error) error {
	left, free := d.Wanted.Leave(m.ID)
	if !free {
		return nil
	}
	defer left()
	t.ID, t.Run, t.Step = "discovered/"+uuid.Must(uuid.NewV7()).String(), "discovery", m.ID.String()
	t.Attempt, t.Fence = 1, d.Fence
	ctx, cancel := context.WithTimeoutCause(ctx, acknowledged, errors.New("the agent did not acknowledge in a minute"))
	defer cancel()
	result, err := d.Dispatch.Spare(ctx, m.ID, t)
	switch {
	case errors.Is(err, dispatch.ErrBusy), errors.Is(err, dispatch.ErrReplaced):
		return nil
	case err != nil:
		return err
	case result.Error != nil:
		return result.Error
	}
	return then()
}

// say shows a line on the machine's screen.
func (d *Discovery) say(ctx context.Context, m inventory.Machine, text string) error {
	d.Tell(Progress{Address: m.Address, Phase: "waits", Message: text})
	shown := func() error { return nil }
	if err := d.give(ctx, m, agent.Task{Kind: agent.KindHold, Hold: &agent.Hold{Message: text}}, shown); err != nil {
		return fmt.Errorf("telling %s what it waits for: %w", m.Address, err)
	}
	return nil
}

// dismiss has a machine restart from its own disk.
func (d *Discovery) dismiss(ctx context.Context, m inventory.Machine, session dispatch.Session, phase, message string) error {
	err := d.give(ctx, m, agent.Task{Kind: agent.KindReboot}, func() error {
		d.let[session.Boot] = true
		delete(d.since, session.Boot)
		d.Tell(Progress{Address: session.MAC.String(), Phase: phase, Message: message})
		return d.leave(ctx, m.ID)
	})
	if err != nil {
		return fmt.Errorf("letting %s go: %w", session.MAC, err)
	}
	return nil
}

// leave records that a machine is not in the installer any more, as release does.
// While it does no run touches the machine; since the machines were listed one may
// have, so that its state is read anew.
func (d *Discovery) leave(ctx context.Context, id uuid.UUID) error {
	m, err := d.Catalog.Machine(ctx, id)
	if err != nil {
		return err
	}
	if m.Address == "" || m.State == inventory.StateDiscovered {
		return nil
	}
	path := []inventory.State{inventory.StateDeclared}
	if m.Image != "" {
		path[0] = inventory.StateInstalled
	}
	if m.State == inventory.StateInspecting {
		path = append([]inventory.State{inventory.StateHeld}, path...)
	}
	for _, to := range path {
		if _, err := workflows.Transition(m.State, to); err != nil {
			return nil // the next run finds out what it is
		}
		if err := d.Catalog.SetState(ctx, m.ID, to); err != nil {
			return err
		}
		m.State = to
	}
	return nil
}

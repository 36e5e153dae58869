package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// work is one installation under way on one machine.
type work struct {
	p   *Provisioner
	m   *site.Machine
	row inventory.Machine
	in  *installation
	run uuid.UUID
	// asked is what a person was asked to do before it can answer.
	asked string
}

// save records how far the installation has come.
func (w *work) save(ctx context.Context, ph phase) error {
	w.in.Phase = ph
	// What has happened is written down also when the run is being cut off.
	return w.in.save(context.WithoutCancel(ctx), w.p.Catalog.Settings(), w.p.Site.Name, w.m.Address)
}

// task names one task of the installation for the agent. A resumed run uses the
// same names, so that a result that was reported meanwhile is found.
func (w *work) task(kind agent.Kind) agent.Task {
	return agent.Task{
		ID: w.in.ID.String() + "/" + string(kind), Run: w.run.String(), Step: w.m.Address,
		Attempt: w.in.Attempt, Fence: w.p.Fence, Kind: kind,
	}
}

// do gives a task to the agent, shows its progress, and turns a failure into an
// error.
func (w *work) do(ctx context.Context, t agent.Task, begin func() error) (agent.Result, error) {
	var begun error
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	result, err := w.p.Dispatch.Do(ctx, w.row.ID, t, func(pr agent.Progress) {
		if pr.Phase == agent.PhaseBegin && begin != nil {
			if begun = begin(); begun != nil {
				cancel(begun)
			}
			return
		}
		w.p.Tell(Progress{Address: w.m.Address, Phase: string(pr.Phase), Message: pr.Message, Bytes: pr.Bytes, Total: pr.Total})
	})
	if err = errors.Join(begun, err); err != nil {
		return result, fmt.Errorf("%s: %w", w.m.Address, err)
	}
	if result.Outcome == agent.OutcomeOK {
		return result, nil
	}
	if result.Error == nil {
		return result, fmt.Errorf("%s: the %s task ended as %s without saying why", w.m.Address, t.Kind, result.Outcome)
	}
	err = fmt.Errorf("%s: %s: %w", w.m.Address, t.Kind, result.Error)
	if result.Error.Code == agent.CodeCorrupt {
		err = fmt.Errorf("%w\nThe stored image is damaged, or the network changes bytes. Check it with `edge-provision image inspect %s`; "+
			"when it is damaged, remove it from the cache directory and apply builds it again", err, w.in.Record.Image)
	}
	// The next attempt is a new one for the agent too.
	w.in.Attempt++
	if result.Outcome == agent.OutcomeRefused {
		return result, workflows.GiveUp(err)
	}
	return result, err
}

// write puts the image on the approved disk.
func (w *work) write(ctx context.Context, a workflows.Action, image Published) error {
	if err := w.p.setState(ctx, w.row.ID, inventory.StateInstalling); err != nil {
		return err
	}
	resume := w.in.Phase != ""
	t := w.task(agent.KindWrite)
	t.Write = &agent.Write{
		Disk: agentDisk(a.Erase.Disk), Image: image.Digest,
		ManifestURL: image.ManifestURL, ManifestText: image.ManifestText, FramesURL: image.FramesURL,
		Consent: agent.Consent{Signatures: a.Erase.Signatures},
		Resume:  resume,
	}
	_, err := w.do(ctx, t, func() error { return w.save(ctx, phaseBegun) })
	if err != nil {
		// A failed attempt counts, also when the next run resumes it.
		if w.in.Phase != "" {
			err = errors.Join(err, w.save(ctx, w.in.Phase))
		}
		return err
	}
	return w.save(ctx, phaseWritten)
}

// configure gives the disk this machine's identity and records the end of the
// installation: from here on any netboot is answered with the local disk.
func (w *work) configure(ctx context.Context) error {
	w.p.say(w.m.Address, "configure", "giving it its identity")
	t := w.task(agent.KindConfigure)
	t.Configure = w.identity()
	result, err := w.do(ctx, t, nil)
	if err != nil {
		return err
	}
	if result.Configure == nil {
		return fmt.Errorf("%s: the agent configured it, but reported no host key", w.m.Address)
	}
	w.in.Record.HostKey = result.Configure.HostKey
	if err := w.apply(ctx); err != nil {
		return err
	}
	w.p.Wanted.Set(w.row.ID, false)
	return nil
}

// apply writes down, most binding first, that the machine is installed.
func (w *work) apply(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	record, err := json.Marshal(w.in.Record)
	if err != nil {
		return fmt.Errorf("recording %s: %w", w.m.Address, err)
	}
	err = w.p.Catalog.PutApplied(ctx, store.Applied{
		Site: w.p.Site.Name, Address: w.m.Address, Digest: workflows.DigestOf(w.in.Record),
		Outputs: record, SchemaVersion: 1, Run: w.run.String(), Kind: kindMachine,
	})
	if err != nil {
		return err
	}
	if err := w.save(ctx, phaseInstalled); err != nil {
		return err
	}
	if err := w.p.Catalog.SetImage(ctx, w.row.ID, w.in.Record.Image); err != nil {
		return err
	}
	if err := w.p.Catalog.SetHostKey(ctx, w.row.ID, w.in.Record.HostKey); err != nil {
		return err
	}
	return w.p.setState(ctx, w.row.ID, inventory.StateInstalled)
}

// identity is what the machine becomes.
func (w *work) identity() *agent.Configure {
	m, n := w.m, w.m.Network
	c := &agent.Configure{
		Disk: agentDisk(w.in.Record.Disk), Image: w.in.Record.Image,
		Hostname: m.Hostname, Domain: n.Domain,
		Network:  agent.NetworkConfig{MAC: w.mac(), DHCP: true},
		RootKeys: []string{w.p.ControllerKey},
		Identity: agent.Identity{
			Catalog: w.p.Catalog.CatalogID().String(), Site: w.p.Site.Name, Machine: w.row.ID,
			Address: m.Address, Image: w.in.Record.Image, Run: w.run.String(),
		},
	}
	if m.IP.IsValid() {
		// The declared address is static: our DHCP may be gone tomorrow.
		c.Network.DHCP = false
		c.Network.Address = fmt.Sprintf("%s/%d", m.IP, n.CIDR.Bits())
		if n.Gateway.IsValid() {
			c.Network.Gateway = n.Gateway.String()
		}
		for _, d := range n.DNS {
			c.Network.DNS = append(c.Network.DNS, d.String())
		}
		if n.Domain != "" {
			c.Network.Search = []string{n.Domain}
		}
	}
	for _, ntp := range n.NTP {
		c.NTP = append(c.NTP, ntp.String())
	}
	for _, u := range m.Users {
		c.Users = append(c.Users, agent.User{Name: u.Name, Keys: u.AuthorizedKeys, Sudo: u.Sudo})
	}
	for _, other := range w.p.Site.Machines {
		if other.IP.IsValid() {
			c.Hosts = append(c.Hosts, agent.HostEntry{Address: other.IP.String(), Names: []string{other.Hostname}})
		}
	}
	return c
}

// mac is the port that the machine is known by on its network.
func (w *work) mac() inventory.MAC {
	if !w.m.MAC.IsZero() {
		return w.m.MAC
	}
	return w.row.MACs[0]
}

// restart leaves the installer for the machine's own disk. The answer may be
// lost when the machine is quick, so that only greet tells.
func (w *work) restart(ctx context.Context) error {
	w.p.say(w.m.Address, "reboot", "restarting from its own disk")
	t := w.task(agent.KindReboot)
	// A reboot is not work that is taken up again: each one is its own task.
	t.ID += "/" + uuid.Must(uuid.NewV7()).String()
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the agent did not acknowledge the reboot in a minute"))
	defer cancel()
	_, err := w.do(ctx, t, nil)
	return err
}

// greet waits for the installed system to answer over SSH as the machine that
// it is.
func (w *work) greet(ctx context.Context) error {
	w.p.say(w.m.Address, "boot", "%swaiting for SSH", w.asked)
	began := w.p.Clock.Now()
	if err := w.answers(ctx); err != nil {
		return err
	}
	w.p.Catalog.Record(inventory.Event{
		Time: w.p.Clock.Now(), Site: w.p.Site.Name, MAC: w.mac(), Machine: w.row.ID, Run: w.run.String(), Step: w.m.Address,
		Kind: inventory.EventSSHUp, Message: "the installed system answered over SSH with its own host key",
		Attrs: map[string]string{"duration": w.p.Clock.Now().Sub(began).Round(time.Millisecond).String()},
	})
	if err := w.save(ctx, phaseAnswered); err != nil {
		return err
	}
	return w.commission(ctx)
}

// answers waits for the answer, which alone its boot_timeout bounds: what comes after
// it has bounds of its own.
func (w *work) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, w.m.BootTimeout,
		fmt.Errorf("%s was installed, but did not answer over SSH in %s, its boot_timeout", w.m.Address, w.m.BootTimeout))
	defer cancel()
	err := until(ctx, w.p.Clock, time.Second, func(ctx context.Context) error {
		h, err := w.p.Hosts.Host(ctx, w.m.Address)
		if err != nil {
			var key *remote.HostKeyError
			if errors.As(err, &key) {
				return workflows.GiveUp(err)
			}
			return err
		}
		defer h.Close()
		r, err := h.Run(ctx, remote.Command{Line: "hostname"})
		if err == nil && strings.TrimSpace(r.Stdout) != w.m.Hostname {
			err = workflows.GiveUp(fmt.Errorf("%s calls itself %q; it should be %q", w.m.Address, strings.TrimSpace(r.Stdout), w.m.Hostname))
		}
		return err
	})
	if err != nil {
		return w.p.explain(ctx, w.m, err)
	}
	return nil
}

// commission looks at the machine once more, as every later look will, and freezes
// what it is made of. A look that fails leaves what the installer saw.
func (w *work) commission(ctx context.Context) error {
	if w.p.Adopter != nil {
		w.p.say(w.m.Address, "facts", "looking at its hardware")
		if err := look(ctx, w.p.Hosts, w.p.Adopter, w.m, 0); err != nil {
			w.p.say(w.m.Address, "facts", "what the installer saw of it stays: %v", err)
		}
	}
	_, err := w.p.Catalog.Commission(ctx, w.row.ID, w.run.String())
	if errors.Is(err, store.ErrNoSnapshotKey) || errors.Is(err, store.ErrNeverLooked) {
		return nil
	}
	return err
}

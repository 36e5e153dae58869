package rack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// State says how much of a rack exists.
type State string

// States of a rack.
const (
	StateDown   State = "down"
	StateUp     State = "up"
	StateBroken State = "broken" // parts of it exist without a supervisor; Down removes them
)

// Status describes a rack.
type Status struct {
	State       State           `json:"state"`
	Name        string          `json:"name"`
	Namespace   string          `json:"namespace,omitempty"`
	Supervisor  int             `json:"supervisor_pid,omitempty"`
	Accelerator Accelerator     `json:"accelerator,omitempty"`
	Machines    []MachineStatus `json:"machines,omitempty"`
}

// MachineStatus describes one machine of a rack that is up. Counts start at
// zero with Up.
type MachineStatus struct {
	Address string `json:"address"`
	On      bool   `json:"on"`
	// PID is QEMU's while on; each start of the firmware has another.
	PID int `json:"pid,omitempty"`
	// PowerOns counts transitions from off to on, Resets those that a BMC or
	// Power caused, GuestResets those that the software on the machine did.
	// Boots is their sum: how often the firmware started.
	PowerOns    int `json:"power_ons"`
	Resets      int `json:"resets"`
	GuestResets int `json:"guest_resets"`
	Boots       int `json:"boots"`
	// BootNext is the class that an override puts first at the next start;
	// empty for the machine's usual order.
	BootNext BootClass `json:"boot_next,omitempty"`
	// Serial is the path of the serial log, Disks those of the disks.
	Serial string   `json:"serial_log"`
	Disks  []string `json:"disks,omitempty"`
	// BMC is where the BMC answers: a URL for redfish, host:port for ipmi.
	// Fingerprint is "sha256:" and the SHA-256 of its certificate's DER form
	// in lower-case hexadecimal, and Certificate a PEM file of it, which a
	// client may take as its authority; redfish only.
	BMC         string `json:"bmc,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	Certificate string `json:"certificate,omitempty"`
}

// Status says what is up. It is no error when nothing is.
func (r *Rack) Status(ctx context.Context) (Status, error) {
	reply, err := askSupervisor(ctx, r.spec.StateDir, controlRequest{Verb: "status"})
	if err == nil && reply.Status != nil {
		return *reply.Status, nil
	}
	if !errors.Is(err, errNotRunning) {
		return Status{}, fmt.Errorf("asking for the state of the rack: %w", err)
	}
	st := Status{State: StateDown, Name: r.spec.Name}
	remains, err := r.remains()
	if err != nil {
		return Status{}, fmt.Errorf("looking for the rack: %w", err)
	}
	if remains {
		st.State, st.Namespace = StateBroken, r.Namespace()
	}
	return st, nil
}

// Machine returns the status of one machine of a rack that is up.
func (r *Rack) Machine(ctx context.Context, machine string) (MachineStatus, error) {
	st, err := r.Status(ctx)
	if err != nil {
		return MachineStatus{}, err
	}
	if st.State != StateUp {
		return MachineStatus{}, fmt.Errorf("the rack of site %s is %s", r.spec.Name, st.State)
	}
	for _, m := range st.Machines {
		if m.Address == machine {
			return m, nil
		}
	}
	return MachineStatus{}, fmt.Errorf("the rack of site %s has no machine %q", r.spec.Name, machine)
}

// WaitMachine waits until cond is true of the machine, and returns the status
// that made it so. Bound it by ctx; an error carries the last status.
func (r *Rack) WaitMachine(ctx context.Context, machine string, cond func(MachineStatus) bool) (MachineStatus, error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		m, err := r.Machine(ctx, machine)
		if err != nil && ctx.Err() == nil {
			return m, err
		}
		if err == nil && cond(m) {
			return m, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return m, fmt.Errorf("waiting for %s: %w; it is now %+v", machine, ctx.Err(), m)
		}
	}
}

// WaitPower waits until the machine is on, or off; bound it by ctx.
func (r *Rack) WaitPower(ctx context.Context, machine string, on bool) error {
	_, err := r.WaitMachine(ctx, machine, func(m MachineStatus) bool { return m.On == on })
	return err
}

// Write prints the status for a person.
func (s Status) Write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "rack %s is %s\n", s.Name, s.State)
	switch s.State {
	case StateBroken:
		fmt.Fprintf(&b, "its supervisor is gone; `edge-provision rack down` removes what is left of it\n")
	case StateUp:
		fmt.Fprintf(&b, "namespace %s, accelerator %s, supervisor process %d\n", s.Namespace, s.Accelerator, s.Supervisor)
	case StateDown:
	}
	if len(s.Machines) > 0 {
		t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintf(t, "\nMACHINE\tPOWER\tBOOTS\tBMC\tSERIAL CONSOLE\n")
		for _, m := range s.Machines {
			power := "off"
			if m.On {
				power = "on"
			}
			bmc := m.BMC
			if bmc == "" {
				bmc = "-"
			}
			fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\n", m.Address, power, m.Boots, bmc, m.Serial)
		}
		if err := t.Flush(); err != nil {
			return fmt.Errorf("printing the rack's status: %w", err)
		}
		first := true
		for _, m := range s.Machines {
			if m.Fingerprint == "" {
				continue
			}
			if first {
				fmt.Fprintf(&b, "\nSHA-256 fingerprints of the BMCs' certificates:\n")
				first = false
			}
			fmt.Fprintf(&b, "  %s  %s  %s\n", m.Fingerprint, m.BMC, m.Certificate)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

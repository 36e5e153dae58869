// Package sim has simulators of BMCs that answer over the real wire: Redfish
// over HTTPS (written here) and IPMI 2.0 over UDP (OpenIPMI's ipmi_sim as a
// child process). Tests of package bmc use them, and the virtual rack puts one
// in front of each emulated machine. Nothing here drives real hardware.
//
// The simulators share no code and no vocabulary with package bmc on purpose:
// a mistake made once must not cancel itself out on the other end of the wire.
package sim

import (
	"context"
	"fmt"
	"sync"
)

// Machine is the computer behind a simulated BMC. The rack implements it with
// an emulator, Memory without one.
//
// An implementation must be safe for use by several goroutines, must return
// soon after ctx ends, and must consume a one-time override: when the machine
// starts (by On from off, Cycle or Reset) with an Override whose Once is set,
// that start uses it and Boot returns the zero Override from then on. A
// continuous override stays until SetBoot replaces it.
type Machine interface {
	// Power reports whether the machine is switched on.
	Power(ctx context.Context) (on bool, err error)
	// Do carries out a power action. On when on and Off when off change
	// nothing and are no error.
	Do(ctx context.Context, a Action) error
	// SetBoot replaces the boot override; the zero Override removes it.
	SetBoot(ctx context.Context, o Override) error
	// Boot returns the override that the next start will use.
	Boot(ctx context.Context) (Override, error)
}

// Action is a power action as a BMC can ask it of a machine.
type Action string

// Power actions.
const (
	On    Action = "on"    // start, when off
	Off   Action = "off"   // cut the power at once
	Soft  Action = "soft"  // press the power button: the operating system shuts down
	Cycle Action = "cycle" // cut the power, then start
	Reset Action = "reset" // assert reset without cutting the power; nothing when off
)

// Device is what a machine boots from.
type Device string

// Boot devices. The zero value leaves the firmware's own order alone.
const (
	FirmwareOrder Device = ""
	PXE           Device = "pxe"
	Disk          Device = "disk"
	CDROM         Device = "cdrom"
	BIOSSetup     Device = "bios"
)

// Override tells the firmware what to boot from instead of its own order.
type Override struct {
	Device Device
	// Once: the next start alone. Otherwise every start until replaced.
	Once bool
	// EFI: boot the device as UEFI. Otherwise as legacy BIOS.
	EFI bool
}

// Memory is a Machine that exists in memory alone: it has no processor and
// only remembers what was asked of it. The zero value is switched off, is
// ready for use and boots from Disk when nothing overrides it.
type Memory struct {
	mu       sync.Mutex
	on       bool
	override Override
	boots    []Override
	actions  []Action
	err      error
}

// Power implements Machine.
func (m *Memory) Power(context.Context) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.on, m.err
}

// Do implements Machine.
func (m *Memory) Do(_ context.Context, a Action) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	m.actions = append(m.actions, a)
	switch a {
	case On:
		if !m.on {
			m.start()
		}
	case Off, Soft:
		m.on = false
	case Cycle:
		m.start()
	case Reset:
		if m.on {
			m.start()
		}
	default:
		return fmt.Errorf("power action %q is unknown to the simulated machine", a)
	}
	return nil
}

// start switches on and uses up a one-time override. m.mu is held.
func (m *Memory) start() {
	m.on = true
	used := m.override
	if used.Device == FirmwareOrder {
		used.Device = Disk
	}
	m.boots = append(m.boots, used)
	if m.override.Once {
		m.override = Override{}
	}
}

// SetBoot implements Machine.
func (m *Memory) SetBoot(_ context.Context, o Override) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.override = o
	return m.err
}

// Boot implements Machine.
func (m *Memory) Boot(context.Context) (Override, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.override, m.err
}

// Boots returns what each start so far booted from, oldest first.
func (m *Memory) Boots() []Override {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Override(nil), m.boots...)
}

// Actions returns the power actions received so far, oldest first.
func (m *Memory) Actions() []Action {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Action(nil), m.actions...)
}

// Break makes every later call of the Machine's methods return err; nil mends
// it.
func (m *Memory) Break(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

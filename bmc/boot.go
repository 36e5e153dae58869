package bmc

import (
	"context"
	"fmt"
	"strconv"

	"github.com/edge-provision/edge-provision/inventory"
)

// BootDevice is what a machine boots from.
type BootDevice string

// Boot devices.
const (
	BootNone  BootDevice = "none" // no override: the firmware's own order
	BootPXE   BootDevice = "pxe"
	BootDisk  BootDevice = "disk"
	BootCDROM BootDevice = "cdrom"
	BootBIOS  BootDevice = "bios" // the firmware's setup screen
)

// BootOptions say how a boot device is used. The zero value is the next boot
// alone, as legacy BIOS.
type BootOptions struct {
	// EFI boots the device as UEFI. It must be set for UEFI machines: many
	// controllers otherwise switch the firmware to legacy mode.
	EFI bool
	// Persistent keeps the override for every later boot too.
	Persistent bool
}

// NextBoot is the override that a BMC reports. Nil pointers are what it did
// not say.
type NextBoot struct {
	Device BootDevice
	EFI    *bool
	Once   *bool
}

// SetNextBoot sets the device of the next boot and reads it back. It does not
// restart the machine. Setting the same again is harmless.
//
// IPMI controllers drop the override when the machine is not started within 60
// seconds (IPMI 2.0 section 28.12, parameter 3), so SetPower belongs right
// after it.
func (c *Controller) SetNextBoot(ctx context.Context, d BootDevice, o BootOptions) error {
	switch d {
	case BootNone, BootPXE, BootDisk, BootCDROM, BootBIOS:
	default:
		return fmt.Errorf("boot device %q is unknown; use pxe, disk, cdrom, bios or none", d)
	}
	op := "setting the next boot to " + string(d)
	err := c.exclusive(ctx, op, func() error {
		return c.call(ctx, op, func(ctx context.Context, s session, _ *effect) error {
			if err := s.setBoot(ctx, d, o); err != nil {
				return err
			}
			got, err := s.boot(ctx)
			if err != nil {
				return err
			}
			return checkBoot(got, d, o)
		})
	})
	if err == nil {
		c.record(inventory.EventBMCBoot, "boot device set to "+string(d), map[string]string{
			"device": string(d), "efi": strconv.FormatBool(o.EFI), "once": strconv.FormatBool(!o.Persistent),
		})
	}
	return err
}

// checkBoot compares what was read back with what was asked for. A controller
// that silently made a one-time override permanent would netboot a finished
// machine for ever; one that dropped UEFI would boot the wrong loader.
func checkBoot(got NextBoot, d BootDevice, o BootOptions) error {
	mismatch := func(what string, got, want any) error {
		return &fault{kind: faultResponse, err: fmt.Errorf("the BMC accepted the boot override but reports %s %v, not %v; update its firmware or set the boot order by hand", what, got, want)}
	}
	if got.Device != d {
		return mismatch("device", got.Device, d)
	}
	if d == BootNone {
		return nil
	}
	if got.Once != nil && *got.Once == o.Persistent {
		return mismatch("one-time", *got.Once, !o.Persistent)
	}
	if got.EFI != nil && *got.EFI != o.EFI {
		return mismatch("UEFI", *got.EFI, o.EFI)
	}
	return nil
}

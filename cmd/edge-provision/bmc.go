package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

func (a *app) bmcCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "bmc",
		Short: "Ask a machine's BMC for power and boot device, or set them",
	}
	c.PersistentFlags().StringVar(&path, "site", "site.hcl", "the site that declares the machine")
	c.AddCommand(
		&cobra.Command{
			Use: "power MACHINE [on|off|soft|cycle|reset]", Short: "Show or change a machine's power", Args: cobra.RangeArgs(1, 2),
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.withBMC(cmd.Context(), path, args[0], func(ctx context.Context, c *bmc.Controller, _ *site.Machine) error {
					if len(args) == 2 {
						action := bmc.PowerAction(args[1])
						if !slices.Contains([]bmc.PowerAction{bmc.On, bmc.Off, bmc.Soft, bmc.Cycle, bmc.Reset}, action) {
							return usage("%q is none of on, off, soft, cycle and reset", args[1])
						}
						if err := c.SetPower(ctx, action); err != nil {
							return err
						}
					}
					is, err := c.PowerState(ctx)
					if err == nil {
						fmt.Fprintln(a.stdout, is)
					}
					return err
				})
			},
		},
		a.bmcBoot(&path),
		&cobra.Command{
			Use: "status MACHINE", Short: "Show power, boot device and identity", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.withBMC(cmd.Context(), path, args[0], func(ctx context.Context, c *bmc.Controller, _ *site.Machine) error {
					status, err := c.Status(ctx)
					if err != nil {
						return err
					}
					return writeJSON(a.stdout, status)
				})
			},
		},
		&cobra.Command{
			Use: "forget-refusal MACHINE", Short: "Try a credential again that the BMC has refused", Args: cobra.ExactArgs(1),
			Long: "A refused credential is not sent again until it changes, so that no account is locked out. After the BMC's own side was mended, this forgets the refusal.",
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.withBMC(cmd.Context(), path, args[0], func(ctx context.Context, c *bmc.Controller, _ *site.Machine) error {
					return c.ForgetRefusal(ctx)
				})
			},
		},
	)
	return c
}

func (a *app) bmcBoot(path *string) *cobra.Command {
	var options bmc.BootOptions
	var legacy bool
	c := &cobra.Command{
		Use: "boot MACHINE pxe|disk|cdrom|bios|none", Short: "Set what a machine boots next; once, unless --persistent", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			device := bmc.BootDevice(args[1])
			if !slices.Contains([]bmc.BootDevice{bmc.BootPXE, bmc.BootDisk, bmc.BootCDROM, bmc.BootBIOS, bmc.BootNone}, device) {
				return usage("%q is none of pxe, disk, cdrom, bios and none", args[1])
			}
			options.EFI = !legacy
			return a.withBMC(cmd.Context(), *path, args[0], func(ctx context.Context, c *bmc.Controller, _ *site.Machine) error {
				return c.SetNextBoot(ctx, device, options)
			})
		},
	}
	c.Flags().BoolVar(&options.Persistent, "persistent", false, "for every boot, not only the next one")
	c.Flags().BoolVar(&legacy, "legacy", false, "for a machine that boots by BIOS")
	return c
}

// withBMC opens the BMC of one machine of a site.
func (a *app) withBMC(ctx context.Context, path, name string, do func(context.Context, *bmc.Controller, *site.Machine) error) (err error) {
	w, err := a.open(ctx, path, func(steps.Progress) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	m, err := w.machine(name)
	if err != nil {
		return err
	}
	c, err := w.powers.BMC(m.Address)
	if err != nil {
		return err
	}
	return do(ctx, c, m)
}

// machine finds a declared machine by address, hostname or MAC.
func (w *world) machine(name string) (*site.Machine, error) {
	var known []string
	for _, m := range w.site.Machines {
		if m.Address == name || m.Hostname == name || strings.EqualFold(m.MAC.String(), name) {
			return m, nil
		}
		known = append(known, m.Address)
	}
	return nil, fmt.Errorf("site %s declares no machine %q; it has %s", w.site.Name, name, strings.Join(known, ", "))
}

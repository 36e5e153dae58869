package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
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
		a.bmcPower(&path), a.bmcBoot(&path), a.bmcMedia(&path), a.bmcSensors(&path), a.bmcInventory(&path), a.bmcConsole(&path),
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
				return a.changeBMC(cmd.Context(), path, args[0], "forgetRefusal", "", func(ctx context.Context, c *bmc.Controller) error {
					return c.ForgetRefusal(ctx)
				})
			},
		},
	)
	return c
}

func (a *app) bmcPower(path *string) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "power MACHINE [on|off|soft|cycle|reset]", Short: "Show or change a machine's power", Args: cobra.RangeArgs(1, 2),
		Long: `Everything but on is refused while a run works on the machine, or has yet to: its disk
may be half written.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withWorld(cmd.Context(), *path, args[0], func(ctx context.Context, w *world, m *site.Machine) error {
				c, err := w.powers.BMC(m.Address)
				if err != nil {
					return err
				}
				if len(args) == 2 {
					action := bmc.PowerAction(args[1])
					if !slices.Contains([]bmc.PowerAction{bmc.On, bmc.Off, bmc.Soft, bmc.Cycle, bmc.Reset}, action) {
						return usage("%q is none of on, off, soft, cycle and reset", args[1])
					}
					if !force && action != bmc.On {
						if err := w.undisturbed(ctx, m.Address); err != nil {
							return err
						}
					}
					if err := w.setPower(ctx, m, c, resource.PowerRequest{Action: args[1], Force: force}); err != nil {
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
	}
	c.Flags().BoolVar(&force, "force", false, "also while a run works on the machine")
	return c
}

// setPower changes a machine's power, and keeps in the audit who did it.
func (w *world) setPower(ctx context.Context, m *site.Machine, c *bmc.Controller, want resource.PowerRequest) error {
	return w.auditedBMC(ctx, m, c, "setPower", want.Subject, http.StatusAccepted, func() error {
		return c.SetPower(ctx, bmc.PowerAction(want.Action))
	})
}

// auditedBMC does something by a machine's BMC. The machine is named by its id, where
// the catalog knows it, as in requests of the API; subject adds what is asked of it.
// The BMC is named too: site.hcl may have been edited since the catalog's row was
// written, and its BMC is the one that is asked.
func (w *world) auditedBMC(
	ctx context.Context, m *site.Machine, c *bmc.Controller, action string, subject func(machine string) string, status int, do func() error,
) error {
	name := m.Address
	switch row, err := w.catalog.MachineByAddress(ctx, w.site.Name, m.Address); {
	case err == nil:
		name = row.ID.String()
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	target := subject(name)
	if c.Address() != "" {
		target += ", BMC " + c.Address()
	}
	return audited(ctx, w.catalog, action, target, status, do)
}

// changeBMC changes something at the BMC of one machine of a site, and keeps in the
// audit who did it. what says in a word or two what is asked.
func (a *app) changeBMC(ctx context.Context, path, name, action, what string, do func(context.Context, *bmc.Controller) error) error {
	return a.withWorld(ctx, path, name, func(ctx context.Context, w *world, m *site.Machine) error {
		c, err := w.powers.BMC(m.Address)
		if err != nil {
			return err
		}
		subject := func(machine string) string { return strings.TrimSpace(machine + " " + what) }
		return w.auditedBMC(ctx, m, c, action, subject, http.StatusOK, func() error { return do(ctx, c) })
	})
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
			what := args[1]
			if options.Persistent {
				what += ", persistent"
			}
			if legacy {
				what += ", legacy"
			}
			return a.changeBMC(cmd.Context(), *path, args[0], "setNextBoot", what, func(ctx context.Context, c *bmc.Controller) error {
				return c.SetNextBoot(ctx, device, options)
			})
		},
	}
	c.Flags().BoolVar(&options.Persistent, "persistent", false, "for every boot, not only the next one")
	c.Flags().BoolVar(&legacy, "legacy", false, "for a machine that boots by BIOS")
	return c
}

func (a *app) bmcMedia(path *string) *cobra.Command {
	return &cobra.Command{
		Use: "media MACHINE insert|eject [URL]", Short: "Put a disc image into a machine's virtual CD drive, or take it out", Args: cobra.RangeArgs(2, 3),
		Long: `The BMC fetches the image by itself, over http or https, from an address that it
must be able to reach. What the machine boots is not changed: see bmc boot MACHINE cdrom.
Redfish only.`,
		Example: `  edge-provision bmc media 'machine.node["a"]' insert http://172.22.1.1/rescue.iso`,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := "eject"
			insert := args[1] == "insert" && len(args) == 3
			switch {
			case insert:
				what = "insert " + bmc.ImageName(args[2])
			case args[1] != "eject" || len(args) != 2:
				return usage("say insert and a URL, or eject alone")
			}
			return a.changeBMC(cmd.Context(), *path, args[0], "setMedia", what, func(ctx context.Context, c *bmc.Controller) (err error) {
				var ejected []string
				if insert {
					ejected, err = c.InsertMedia(ctx, args[2])
				} else {
					ejected, err = c.EjectMedia(ctx)
				}
				for _, image := range ejected {
					fmt.Fprintf(a.stderr, "Ejected %s.\n", image)
				}
				return err
			})
		},
	}
}

func (a *app) bmcSensors(path *string) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "sensors MACHINE", Short: "Show the temperatures, fans and voltages that a machine's BMC measures", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "table" && format != "json" {
				return usage("output %q is neither table nor json", format)
			}
			return a.withBMC(cmd.Context(), *path, args[0], func(ctx context.Context, c *bmc.Controller, _ *site.Machine) error {
				sensors, err := c.Sensors(ctx)
				if err != nil {
					return err
				}
				if format == "json" {
					return writeJSON(a.stdout, sensors)
				}
				table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(table, "KIND\tNAME\tREADING\tHEALTH")
				for _, s := range sensors {
					reading := "none"
					if s.Value != nil {
						reading = strings.TrimSpace(strconv.FormatFloat(*s.Value, 'f', -1, 64) + " " + s.Unit)
					}
					fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", s.Kind, s.Name, reading, s.Health)
				}
				return table.Flush()
			})
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	return c
}

func (a *app) bmcInventory(path *string) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "inventory MACHINE", Short: "Read the hardware that a machine's BMC knows of, and record it", Args: cobra.ExactArgs(1),
		Long: `The machine may be switched off: a BMC remembers what it saw at the last start. What it
says is recorded as facts of the source redfish or ipmi, unless the catalog does not know
the machine yet. Nothing is changed on the machine or its BMC.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "table" && format != "json" {
				return usage("output %q is neither table nor json", format)
			}
			return a.withWorld(cmd.Context(), *path, args[0], func(ctx context.Context, w *world, m *site.Machine) error {
				return a.readInside(ctx, w, m, format)
			})
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	return c
}

// readInside reads and shows what a machine's BMC knows.
func (a *app) readInside(ctx context.Context, w *world, m *site.Machine, format string) error {
	row, err := w.catalog.MachineByAddress(ctx, w.site.Name, m.Address)
	var known *inventory.Machine
	switch {
	case err == nil:
		known = &row
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	r, err := w.inside.Read(ctx, m, known)
	if err != nil {
		return err
	}
	for _, missing := range r.Missing {
		fmt.Fprintln(a.stderr, "Not read:", printable(missing))
	}
	if known == nil {
		fmt.Fprintf(a.stderr, "Not recorded: the catalog does not know %s before `apply` or `serve`.\n", m.Address)
	}
	if format == "json" {
		return writeJSON(a.stdout, r.Facts)
	}
	rows := [][]string{{"FACT", "VALUE"}}
	for _, c := range inventory.Diff(inventory.Facts{}, r.Facts) {
		rows = append(rows, []string{c.Path, c.New})
	}
	return writeTable(a.stdout, rows)
}

func (a *app) bmcConsole(path *string) *cobra.Command {
	return &cobra.Command{
		Use: "console MACHINE", Short: "Join this terminal to a machine's serial console", Args: cobra.ExactArgs(1),
		Long: `Serial over LAN of an IPMI controller, until "~." is typed at the beginning of a line
or the input ends. The machine must use its serial port: the firmware by its console
redirection, the kernel by console=ttyS… on its command line. IPMI only.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withBMC(cmd.Context(), *path, args[0], func(ctx context.Context, c *bmc.Controller, _ *site.Machine) error {
				fmt.Fprintln(a.stderr, "Leave with ~. at the beginning of a line.")
				return c.Console(ctx, a.stdin, a.stdout)
			})
		},
	}
}

// withBMC opens the BMC of one machine of a site.
func (a *app) withBMC(ctx context.Context, path, name string, do func(context.Context, *bmc.Controller, *site.Machine) error) error {
	return a.withWorld(ctx, path, name, func(ctx context.Context, w *world, m *site.Machine) error {
		c, err := w.powers.BMC(m.Address)
		if err != nil {
			return err
		}
		return do(ctx, c, m)
	})
}

// withWorld opens a site and finds one of its machines.
func (a *app) withWorld(ctx context.Context, path, name string, do func(context.Context, *world, *site.Machine) error) (err error) {
	w, err := a.open(ctx, path, func(steps.Progress) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	m, err := w.machine(name)
	if err != nil {
		return err
	}
	return do(ctx, w, m)
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

package main

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/rack"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// superviseName is the hidden command by which a rack's supervisor is started.
const superviseName = "rack-supervise"

func (a *app) rackCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "rack",
		Short: "Emulate the machines of a site on a private network, to rehearse it",
		Long: `Emulates the declared machines in QEMU, each with a simulated BMC at the address that
site.hcl names, in a network namespace of its own. Needs root. The rack block of a
machine says what hardware it has.`,
	}
	c.PersistentFlags().StringVar(&dir, "rack-dir", "", "disks, serial logs and state (default: racks/SITE in the cache directory)")
	up := &cobra.Command{
		Use: "up SITE.hcl", Short: "Build the rack and print the command that applies the site inside it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.rack(args[0], dir)
			if err != nil {
				return err
			}
			return r.Up(cmd.Context())
		},
	}
	var keep bool
	down := &cobra.Command{
		Use: "down SITE.hcl", Short: "End the rack and remove what it made", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.rack(args[0], dir)
			if err != nil {
				return err
			}
			return r.Down(cmd.Context(), !keep)
		},
	}
	down.Flags().BoolVar(&keep, "keep-disks", false, "keep the machines' disks for the next rack up")
	status := &cobra.Command{
		Use: "status SITE.hcl", Short: "Show what is up", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.rack(args[0], dir)
			if err != nil {
				return err
			}
			return a.rackStatus(cmd.Context(), r)
		},
	}
	power := &cobra.Command{
		Use: "power SITE.hcl MACHINE on|off|cycle|reset|shutdown", Short: "Press an emulated machine's power button, BMC or not", Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.rack(args[0], dir)
			if err != nil {
				return err
			}
			return r.Power(cmd.Context(), args[1], rack.PowerAction(args[2]))
		},
	}
	c.AddCommand(up, down, status, power)
	return c
}

func (a *app) superviseCommand() *cobra.Command {
	return &cobra.Command{
		Use: superviseName, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.graceful.Store(true)
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			// SIGTERM is the supervisor's way to end; there is nothing to
			// finish first.
			go func() {
				select {
				case <-a.stop:
					cancel()
				case <-ctx.Done():
				}
			}()
			a.verbose = true
			return rack.Supervise(ctx, a.stdin, a.stdout, a.logger())
		},
	}
}

// rack makes the rack of a site.
func (a *app) rack(path, dir string) (*rack.Rack, error) {
	s, err := a.load(path)
	if err != nil {
		return nil, err
	}
	cache, err := a.cache()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("making the cache directory: %w", err)
	}
	if dir == "" {
		dir = filepath.Join(cache, "racks", s.Name)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	spec, err := rackSpec(s, dir)
	if err != nil {
		return nil, err
	}
	spec.CacheDir = cache
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	return rack.New(rack.Config{
		Spec: spec, Supervisor: []string{self, superviseName}, Apply: []string{self, "apply", path},
		Stdout: a.stdout, Log: a.logger(),
	})
}

// rackSpec is the hardware that a site's machines are emulated with.
func rackSpec(s *site.Site, dir string) (rack.Spec, error) {
	spec := rack.Spec{Name: s.Name, StateDir: dir}
	for _, n := range s.Networks {
		spec.Networks = append(spec.Networks, rack.Network{
			Name: n.ID(), Interface: n.Interface, HostAddress: netip.PrefixFrom(hostAddress(n), n.CIDR.Bits()),
		})
	}
	for _, m := range s.Machines {
		if m.Adopted() {
			continue
		}
		e, err := rackMachine(s, m)
		if err != nil {
			return spec, fmt.Errorf("%s (%s): %w", m.Address, m.DeclRange, err)
		}
		spec.Machines = append(spec.Machines, e)
	}
	return spec, nil
}

// hostAddress is where the controller is on an emulated network: at the gateway
// if that is declared, else at the first address.
func hostAddress(n *site.Network) netip.Addr {
	if n.Gateway.IsValid() {
		return n.Gateway
	}
	return n.CIDR.Masked().Addr().Next()
}

// rackMachine is one machine's hardware; what site.hcl leaves open is the same
// at every rack up.
func rackMachine(s *site.Site, m *site.Machine) (rack.Machine, error) {
	e := rack.Machine{
		Address: m.Address, Serial: "RACK-" + strings.ToUpper(m.Hostname),
		UUID: uuid.NewSHA1(uuid.NameSpaceOID, []byte("edge-provision rack "+s.Name+" "+m.Address)),
		BMC:  rack.BMC{Driver: rack.BMCDriver(m.BMC.Driver), Username: m.BMC.Username, Password: m.BMC.Password.Reveal()},
	}
	hardware := m.Rack
	if hardware == nil {
		hardware = &site.Rack{
			Disks: []site.RackDisk{{Bus: "virtio", SizeBytes: 8 << 30, BlockBytes: 512}}, NICs: []site.RackNIC{{Model: "virtio"}},
		}
	}
	e.Firmware, e.CPUs, e.MemoryBytes, e.PowerOn = rack.Firmware(hardware.Firmware), hardware.CPUs, hardware.MemoryBytes, hardware.PowerOn
	for _, b := range hardware.BootOrder {
		e.BootOrder = append(e.BootOrder, rack.BootClass(b))
	}
	for i, d := range hardware.Disks {
		source := d.Source
		if source != "" && !filepath.IsAbs(source) {
			source = filepath.Join(s.Dir, source)
		}
		disk := rack.Disk{Bus: rack.DiskBus(d.Bus), Bytes: d.SizeBytes, Serial: d.Serial, LogicalBlock: d.BlockBytes, Source: source}
		if disk.Serial == "" {
			disk.Serial = diskSerial(m.Hostname, i)
		}
		e.Disks = append(e.Disks, disk)
	}
	pxe := map[string]rack.PXEStack{"native": rack.PXEFirmware, "ipxe": rack.PXERom}[hardware.PXE]
	for i, n := range hardware.NICs {
		mac := n.MAC
		if mac.IsZero() && i == 0 {
			mac = m.MAC
		}
		if mac.IsZero() {
			mac = madeUpMAC(e.UUID, i)
		}
		nic := rack.NIC{Model: rack.NICModel(n.Model), MAC: mac, Network: m.Network.ID()}
		if i == 0 && (n.Model == "virtio" || hardware.PXE == "ipxe") {
			nic.PXE = pxe // OVMF has no driver of its own for other cards
		}
		e.NICs = append(e.NICs, nic)
	}
	var err error
	e.BMC.Address, err = bmcListen(m.BMC)
	return e, err
}

// diskSerial is at most the 20 characters that every kind of disk can report.
func diskSerial(hostname string, i int) string {
	suffix := "-D" + strconv.Itoa(i)
	return strings.ToUpper(hostname[:min(len(hostname), 20-len(suffix))]) + suffix
}

// madeUpMAC is a locally administered address that stays the same.
func madeUpMAC(id uuid.UUID, i int) inventory.MAC {
	return inventory.MAC{0x02, id[0], id[1], id[2], id[3], byte(i)}
}

// bmcListen is the address at which an emulated BMC listens.
func bmcListen(b *site.BMC) (netip.AddrPort, error) {
	if b.Driver == site.BMCNone {
		return netip.AddrPort{}, nil
	}
	host, port := b.Address, map[site.BMCDriver]string{site.BMCRedfish: "443", site.BMCIPMI: "623"}[b.Driver]
	if strings.Contains(host, "://") {
		u, err := url.Parse(host)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("BMC address %q: %w", b.Address, err)
		}
		host = u.Host
	}
	if at, err := netip.ParseAddrPort(host); err == nil {
		return at, nil
	}
	at, err := netip.ParseAddrPort(net4(host) + ":" + port)
	if err != nil {
		return at, fmt.Errorf("BMC address %q cannot be emulated: only an IPv4 address can", b.Address)
	}
	return at, nil
}

// net4 is host unless it carries a port of its own.
func net4(host string) string {
	name, _, _ := strings.Cut(host, ":")
	return name
}

func (a *app) rackStatus(ctx context.Context, r *rack.Rack) error {
	status, err := r.Status(ctx)
	if err != nil {
		return err
	}
	return status.Write(a.stdout)
}

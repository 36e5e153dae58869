package rack

import (
	"net/netip"
	"strings"
	"testing"
)

func TestValidateAcceptsAGoodSpecAndFillsItsDefaults(t *testing.T) {
	s := validSpec()
	if err := s.Validate(); err != nil {
		t.Fatalf("Validate = %v; want nil", err)
	}
	d := s.withDefaults()
	if got, want := d.Machines[0].BMC.Address.String(), "172.22.1.11:443"; got != want {
		t.Errorf("default Redfish address = %s; want %s", got, want)
	}
	if got, want := d.Machines[1].BMC.Address.String(), "172.22.1.12:623"; got != want {
		t.Errorf("default IPMI address = %s; want %s", got, want)
	}
	if s.Machines[0].Disks[0].Serial != "" || s.Machines[1].NICs[0].PXE != "" {
		t.Errorf("withDefaults changed its receiver: %+v", s)
	}
}

func TestValidateNamesWhatIsWrong(t *testing.T) {
	cases := map[string]struct {
		change func(*Spec)
		want   string
	}{
		"a name that is no file name":  {func(s *Spec) { s.Name = "../x" }, "cannot name a network namespace"},
		"an option as a name":          {func(s *Spec) { s.Name = "-all" }, "cannot name a network namespace"},
		"a relative state directory":   {func(s *Spec) { s.StateDir = "rack" }, "not an absolute path"},
		"the root as state directory":  {func(s *Spec) { s.StateDir = "/" }, "not an absolute path"},
		"no machine":                   {func(s *Spec) { s.Machines = nil }, "no machine is declared"},
		"one address twice":            {func(s *Spec) { s.Machines[1].Address = s.Machines[0].Address }, "is declared twice"},
		"addresses with one directory": {func(s *Spec) { s.Machines[1].Address = `machine.node[a]` }, "would share the directory"},
		"one UUID twice":               {func(s *Spec) { s.Machines[1].UUID = s.Machines[0].UUID }, "same UUID"},
		"no UUID":                      {func(s *Spec) { s.Machines[1].UUID = [16]byte{} }, "UUID is missing"},
		"one MAC twice":                {func(s *Spec) { s.Machines[1].NICs[0].MAC = s.Machines[0].NICs[0].MAC }, "same MAC address 52:54:00:04:21:01"},
		"a group MAC":                  {func(s *Spec) { s.Machines[1].NICs[0].MAC[0] = 1 }, "not the MAC address of one port"},
		"one BMC twice":                {func(s *Spec) { s.Machines[1].BMC = s.Machines[0].BMC }, "same BMC address 172.22.1.11:443"},
		"a BMC at the controller":      {func(s *Spec) { s.Machines[1].BMC.Address = netip.MustParseAddrPort("172.22.0.1:623") }, "controller's own address"},
		"a BMC on the loopback":        {func(s *Spec) { s.Machines[1].BMC.Address = netip.MustParseAddrPort("127.0.0.1:623") }, "not the IPv4 address of one host"},
		"a BMC without password":       {func(s *Spec) { s.Machines[1].BMC.Password = "" }, "needs a username and a password"},
		"a password too long for IPMI": {func(s *Spec) { s.Machines[1].BMC.Password = strings.Repeat("x", 21) }, "at most 20"},
		"a BMC that is not emulated":   {func(s *Spec) { s.Machines[1].BMC.Driver = "amt" }, "cannot be emulated"},
		"an undeclared network":        {func(s *Spec) { s.Machines[1].NICs[0].Network = "core" }, `network "core" is not declared`},
		"no NIC":                       {func(s *Spec) { s.Machines[1].NICs = nil }, "without a NIC"},
		"an interface name too long":   {func(s *Spec) { s.Networks[0].Interface = "enp0s31f6.provis" }, "cannot name an interface"},
		"an interface named like taps": {func(s *Spec) { s.Networks[0].Interface = "m0n0" }, "needed by the rack itself"},
		"one interface twice": {func(s *Spec) {
			s.Networks = append(s.Networks, Network{Name: "b", Interface: "eth1", HostAddress: netip.MustParsePrefix("10.0.0.1/24")})
		}, "both use interface eth1"},
		"overlapping networks": {func(s *Spec) {
			s.Networks = append(s.Networks, Network{Name: "b", Interface: "eth2", HostAddress: netip.MustParsePrefix("172.22.0.129/25")})
		}, "overlap"},
		"native PXE under BIOS":  {func(s *Spec) { s.Machines[1].NICs[0].PXE = PXEFirmware }, "has no PXE of its own"},
		"Secure Boot under BIOS": {func(s *Spec) { s.Machines[1].SecureBoot = true }, "needs firmware uefi"},
		"HTTP boot under BIOS":   {func(s *Spec) { s.Machines[1].HTTPBoot = true }, "UEFI HTTP boot needs"},
		"unknown firmware":       {func(s *Spec) { s.Machines[1].Firmware = "coreboot" }, "firmware \"coreboot\" is unknown"},
		"too little memory":      {func(s *Spec) { s.Machines[1].MemoryBytes = mib }, "too few"},
		"a disk of half a block": {func(s *Spec) { s.Machines[0].Disks[0].Bytes++ }, "a multiple of 512"},
		"a disk of no bytes":     {func(s *Spec) { s.Machines[0].Disks[0].Bytes = 0 }, "at least 1 MiB"},
		"4Kn on ahci":            {func(s *Spec) { s.Machines[0].Disks[0].Bus, s.Machines[0].Disks[0].LogicalBlock = DiskAHCI, 4096 }, "512-byte blocks only"},
		"a WWN on virtio":        {func(s *Spec) { s.Machines[0].Disks[0].WWN = "naa.5000c500a1b2c3d4" }, "no field for a WWN"},
		"an ATA WWN on NVMe": {func(s *Spec) {
			s.Machines[0].Disks[0].Bus, s.Machines[0].Disks[0].WWN = DiskNVMe, "naa.5000c500a1b2c3d4"
		}, `is not "eui."`},
		"a turning NVMe":       {func(s *Spec) { s.Machines[0].Disks[0].Bus, s.Machines[0].Disks[0].Rotational = DiskNVMe, true }, "does not rotate"},
		"a serial too long":    {func(s *Spec) { s.Machines[0].Disks[0].Serial = strings.Repeat("x", 21) }, "1 to 20 printable"},
		"a relative disk path": {func(s *Spec) { s.Machines[0].Disks[0].Path = "disk.raw" }, "is not absolute"},
		"a relative source":    {func(s *Spec) { s.Machines[0].Disks[0].Source = "disk.raw" }, "is not absolute"},
		"a source and a path":  {func(s *Spec) { s.Machines[0].Disks[0].Source, s.Machines[0].Disks[0].Path = "/a", "/b" }, "choose one"},
		"a disk in the state":  {func(s *Spec) { s.Machines[0].Disks[0].Path = "/var/lib/rack/x/../disk.raw" }, "inside the rack's state directory"},
		"seven ahci disks": {func(s *Spec) {
			for i := range 7 {
				s.Machines[1].Disks = append(s.Machines[1].Disks, Disk{Bus: DiskAHCI, Bytes: mib, Serial: string(rune('a' + i))})
			}
		}, "has 6 ports"},
		"an unknown boot class":  {func(s *Spec) { s.Machines[0].BootOrder = []BootClass{"floppy"} }, `boot class "floppy" is unknown`},
		"an unknown accelerator": {func(s *Spec) { s.Accelerator = "hvf" }, `accelerator "hvf" is unknown`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := validSpec()
			c.change(&s)
			if err := s.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Validate = %v; want an error with %q", err, c.want)
			}
		})
	}
}

func TestValidateShowsAllAtOnce(t *testing.T) {
	s := validSpec()
	s.Name, s.Machines[0].CPUs, s.Machines[1].NICs = "", -1, nil
	err := s.Validate()
	for _, want := range []string{"network namespace", "-1 CPUs", "without a NIC"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v; want %q in it", err, want)
		}
	}
}

func TestMissingPrerequisitesAreNamedWithTheirPackages(t *testing.T) {
	no := func() bool { return false }
	err := checkPrerequisites([]prerequisite{
		{what: "program a", present: no, pkg: "pkg-a"},
		{what: "program a", present: no, pkg: "pkg-a"},
		{what: "file b", present: no, pkg: "pkg-b"},
		{what: "root", present: no, hint: "run it as root"},
		{what: "program c", present: func() bool { return true }, pkg: "pkg-c"},
	})
	want := "program a is missing: it is in Debian's package pkg-a\n" +
		"file b is missing: it is in Debian's package pkg-b\n" +
		"root is missing: run it as root\n" +
		"install what is missing with: apt-get install pkg-a pkg-b"
	if err == nil || err.Error() != want {
		t.Errorf("checkPrerequisites = %v; want %s", err, want)
	}
	if err := checkPrerequisites(nil); err != nil {
		t.Errorf("checkPrerequisites(nothing) = %v; want nil", err)
	}
}

func TestPrerequisitesAreThoseOfTheSpecAlone(t *testing.T) {
	s := validSpec().withDefaults()
	s.Machines = s.Machines[:1] // UEFI with its own PXE, Redfish
	for _, p := range prerequisites(s) {
		for _, foreign := range []string{"openipmi", "seabios", "ipxe-qemu"} {
			if p.pkg == foreign {
				t.Errorf("prerequisites = %s of %s; this rack does not need it", p.what, p.pkg)
			}
		}
	}
}

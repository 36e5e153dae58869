package probe

import (
	"bufio"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/edge-provision/edge-provision/inventory"
)

// smbiosTable reads the structures of testdata/smbios, one a line.
func smbiosTable(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "smbios", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	var table []byte
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		structure, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		table = append(table, structure...)
	}
	return table
}

// TestSMBIOSOfRealMachines compares with what the sources named in
// testdata/README.md say beside the bytes.
func TestSMBIOSOfRealMachines(t *testing.T) {
	yes := true
	dimm := func(locator string) inventory.MemoryModule {
		return inventory.MemoryModule{Locator: locator, Bytes: 4096 << 20, Type: "DDR2", SpeedMTs: 667, ECC: &yes}
	}
	tests := []struct {
		name  string
		entry string
		want  inventory.Facts
	}{
		{
			// It has no board (type 2), and its modules end before their maker.
			// Its processors run at 2500 MHz; 4800 is the greatest its sockets take.
			name: "hp-proliant-bl2x220c-g5", entry: "_SM_\x00\x1f\x02\x06",
			want: inventory.Facts{
				BIOS: &inventory.BIOS{Vendor: "HP", Version: "I19", Date: "11/02/2008"},
				System: &inventory.System{
					Manufacturer: "HP", Product: "ProLiant BL2x220c G5", Serial: "GB8911KH35",
					UUID: "34353634-3030-4247-3839-31314b483335", SKU: "465400-B21", Family: "ProLiant",
				},
				Chassis: &inventory.Chassis{Manufacturer: "HP", Type: "Rack Mount Chassis", Serial: "CZ305166WS"},
				CPU:     &inventory.CPU{Sockets: 2, Cores: 8, Threads: 8, MaxSpeedMHz: 4800},
				Memory: &inventory.Memory{Bytes: 16 << 30, Modules: []inventory.MemoryModule{
					dimm("DIMM 1A"), dimm("DIMM 2B"), dimm("DIMM 3C"), dimm("DIMM 4D"),
				}},
			},
		},
		{
			name: "lenovo-thinkstation-p520", entry: "_SM3_\x00\x18\x03\x00",
			want: inventory.Facts{
				BIOS: &inventory.BIOS{Vendor: "LENOVO", Version: "S03KT33A", Date: "08/06/2019"},
				System: &inventory.System{
					Manufacturer: "LENOVO", Product: "30BFS07500", Version: "ThinkStation P520", Serial: "00000000",
					UUID: "3e2501d2-e648-e811-bad3-000000000000", SKU: "LENOVO_MT_30BF_BU_Think_FM_ThinkStation P520", Family: "ThinkStation P520",
				},
				Chassis: &inventory.Chassis{Manufacturer: "LENOVO", Type: "Desktop", Serial: "00000000", AssetTag: "0000000"},
				CPU:     &inventory.CPU{Sockets: 1, Cores: 6, Threads: 12, MaxSpeedMHz: 3900},
				Memory: &inventory.Memory{Bytes: 8192 << 20, Modules: []inventory.MemoryModule{{
					Locator: "CPU1_DIMM_1", Bytes: 8192 << 20, Type: "DDR4", SpeedMTs: 2666,
					Manufacturer: "Hynix", Part: "HMA81GR7AFR8N-VK", Serial: "72091003", ECC: &yes,
				}}},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &machine{fs: fstest.MapFS{
				"sys/firmware/dmi/tables/DMI":                {Data: smbiosTable(t, tt.name)},
				"sys/firmware/dmi/tables/smbios_entry_point": {Data: []byte(tt.entry)},
			}}
			got := inventory.Facts{CPU: &inventory.CPU{}}
			if err := m.smbios(t.Context(), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("facts differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMemoryModuleSpeedIsTheConfiguredOne(t *testing.T) {
	tests := []struct {
		name                         string
		greatest, configured         uint16
		longGreatest, longConfigured uint32
		want                         int
	}{
		{"runs slower than it could", 2400, 2133, 0, 0, 2133},
		{"firmware does not say", 2400, 0, 0, 0, 2400},
		{"too fast for a word", 0xffff, 0xffff, 70400, 67200, 67200},
		{"too fast, and configured is not said", 0xffff, 0, 70400, 0, 70400},
		{"nothing is said", 0, 0, 0, 0, 0},
	}
	for _, tt := range tests {
		area := make([]byte, 0x5c)
		put := func(offset int, v uint32, bytes int) {
			for i := range bytes {
				area[offset+i] = byte(v >> (8 * i))
			}
		}
		put(0x0c, 8192, 2)
		put(0x15, uint32(tt.greatest), 2)
		put(0x20, uint32(tt.configured), 2)
		put(0x54, tt.longGreatest, 4)
		put(0x58, tt.longConfigured, 4)
		if got, _ := memoryModule(structure{kind: 17, area: area}); got.SpeedMTs != tt.want {
			t.Errorf("%s: speed = %d MT/s; want %d", tt.name, got.SpeedMTs, tt.want)
		}
	}
}

// lspciFunction is one record of lspci -vmmnnk, whose numbers are in brackets.
type lspciFunction struct{ slot, class, vendor, device, progIf, driver string }

func lspciListing(t *testing.T, name string) []lspciFunction {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "lspci", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	number := regexp.MustCompile(`\[([0-9a-f]{4})\]$`)
	var all []lspciFunction
	scan := bufio.NewScanner(f)
	for scan.Scan() {
		key, value, _ := strings.Cut(scan.Text(), ":\t")
		id := ""
		if found := number.FindStringSubmatch(value); found != nil {
			id = found[1]
		}
		switch key {
		case "Slot":
			all = append(all, lspciFunction{slot: "0000:" + value, progIf: "00"})
		case "Class":
			all[len(all)-1].class = id
		case "Vendor":
			all[len(all)-1].vendor = id
		case "Device":
			all[len(all)-1].device = id
		case "ProgIf":
			all[len(all)-1].progIf = value
		case "Driver":
			all[len(all)-1].driver = value
		}
	}
	if err := scan.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestPCIFunctionsOfRealMachine lays out in sysfs what lspci printed of it.
func TestPCIFunctionsOfRealMachine(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(path, target string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	bridges := map[string]string{"0000:05:00.0": "0000:00:01.0/"}
	for _, f := range lspciListing(t, "asus-x99") {
		device := "sys/devices/pci0000:00/" + bridges[f.slot] + f.slot
		write(device+"/class", "0x"+f.class+f.progIf)
		write(device+"/vendor", "0x"+f.vendor)
		write(device+"/device", "0x"+f.device)
		if f.driver != "" {
			link(device+"/driver", "../../../bus/pci/drivers/"+f.driver)
		}
		link("sys/bus/pci/devices/"+f.slot, "../../../../"+device)
	}
	const port = "sys/devices/pci0000:00/0000:00:19.0/net/eno1"
	write(port+"/type", "1")
	write(port+"/address", "52:54:00:12:34:56")
	link(port+"/device", "../../../0000:00:19.0")
	link("sys/class/net/eno1", "../../devices/pci0000:00/0000:00:19.0/net/eno1")

	m := &machine{fs: os.DirFS(root)}
	var got inventory.Facts
	if err := m.pci(t.Context(), &got); err != nil {
		t.Fatal(err)
	}
	if err := m.ports(t.Context(), &got); err != nil {
		t.Fatal(err)
	}
	want := inventory.Facts{
		PCI: []inventory.PCI{
			{Address: "0000:00:00.0", Class: "060000", Vendor: "8086", Device: "2f00"},
			{Address: "0000:00:01.0", Class: "060400", Vendor: "8086", Device: "2f02", Driver: "pcieport"},
			{Address: "0000:00:14.0", Class: "0c0330", Vendor: "8086", Device: "8d31", Driver: "xhci_hcd"},
			{Address: "0000:00:16.0", Class: "078000", Vendor: "8086", Device: "8d3a", Driver: "mei_me"},
			{Address: "0000:00:19.0", Class: "020000", Vendor: "8086", Device: "15a1", Driver: "e1000e"},
			{Address: "0000:05:00.0", Class: "010802", Vendor: "144d", Device: "a802", Driver: "nvme"},
		},
		NICs: []inventory.NIC{{
			Name: "eno1", MAC: inventory.MAC{0x52, 0x54, 0, 0x12, 0x34, 0x56}, Driver: "e1000e",
			PCI: "0000:00:19.0", Vendor: "8086", Device: "15a1",
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("facts differ (-want +got):\n%s", diff)
	}
}

package bmc_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
	"github.com/edge-provision/edge-provision/inventory"
)

func TestFactsOfRealBMCs(t *testing.T) {
	t.Parallel()
	type object = map[string]any
	tests := []struct {
		name     string
		change   func(system, chassis object)
		want     inventory.Facts
		missing  []string // what is named as not read
		requests int
	}{
		{
			// Its serials are zeros here. It counts 512 GB as 476.8 GiB.
			name: "dell-poweredge-r640",
			want: inventory.Facts{
				System: &inventory.System{Manufacturer: "Dell Inc.", Product: "PowerEdge R640"},
				BIOS:   &inventory.BIOS{Version: "2.3.10"},
				CPU:    &inventory.CPU{Model: "Intel(R) Xeon(R) Gold 6138 CPU @ 2.00GHz", Sockets: 2, Threads: 80},
				Memory: &inventory.Memory{Bytes: 512 << 30},
			},
			missing:  []string{"processors", "memory modules", "storage", "simple storage", "Ethernet interfaces", "manager"},
			requests: 13,
		},
		{
			// SMBIOS and the sticker have what an iDRAC calls the SKU.
			name: "dell-poweredge-r640",
			change: func(system, chassis object) {
				system["SKU"], system["SerialNumber"] = "ABC1DE2", "CNABC000000000"
				chassis["Manufacturer"], chassis["SKU"], chassis["SerialNumber"] = "Dell Inc.", "ABC1DE2", "CNABC000000000"
				chassis["ChassisType"], chassis["AssetTag"] = "RackMount", "store 7"
			},
			want: inventory.Facts{
				System:  &inventory.System{Manufacturer: "Dell Inc.", Product: "PowerEdge R640", Serial: "ABC1DE2"},
				Chassis: &inventory.Chassis{Manufacturer: "Dell Inc.", Serial: "ABC1DE2", Type: "Rack Mount Chassis", AssetTag: "store 7"},
				BIOS:    &inventory.BIOS{Version: "2.3.10"},
				CPU:     &inventory.CPU{Model: "Intel(R) Xeon(R) Gold 6138 CPU @ 2.00GHz", Sockets: 2, Threads: 80},
				Memory:  &inventory.Memory{Bytes: 512 << 30},
			},
			missing:  []string{"processors", "memory modules", "storage", "simple storage", "Ethernet interfaces", "manager"},
			requests: 13,
		},
		{
			name: "dell-idrac-two-drives",
			want: inventory.Facts{
				System: &inventory.System{Manufacturer: "Dell Inc.", Product: "PowerEdge R660"},
				BMC:    &inventory.BMCFacts{Firmware: "1.20.50.52"},
			},
			missing:  []string{"chassis"},
			requests: 8,
		},
		{
			// Its TPM is disabled.
			name: "hpe-proliant-dl360-gen10",
			want: inventory.Facts{
				System:  &inventory.System{Manufacturer: "HPE", Product: "ProLiant DL360 Gen10", SKU: "867959-B21"},
				Chassis: &inventory.Chassis{Manufacturer: "HP", Type: "Rack Mount Chassis"},
				BIOS:    &inventory.BIOS{Version: "U32 v2.10 (05/21/2019)"},
				CPU:     &inventory.CPU{Model: "Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz", Sockets: 2},
				Memory:  &inventory.Memory{Bytes: 384 << 30},
			},
			missing:  []string{"processors", "memory modules", "storage", "Ethernet interfaces", "manager"},
			requests: 12,
		},
		{
			// Its SKU is a placeholder.
			name: "supermicro-sys-510t",
			want: inventory.Facts{
				System: &inventory.System{Manufacturer: "Supermicro", Product: "SYS-510T-MR-EI018", UUID: "b11cc600-6d10-11ec-8000-000000000000"},
				BIOS:   &inventory.BIOS{Version: "2.0"},
				CPU:    &inventory.CPU{Model: "Intel(R) Xeon(R) processor", Sockets: 1},
				Memory: &inventory.Memory{Bytes: 64 << 30},
			},
			missing:  []string{"processors", "memory modules", "storage", "Ethernet interfaces", "manager"},
			requests: 12,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, c := capturedBMC(t, tt.name)
			if tt.change != nil {
				tt.change(r.only("Systems"), r.only("Chassis"))
			}
			got, err := c.Facts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			tt.want.SchemaVersion = inventory.SchemaVersion
			if diff := cmp.Diff(tt.want, got.Facts); diff != "" {
				t.Errorf("Facts differ (-want +got):\n%s", diff)
			}
			var missing []string
			for _, m := range got.Missing {
				what, _, _ := strings.Cut(m, ":")
				missing = append(missing, what)
			}
			if !slices.Equal(missing, tt.missing) {
				t.Errorf("Facts lack %q; want %q", got.Missing, tt.missing)
			}
			if r.requests != tt.requests {
				t.Errorf("Facts took %d requests; want %d", r.requests, tt.requests)
			}
			if len(r.resets)+len(r.media) > 0 {
				t.Errorf("Facts acted: %v %v", r.resets, r.media)
			}
		})
	}
}

// only is the one document of a kind.
func (r *replay) only(kind string) map[string]any {
	for at, d := range r.documents {
		if path.Dir(at) == redfishRoot+"/"+kind {
			return d
		}
	}
	return nil
}

// list makes a collection of copies of its members.
func (r *replay) list(at string, members ...map[string]any) {
	links := []any{}
	for i, m := range members {
		to := fmt.Sprintf("%s/%d", at, i)
		m = maps.Clone(m)
		m["@odata.id"], m["Id"] = to, fmt.Sprint("member ", i)
		r.documents[to] = m
		links = append(links, map[string]any{"@odata.id": to})
	}
	r.documents[at] = map[string]any{"Members": links}
}

// fill gives the Supermicro's document the inside of a server with two processors,
// 24 slots, ten bays and five ports, in the forms that vendors write it.
func (r *replay) fill() {
	type object = map[string]any
	const system = redfishRoot + "/Systems/1"
	present := object{"State": "Enabled"}
	r.list(system+"/Processors",
		object{"ProcessorType": "CPU", "Manufacturer": "Intel(R) Corporation", "Model": "Xeon  Gold", "InstructionSet": "x86-64", "TotalCores": 20, "TotalThreads": "40", "Status": present},
		object{"ProcessorType": "CPU", "Manufacturer": "Intel(R) Corporation", "Model": "Xeon  Gold", "TotalCores": 20, "TotalThreads": 40, "Status": present},
		object{"ProcessorType": "FPGA", "TotalCores": 9},
		object{"ProcessorType": "CPU", "TotalCores": nil, "Status": object{"State": "Absent"}})
	var slots []object
	for i := range 22 {
		slots = append(slots, object{
			"DeviceLocator": fmt.Sprintf("DIMM %02d", i), "CapacityMiB": 16384, "MemoryDeviceType": "DDR4", "OperatingSpeedMhz": 2666,
			"Manufacturer": "Hynix", "SerialNumber": fmt.Sprint("AA10", i), "PartNumber": "HMA82", "ErrorCorrection": "MultiBitECC", "Status": present,
		})
	}
	slots = append(slots,
		object{"SocketLocator": "PROC 2 DIMM 12", "SizeMB": 32768, "DIMMStatus": "GoodInUse", "DIMMType": "DDR4", "SerialNumber": "Not Specified"},
		object{"SocketLocator": "PROC 2 DIMM 11", "SizeMB": 0, "DIMMStatus": "NotPresent"})
	r.list(system+"/Memory", slots...)
	var bays []any
	for i := range 8 {
		bays = append(bays, object{"@odata.id": fmt.Sprint(redfishRoot+"/Drives/", i)})
		r.documents[fmt.Sprint(redfishRoot+"/Drives/", i)] = object{
			"Id": fmt.Sprint("Disk.Bay.", i), "Manufacturer": "KIOXIA", "Model": "KCD8XVUG6T40", "SerialNumber": fmt.Sprint("S10", i), "Revision": "0105",
			"CapacityBytes": 6401252745216, "BlockSizeBytes": 512, "MediaType": "SSD", "Protocol": "NVMe", "Status": present,
			"Identifiers": []any{object{"DurableName": "0x8CE38EE2_", "DurableNameFormat": "NAA"}, object{"DurableName": "8C:E3:8E:E2:05:40:0B:01", "DurableNameFormat": "EUI"}},
		}
	}
	r.documents[redfishRoot+"/Drives/empty"] = object{"Id": "Disk.Bay.8", "CapacityBytes": nil, "Status": object{"State": "Absent"}}
	r.list(system+"/Storage", object{"Drives": bays}, object{"Drives": []any{object{"@odata.id": redfishRoot + "/Drives/empty"}}})
	r.list(system+"/EthernetInterfaces",
		object{"MACAddress": "3C:EC:EF:10:20:01", "PermanentMACAddress": nil},
		object{"MACAddress": "00:00:00:00:00:00", "PermanentMACAddress": "3cecef102002"},
		object{"MACAddress": "3c:ec:ef:10:20:01"},
		object{"MACAddress": "N/A"},
		object{"MACAddress": ""})
	const manager = redfishRoot + "/Managers/1"
	r.documents[manager] = object{"FirmwareVersion": " 01.13.04\n", "Manufacturer": "Supermicro", "EthernetInterfaces": object{"@odata.id": manager + "/EthernetInterfaces"}}
	r.list(manager+"/EthernetInterfaces",
		object{"MACAddress": "3c:ec:ef:10:20:f0", "IPv4Addresses": []any{object{"Address": "169.254.3.254"}}},
		object{"MACAddress": "3c:ec:ef:10:20:f1", "IPv4Addresses": []any{object{"Address": "127.0.0.1"}}})
}

func TestFactsOfAWholeServer(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	want := inventory.Facts{
		SchemaVersion: inventory.SchemaVersion,
		System:        &inventory.System{Manufacturer: "Supermicro", Product: "SYS-510T-MR-EI018", UUID: "b11cc600-6d10-11ec-8000-000000000000"},
		BIOS:          &inventory.BIOS{Version: "2.0"},
		CPU:           &inventory.CPU{Architecture: "amd64", Vendor: "GenuineIntel", Model: "Xeon Gold", Sockets: 2, Cores: 40, Threads: 80},
		Memory:        &inventory.Memory{Bytes: (22*16 + 32) << 30},
		BMC:           &inventory.BMCFacts{Firmware: "01.13.04", Vendor: "Supermicro"},
	}
	for i := range 22 {
		want.Memory.Modules = append(want.Memory.Modules, inventory.MemoryModule{
			Locator: fmt.Sprintf("DIMM %02d", i), Bytes: 16 << 30, Type: "DDR4", SpeedMTs: 2666, Manufacturer: "Hynix", Part: "HMA82", Serial: fmt.Sprint("AA10", i), ECC: &yes,
		})
	}
	want.Memory.Modules = append(want.Memory.Modules, inventory.MemoryModule{Locator: "PROC 2 DIMM 12", Bytes: 32 << 30, Type: "DDR4"})
	for i := range 8 {
		want.Disks = append(want.Disks, inventory.Disk{
			Name: fmt.Sprint("Disk.Bay.", i), WWN: "eui.8ce38ee205400b01", Serial: fmt.Sprint("S10", i), Vendor: "KIOXIA", Model: "KCD8XVUG6T40", FirmwareRev: "0105",
			Bytes: 6401252745216, LogicalBlock: 512, Rotational: &no, Bus: "nvme",
		})
	}
	for i, mac := range []string{"3c:ec:ef:10:20:01", "3c:ec:ef:10:20:02"} {
		parsed, err := inventory.ParseMAC(mac)
		if err != nil {
			t.Fatal(err)
		}
		want.NICs = append(want.NICs, inventory.NIC{Name: fmt.Sprint("member ", i), MAC: parsed})
	}
	for _, tt := range []struct {
		name              string
		announce, expands bool
		requests          int
	}{
		{"without $expand", false, false, 59},
		{"with $expand", true, true, 22},
		{"with a $expand that does not work", true, false, 60},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, c := capturedBMC(t, "supermicro-sys-510t")
			r.fill()
			r.expands = tt.expands
			r.documents[redfishRoot]["ProtocolFeaturesSupported"] = map[string]any{"ExpandQuery": map[string]any{"NoLinks": tt.announce}}
			got, err := c.Facts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.Facts); diff != "" || len(got.Missing) > 0 {
				t.Errorf("Facts lack %q and differ (-want +got):\n%s", got.Missing, diff)
			}
			if r.requests != tt.requests {
				t.Errorf("Facts took %d requests; want %d", r.requests, tt.requests)
			}
		})
	}
}

func TestAPartOfAListIsNoList(t *testing.T) {
	t.Parallel()
	const system = redfishRoot + "/Systems/1"
	for name, tt := range map[string]struct {
		lose string
		left func(inventory.Facts) bool
	}{
		"a memory module": {system + "/Memory/7", func(f inventory.Facts) bool { return f.Memory.Modules == nil && f.Memory.Bytes == 64<<30 }},
		"a drive":         {redfishRoot + "/Drives/3", func(f inventory.Facts) bool { return f.Disks == nil }},
		"a storage unit":  {system + "/Storage/1", func(f inventory.Facts) bool { return f.Disks == nil }},
		"a port":          {system + "/EthernetInterfaces/1", func(f inventory.Facts) bool { return f.NICs == nil }},
		"a processor":     {system + "/Processors/0", func(f inventory.Facts) bool { return f.CPU.Sockets == 1 && f.CPU.Cores == 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, c := capturedBMC(t, "supermicro-sys-510t")
			r.fill()
			delete(r.documents, tt.lose)
			got, err := c.Facts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Missing) != 1 || !tt.left(got.Facts) {
				t.Errorf("Facts = %+v, lacking %q; want one list to be left out, and to be told of", got.Facts, got.Missing)
			}
		})
	}
}

func TestFactsAreBounded(t *testing.T) {
	t.Parallel()
	type object = map[string]any
	many := make([]object, 200)
	for i := range many {
		many[i] = object{"CapacityMiB": 1024}
	}
	t.Run("a long collection", func(t *testing.T) {
		t.Parallel()
		r, c := capturedBMC(t, "supermicro-sys-510t")
		r.list(redfishRoot+"/Systems/1/Memory", many...)
		got, err := c.Facts(t.Context())
		if err != nil || got.Facts.Memory.Modules != nil || got.Facts.Memory.Bytes != 64<<30 {
			t.Errorf("Facts = %+v, %v; want the sum of memory alone", got.Facts.Memory, err)
		}
	})
	t.Run("many requests", func(t *testing.T) {
		t.Parallel()
		r, c := capturedBMC(t, "supermicro-sys-510t")
		r.list(redfishRoot+"/Systems/1/Memory", many[:100]...)
		r.list(redfishRoot+"/Systems/1/Processors", many[100:]...)
		_, err := c.Facts(t.Context())
		if response := (*bmc.ResponseError)(nil); !errors.As(err, &response) || r.requests > 170 {
			t.Errorf("Facts = %v after %d requests; want a ResponseError after at most 170", err, r.requests)
		}
	})
	t.Run("a collection that is its own next page", func(t *testing.T) {
		t.Parallel()
		r, c := capturedBMC(t, "supermicro-sys-510t")
		r.documents[redfishRoot+"/Systems/1/Memory"] = object{"Members": []any{}, "Members@odata.nextLink": redfishRoot + "/Systems/1/Memory"}
		_, err := c.Facts(t.Context())
		if response := (*bmc.ResponseError)(nil); !errors.As(err, &response) || r.requests > 170 {
			t.Errorf("Facts = %v after %d requests; want a ResponseError after at most 170", err, r.requests)
		}
	})
}

func TestAReadingGivesWay(t *testing.T) {
	t.Parallel()
	service := sim.NewRedfish(sim.RedfishConfig{
		Username: "admin", Password: password, Hardware: func() sim.Hardware { return sim.Hardware{CPUs: 1, MemoryBytes: 1 << 30} },
	}, &sim.Memory{})
	service.SetFault(sim.FaultHangMemory)
	hangs := make(chan struct{})
	var once sync.Once
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasSuffix(req.URL.Path, "/Memory") {
			once.Do(func() { close(hangs) })
		}
		service.ServeHTTP(w, req)
	}))
	defer server.Close()
	c, err := bmc.Open(bmc.Config{
		Driver: bmc.DriverRedfish, Address: server.URL, Username: "admin", Password: password, Fingerprint: bmc.Fingerprint(server.Certificate()), Attempts: 1,
	}, bmc.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	read := make(chan error, 1)
	go func() {
		_, err := c.Facts(t.Context())
		read <- err
	}()
	<-hangs
	// Without giving way this would last as long as a reading may: 90 s.
	bounded, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.SetPower(bounded, bmc.On); err != nil {
		t.Errorf("SetPower() beside a reading = %v; want no error", err)
	}
	if err := <-read; !errors.Is(err, bmc.ErrGaveWay) {
		t.Errorf("Facts() beside a power action = %v; want ErrGaveWay", err)
	}
	if open, _ := service.Sessions(); open != 0 {
		t.Errorf("%d sessions are left open; want none", open)
	}
	service.SetFault(sim.FaultNone)
	if r, err := c.Facts(t.Context()); err != nil || r.Facts.Memory == nil {
		t.Errorf("Facts() afterwards = %+v, %v; want it read", r, err)
	}
}

func TestFactsOfAMachineWithoutBMC(t *testing.T) {
	t.Parallel()
	c, err := bmc.Open(bmc.Config{Driver: bmc.DriverNone, Machine: "machine.a"}, bmc.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Facts(t.Context())
	if person := (*bmc.PersonError)(nil); !errors.As(err, &person) {
		t.Errorf("Facts() = %v; want a PersonError", err)
	}
}

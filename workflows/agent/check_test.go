package agent

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
)

func configureTask() Task {
	return Task{ID: "c", Attempt: 1, Kind: KindConfigure, Configure: &Configure{
		Disk: DiskRef{Serial: "S", Bytes: 1}, Hostname: "node-a",
		Network: NetworkConfig{MAC: inventory.MAC{0x52, 0x54, 0, 4, 0x21, 1}, Address: "172.22.0.11/24", Gateway: "172.22.0.1"},
	}}
}

// What would add lines, fields or paths to a file of the installed system is
// refused before it is sent, and again on the machine.
func TestCheckRefusesWhatWouldBreakOutOfAFile(t *testing.T) {
	if err := configureTask().Check(); err != nil {
		t.Fatalf("Check of a good task = %v", err)
	}
	for name, spoil := range map[string]func(*Configure){
		"host name with a line break":  func(c *Configure) { c.Hostname = "a\n127.0.0.1 bank" },
		"host name in capitals":        func(c *Configure) { c.Hostname = "Node" },
		"host name with a dot":         func(c *Configure) { c.Hostname = "node.." },
		"domain with a space":          func(c *Configure) { c.Domain = "a b" },
		"user root:0":                  func(c *Configure) { c.Users = []User{{Name: "x:0:0"}} },
		"user that climbs":             func(c *Configure) { c.Users = []User{{Name: "../etc"}} },
		"shell with an argument":       func(c *Configure) { c.Users = []User{{Name: "ops", Shell: "/bin/sh -c"}} },
		"key with a line break":        func(c *Configure) { c.Users = []User{{Name: "ops", Keys: []string{"a\nb"}}} },
		"root key with a line break":   func(c *Configure) { c.RootKeys = []string{"a\nb"} },
		"NTP server with a directive":  func(c *Configure) { c.NTP = []string{"a iburst\nallow all"} },
		"DNS server that is a name":    func(c *Configure) { c.Network.DNS = []string{"dns.example"} },
		"search domain with a bracket": func(c *Configure) { c.Network.Search = []string{"a]\n[Network"} },
		"hosts entry with a tab":       func(c *Configure) { c.Hosts = []HostEntry{{Address: "1.2.3.4", Names: []string{"a\tb"}}} },
		"hosts entry with no address":  func(c *Configure) { c.Hosts = []HostEntry{{Address: "x", Names: []string{"a"}}} },
		"address without a prefix":     func(c *Configure) { c.Network.Address = "172.22.0.11" },
		"gateway that is no address":   func(c *Configure) { c.Network.Gateway = "gw" },
		"MTU of nothing":               func(c *Configure) { c.Network.MTU = 1 },
		"no MAC":                       func(c *Configure) { c.Network.MAC = inventory.MAC{} },
		"disk without identity":        func(c *Configure) { c.Disk = DiskRef{Bytes: 1} },
		"disk without a size":          func(c *Configure) { c.Disk.Bytes = 0 },
	} {
		task := configureTask()
		spoil(task.Configure)
		if err := task.Check(); err == nil {
			t.Errorf("Check of a %s = nil; want an error", name)
		}
	}
}

func TestCheckWantsExactlyTheSpecificationOfTheKind(t *testing.T) {
	disk := DiskRef{WWN: "naa.1", Bytes: 1}
	write := &Write{Disk: disk, Image: "sha256:" + strings.Repeat("a", 64), ManifestURL: "m", FramesURL: "f"}
	for name, c := range map[string]struct {
		task Task
		good bool
	}{
		"hold":                {Task{ID: "a", Attempt: 1, Kind: KindHold}, true},
		"reboot":              {Task{ID: "a", Attempt: 1, Kind: KindReboot}, true},
		"write":               {Task{ID: "a", Attempt: 1, Kind: KindWrite, Write: write}, true},
		"wipe":                {Task{ID: "a", Attempt: 1, Kind: KindWipe, Wipe: &Wipe{Disks: []WipeDisk{{Disk: disk}}}}, true},
		"no id":               {Task{Attempt: 1, Kind: KindReboot}, false},
		"attempt zero":        {Task{ID: "a", Kind: KindReboot}, false},
		"unknown kind":        {Task{ID: "a", Attempt: 1, Kind: "format"}, false},
		"write without write": {Task{ID: "a", Attempt: 1, Kind: KindWrite}, false},
		"reboot with a write": {Task{ID: "a", Attempt: 1, Kind: KindReboot, Write: write}, false},
		"wipe with a write":   {Task{ID: "a", Attempt: 1, Kind: KindWipe, Write: write, Wipe: &Wipe{Disks: []WipeDisk{{Disk: disk}}}}, false},
		"wipe of nothing":     {Task{ID: "a", Attempt: 1, Kind: KindWipe, Wipe: &Wipe{}}, false},
		"image without digest": {Task{ID: "a", Attempt: 1, Kind: KindWrite, Write: &Write{
			Disk: disk, Image: "latest", ManifestURL: "m", FramesURL: "f",
		}}, false},
	} {
		if err := c.task.Check(); (err == nil) != c.good {
			t.Errorf("Check of %s = %v; want good = %v", name, err, c.good)
		}
	}
}

func TestClientRefusesAddressesThatAreNotPinned(t *testing.T) {
	pin := strings.Repeat("ab", 32)
	for _, c := range []ClientConfig{
		{URL: "http://172.22.0.1", Pin: pin}, {URL: "172.22.0.1", Pin: pin}, {URL: "https://172.22.0.1", Pin: "ab"}, {URL: "https://", Pin: pin},
	} {
		if _, err := NewClient(c); err == nil {
			t.Errorf("NewClient(%+v) = nil; want an error", c)
		}
	}
	c, err := NewClient(ClientConfig{URL: "https://172.22.0.1:8443", Pin: pin})
	if err != nil {
		t.Fatal(err)
	}
	for ref, plain := range map[string]bool{"/image": false, "https://172.22.0.1/image": false, "http://172.22.0.1/image": true} {
		if _, client, err := c.resolve(ref); err != nil || (client == c.plain) != plain {
			t.Errorf("resolve(%q) = %v; want plain = %v", ref, err, plain)
		}
	}
	for _, ref := range []string{"file:///etc/shadow", "http://", "ftp://x/y", "%zz"} {
		if _, _, err := c.resolve(ref); err == nil {
			t.Errorf("resolve(%q) = nil; want an error", ref)
		}
	}
}

func FuzzTask(f *testing.F) {
	good, err := json.Marshal(configureTask())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"id":"a","attempt":1,"kind":"wipe","wipe":{"disks":[{"disk":{"bytes":-1}}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var task Task
		if json.Unmarshal(text, &task) != nil || task.Check() != nil || task.Configure == nil {
			return
		}
		for _, u := range task.Configure.Users {
			if strings.ContainsAny(u.Name, ":\n/. ") || strings.ContainsAny(u.Shell, ":\n ") {
				t.Errorf("user %+v passes Check", u)
			}
		}
		if strings.ContainsAny(task.Configure.Hostname, "\n\t /") {
			t.Errorf("host name %q passes Check", task.Configure.Hostname)
		}
	})
}

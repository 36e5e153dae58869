package host

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/imagebuilder"
	"github.com/edge-provision/edge-provision/imagebuilder/gpt"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows/agent"
)

const imageRoot = "aaaaaaaa-0000-4000-8000-000000000003"

// installed is a disk with a partition table and a directory that stands for
// its root filesystem.
type installed struct {
	*bench
	root   string
	efi    string
	owners map[string]string
	mounts int
}

// Reread, Mount and Unmount stand for the kernel's.
func (i *installed) Reread(context.Context, string) error { return nil }

func (i *installed) Mount(_ context.Context, disk string, number int, _ bool) (string, error) {
	if disk != "sda" || number != 3 {
		return "", fmt.Errorf("%w: partition %d of %s", ErrNoFilesystem, number, disk)
	}
	i.mounts++
	return i.root, nil
}

func (i *installed) Unmount(string) error {
	i.mounts--
	return nil
}

func (i *installed) put(name, text string) {
	i.t.Helper()
	path := filepath.Join(i.root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		i.t.Fatal(err)
	}
}

func (i *installed) get(name string) string {
	i.t.Helper()
	text, err := os.ReadFile(filepath.Join(i.root, name))
	if err != nil {
		i.t.Fatal(err)
	}
	return string(text)
}

func newInstalled(t *testing.T) *installed {
	t.Helper()
	i := &installed{bench: newBench(t, make([]byte, mib)), root: t.TempDir(), efi: t.TempDir(), owners: make(map[string]string)}
	// The image's table ends at 12 MiB of a disk of 16.
	i.disk("sda", 16*mib)
	table, err := gpt.New(12*mib, 512)
	if err != nil {
		t.Fatal(err)
	}
	for n, kind := range []gpt.GUID{gpt.BIOSBoot, gpt.EFISystem, gpt.LinuxRootAMD64} {
		id := gpt.MustParse(fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", n+1))
		if _, err := table.Add(gpt.Partition{Type: kind, GUID: id}, 2*mib); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(i.path("sda"), os.O_RDWR, 0)
	if err == nil {
		err = errors.Join(table.Write(f), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	// The contract is written by the very type that imagebuilder writes, so
	// that the two sides cannot drift apart.
	contract, err := json.Marshal(imagebuilder.Contract{
		Version: imagebuilder.ContractVersion, Network: "systemd-networkd", PARTUUIDFiles: []string{"/etc/fstab"},
		Partitions: map[string]imagebuilder.ContractPartition{
			"bios_boot": {Number: 1, GUID: "aaaaaaaa-0000-4000-8000-000000000001"},
			"esp":       {Number: 2, GUID: "aaaaaaaa-0000-4000-8000-000000000002"},
			"root":      {Number: 3, GUID: imageRoot},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	i.put(strings.TrimPrefix(imagebuilder.ContractPath, "/"), string(contract))
	i.put("etc/fstab", "PARTUUID="+imageRoot+" / ext4 defaults,x-systemd.growfs 0 1\n")
	i.put("etc/passwd", "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\nold:x:1000:1000::/home/old:/bin/sh\n")
	i.put("etc/shadow", "root:*:19000::::::\nold:*:19000::::::\n")
	i.put("etc/group", "root:x:0:\nold:x:1000:\nsudo:x:27:")
	i.put("etc/gshadow", "root:*::\n")
	i.put("etc/ssh/ssh_host_rsa_key", "of the image")
	i.put("etc/chrony/chrony.conf", "")
	i.put("etc/machine-id", "")
	i.put("var/lib/dbus/machine-id", "of the image\n")
	for _, binary := range []string{"usr/lib/systemd/systemd-networkd", "usr/lib/systemd/systemd-resolved", "usr/bin/sudo", "usr/bin/bash"} {
		i.put(binary, "")
	}
	return i
}

func (i *installed) configure(change func(*agent.Configure)) agent.Result {
	c := agent.Configure{
		Disk: agent.DiskRef{Serial: "SDA", Bytes: 16 * mib}, Image: "sha256:" + strings.Repeat("0", 64),
		Hostname: "node-a", Domain: "store.example",
		Network: agent.NetworkConfig{
			MAC: inventory.MAC{0x52, 0x54, 0, 4, 0x21, 1}, Address: "172.22.0.11/24", Gateway: "172.22.0.1",
			DNS: []string{"172.22.0.1"}, Search: []string{"store.example"},
		},
		Hosts: []agent.HostEntry{{Address: "172.22.0.12", Names: []string{"node-b"}}, {Address: "172.22.0.11", Names: []string{"node-a"}}},
		NTP:   []string{"172.22.0.1"}, RootKeys: []string{"ssh-ed25519 AAAA controller"},
		Users:    []agent.User{{Name: "ops", Keys: []string{"ssh-ed25519 BBBB ops"}, Sudo: true}, {Name: "old", Keys: []string{"ssh-ed25519 CCCC old"}}},
		Identity: agent.Identity{Catalog: "cat", Site: "store-0421", Machine: uuid.MustParse("01939c5e-0000-7000-8000-000000000001"), Address: `machine.node["a"]`, Run: "r1"},
	}
	if change != nil {
		change(&c)
	}
	h := i.host(func(cfg *Config) {
		cfg.Mounter, cfg.EFI = i, i.efi
		cfg.Owner = func(_ *os.Root, name string, uid, gid int) error {
			i.owners[name] = fmt.Sprintf("%d:%d", uid, gid)
			return nil
		}
	})
	return h.Execute(i.t.Context(), agent.Task{ID: "c", Attempt: 1, Kind: agent.KindConfigure, Configure: &c}, quiet)
}

func (i *installed) table() *gpt.Table {
	i.t.Helper()
	table, err := gpt.Read(bytes.NewReader(i.content("sda")), 16*mib, 512)
	if err != nil {
		i.t.Fatal(err)
	}
	return table
}

// Nobody sees that a declared time server is never asked before certificates fail.
func TestTimeServersNeedWhoAsksThem(t *testing.T) {
	for _, place := range []string{"", "usr/lib/systemd/systemd-timesyncd", "lib/systemd/systemd-timesyncd"} {
		i := newInstalled(t)
		if err := os.RemoveAll(filepath.Join(i.root, "etc/chrony")); err != nil {
			t.Fatal(err)
		}
		if place != "" {
			i.put(place, "")
		}
		result := i.configure(nil)
		if place == "" {
			if result.Outcome == agent.OutcomeOK || result.Error.Code != agent.CodeImageContract || !strings.Contains(result.Error.Message, "systemd-timesyncd") {
				t.Errorf("configure without a time daemon = %s %+v; want it to name one that is missing", result.Outcome, result.Error)
			}
			continue
		}
		if got := i.get("etc/systemd/timesyncd.conf.d/edge-provision.conf"); result.Outcome != agent.OutcomeOK || got != "[Time]\nNTP=172.22.0.1\n" {
			t.Errorf("configure with %s = %s %+v, wrote %q; want the time server", place, result.Outcome, result.Error, got)
		}
	}
	i := newInstalled(t)
	if err := os.RemoveAll(filepath.Join(i.root, "etc/chrony")); err != nil {
		t.Fatal(err)
	}
	if result := i.configure(func(c *agent.Configure) { c.NTP = nil }); result.Outcome != agent.OutcomeOK {
		t.Errorf("configure without time servers = %s %+v; want ok", result.Outcome, result.Error)
	}
}

func TestConfigureMakesTheImageThisMachine(t *testing.T) {
	i := newInstalled(t)
	result := i.configure(nil)
	if result.Outcome != agent.OutcomeOK {
		t.Fatalf("configure = %s %+v; want ok", result.Outcome, result.Error)
	}
	if i.mounts != 0 {
		t.Errorf("%d filesystems stayed mounted", i.mounts)
	}
	for name, want := range map[string]string{
		"etc/hostname": "node-a\n",
		"etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n" +
			"172.22.0.11\tnode-a.store.example node-a\n172.22.0.12\tnode-b\n",
		"etc/systemd/network/05-edge-provision.network": "# Written by edge-provision when the machine was installed.\n[Match]\nMACAddress=52:54:00:04:21:01\nType=ether\n\n" +
			"[Network]\nLLDP=yes\nAddress=172.22.0.11/24\nGateway=172.22.0.1\nDNS=172.22.0.1\nDomains=store.example\n",
		"etc/chrony/sources.d/edge-provision.sources": "server 172.22.0.1 iburst\n",
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\nold:x:1000:1000::/home/old:/bin/sh\nops:x:1001:1001::/home/ops:/bin/bash\n",
		"etc/shadow": "root:*:19000::::::\nold:*:19000::::::\nops:*:19000:0:99999:7:::\n",
		"etc/group":  "root:x:0:\nold:x:1000:\nsudo:x:27:\nops:x:1001:\n", "etc/gshadow": "root:*::\nops:!::\n",
		"etc/sudoers.d/90-edge-provision-ops": "ops ALL=(ALL:ALL) NOPASSWD: ALL\n",
		"root/.ssh/authorized_keys":           "ssh-ed25519 AAAA controller\n",
		"home/ops/.ssh/authorized_keys":       "ssh-ed25519 BBBB ops\n", "home/old/.ssh/authorized_keys": "ssh-ed25519 CCCC old\n",
		"etc/machine-id": result.Configure.MachineID + "\n",
	} {
		if got := i.get(name); got != want {
			t.Errorf("/%s = %q; want %q", name, got, want)
		}
	}
	if got := i.owners["home/ops/.ssh"] + " " + i.owners["home/ops"] + " " + i.owners["root/.ssh"]; got != "1001:1001 1001:1001 0:0" {
		t.Errorf("owners of ops's .ssh, home and root's .ssh = %s", got)
	}
	for name, want := range map[string]fs.FileMode{
		"etc/ssh/ssh_host_ed25519_key": 0o600, "etc/sudoers.d/90-edge-provision-ops": 0o440, "root/.ssh": 0o700 | fs.ModeDir,
		"root/.ssh/authorized_keys": 0o600, "etc/shadow": 0o644, // as it was
	} {
		if info, err := os.Stat(filepath.Join(i.root, name)); err != nil || info.Mode() != want {
			t.Errorf("mode of /%s = %v, %v; want %v", name, info, err, want)
		}
	}
	private, err := ssh.ParsePrivateKey([]byte(i.get("etc/ssh/ssh_host_ed25519_key")))
	if err != nil || strings.TrimSpace(string(ssh.MarshalAuthorizedKey(private.PublicKey()))) != result.Configure.HostKey {
		t.Errorf("host key on the disk does not belong to the reported %q (%v)", result.Configure.HostKey, err)
	}
	if _, err := os.Stat(filepath.Join(i.root, "etc/ssh/ssh_host_rsa_key")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the image's own host key is still there")
	}
	if link, err := os.Readlink(filepath.Join(i.root, "var/lib/dbus/machine-id")); err != nil || link != "/etc/machine-id" {
		t.Errorf("dbus's machine-id = %q, %v; want a link to /etc/machine-id", link, err)
	}
	if !strings.Contains(i.get(IdentityFile), `"address": "machine.node[\"a\"]"`) {
		t.Errorf("identity = %s", i.get(IdentityFile))
	}
	table := i.table()
	root, _ := table.Partition(3)
	if got := i.get("etc/fstab"); !strings.HasPrefix(got, "PARTUUID="+root.GUID.String()+" / ") || root.GUID.String() == imageRoot {
		t.Errorf("fstab = %q; want the root's fresh PARTUUID %s", got, root.GUID)
	}
	if root.GUID.String() != result.Configure.RootPartUUID || table.DiskGUID.String() != result.Configure.DiskGUID {
		t.Errorf("result = %+v; want the GUIDs on the disk", result.Configure)
	}
	if _, length := table.ByteRange(root); length < 8*mib {
		t.Errorf("the root has %d bytes; want it grown to the disk's end", length)
	}
}

// The machine may be cut off at any point of the configuration; what was named
// by PARTUUID before must still be found.
func TestConfigureMayBeRepeated(t *testing.T) {
	i := newInstalled(t)
	first := i.configure(nil)
	second := i.configure(nil)
	if second.Outcome != agent.OutcomeOK || second.Configure.RootPartUUID != first.Configure.RootPartUUID {
		t.Errorf("configure again = %+v %+v; want ok with the same partitions", second.Configure, second.Error)
	}
	if n := strings.Count(i.get("etc/passwd"), "\nops:"); n != 1 {
		t.Errorf("the user is there %d times", n)
	}
	// Cut between the new table and the new fstab.
	j := newInstalled(t)
	table := j.table()
	if err := table.Randomize(rand.Reader); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(j.path("sda"), os.O_RDWR, 0)
	if err == nil {
		err = errors.Join(table.Resize(16*mib), table.Write(f), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	root, _ := table.Partition(3)
	if result := j.configure(nil); result.Outcome != agent.OutcomeOK || !strings.Contains(j.get("etc/fstab"), root.GUID.String()) {
		t.Errorf("configure after a cut = %+v %+v, fstab %q; want the root's PARTUUID %s", result.Outcome, result.Error, j.get("etc/fstab"), root.GUID)
	}
}

// A hostile image tries to make the installer write to its own files.
func TestSymlinksInTheImageLeadNowhere(t *testing.T) {
	i := newInstalled(t)
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("installer's own"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := func(target, name string) {
		t.Helper()
		path := filepath.Join(i.root, name)
		if err := errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(target, path)); err != nil {
			t.Fatal(err)
		}
	}
	// Files that are replaced, not followed.
	for _, name := range []string{"etc/hostname", "etc/hosts", "etc/machine-id", "etc/ssh/ssh_host_ed25519_key", "etc/systemd/network/05-edge-provision.network", IdentityFile} {
		link(secret, name)
	}
	if result := i.configure(nil); result.Outcome != agent.OutcomeOK {
		t.Errorf("configure = %s %+v; want the links replaced", result.Outcome, result.Error)
	}
	// Directories and files to be read that lead outside: refused.
	for _, name := range []string{"root/.ssh", "etc/passwd", "etc/fstab", "home", "etc/systemd/network"} {
		j := newInstalled(t)
		target := outside
		if name == "etc/passwd" || name == "etc/fstab" {
			target = secret
		}
		path := filepath.Join(j.root, name)
		if err := errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(target, path)); err != nil {
			t.Fatal(err)
		}
		if result := j.configure(nil); result.Outcome != agent.OutcomeFailed {
			t.Errorf("configure with /%s leading outside = %s; want it failed", name, result.Outcome)
		}
	}
	if got, err := os.ReadFile(secret); err != nil || string(got) != "installer's own" {
		t.Errorf("the file outside = %q, %v; want it untouched", got, err)
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Errorf("outside the image there are now %v, %v; want one file", entries, err)
	}
}

func TestImageWithoutContractIsRefusedClearly(t *testing.T) {
	i := newInstalled(t)
	if err := os.Remove(filepath.Join(i.root, contractFile)); err != nil {
		t.Fatal(err)
	}
	before := i.content("sda")
	result := i.configure(nil)
	if result.Outcome != agent.OutcomeFailed || result.Error.Code != agent.CodeImageContract || !strings.Contains(result.Error.Message, "cloud-init") {
		t.Errorf("configure = %s %+v; want an explanation", result.Outcome, result.Error)
	}
	if !bytes.Equal(i.content("sda"), before) {
		t.Error("the disk was changed")
	}
}

func TestCloudImageGetsNoCloudSeed(t *testing.T) {
	i := newInstalled(t)
	if err := os.Remove(filepath.Join(i.root, contractFile)); err != nil {
		t.Fatal(err)
	}
	i.put("usr/bin/cloud-init", "")
	i.put("etc/cloud/cloud.cfg", "")
	i.put("etc/cloud/cloud-init.disabled", "")
	result := i.configure(nil)
	if result.Outcome != agent.OutcomeOK {
		t.Fatalf("configure = %s %+v; want ok", result.Outcome, result.Error)
	}
	text, ok := strings.CutPrefix(i.get("var/lib/cloud/seed/nocloud/user-data"), "#cloud-config\n")
	var user struct {
		Hostname string            `json:"hostname"`
		Keys     map[string]string `json:"ssh_keys"`
		Users    []any             `json:"users"`
	}
	if err := json.Unmarshal([]byte(text), &user); !ok || err != nil {
		t.Fatalf("user-data = %q, %v; want #cloud-config and JSON", text, err)
	}
	private, err := ssh.ParsePrivateKey([]byte(user.Keys["ed25519_private"]))
	if err != nil || strings.TrimSpace(string(ssh.MarshalAuthorizedKey(private.PublicKey()))) != result.Configure.HostKey {
		t.Errorf("the seed's host key is not the reported one (%v)", err)
	}
	if user.Hostname != "node-a" || len(user.Users) != 4 || user.Users[0] != "default" {
		t.Errorf("user-data = %+v", user)
	}
	if got := i.get("var/lib/cloud/seed/nocloud/network-config"); !strings.Contains(got, `"172.22.0.11/24"`) || !strings.Contains(got, `"macaddress": "52:54:00:04:21:01"`) {
		t.Errorf("network-config = %s", got)
	}
	if got := i.get("etc/fstab"); !strings.Contains(got, imageRoot) {
		t.Errorf("fstab of an imported image = %q; want it as it was", got)
	}
	root, _ := i.table().Partition(3)
	if root.GUID.String() != imageRoot {
		t.Errorf("PARTUUID of an imported image's root = %s; want it as it was", root.GUID)
	}
	if _, err := os.Stat(filepath.Join(i.root, "etc/cloud/cloud-init.disabled")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("cloud-init is still disabled")
	}
}

func TestBootEntryGoesFirstAndOthersStay(t *testing.T) {
	i := newInstalled(t)
	variable := func(name string, value []byte) {
		t.Helper()
		raw := append([]byte{7, 0, 0, 0}, value...)
		if err := os.WriteFile(filepath.Join(i.efi, name+efiGlobal), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := append([]byte{1, 0, 0, 0, 4, 0}, append(ucs2("UEFI PXE"), 0x7f, 0xff, 4, 0)...)
	variable("Boot0000", other)
	variable("Boot0001", other)
	variable("BootOrder", []byte{1, 0, 0, 0})
	result := i.configure(nil)
	if result.Outcome != agent.OutcomeOK || result.Configure.BootEntry != "Boot0002" {
		t.Fatalf("configure = %+v %+v; want Boot0002", result.Configure, result.Error)
	}
	vars := efiVars(i.efi)
	order, err := vars.read("BootOrder")
	if err != nil || !bytes.Equal(order, []byte{2, 0, 1, 0, 0, 0}) {
		t.Errorf("BootOrder = %v, %v; want 2, 1, 0", order, err)
	}
	if next, err := vars.read("BootNext"); err != nil || !bytes.Equal(next, []byte{2, 0}) {
		t.Errorf("BootNext = %v, %v; want 2", next, err)
	}
	option, err := vars.read("Boot0002")
	if err != nil {
		t.Fatal(err)
	}
	esp, _ := i.table().Partition(2)
	// The hard drive node comes after attributes, length and description.
	node := option[6+len(ucs2("edge-provision store-0421")):]
	if node[0] != 4 || node[1] != 1 || binary.LittleEndian.Uint32(node[4:]) != 2 || binary.LittleEndian.Uint64(node[8:]) != esp.FirstLBA {
		t.Errorf("device path = % x; want partition 2 at sector %d", node, esp.FirstLBA)
	}
	g := esp.GUID
	if !bytes.Equal(node[24:40], []byte{g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6], g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]}) {
		t.Errorf("device path has GUID % x; want %s", node[24:40], g)
	}
	if !bytes.Contains(node, ucs2(`\EFI\BOOT\BOOTX64.EFI`)) || int(binary.LittleEndian.Uint16(option[4:])) != len(node) {
		t.Errorf("device path = % x of %d bytes; want the loader's path", node, binary.LittleEndian.Uint16(option[4:]))
	}
	// Installed again: the same entry, not one more.
	if again := i.configure(nil); again.Configure.BootEntry != "Boot0002" {
		t.Errorf("boot entry of a second installation = %s; want Boot0002", again.Configure.BootEntry)
	}
	if got, err := vars.read("Boot0001"); err != nil || !bytes.Equal(got, other) {
		t.Errorf("Boot0001 = % x, %v; want it as it was", got, err)
	}
}

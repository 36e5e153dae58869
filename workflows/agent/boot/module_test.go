package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// tables are lines of a Debian 12 kernel's.
var tables = map[string]string{
	"modules.dep": `kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko
kernel/fs/jbd2/jbd2.ko:
kernel/fs/mbcache.ko:
kernel/crypto/crc32c_generic.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/drivers/net/virtio_net.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko.xz:
kernel/drivers/ata/ahci.ko:
kernel/drivers/scsi/sd_mod.ko:
kernel/drivers/scsi/mpt3sas.ko:
a.ko: b.ko
b.ko: a.ko
one.ko:
other.ko:
before_one.ko:
before_other.ko:
`,
	"modules.alias": `# Aliases extracted from modules themselves.
alias crypto-crc32c crc32c_intel
alias crypto-crc32c crc32c_generic
alias virtio:d00000001v* virtio_net
alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias broken:[ ahci
alias scsi:t-0x00* sd_mod
alias pci:v00001000d000000AFsv*sd*bc*sc*i* mpt3sas
`,
	"modules.softdep": "softdep ext4 pre: crypto-crc32c post: ahci\nsoftdep one pre: before-one other\nsoftdep other pre: before-other one\n",
}

type kernel struct {
	mu     sync.Mutex
	loaded []string
	refuse string
	// meet, unless it is nil, is what two modules called before_… wait for each other at.
	meet *sync.WaitGroup
	// hold, unless it is nil, keeps the modules in it until it is received from.
	hold map[string]chan struct{}
}

func (k *kernel) insert(path, _ string) error {
	if k.meet != nil && strings.HasPrefix(moduleName(path), "before_") {
		k.meet.Done()
		k.meet.Wait()
	}
	name := moduleName(path)
	if wait := k.hold[name]; wait != nil {
		<-wait
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if name == k.refuse {
		return unix.ENODEV
	}
	k.loaded = append(k.loaded, name)
	return nil
}

func newModules(t *testing.T, k *kernel) *Modules {
	t.Helper()
	dir := t.TempDir()
	for name, text := range tables {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := NewModules(dir, k.insert)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestLoadTakesDependenciesFirstAndOnce(t *testing.T) {
	k := &kernel{}
	m := newModules(t, k)
	for range 2 {
		if err := m.Load("ext4"); err != nil {
			t.Fatal(err)
		}
	}
	// One module for the alias is enough; "post:" is not needed to work.
	if want := []string{"crc32c_generic", "jbd2", "mbcache", "ext4"}; !slices.Equal(k.loaded, want) {
		t.Errorf("loaded %q; want %q", k.loaded, want)
	}
}

func TestLoadGoesOnWithTheOtherModuleOfAnAlias(t *testing.T) {
	k := &kernel{refuse: "crc32c_generic"}
	if err := newModules(t, k).Load("ext4"); err != nil || !slices.Contains(k.loaded, "crc32c_intel") || !slices.Contains(k.loaded, "ext4") {
		t.Errorf("Load(ext4) = %v with %q; want it loaded with crc32c_intel", err, k.loaded)
	}
}

func TestLoadOfARefusedModuleSaysWhich(t *testing.T) {
	k := &kernel{refuse: "ahci"}
	if err := newModules(t, k).Load("ahci"); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "ahci") {
		t.Errorf("Load = %v; want ENODEV for ahci", err)
	}
}

func TestCircularDependencyEnds(t *testing.T) {
	k := &kernel{}
	if err := newModules(t, k).Load("a"); err != nil || len(k.loaded) != 2 {
		t.Errorf("Load of a circle = %v with %q; want both loaded", err, k.loaded)
	}
}

// Drivers are loaded in parallel.
func TestCircleThatIsEnteredFromBothEndsEnds(t *testing.T) {
	k := &kernel{meet: &sync.WaitGroup{}}
	k.meet.Add(2)
	m := newModules(t, k)
	loaded := make(chan error, 2)
	for _, name := range []string{"one", "other"} {
		go func() { loaded <- m.Load(name) }()
	}
	for range 2 {
		select {
		case err := <-loaded:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute): // to end what hangs
			t.Fatal("two goroutines wait for each other's module")
		}
	}
	slices.Sort(k.loaded)
	if want := []string{"before_one", "before_other", "one", "other"}; !slices.Equal(k.loaded, want) {
		t.Errorf("loaded %q; want %q", k.loaded, want)
	}
}

// device puts a device into sys.
func device(t *testing.T, sys, bus, name, modalias string) {
	t.Helper()
	dir := filepath.Join(sys, "bus", bus, "devices", name)
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "modalias"), []byte(modalias+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// A controller that scans for minutes does not keep the disks of another from their
// driver. The kernel keeps the modules that are loaded meanwhile in finit_module(2) as
// long, so that those take all places at once.
func TestSlowDriverDoesNotHoldUpOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scanned := make(chan struct{})
		k := &kernel{hold: map[string]chan struct{}{"mpt3sas": scanned}}
		m := newModules(t, k)
		sys := t.TempDir()
		device(t, sys, "pci", "0000:01:00.0", "pci:v00001000d000000AFsv00001028sd00001F46bc01sc07i00")
		for i := range parallelLoads {
			name := fmt.Sprintf("busy%d", i)
			k.hold[name] = scanned
			m.files[name] = name + ".ko"
			m.aliases["pci"] = append(m.aliases["pci"], alias{"pci:v0000" + name, name})
			device(t, sys, "pci", name, "pci:v0000"+name)
		}
		var group sync.WaitGroup
		group.Go(func() {
			if err := m.LoadForDevices(t.Context(), sys); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(2 * slowLoad)
		device(t, sys, "scsi", "0:0:0:0", "scsi:t-0x00")
		time.Sleep(2 * slowLoad)
		synctest.Wait()
		k.mu.Lock()
		loaded := slices.Clone(k.loaded)
		k.mu.Unlock()
		if !slices.Equal(loaded, []string{"sd_mod"}) {
			t.Errorf("loaded %q while the others are at work; want sd_mod", loaded)
		}
		if got := m.Underway(); len(got) != parallelLoads+1 || !slices.Contains(got, "mpt3sas") {
			t.Errorf("Underway() = %q; want those that are at work", got)
		}
		close(scanned)
		group.Wait()
		if got := m.Underway(); len(got) != 0 || len(k.loaded) != parallelLoads+2 {
			t.Errorf("Underway() = %q with %q loaded; want all loaded at the end", got, k.loaded)
		}
	})
}

func TestDevicesGetTheirDriversNetworkFirst(t *testing.T) {
	k := &kernel{}
	m := newModules(t, k)
	sys := t.TempDir()
	device(t, sys, "pci", "0000:00:1f.2", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01")
	device(t, sys, "pci", "0000:00:02.0", "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00")
	if got := m.wanted(sys); !slices.Equal(got, []string{"e1000e", "ahci"}) {
		t.Errorf("wanted = %q; want the network's driver, then the disk's", got)
	}
	device(t, sys, "virtio", "virtio0", "virtio:d00000001v00001AF4")
	if err := m.LoadForDevices(t.Context(), sys); err != nil || !slices.Equal(k.loaded, []string{"failover", "virtio_net"}) {
		t.Errorf("LoadForDevices = %v with %q; want the new device's driver", err, k.loaded)
	}
}

package probe

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/edge-provision/edge-provision/inventory"
)

var update = flag.Bool("update", false, "write the golden facts")

// captured lays out a machine captured with testdata/capture.
func captured(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".jsonl.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	scan := bufio.NewScanner(z)
	scan.Buffer(nil, 4<<20)
	for scan.Scan() {
		var e struct {
			Path, Link string
			Data       []byte
		}
		if err := json.Unmarshal(scan.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(root, e.Path)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if e.Link != "" {
			err = errors.Join(err, os.Symlink(e.Link, path))
		} else {
			err = errors.Join(err, os.WriteFile(path, e.Data, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := scan.Err(); err != nil {
		t.Fatal(err)
	}
	return root
}

type blank struct{}

func (blank) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }
func (blank) Close() error                          { return nil }

func source(root string) Source {
	return Source{
		FS: os.DirFS(root), Architecture: "amd64", Boot: inventory.MAC{0x52, 0x54, 0, 4, 0x21, 1},
		Disk: func(string) (DiskReader, error) { return blank{}, nil },
		Port: func(string) (Port, error) { return Port{MaxSpeedMbs: 1000}, nil },
		BMC: func(context.Context) (inventory.BMCFacts, error) {
			return inventory.BMCFacts{Address: "172.22.1.11"}, nil
		},
	}
}

// TestFactsOfCapturedMachine compares everything that is read of an emulated
// machine with a virtio, an NVMe, a SATA and a SCSI disk.
func TestFactsOfCapturedMachine(t *testing.T) {
	const name = "qemu-q35-uefi"
	facts, err := Collect(t.Context(), source(captured(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(facts, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", name+".golden.json")
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got)+"\n", "\n")); diff != "" {
		t.Errorf("facts differ (-want +got):\n%s", diff)
	}
}

func TestOnePartThatFailsDoesNotTakeTheOthers(t *testing.T) {
	root := captured(t, "qemu-q35-uefi")
	for _, name := range []string{"proc/cpuinfo", "sys/firmware/dmi/tables/smbios_entry_point"} {
		if err := os.Remove(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	src := source(root)
	src.Disk = func(name string) (DiskReader, error) {
		if name == "sda" {
			return nil, errors.New("input/output error")
		}
		return blank{}, nil
	}
	src.BMC = func(context.Context) (inventory.BMCFacts, error) {
		return inventory.BMCFacts{}, errors.New("no answer")
	}
	facts, err := Collect(t.Context(), src)
	for _, want := range []string{"CPU", "SMBIOS", "sda", "no answer"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Collect = %v; want it to name %s", err, want)
		}
	}
	if len(facts.NICs) != 2 || len(facts.PCI) == 0 || facts.Memory == nil || facts.BMC != nil {
		t.Errorf("Collect = %+v; want what could be read", facts)
	}
	for _, d := range facts.Disks {
		if blank := len(d.Signatures) == 0; blank == (d.Name == "sda") {
			t.Errorf("disk %s carries %q; want only the unreadable one marked", d.Name, d.Signatures)
		}
	}
	src.BMC = func(context.Context) (inventory.BMCFacts, error) { return inventory.BMCFacts{}, fs.ErrNotExist }
	if _, err := Collect(t.Context(), src); err != nil && strings.Contains(err.Error(), "BMC") {
		t.Errorf("Collect without a BMC = %v; want no complaint about it", err)
	}
}

func TestSystemUUIDBytesAreInTextOrder(t *testing.T) {
	area := make([]byte, 0x1b)
	copy(area[8:], "\x4e\x3c\x8e\x0f\x5b\x5b\x0e\x4f\x9d\x5c\x42\xa9\xcf\x3f\x7f\x10")
	s := structure{kind: 1, area: area}
	if got := systemUUID(s, 0x0208); got != "0f8e3c4e-5b5b-4f0e-9d5c-42a9cf3f7f10" {
		t.Errorf("systemUUID since 2.6 = %s", got)
	}
	if got := systemUUID(s, 0x0205); got != "4e3c8e0f-5b5b-0e4f-9d5c-42a9cf3f7f10" {
		t.Errorf("systemUUID before 2.6 = %s", got)
	}
	for _, b := range []byte{0, 0xff} {
		for i := range 16 {
			area[8+i] = b
		}
		if got := systemUUID(s, 0x0300); got != "" {
			t.Errorf("systemUUID of bytes %#x = %s; want none", b, got)
		}
	}
}

// TestEmptyIsWhatWasLookedFor probes a machine of which each list is empty, and one
// that shows none of the places to look at.
func TestEmptyIsWhatWasLookedFor(t *testing.T) {
	slots := func(sizes ...uint16) []byte {
		var table []byte
		for _, size := range sizes {
			area := make([]byte, 0x28)
			area[0], area[1], area[0x0c], area[0x0d] = 17, byte(len(area)), byte(size), byte(size>>8)
			table = append(append(table, area...), 0, 0)
		}
		return append(table, 127, 4, 0, 0, 0, 0)
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  string // the lists that are there
	}{
		"nothing to look at": {map[string]string{"proc/meminfo": "MemTotal: 1024 kB\n"}, ""},
		"nothing found": {map[string]string{
			"proc/meminfo": "MemTotal: 1024 kB\n", "sys/block/loop0/size": "8", "sys/class/net/lo/type": "772",
			"sys/firmware/dmi/tables/DMI": string(slots(0, 0)), "sys/firmware/dmi/tables/smbios_entry_point": "_SM3_\x00\x18\x03\x00",
		}, "disks nics modules pci"},
		"a slot of which the firmware knows nothing, and a port without address": {map[string]string{
			"proc/meminfo": "MemTotal: 1024 kB\n", "sys/class/net/eth0/type": "1", "sys/class/net/eth0/device/x": "", "sys/class/net/eth0/address": "none",
			"sys/firmware/dmi/tables/DMI": string(slots(0, 0xffff)), "sys/firmware/dmi/tables/smbios_entry_point": "_SM3_\x00\x18\x03\x00",
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			files := fstest.MapFS{}
			if name == "nothing found" {
				files["sys/bus/pci/devices"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
			}
			for path, content := range c.files {
				files[path] = &fstest.MapFile{Data: []byte(content)}
			}
			facts, _ := Collect(t.Context(), Source{FS: files}) // what cannot be read is not the matter here
			var got []string
			for list, empty := range map[string]bool{
				"disks": facts.Disks != nil && len(facts.Disks) == 0, "nics": facts.NICs != nil && len(facts.NICs) == 0, "pci": facts.PCI != nil && len(facts.PCI) == 0,
				"modules": facts.Memory.Modules != nil && len(facts.Memory.Modules) == 0,
			} {
				if empty {
					got = append(got, list)
				}
			}
			slices.Sort(got)
			want := strings.Fields(c.want)
			if slices.Sort(want); !slices.Equal(got, want) {
				t.Errorf("empty lists: %v; want %v", got, want)
			}
			if facts.Memory.Bytes != 1<<20 {
				t.Errorf("memory = %d; want what the kernel sees", facts.Memory.Bytes)
			}
		})
	}
}

func TestMemoryModuleSizes(t *testing.T) {
	module := func(size uint16, extended uint32) []byte {
		area := make([]byte, 0x5c)
		area[0], area[1] = 17, 0x5c
		area[0x0c], area[0x0d] = byte(size), byte(size>>8)
		area[0x1c], area[0x1d], area[0x1e], area[0x1f] = byte(extended), byte(extended>>8), byte(extended>>16), byte(extended>>24)
		area[0x08], area[0x0a] = 72, 64
		return area
	}
	for _, c := range []struct {
		size     uint16
		extended uint32
		want     int64
		ok       bool
	}{
		{0, 0, 0, false}, {0xffff, 0, 0, false}, {8192, 0, 8 << 30, true}, {0x8400, 0, 1 << 20, true}, {0x7fff, 65536, 64 << 30, true},
	} {
		got, ok := memoryModule(structure{kind: 17, area: module(c.size, c.extended)})
		if ok != c.ok || got.Bytes != c.want || ok && (got.ECC == nil || !*got.ECC) {
			t.Errorf("memoryModule(size %#x, extended %d) = %+v, %v; want %d bytes with ECC, %v", c.size, c.extended, got, ok, c.want, c.ok)
		}
	}
}

func FuzzSMBIOS(f *testing.F) {
	f.Add([]byte("\x01\x1b\x00\x01\x01\x02\x03\x04"+strings.Repeat("u", 16)+"\x06\x05\x06QEMU\x00PC\x00\x00\x7f\x04\x00\x7f\x00\x00"), 0x0208)
	f.Add([]byte("\x11\x28\x00\x11"+strings.Repeat("\xff", 0x24)+"\x00\x00"), 0x0300)
	f.Add([]byte{17, 4, 0, 0, 0, 0, 4, 4, 0, 0, 0, 0, 1, 255}, 0)
	f.Fuzz(func(t *testing.T, table []byte, version int) {
		structures, _ := parseSMBIOS(table)
		facts := inventory.Facts{CPU: &inventory.CPU{}}
		addSMBIOS(&facts, structures, version)
		if _, err := json.Marshal(facts); err != nil {
			t.Errorf("the facts of %q do not marshal: %v", table, err)
		}
		for _, s := range structures {
			for _, text := range s.strings {
				if strings.ContainsAny(text, "\x00\x1b\n") {
					t.Errorf("string %q holds control characters", text)
				}
			}
		}
	})
}

package gpt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

type ram []byte

func (d ram) ReadAt(p []byte, offset int64) (int, error) { return copy(p, d[offset:]), nil }
func (d ram) WriteAt(p []byte, offset int64) (int, error) {
	if offset+int64(len(p)) > int64(len(d)) {
		return 0, fmt.Errorf("write of %d at %d past %d", len(p), offset, len(d))
	}
	return copy(d[offset:], p), nil
}

const testDisk = 64 << 20

func layout(t testing.TB, sectorBytes int) *Table {
	t.Helper()
	table, err := New(testDisk, sectorBytes)
	if err != nil {
		t.Fatal(err)
	}
	table.DiskGUID = Deterministic("seed", "disk")
	for _, p := range []struct {
		kind GUID
		name string
		size int64
	}{{BIOSBoot, "bios", 1 << 20}, {EFISystem, "efi", 16 << 20}, {LinuxRootAMD64, "root", 0}} {
		if _, err := table.Add(Partition{Type: p.kind, GUID: Deterministic("seed", p.name), Name: p.name}, p.size); err != nil {
			t.Fatal(err)
		}
	}
	return table
}

func TestReadGivesWhatWriteWrote(t *testing.T) {
	for _, sectorBytes := range []int{512, 4096} {
		table := layout(t, sectorBytes)
		code := bytes.Repeat([]byte{0x90}, 440)
		if err := table.SetBootCode(code); err != nil {
			t.Fatal(err)
		}
		disk := make(ram, testDisk)
		if err := table.Write(disk); err != nil {
			t.Fatal(err)
		}
		got, err := Read(disk, testDisk, sectorBytes)
		if err != nil {
			t.Fatal(err)
		}
		if got.DiskGUID != table.DiskGUID || !slices.Equal(got.Partitions, table.Partitions) || !bytes.Equal(got.BootCode(), code) {
			t.Errorf("Read with %d-byte sectors = %+v; want %+v", sectorBytes, got, table)
		}
		before := bytes.Clone(disk)
		if err := got.Write(disk); err != nil || !bytes.Equal(before, disk) {
			t.Errorf("writing an unchanged table changed the disk (%v)", err)
		}
	}
}

func TestSgdiskFindsNoProblem(t *testing.T) {
	sgdisk, err := exec.LookPath("sgdisk")
	if err != nil {
		t.Skip("needs sgdisk (package gdisk)")
	}
	table := layout(t, 512)
	path := filepath.Join(t.TempDir(), "disk")
	check := func(size int64) {
		disk := make(ram, size)
		if err := table.Write(disk); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, disk, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), sgdisk, "-v", "-p", path).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "No problems found") || !strings.Contains(string(out), "root") {
			t.Errorf("sgdisk -v of a disk of %d bytes: %v\n%s", size, err, out)
		}
	}
	check(testDisk)
	if err := table.Resize(2 * testDisk); err != nil {
		t.Fatal(err)
	}
	if _, err := table.GrowLast(); err != nil {
		t.Fatal(err)
	}
	if err := table.Randomize(rand.NewChaCha8([32]byte{})); err != nil {
		t.Fatal(err)
	}
	check(2 * testDisk)
}

func TestReadUsesTheBackupWhenThePrimaryIsDamaged(t *testing.T) {
	table := layout(t, 512)
	disk := make(ram, testDisk)
	if err := table.Write(disk); err != nil {
		t.Fatal(err)
	}
	for name, offset := range map[string]int{"header": 512 + 60, "entries": 1024 + 40} {
		damaged := bytes.Clone(disk)
		damaged[offset] ^= 1
		got, err := Read(ram(damaged), testDisk, 512)
		if err != nil || !slices.Equal(got.Partitions, table.Partitions) {
			t.Errorf("Read with a damaged primary %s = %v; want the backup", name, err)
		}
		damaged[testDisk-512+60] ^= 1
		if _, err := Read(ram(damaged), testDisk, 512); !errors.Is(err, ErrNone) {
			t.Errorf("Read with both damaged = %v; want ErrNone", err)
		}
	}
	if _, err := Read(make(ram, testDisk), testDisk, 512); !errors.Is(err, ErrNone) {
		t.Errorf("Read of an empty disk = %v; want ErrNone", err)
	}
}

// The power may fail between any two writes; the disk must then still have a table.
func TestWriteLeavesOneWholeCopyAtAnyInstant(t *testing.T) {
	table := layout(t, 512)
	for stop := range 5 {
		disk := make(ram, testDisk)
		if err := table.Write(disk); err != nil {
			t.Fatal(err)
		}
		changed := layout(t, 512)
		if err := changed.Randomize(rand.NewChaCha8([32]byte{9})); err != nil {
			t.Fatal(err)
		}
		if err := changed.Write(&cutting{disk, stop}); err == nil {
			t.Fatal("the cut did not happen")
		}
		if _, err := Read(disk, testDisk, 512); err != nil {
			t.Errorf("after a cut before write %d: %v", stop, err)
		}
	}
}

type cutting struct {
	ram
	left int
}

func (c *cutting) WriteAt(p []byte, offset int64) (int, error) {
	if c.left == 0 {
		return 0, errors.New("power cut")
	}
	c.left--
	return c.ram.WriteAt(p, offset)
}

func TestMovedToALargerDiskTheLastPartitionGrowsToItsEnd(t *testing.T) {
	table := layout(t, 512)
	disk := make(ram, 3*testDisk)
	if err := table.Write(disk); err != nil {
		t.Fatal(err)
	}
	larger, err := Read(disk, 3*testDisk, 512)
	if err != nil {
		t.Fatal(err)
	}
	if err := larger.Resize(3 * testDisk); err != nil {
		t.Fatal(err)
	}
	root, err := larger.GrowLast()
	if err != nil {
		t.Fatal(err)
	}
	offset, length := larger.ByteRange(root)
	if root.Number != 3 || offset != 18<<20 || offset+length != 3*testDisk-AlignBytes {
		t.Errorf("grown partition = %+v from %d, %d bytes; want number 3 from %d to %d", root, offset, length, 18<<20, 3*testDisk-AlignBytes)
	}
	if err := larger.Write(disk); err != nil {
		t.Fatal(err)
	}
	clear(disk[:17*1024])
	if got, err := Read(disk, 3*testDisk, 512); err != nil || got.Partitions[2] != root {
		t.Errorf("backup at the end of the larger disk: %v", err)
	}
	if err := larger.Resize(testDisk); err == nil {
		t.Error("Resize to a disk that is too small succeeded")
	}
}

func TestRandomizeGivesEveryGUIDAnew(t *testing.T) {
	table := layout(t, 512)
	old := layout(t, 512)
	if err := table.Randomize(rand.NewChaCha8([32]byte{3})); err != nil {
		t.Fatal(err)
	}
	seen := map[GUID]bool{table.DiskGUID: true, old.DiskGUID: true}
	for i := range table.Partitions {
		for _, g := range []GUID{table.Partitions[i].GUID, old.Partitions[i].GUID} {
			if seen[g] {
				t.Errorf("GUID %s occurs twice", g)
			}
			seen[g] = true
		}
	}
	if err := table.Randomize(bytes.NewReader(make([]byte, 20))); err == nil {
		t.Error("Randomize with too little entropy succeeded")
	}
	if table.DiskGUID == (GUID{}) {
		t.Error("a failed Randomize changed the table")
	}
}

func TestValidateRefusals(t *testing.T) {
	for want, change := range map[string]func(*Table){
		"overlap":        func(t *Table) { t.Partitions[1].FirstLBA = t.Partitions[0].LastLBA },
		"number 1 is":    func(t *Table) { t.Partitions[1].Number = 1 },
		"number 129":     func(t *Table) { t.Partitions[1].Number = 129 },
		"GUID":           func(t *Table) { t.Partitions[1].GUID = t.Partitions[0].GUID },
		"no type":        func(t *Table) { t.Partitions[1].Type = GUID{} },
		"lies on":        func(t *Table) { t.Partitions[2].LastLBA = testDisk / 512 },
		"sectors 2 to":   func(t *Table) { t.Partitions[0].FirstLBA = 2 },
		"longer than 36": func(t *Table) { t.Partitions[0].Name = strings.Repeat("x", 37) },
	} {
		table := layout(t, 512)
		change(table)
		if err := table.Write(make(ram, testDisk)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Write = %v; want an error with %q", err, want)
		}
	}
	for _, size := range []int64{-1, 0, 512, 67 * 512} {
		if _, err := New(size, 512); err == nil {
			t.Errorf("New(%d, 512) succeeded", size)
		}
	}
	if _, err := New(testDisk, 520); err == nil {
		t.Error("New with 520-byte sectors succeeded")
	}
}

func TestGUIDText(t *testing.T) {
	const text = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	g, err := Parse(strings.ToUpper(text))
	if err != nil || g.String() != text || g != EFISystem {
		t.Errorf("Parse(%s) = %s, %v", text, g, err)
	}
	var onDisk [16]byte
	g.put(onDisk[:])
	// The bytes that the UEFI specification prints for this type.
	if want := []byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}; !bytes.Equal(onDisk[:], want) {
		t.Errorf("on disk % x; want % x", onDisk, want)
	}
	for _, bad := range []string{"", text[:35], text + "0", strings.Replace(text, "-", "0", 1), "g" + text[1:]} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("Parse(%q) succeeded", bad)
		}
	}
	if a, b := Deterministic("a", "bc"), Deterministic("ab", "c"); a == b {
		t.Error("seed and purpose run into each other")
	}
}

func FuzzRead(f *testing.F) {
	const size = 128 << 10
	table, err := New(size, 512)
	if err != nil {
		f.Fatal(err)
	}
	table.Partitions = []Partition{{Number: 1, Type: LinuxData, GUID: Deterministic("f", "1"), FirstLBA: 34, LastLBA: 200, Name: "data"}}
	disk := make(ram, size)
	if err := table.Write(disk); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(disk[:17<<10]), false)
	f.Add([]byte(disk[:17<<10]), true)
	f.Fuzz(func(t *testing.T, head []byte, large bool) {
		sectorBytes := 512
		if large {
			sectorBytes = 4096
		}
		disk := make(ram, size)
		copy(disk, head)
		table, err := Read(disk, size, sectorBytes)
		if err != nil {
			return
		}
		if err := table.Resize(size); err != nil {
			return
		}
		if err := table.Write(disk); err != nil {
			t.Fatalf("a table that was read cannot be written: %v", err)
		}
		again, err := Read(disk, size, sectorBytes)
		if err != nil || again.DiskGUID != table.DiskGUID || len(again.Partitions) != len(table.Partitions) {
			t.Fatalf("read, written and read again: %v", err)
		}
	})
}

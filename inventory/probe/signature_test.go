package probe

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

const mib = 1 << 20

// volume makes a file of size bytes with the named tool, or skips.
func volume(t *testing.T, size int64, tool string, args ...string) []byte {
	t.Helper()
	program, err := exec.LookPath(tool)
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/" + tool)
	}
	if err != nil {
		t.Skipf("needs %s", tool)
	}
	path := filepath.Join(t.TempDir(), "volume")
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range args {
		if a == "@" {
			args[i] = path
		}
	}
	if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", tool, err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func signatures(t *testing.T, disk []byte) []string {
	t.Helper()
	content, err := ReadContent(bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	return content.Signatures
}

// What real tools write is recognised.
func TestReadContentKnowsWhatRealToolsMake(t *testing.T) {
	for _, c := range []struct {
		want string
		size int64
		tool string
		args []string
	}{
		{"ext4", 16 * mib, "mke2fs", []string{"-q", "-F", "-t", "ext4", "@"}},
		{"ext3", 16 * mib, "mke2fs", []string{"-q", "-F", "-t", "ext3", "@"}},
		{"ext2", 16 * mib, "mke2fs", []string{"-q", "-F", "-t", "ext2", "@"}},
		{"vfat", 64 * mib, "mkfs.vfat", []string{"-F", "32", "@"}},
		{"vfat", 4 * mib, "mkfs.vfat", []string{"-F", "12", "@"}},
		{"swap", 16 * mib, "mkswap", []string{"@"}},
		{"xfs", 320 * mib, "mkfs.xfs", []string{"-q", "@"}},
		{"btrfs", 128 * mib, "mkfs.btrfs", []string{"-q", "@"}},
		{"crypto_LUKS", 32 * mib, "cryptsetup", []string{"luksFormat", "-q", "--key-file", "/etc/hostname", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "@"}},
		{"gpt", 16 * mib, "sgdisk", []string{"-o", "@"}},
	} {
		t.Run(c.want+" by "+c.tool, func(t *testing.T) {
			if got := signatures(t, volume(t, c.size, c.tool, c.args...)); !slices.Equal(got, []string{c.want}) {
				t.Errorf("ReadContent of what %s %v made = %q; want %s", c.tool, c.args, got, c.want)
			}
		})
	}
}

func TestReadContentKnowsFormatsByTheirDocuments(t *testing.T) {
	put := func(size int, at int, text string) []byte {
		disk := make([]byte, size)
		if at < 0 {
			at += size
		}
		copy(disk[at:], text)
		return disk
	}
	for name, c := range map[string]struct {
		disk []byte
		want []string
	}{
		"blank":              {make([]byte, 8*mib), []string{}},
		"too small":          {make([]byte, 512), []string{}},
		"LVM in sector 1":    {put(8*mib, 512, "LABELONE"), []string{"LVM2_member"}},
		"md 1.2":             {put(8*mib, 4096, "\xfc\x4e\x2b\xa9"), []string{"linux_raid_member"}},
		"md 1.0":             {put(8*mib, -8192, "\xfc\x4e\x2b\xa9"), []string{"linux_raid_member"}},
		"md 0.90":            {put(8*mib+4096, 8*mib-64<<10, "\xfc\x4e\x2b\xa9"), []string{"linux_raid_member"}},
		"ZFS, first label":   {put(8*mib, 128<<10+4096, "\x0c\xb1\xba\x00\x00\x00\x00\x00"), []string{"zfs_member"}},
		"ZFS, last label":    {put(8*mib, -(128 << 10), "\x00\x00\x00\x00\x00\xba\xb1\x0c"), []string{"zfs_member"}},
		"LUKS":               {put(8*mib, 0, "LUKS\xba\xbe"), []string{"crypto_LUKS"}},
		"Intel RAID":         {put(8*mib, -1024, "Intel Raid ISM Cfg Sig. 1.3"), []string{"isw_raid_member"}},
		"DDF RAID":           {put(8*mib, -512, "\xde\x11\xde\x11"), []string{"ddf_raid_member"}},
		"VMFS":               {put(8*mib, mib, "\x0d\xd0\x01\xc0"), []string{"VMFS_volume_member"}},
		"Ceph":               {put(8*mib, 0, "bluestore block device\n"), []string{"ceph_bluestore"}},
		"GPT of 4Kn":         {put(8*mib, 4096, "EFI PART"), []string{"gpt"}},
		"only a backup GPT":  {put(8*mib, -512, "EFI PART"), []string{"gpt"}},
		"a protective MBR":   {put(8*mib, 450, "\xee\x00\x00\x00\x01\x00\x00\x00\xff\xff\x00\x00"+string(make([]byte, 48))+"\x55\xaa"), []string{"PMBR"}},
		"a bootable MBR":     {put(8*mib, 446, "\x80\x00\x00\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x10\x00\x00"+string(make([]byte, 48))+"\x55\xaa"), []string{"dos"}},
		"boot code, no part": {put(8*mib, 510, "\x55\xaa"), []string{}},
	} {
		if got := signatures(t, c.disk); !slices.Equal(got, c.want) {
			t.Errorf("%s: ReadContent = %q; want %q", name, got, c.want)
		}
	}
}

func TestReadContentLooksIntoPartitions(t *testing.T) {
	disk := volume(t, 64*mib, "sgdisk", "-n", "1:2048:+8M", "-u", "1:11111111-2222-4333-8444-555555555555", "-n", "2:0:0", "@")
	// The filesystem is made for its own and put into its place.
	copy(disk[mib:], volume(t, 8*mib, "mke2fs", "-q", "-F", "-t", "ext4", "@"))
	content, err := ReadContent(bytes.NewReader(disk), int64(len(disk)))
	if err != nil || !slices.Equal(content.Signatures, []string{"ext4", "gpt"}) {
		t.Errorf("ReadContent = %q, %v; want ext4 and gpt", content.Signatures, err)
	}
	if len(content.PartUUIDs) != 2 || content.PartUUIDs[0] != "11111111-2222-4333-8444-555555555555" {
		t.Errorf("PartUUIDs = %q; want two, the first as given", content.PartUUIDs)
	}
	if len(content.Partitions) != 2 || content.Partitions[0] != (Extent{mib, 8 * mib}) {
		t.Errorf("Partitions = %v; want the first at 1 MiB with 8 MiB", content.Partitions)
	}
}

// failing is a disk with an unreadable place.
type failing struct {
	io.ReaderAt
	from int64
}

func (f failing) ReadAt(p []byte, offset int64) (int, error) {
	if offset+int64(len(p)) > f.from {
		return 0, errors.New("input/output error")
	}
	return f.ReaderAt.ReadAt(p, offset)
}

func TestReadContentOfAFailingDiskIsAnError(t *testing.T) {
	disk := make([]byte, 8*mib)
	for _, from := range []int64{0, 100 << 10, 7 * mib} {
		if content, err := ReadContent(failing{bytes.NewReader(disk), from}, int64(len(disk))); err == nil {
			t.Errorf("ReadContent of a disk unreadable from %d = %q; want an error, not a blank disk", from, content.Signatures)
		}
	}
}

func FuzzReadContent(f *testing.F) {
	for _, m := range magics {
		at := m.offset
		if at < 0 {
			at += 1 << 20
		}
		f.Add(uint32(at), []byte(m.bytes), uint32(1<<20))
	}
	f.Add(uint32(512), []byte("EFI PART\x00\x00\x01\x00"+string(make([]byte, 90))), uint32(1<<20))
	f.Add(uint32(446), bytes.Repeat([]byte{0x7f}, 66), uint32(1<<16))
	f.Fuzz(func(t *testing.T, at uint32, text []byte, size uint32) {
		disk := make([]byte, size%(2<<20))
		if int(at) < len(disk) {
			copy(disk[at:], text)
		}
		content, err := ReadContent(bytes.NewReader(disk), int64(len(disk)))
		if err != nil {
			t.Fatalf("ReadContent of a readable disk = %v", err)
		}
		if len(content.Partitions) > 1100 || len(content.Signatures) > len(magics)+10 {
			t.Errorf("ReadContent found %d partitions and %d signatures", len(content.Partitions), len(content.Signatures))
		}
		for _, e := range content.Partitions {
			if e.Offset < 0 || e.Length <= 0 || e.Offset+e.Length > int64(len(disk)) {
				t.Errorf("partition %v is not on a disk of %d bytes", e, len(disk))
			}
		}
		for _, e := range content.Extents {
			if e.Offset < 0 || e.Offset+e.Length > int64(len(disk)) {
				t.Errorf("signature at %v is not on a disk of %d bytes", e, len(disk))
			}
		}
	})
}

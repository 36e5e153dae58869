package imagebuilder

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/imagebuilder/gpt"
)

const (
	imageSector  = 512
	journalMiB   = 32
	bytesPerNode = 16384
	// rootRoomBytes is free space beyond the content of an image whose size is not given, so that it boots even where
	// nobody grows it.
	rootRoomBytes = 160 << 20
)

// mke2fsConfig replaces the machine's mke2fs.conf(5): the features of an image must not depend on who builds it. The
// list is Debian 12's default for ext4; all of it is understood by GRUB 2.06.
const mke2fsConfig = `[defaults]
	base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
	default_mntopts = acl,user_xattr
	enable_periodic_fsck = 0
	blocksize = 4096
	inode_size = 256
	inode_ratio = 16384
[fs_types]
	ext4 = {
		features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
	}
`

// layOut makes the raw disk from the root directory.
func (o *osBuild) layOut(ctx context.Context) (string, error) {
	size := o.spec.SizeBytes
	if size == 0 {
		used, err := treeBytes(o.root)
		if err != nil {
			return "", fmt.Errorf("measuring the root file system: %w", err)
		}
		size = fitBytes(used)
	}
	table, err := gpt.New(size, imageSector)
	if err != nil {
		return "", err
	}
	table.DiskGUID = o.guid("disk")
	var parts [3]gpt.Partition
	for i, p := range []struct {
		name  string
		kind  gpt.GUID
		bytes int64
	}{{"bios", gpt.BIOSBoot, BIOSBootBytes}, {"esp", gpt.EFISystem, ESPBytes}, {"root", gpt.LinuxRootAMD64, 0}} {
		if parts[i], err = table.Add(gpt.Partition{Type: p.kind, GUID: o.guid("partition " + p.name), Name: p.name}, p.bytes); err != nil {
			return "", err
		}
	}
	path := filepath.Join(o.dir, "disk.raw")
	disk, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return "", fmt.Errorf("creating the raw disk: %w", err)
	}
	err = disk.Truncate(size)
	if err == nil {
		err = o.writeBoot(ctx, disk, table, parts)
	}
	if err == nil {
		err = o.writeRoot(ctx, disk, table, parts[RootNumber-1])
	}
	if err = errors.Join(err, disk.Close()); err != nil {
		return "", fmt.Errorf("laying out the disk: %w", err)
	}
	return path, nil
}

// fitBytes is the raw size for a root file system of that many used bytes: metadata, journal and some room, rounded up
// to 64 MiB.
func fitBytes(used int64) int64 {
	const step = 64 << 20
	root := used + used/8 + journalMiB<<20 + rootRoomBytes
	total := root + ESPBytes + BIOSBootBytes + 2*gpt.AlignBytes
	return max((total+step-1)/step*step, minOSBytes)
}

// treeBytes is what the files of a tree take in blocks of 4 KiB, hard links counted as often as they occur.
func treeBytes(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		total += (info.Size()+4095)/4096*4096 + 256
		return nil
	})
	return total, err
}

// writeBoot writes partition table, BIOS boot loader and EFI system partition.
func (o *osBuild) writeBoot(ctx context.Context, disk *os.File, table *gpt.Table, parts [3]gpt.Partition) error {
	core, err := o.grubImage(ctx, "i386-pc", "biosdisk")
	if err != nil {
		return err
	}
	boot, err := os.ReadFile(filepath.Join(grubDir, "i386-pc", "boot.img"))
	if err != nil {
		return fmt.Errorf("reading GRUB's boot sector (package grub-pc-bin): %w", err)
	}
	code, core, err := embedBIOS(boot, core, parts[BIOSBootNumber-1].FirstLBA)
	if err != nil {
		return err
	}
	if err := table.SetBootCode(code); err != nil {
		return err
	}
	if err := table.Write(disk); err != nil {
		return err
	}
	offset, _ := table.ByteRange(parts[BIOSBootNumber-1])
	if _, err := disk.WriteAt(core, offset); err != nil {
		return err
	}
	esp, err := o.makeESP(ctx)
	if err != nil {
		return err
	}
	offset, _ = table.ByteRange(parts[ESPNumber-1])
	return copySparse(disk, esp, offset)
}

// makeESP makes the FAT file system as a file: mkfs.vfat and mtools need no kernel support and no mount.
func (o *osBuild) makeESP(ctx context.Context) (string, error) {
	loader, err := o.grubImage(ctx, "x86_64-efi", "efi_gop", "efi_uga", "all_video")
	if err != nil {
		return "", err
	}
	tree := filepath.Join(o.dir, "esp")
	if err := writeFile(filepath.Join(tree, "EFI/BOOT/BOOTX64.EFI"), loader, 0o644); err != nil {
		return "", err
	}
	esp := tree + ".img"
	serial := o.guid("esp serial")
	c := command{env: []string{o.epoch(), "MTOOLS_SKIP_CHECK=1"}, dir: o.dir}
	// 64 MiB in clusters of one sector are more than the 65525 that make it FAT32 for every reader (Microsoft's FAT
	// specification 1.03, "FAT type determination").
	if _, err := c.run(ctx, "mkfs.vfat", "--invariant", "-F", "32", "-s", "1", "-i", hex.EncodeToString(serial[:4]), "-n", "ESP", "-C", esp, fmt.Sprint(ESPBytes/1024)); err != nil {
		return "", fmt.Errorf("making the EFI system partition: %w", err)
	}
	if _, err := c.run(ctx, "mcopy", "-s", "-i", esp, filepath.Join(tree, "EFI"), "::/"); err != nil {
		return "", fmt.Errorf("filling the EFI system partition: %w", err)
	}
	return esp, nil
}

// copySparse copies a file into the disk without writing its zero blocks.
func copySparse(disk *os.File, name string, offset int64) error {
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	const block = 64 << 10
	for at := 0; at < len(content); at += block {
		part := content[at:min(at+block, len(content))]
		if strings.Trim(string(part), "\x00") == "" {
			continue
		}
		if _, err := disk.WriteAt(part, offset+int64(at)); err != nil {
			return err
		}
	}
	return nil
}

// writeRoot makes the ext4 file system in place, filled from the root directory.
func (o *osBuild) writeRoot(ctx context.Context, disk *os.File, table *gpt.Table, root gpt.Partition) error {
	config := filepath.Join(o.dir, "mke2fs.conf")
	if err := writeFile(config, []byte(mke2fsConfig), 0o644); err != nil {
		return err
	}
	offset, length := table.ByteRange(root)
	extended := fmt.Sprintf("offset=%d,hash_seed=%s,lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0", offset, o.guid("ext4 hash seed"))
	c := command{env: []string{
		"MKE2FS_CONFIG=" + config, "MKE2FS_SYNC=0", fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", o.lock.SourceDateEpoch), o.epoch(),
	}}
	if _, err := c.run(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-i", fmt.Sprint(bytesPerNode), "-m", "1", "-J", fmt.Sprintf("size=%d", journalMiB),
		"-L", "root", "-U", o.guid("ext4").String(), "-E", extended, "-d", o.root, disk.Name(), fmt.Sprint(length/1024)+"k"); err != nil {
		return fmt.Errorf("making the root file system: %w", err)
	}
	return settleTimes(disk, offset, time.Unix(o.lock.SourceDateEpoch, 0))
}

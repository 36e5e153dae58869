package imagebuilder

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const grubDir = "/usr/lib/grub"

// grubPrefix names no disk: GRUB completes it with the disk it was loaded from (grub-core/kern/main.c,
// grub_set_prefix_and_root), so a second disk with an older copy of the image is never looked at.
var grubPrefix = fmt.Sprintf("(,gpt%d)/boot/grub", RootNumber)

// grubConfig asks the partition that GRUB was started from for its GUID, so that nobody has to write it here when a
// machine's disk gets GUIDs of its own.
func (o *osBuild) grubConfig() string {
	args := append([]string{"ro", "console=tty0", "console=ttyS0,115200", "net.ifnames=1"}, o.spec.KernelArgs...)
	return fmt.Sprintf(`# Written by edge-provision with the image. It holds no name of a disk.
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=0
probe --set=root_partuuid --part-uuid ($root)
linux /vmlinuz root=PARTUUID=$root_partuuid %s
initrd /initrd.img
boot
`, strings.Join(args, " "))
}

// grubModules is what both firmware's images hold: everything the configuration uses, because nothing is loaded
// later.
var grubModules = []string{"part_gpt", "ext2", "normal", "linux", "probe", "serial", "terminal", "echo", "test", "boot", "halt", "reboot", "ls", "cat"}

// grubImage makes a core image for a platform.
func (o *osBuild) grubImage(ctx context.Context, platform string, extra ...string) ([]byte, error) {
	name := filepath.Join(o.dir, "grub-"+platform)
	args := append([]string{"-O", platform, "-p", grubPrefix, "-o", name}, grubModules...)
	if _, err := (command{}).run(ctx, "grub-mkimage", append(args, extra...)...); err != nil {
		return nil, fmt.Errorf("making the boot loader for %s (packages grub-pc-bin and grub-efi-amd64-bin): %w", platform, err)
	}
	image, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("making the boot loader: %w", err)
	}
	return image, nil
}

// Offsets in GRUB's boot.img and in the first sector of its core image, from include/grub/i386/pc/boot.h of GRUB 2.06.
const (
	grubKernelSector   = 0x5c  // GRUB_BOOT_MACHINE_KERNEL_SECTOR: where the core image starts
	grubDriveCheck     = 0x66  // GRUB_BOOT_MACHINE_DRIVE_CHECK: a jump that ignores the drive that the BIOS names
	grubBlocklistStart = 0x1f4 // the only blocklist entry of diskboot.img: start, length, segment
	grubSector         = 512
)

// embedBIOS returns the boot code for the MBR and the core image for a BIOS boot partition that starts at lba, as
// grub-bios-setup(8) would patch them.
func embedBIOS(boot, core []byte, lba uint64) (code, embedded []byte, err error) {
	if len(boot) != grubSector || len(core) < 2*grubSector {
		return nil, nil, fmt.Errorf("GRUB's boot.img has %d bytes and its core image %d; want %d and more", len(boot), len(core), grubSector)
	}
	code = append([]byte(nil), boot[:440]...)
	binary.LittleEndian.PutUint64(code[grubKernelSector:], lba)
	// Two NOPs: believe the drive number in DL (what grub-bios-setup does for hard disks).
	code[grubDriveCheck], code[grubDriveCheck+1] = 0x90, 0x90

	sectors := (len(core) + grubSector - 1) / grubSector
	embedded = make([]byte, sectors*grubSector)
	copy(embedded, core)
	entry := embedded[grubBlocklistStart:]
	binary.LittleEndian.PutUint64(entry, lba+1)
	binary.LittleEndian.PutUint16(entry[8:], uint16(sectors-1))
	if len(embedded) > BIOSBootBytes {
		return nil, nil, fmt.Errorf("GRUB's core image has %d bytes; its partition holds %d", len(embedded), BIOSBootBytes)
	}
	return code, embedded, nil
}

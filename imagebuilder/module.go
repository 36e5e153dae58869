package imagebuilder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// wantedModules are the drivers of the installer, as patterns of path.Match on the path below kernel/; a pattern that
// ends in "/" takes the whole directory. What these depend on comes by itself.
var wantedModules = []string{
	// Every Ethernet driver, with the PHYs and the USB adapters.
	"drivers/net/ethernet/", "drivers/net/phy/", "drivers/net/mdio/", "drivers/net/pcs/", "drivers/net/usb/", "drivers/net/hyperv/",
	"drivers/net/virtio_net.ko", "drivers/net/vmxnet3/", "drivers/net/xen-netfront.ko", "drivers/net/bonding/", "net/8021q/",
	// Disks: SATA, SAS and RAID controllers, NVMe, eMMC, UFS, virtual ones.
	"drivers/ata/", "drivers/scsi/", "drivers/message/fusion/", "drivers/nvme/host/", "drivers/pci/controller/", "drivers/mmc/core/", "drivers/mmc/host/",
	"drivers/ufs/", "drivers/block/virtio_blk.ko", "drivers/block/xen-blkfront.ko", "drivers/block/mtip32xx/", "drivers/block/loop.ko", "drivers/cdrom/",
	"drivers/virtio/", "drivers/hv/",
	// USB: keyboards at the console, sticks, adapters.
	"drivers/usb/host/", "drivers/usb/storage/", "drivers/hid/hid.ko", "drivers/hid/hid-generic.ko", "drivers/hid/usbhid/",
	// The BMC, randomness, the TPM, the watchdog of a machine that hangs.
	"drivers/char/ipmi/", "drivers/char/hw_random/", "drivers/char/tpm/", "drivers/watchdog/iTCO_wdt.ko", "drivers/watchdog/sp5100_tco.ko",
	// File systems of installed disks and virtual media, with what they load by name.
	"fs/ext4/", "fs/xfs/", "fs/fat/", "fs/isofs/", "fs/efivarfs/", "fs/nls/nls_cp437.ko", "fs/nls/nls_ascii.ko", "fs/nls/nls_iso8859-1.ko", "fs/nls/nls_utf8.ko",
	"crypto/crc32c_generic.ko", "crypto/crc32_generic.ko", "crypto/crct10dif_generic.ko", "crypto/crct10dif_common.ko", "crypto/crc64_rocksoft_generic.ko",
	"arch/x86/crypto/crc32c-intel.ko", "arch/x86/crypto/crc32-pclmul.ko", "arch/x86/crypto/crct10dif-pclmul.ko", "lib/libcrc32c.ko", "lib/crc64-rocksoft.ko",
	"drivers/firmware/",
}

// unwantedModules are exceptions: storage networks (a site's machine boots from its own disk), debugging aids, buses
// that no server of the last decade has.
var unwantedModules = []string{
	"drivers/scsi/bfa/", "drivers/scsi/bnx2fc/", "drivers/scsi/csiostor/", "drivers/scsi/fcoe/", "drivers/scsi/fnic/", "drivers/scsi/libfc/", "drivers/scsi/lpfc/",
	"drivers/scsi/qedf/", "drivers/scsi/qedi/", "drivers/scsi/qla2xxx/", "drivers/scsi/qla4xxx/", "drivers/scsi/snic/", "drivers/scsi/be2iscsi/", "drivers/scsi/bnx2i/",
	"drivers/scsi/cxgbi/", "drivers/scsi/scsi_debug.ko", "drivers/scsi/pcmcia/", "drivers/net/usb/hso.ko", "drivers/net/ethernet/8390/pcnet_cs.ko",
}

// moduleTables are the text tables of depmod(8) that the agent loads drivers by.
var moduleTables = []string{"modules.dep", "modules.alias", "modules.softdep", "modules.builtin", "modules.builtin.modinfo", "modules.order"}

func wanted(name string) bool {
	matches := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(pattern string) bool {
			if strings.HasSuffix(pattern, "/") {
				return strings.HasPrefix(name, pattern)
			}
			return name == pattern
		})
	}
	return matches(wantedModules) && !matches(unwantedModules)
}

// selectModules returns the wanted modules of a kernel's module directory and all they depend on, as sorted paths below
// it. dep is the text of its modules.dep.
func selectModules(dir string, dep map[string][]string) ([]string, error) {
	chosen := map[string]bool{}
	var add func(name string)
	add = func(name string) {
		if chosen[name] {
			return
		}
		chosen[name] = true
		for _, needed := range dep[name] {
			add(needed)
		}
	}
	err := filepath.WalkDir(filepath.Join(dir, "kernel"), func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Ext(file) != ".ko" {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err == nil && wanted(strings.TrimPrefix(name, "kernel/")) {
			add(name)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing kernel modules: %w", err)
	}
	names := make([]string, 0, len(chosen))
	for name := range chosen {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// parseModulesDep parses modules.dep(5), which is the first part of what "depmod --dry-run" prints.
func parseModulesDep(text []byte) (map[string][]string, error) {
	dep := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, "alias ") {
			break
		}
		name, needed, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || !filepath.IsLocal(name) {
			return nil, fmt.Errorf("reading module dependencies: %.120q is no line of modules.dep", line)
		}
		dep[name] = strings.Fields(needed)
		for _, other := range dep[name] {
			if !filepath.IsLocal(other) {
				return nil, fmt.Errorf("reading module dependencies: %s needs %.120q, which is no path below it", name, other)
			}
		}
	}
	return dep, nil
}

// stageModules copies the selected modules of the kernel tree below source to a tree of their own and makes their tables.
// Modules stay as they are, signatures included. It returns the module directory of the new tree.
func stageModules(ctx context.Context, source, release, target string) (string, error) {
	from := filepath.Join(source, "lib/modules", release)
	// A dry run: the tree may be the user's.
	tables, err := command{}.run(ctx, "depmod", "--dry-run", "-b", source, release)
	if err != nil {
		return "", fmt.Errorf("reading the kernel's modules: %w", err)
	}
	dep, err := parseModulesDep(tables)
	if err != nil {
		return "", err
	}
	names, err := selectModules(from, dep)
	if err != nil {
		return "", err
	}
	if len(names) == 0 {
		return "", fmt.Errorf("the kernel in %s has none of the drivers that an installer needs", source)
	}
	to := filepath.Join(target, "lib/modules", release)
	for _, name := range append([]string{"modules.builtin", "modules.builtin.modinfo", "modules.order"}, names...) {
		content, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) && !strings.HasSuffix(name, ".ko") {
			continue
		}
		if err == nil {
			err = writeFile(filepath.Join(to, name), content, 0o644)
		}
		if err != nil {
			return "", fmt.Errorf("copying kernel modules: %w", err)
		}
	}
	if _, err := (command{}).run(ctx, "depmod", "-b", target, release); err != nil {
		return "", fmt.Errorf("indexing the installer's modules: %w", err)
	}
	return to, nil
}

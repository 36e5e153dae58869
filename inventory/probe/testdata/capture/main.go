// Command capture is process 1 of an installer that prints, on the serial
// console, the files that package probe reads: the machines in this directory
// were captured with it. Each line starts with CAP and holds a path and either
// the target of a symbolic link or the content of a file in base64.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edge-provision/edge-provision/workflows/agent/boot"
)

// entry is one line.
type entry struct {
	Path string `json:"path"`
	Link string `json:"link,omitempty"`
	Data []byte `json:"data,omitempty"`
}

var wanted = []string{
	"/proc/cpuinfo", "/proc/meminfo", "/proc/sys/kernel/osrelease", "/sys/firmware/dmi/tables/*",
	"/sys/firmware/efi/fw_platform_size", "/sys/firmware/efi/efivars/SecureBoot-*", "/sys/class/tpm/tpm0/*",
	"/sys/class/net/*/type", "/sys/class/net/*/address", "/sys/class/net/*/device/driver", "/sys/class/net/*/device/modalias",
	"/sys/bus/pci/devices/*/class", "/sys/bus/pci/devices/*/vendor", "/sys/bus/pci/devices/*/device", "/sys/bus/pci/devices/*/driver",
	"/sys/block/*/size", "/sys/block/*/hidden", "/sys/block/*/removable", "/sys/block/*/wwid", "/sys/block/*/serial",
	"/sys/block/*/queue/logical_block_size", "/sys/block/*/queue/physical_block_size", "/sys/block/*/queue/rotational",
	"/sys/block/*/device/vendor", "/sys/block/*/device/model", "/sys/block/*/device/rev", "/sys/block/*/device/firmware_rev",
	"/sys/block/*/device/serial", "/sys/block/*/device/wwid", "/sys/block/*/device/vpd_pg80", "/sys/class/ata_port/*/port_no",
	"/sys/class/nvme-subsystem/*/nvme*/transport",
}

var seen = make(map[string]bool)

func main() {
	for _, m := range []struct{ kind, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			fmt.Println("mounting", m.dir, err)
		}
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		fmt.Println(err)
	}
	modules, err := boot.NewModules("/lib/modules/"+strings.TrimSpace(string(release)), nil)
	if err != nil {
		fmt.Println(err)
	} else {
		for range 4 {
			fmt.Println(modules.LoadForDevices(context.Background(), "/sys"))
			time.Sleep(2 * time.Second)
		}
	}
	_ = modules.Load("efivarfs")
	if err := unix.Mount("efivarfs", "/sys/firmware/efi/efivars", "efivarfs", 0, ""); err != nil {
		fmt.Println("no firmware variables:", err)
	}
	for _, pattern := range wanted {
		names, err := filepath.Glob(pattern)
		if err != nil {
			fmt.Println(err)
		}
		for _, name := range names {
			record(name)
		}
	}
	fmt.Println("CAP-END")
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println(err)
	}
	select {}
}

// record prints the links on the way to name, and name.
func record(name string) {
	at := "/"
	parts := strings.Split(strings.Trim(name, "/"), "/")
	for i, part := range parts {
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if err != nil {
			return
		}
		if info.Mode()&os.ModeSymlink != 0 {
			target, err := os.Readlink(at)
			if err != nil {
				return
			}
			show(entry{Path: at, Link: target})
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(at), target)
			}
			record(filepath.Join(append([]string{target}, parts[i+1:]...)...))
			return
		}
	}
	data, err := os.ReadFile(at)
	if err != nil {
		return
	}
	show(entry{Path: at, Data: data})
}

func show(e entry) {
	if seen[e.Path] {
		return
	}
	seen[e.Path] = true
	line, err := json.Marshal(e)
	if err != nil {
		return
	}
	fmt.Printf("CAP %s\n", line)
}

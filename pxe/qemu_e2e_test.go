//go:build e2e

package pxe

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// waitWriter keeps what is written and tells when it contains want.
type waitWriter struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	want  string
	found chan struct{}
	once  sync.Once
}

func (w *waitWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(b)
	if strings.Contains(w.buf.String(), w.want) {
		w.once.Do(func() { close(w.found) })
	}
	return len(b), nil
}

func (w *waitWriter) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func (w *waitWriter) await(t *testing.T, limit time.Duration) {
	t.Helper()
	select {
	case <-w.found:
		if !strings.Contains(w.text(), w.want) {
			t.Fatalf("%q did not appear before the end of:\n%s", w.want, w.text())
		}
	case <-time.After(limit):
		t.Fatalf("%q did not appear within %s in:\n%s", w.want, limit, w.text())
	}
}

// vm is one emulated machine.
type vm struct {
	firmware string // "uefi" or "bios"
	mac      string
	tap      string
	rom      bool // keep qemu's iPXE option ROM instead of the firmware's own PXE
	nic      string
	extra    []string
}

const vmUUID = "564d0421-0000-4000-8000-000000042101"

// start powers the machine on; its serial console is watched for want.
func (v vm) start(t *testing.T, want string) *waitWriter {
	t.Helper()
	nic := v.nic
	if nic == "" {
		nic = "virtio-net-pci"
	}
	device := nic + ",netdev=n0,mac=" + v.mac + ",bootindex=1"
	if v.firmware == "uefi" && !v.rom {
		device += ",romfile="
	}
	args := []string{
		"-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand",
		"-m", "512", "-nographic", "-serial", "mon:stdio", "-display", "none", "-no-reboot", "-uuid", vmUUID,
		"-netdev", "tap,id=n0,ifname=" + v.tap + ",script=no,downscript=no", "-device", device, "-device", "virtio-rng-pci",
	}
	if v.firmware == "uefi" {
		vars := filepath.Join(t.TempDir(), "vars.fd")
		b, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.fd")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vars, b, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
			"-drive", "if=pflash,format=raw,file="+vars)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(args, v.extra...)...)
	// Nothing outlives a test that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	console := &waitWriter{want: want, found: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = console, console
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = cmd.Wait()
		_, _ = console.Write([]byte("\nthe emulator has ended\n"))
		console.once.Do(func() { close(console.found) })
	}()
	t.Cleanup(func() {
		cancel()
		<-gone
		if t.Failed() {
			t.Logf("console of %s:\n%s", v.mac, printable(console.text()))
		}
	})
	return console
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r >= ' ' && r <= '~' {
			return r
		}
		return -1
	}, s)
}

// bootSectorDisk makes a disk whose boot sector prints SENTINEL on the serial
// port: an installed system, as far as a BIOS can tell.
func bootSectorDisk(t *testing.T) string {
	t.Helper()
	const at = 0x7c00
	code := []byte{
		0xfa,       // cli
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0xbe, 0, 0, // mov si, message
		0xac,       // lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x06, // jz +6
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xee,       // out dx, al
		0xeb, 0xf5, // jmp lodsb
		0xf4,       // hlt
		0xeb, 0xfd, // jmp hlt
	}
	message := at + len(code)
	code[6], code[7] = byte(message), byte(message>>8)
	disk := make([]byte, 1<<20)
	copy(disk, append(code, "BOOTED FROM DISK\r\n\x00"...))
	disk[510], disk[511] = 0x55, 0xaa
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// initramfs builds the test's init and packs it as a newc cpio archive.
func initramfs(t *testing.T) []byte {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "./testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building init: %v: %s", err, out)
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	var cpio bytes.Buffer
	entry := func(name string, mode int, rdev [2]int, data []byte) {
		fmt.Fprintf(&cpio, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			0, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(name)+1, 0)
		cpio.WriteString(name + "\x00")
		cpio.Write(make([]byte, -cpio.Len()&3))
		cpio.Write(data)
		cpio.Write(make([]byte, -cpio.Len()&3))
	}
	entry("dev", 0o040755, [2]int{}, nil)
	entry("dev/console", 0o020600, [2]int{5, 1}, nil)
	entry("init", 0o100755, [2]int{}, b)
	entry("TRAILER!!!", 0, [2]int{}, nil)
	return cpio.Bytes()
}

const vmMAC = "52:54:00:04:21:01"

// installer is a Booter that boots the test's kernel, with a token that it
// mints only for the script.
func installer() Booter {
	return bootFunc(func(c Client) (Answer, error) {
		if c.MAC.String() != vmMAC {
			return Answer{Kind: KindIgnore}, nil
		}
		a := Answer{Kind: KindInstall, Kernel: "vmlinuz", Initramfs: "initramfs"}
		if c.WantsScript {
			// On a busy host an emulated timer is too slow for the kernel's check.
			a.CommandLine = "console=ttyS0 no_timer_check panic=1 edge.token=T0KEN-" + string(c.Stage)
		}
		return a, nil
	})
}

func (l *lan) serveKernel(c Config) (*Server, *eventLog) {
	l.t.Helper()
	s, log := l.serve(c)
	kernel := os.Getenv("EDGE_E2E_KERNEL")
	info, err := os.Stat(kernel)
	if err != nil {
		l.t.Fatal(err)
	}
	ramfs := initramfs(l.t)
	for _, a := range []Asset{
		{Name: "vmlinuz", Kind: AssetKernel, Path: kernel, Size: info.Size()},
		{Name: "initramfs", Kind: AssetInitramfs, Content: ramfs, Size: int64(len(ramfs))},
	} {
		if _, err := s.Register(a); err != nil {
			l.t.Fatal(err)
		}
	}
	return s, log
}

// timeline prints when each phase of a boot was reached.
func timeline(t *testing.T, began time.Time, log *eventLog, console string) {
	t.Helper()
	for _, e := range log.all() {
		what := e.Attrs["firmware"] + " " + e.Attrs["file"] + e.Attrs["path"] + " " + e.Attrs["boot_file"] + " " + e.Attrs["size_only"]
		t.Logf("%6.1f s  %-14s %s", e.Time.Sub(began).Seconds(), e.Kind, what)
	}
	t.Logf("%6.1f s  %s", time.Since(began).Seconds(), console)
}

// maxScriptWait is far below the 16 s that iPXE wastes when nobody tells it
// that there is neither an IPv6 router nor a ProxyDHCP server.
const maxScriptWait = 8 * time.Second

// scriptWait is the time from the last iPXE program's first DISCOVER to the
// fetch of its script.
func scriptWait(log *eventLog) time.Duration {
	var asked, fetched time.Time
	stage := ""
	for _, e := range log.all() {
		switch {
		case e.Kind == inventory.EventDHCPDiscover && e.Attrs["firmware"] != stage:
			stage, asked = e.Attrs["firmware"], e.Time
		case e.Kind == inventory.EventHTTPStart && e.Attrs["asset"] == string(AssetScript):
			fetched = e.Time
		}
	}
	return fetched.Sub(asked)
}

// bootLimit is generous: a boot takes 15 s on an idle machine.
const bootLimit = 8 * time.Minute

func TestMachineBootsInstaller(t *testing.T) {
	reserved := []Reservation{{MAC: mustMAC(vmMAC), Address: testServer.Next().Next(), Hostname: "node-a"}}
	tests := []struct {
		name  string
		vm    vm
		chain bool
		want  []inventory.EventKind
	}{
		{"UEFI native PXE", vm{firmware: "uefi"}, false, []inventory.EventKind{inventory.EventTFTPEnd}},
		{"BIOS with an iPXE ROM", vm{firmware: "bios"}, false, nil},
		{"BIOS chained to our iPXE", vm{firmware: "bios"}, true, []inventory.EventKind{inventory.EventTFTPEnd}},
		{"UEFI with an iPXE ROM on e1000e", vm{firmware: "uefi", rom: true, nic: "e1000e"}, false, nil},
		{"UEFI HTTP boot", vm{firmware: "uefi", extra: []string{
			"-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n", "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n",
		}}, false, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLAN(t)
			s, log := l.serveKernel(Config{
				Mode: ModeServer, Booter: installer(), Leases: &memoryLeases{reserved: reserved}, ChainROM: tt.chain,
			})
			tt.vm.mac, tt.vm.tap = vmMAC, l.tap()
			began := time.Now()
			console := tt.vm.start(t, "INIT RUNS WITH")
			console.await(t, bootLimit)
			timeline(t, began, log, "init runs")
			if d := scriptWait(log); d > maxScriptWait {
				t.Errorf("iPXE took %s from its first DISCOVER to its script; want at most %s", d, maxScriptWait)
			}
			if want := "edge.token=T0KEN-"; !strings.Contains(console.text(), want) {
				t.Errorf("console has no %q", want)
			}
			for _, k := range append(tt.want, inventory.EventDHCPAck, inventory.EventHTTPEnd) {
				if _, ok := log.find(ofKind(k)); !ok {
					t.Errorf("no event %s; got %v", k, log.kinds())
				}
			}
			if got, ok := s.AddressOf(mustMAC(vmMAC)); !ok || got != reserved[0].Address {
				t.Errorf("AddressOf(%s) = %s, %t; want %s", vmMAC, got, ok, reserved[0].Address)
			}
		})
	}
}

func TestMachineBootsBesideDnsmasq(t *testing.T) {
	for _, firmware := range []string{"uefi", "bios"} {
		t.Run(firmware, func(t *testing.T) {
			l := newLAN(t)
			l.host("02:00:00:00:00:02", "172.22.77.2/24").dnsmasq()
			_, log := l.serveKernel(Config{Mode: ModeProxy, Booter: installer()})
			began := time.Now()
			console := vm{firmware: firmware, mac: vmMAC, tap: l.tap()}.start(t, "INIT RUNS WITH")
			console.await(t, bootLimit)
			timeline(t, began, log, "init runs")
			if e, ok := log.find(ofKind(inventory.EventDHCPAck)); ok && e.Attrs["address"] != "" {
				t.Errorf("a proxy gave the address %s", e.Attrs["address"])
			}
		})
	}
}

func TestFinishedMachineBootsItsDisk(t *testing.T) {
	t.Run("bios", func(t *testing.T) {
		for _, chain := range []bool{false, true} {
			t.Run(fmt.Sprintf("chained=%t", chain), func(t *testing.T) {
				l := newLAN(t)
				_, log := l.serve(Config{
					Mode: ModeServer, Booter: always(Answer{Kind: KindLocal}), ChainROM: chain,
					Leases: &memoryLeases{reserved: []Reservation{{MAC: mustMAC(vmMAC), Address: testServer.Next()}}},
				})
				began := time.Now()
				console := vm{firmware: "bios", mac: vmMAC, tap: l.tap(), extra: []string{
					"-drive", "if=none,id=d0,format=raw,file=" + bootSectorDisk(t), "-device", "virtio-blk-pci,drive=d0",
				}}.start(t, "BOOTED FROM DISK")
				console.await(t, bootLimit)
				timeline(t, began, log, "booted from disk")
			})
		}
	})
	t.Run("uefi back to the boot manager", func(t *testing.T) {
		finishedUEFI(t, []string{
			"-drive", "if=none,id=d0,format=raw,file=" + uefiDisk(t, "BOOTED FROM DISK", uuid.New()), "-device", "virtio-blk-pci,drive=d0,bootindex=2",
			// The boot manager's next entry would be PXE over IPv6, which OVMF
			// tries for a minute and a half.
			"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n",
		})
	})
}

func finishedUEFI(t *testing.T, disks []string) {
	t.Helper()
	l := newLAN(t)
	_, log := l.serve(Config{
		Mode: ModeServer, Booter: always(Answer{Kind: KindLocal}),
		Leases: &memoryLeases{reserved: []Reservation{{MAC: mustMAC(vmMAC), Address: testServer.Next()}}},
	})
	began := time.Now()
	console := vm{firmware: "uefi", mac: vmMAC, tap: l.tap(), extra: disks}.start(t, "BOOTED FROM DISK")
	console.await(t, bootLimit)
	timeline(t, began, log, "booted from disk")
}

// uefiDisk makes a disk with a GPT, an EFI system partition with the unique
// GUID esp, and on it a loader (GRUB) that says message on the console.
func uefiDisk(t *testing.T, message string, esp uuid.UUID) string {
	t.Helper()
	dir := t.TempDir()
	cfg, loader, disk := filepath.Join(dir, "grub.cfg"), filepath.Join(dir, "BOOTX64.EFI"), filepath.Join(dir, "disk.img")
	if err := os.WriteFile(cfg, []byte("echo "+message+"\nsleep 600\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"truncate", "-s", "48M", disk},
		{"sgdisk", "-n", "1:2048:0", "-t", "1:ef00", "-u", "1:" + esp.String(), disk},
		{"mkfs.vfat", "-F", "16", "--offset", "2048", disk, "40960"},
		{"grub-mkimage", "-O", "x86_64-efi", "-p", "/", "-c", cfg, "-o", loader, "echo", "sleep", "normal", "part_gpt", "fat"},
		{"mmd", "-i", disk + "@@1M", "::/EFI", "::/EFI/BOOT"},
		{"mcopy", "-i", disk + "@@1M", loader, "::/EFI/BOOT/BOOTX64.EFI"},
	} {
		if err := run(args[0], args[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	return disk
}

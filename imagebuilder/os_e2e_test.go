//go:build e2e

package imagebuilder

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
	"github.com/edge-provision/edge-provision/imagebuilder/gpt"
)

const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// e2eSpec is the image that the other end-to-end tests of the repository use too, so it is built once.
func e2eSpec() OSSpec {
	return OSSpec{Release: "bookworm", Packages: []string{"openssh-server", "chrony"}, Kernel: "cloud"}
}

// e2eImage returns the image, from the shared cache (EDGE_E2E_CACHE, or the default one) if it is there.
func e2eImage(t *testing.T) Artifact {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("building an image needs root")
	}
	b := &Builder{CacheDir: os.Getenv("EDGE_E2E_CACHE")}
	a, err := b.BuildOS(t.Context(), e2eSpec())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Another folder, an empty cache, another umask and a later clock give the image of the lock again, bit for bit.
func TestDebianImageIsReproducibleFromItsLock(t *testing.T) {
	first := e2eImage(t)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	spec := e2eSpec()
	spec.Lock = first.Lock
	b := &Builder{CacheDir: filepath.Join(t.TempDir(), "another", "place")}
	second, err := b.BuildOS(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if second.Cached {
		t.Fatal("the second build was no build")
	}
	if second.Digest != first.Digest {
		for i := range min(len(first.Manifest.Chunks), len(second.Manifest.Chunks)) {
			if a, b := first.Manifest.Chunks[i], second.Manifest.Chunks[i]; a.RawSHA256 != b.RawSHA256 {
				t.Errorf("chunk %d at disk offset %d differs", i, a.RawOffset)
			}
		}
		t.Fatalf("digests differ: %s and %s", first.Digest, second.Digest)
	}
	start := time.Now()
	again, err := b.BuildOS(t.Context(), spec)
	if err != nil || !again.Cached || time.Since(start) > 2*time.Second {
		t.Errorf("unchanged rebuild: cached %v after %s, %v; want a cached image within 2 s", again.Cached, time.Since(start), err)
	}
	// A refresh asks the archive, and builds nothing when that has nothing newer.
	spec.Lock, spec.Refresh = nil, true
	refreshed, err := b.BuildOS(t.Context(), spec)
	if err != nil || refreshed.Cached != (refreshed.Lock.digest() == first.Lock.digest()) {
		t.Errorf("refresh: cached %v, %v; want a build only for other packages than those of %s", refreshed.Cached, err, first.Digest)
	}
}

// The image boots in SeaBIOS and in OVMF; a disk of random GUIDs does not matter to GRUB, and a decoy disk with an older
// copy of the same image is left alone.
func TestDebianImageBootsByBIOSAndUEFIAndIgnoresADecoy(t *testing.T) {
	image := e2eImage(t)
	for _, firmware := range []string{"bios", "uefi"} {
		t.Run(firmware, func(t *testing.T) {
			dir := t.TempDir()
			disk, decoy := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "decoy.raw")
			writeImage(t, image, disk, image.Manifest.RawBytes)
			writeImage(t, image, decoy, image.Manifest.RawBytes)
			giveNewGUIDs(t, disk)
			before, err := hashFile(t.Context(), decoy)
			if err != nil {
				t.Fatal(err)
			}
			serial := bootDisk(t, firmware, dir, disk, decoy)
			guid := rootGUID(t, disk)
			if !strings.Contains(serial, "root=PARTUUID="+guid) {
				t.Errorf("the kernel was not told root=PARTUUID=%s", guid)
			}
			if after, err := hashFile(t.Context(), decoy); err != nil || after != before {
				t.Errorf("the decoy disk changed (%v)", err)
			}
		})
	}
}

func writeImage(t *testing.T, image Artifact, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	frames, err := os.Open(image.FramesPath)
	if err != nil {
		t.Fatal(err)
	}
	defer frames.Close()
	disk, err := chunk.OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chunk.Write(t.Context(), image.Manifest, chunk.ReaderFetcher{R: frames}, disk, chunk.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := chunk.Verify(t.Context(), image.Manifest, disk); err != nil {
		t.Fatal(err)
	}
	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
}

// bootDisk boots under emulation until the login prompt and returns the console.
func bootDisk(t *testing.T, firmware, dir, disk, decoy string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	args := []string{
		"-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand", "-smp", "2", "-m", "1024",
		"-nodefaults", "-display", "none", "-vga", "std", "-no-reboot", "-serial", "stdio", "-device", "virtio-rng-pci",
		"-drive", "if=none,id=d0,format=raw,file=" + disk, "-device", "virtio-blk-pci,drive=d0,bootindex=1",
		"-drive", "if=none,id=d1,format=raw,file=" + decoy, "-device", "virtio-blk-pci,drive=d1,bootindex=2",
	}
	if firmware == "uefi" {
		vars, err := os.ReadFile(ovmfVars)
		if err != nil {
			t.Fatal(err)
		}
		own := filepath.Join(dir, "vars.fd")
		if err := os.WriteFile(own, vars, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+ovmfCode, "-drive", "if=pflash,format=raw,file="+own)
	}
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	console := &expecting{want: "localhost login:", found: cancel}
	qemu.Stdout, qemu.Stderr = console, console
	start := time.Now()
	err := qemu.Run()
	if !strings.Contains(console.text.String(), console.want) {
		t.Fatalf("no login prompt after %s (%v); the console ends with:\n%s", time.Since(start), err, last(console.text.String(), 3000))
	}
	t.Logf("%s: login prompt after %s", firmware, time.Since(start).Round(100*time.Millisecond))
	return console.text.String()
}

// expecting calls found when what is written to it contains want. Only os/exec's one copying goroutine writes.
type expecting struct {
	want  string
	found func()
	text  bytes.Buffer
}

func (e *expecting) Write(p []byte) (int, error) {
	e.text.Write(p)
	if strings.Contains(last(e.text.String(), len(p)+len(e.want)), e.want) {
		e.found()
	}
	return len(p), nil
}

func last(s string, n int) string { return s[max(0, len(s)-n):] }

func rootGUID(t *testing.T, disk string) string {
	t.Helper()
	table := readTable(t, disk)
	root, ok := table.Partition(RootNumber)
	if !ok {
		t.Fatal("no root partition")
	}
	return fmt.Sprint(root.GUID)
}

func readTable(t *testing.T, path string) *gpt.Table {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(f, info.Size(), imageSector)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// giveNewGUIDs does to the partition table what the agent does.
func giveNewGUIDs(t *testing.T, path string) {
	t.Helper()
	table := readTable(t, path)
	if err := table.Randomize(rand.Reader); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Write(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

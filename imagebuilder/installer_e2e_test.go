//go:build e2e

package imagebuilder

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/edge-provision/edge-provision/imagebuilder/cpio"
)

// budgetBytes is what kernel and initramfs may take together, without firmware.
const budgetBytes = 40 << 20

func buildAgent(t *testing.T) string {
	t.Helper()
	agent := filepath.Join(t.TempDir(), "edge-agent")
	command := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", agent, "../cmd/edge-agent")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return agent
}

// readInitramfs returns the regular files of all archives in an initramfs, by name.
func readInitramfs(t *testing.T, name string) map[string][]byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	decoder, err := zstd.NewReader(f, zstd.WithDecoderMaxWindow(128<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	files := map[string][]byte{}
	for range 2 {
		r := cpio.NewReader(decoder)
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			files[h.Name] = content
		}
	}
	return files
}

func TestInstallerHoldsTheDriversWithinItsBudgetAndBoots(t *testing.T) {
	agent := buildAgent(t)
	b := &Builder{CacheDir: os.Getenv("EDGE_E2E_CACHE")}
	if b.CacheDir == "" && os.Geteuid() != 0 {
		b.CacheDir = t.TempDir()
	}
	i, err := b.BuildInstaller(t.Context(), InstallerSpec{AgentPath: agent, Release: "bookworm"})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("kernel %d + initramfs %d = %d bytes", i.Kernel.Bytes, i.Initramfs.Bytes, i.Kernel.Bytes+i.Initramfs.Bytes)
	if got := i.Kernel.Bytes + i.Initramfs.Bytes; got > budgetBytes {
		t.Errorf("kernel and initramfs have %d bytes; want up to %d", got, budgetBytes)
	}
	start := time.Now()
	if again, err := b.BuildInstaller(t.Context(), InstallerSpec{AgentPath: agent, Release: "bookworm"}); err != nil || !again.Cached || again.Initramfs != i.Initramfs || time.Since(start) > 2*time.Second {
		t.Errorf("unchanged rebuild: cached %v after %s, %v", again.Cached, time.Since(start), err)
	}
	files := readInitramfs(t, i.Initramfs.Path)
	byName := map[string][]byte{}
	for name, content := range files {
		byName[path.Base(name)] = content
	}
	want, err := os.ReadFile(agent)
	if err != nil || !bytes.Equal(files["init"], want) {
		t.Errorf("/init is not the agent (%v)", err)
	}
	for _, module := range strings.Fields("e1000e igb igc ixgbe i40e ice r8169 tg3 bnxt_en mlx5_core virtio_net ahci nvme sd_mod megaraid_sas mpt3sas hpsa aacraid smartpqi " +
		"virtio_blk virtio_scsi virtio_pci virtio-rng ipmi_si ipmi_devintf ext4 xfs vfat nls_cp437 nls_ascii nls_iso8859-1 nls_utf8 efivarfs crc32c_generic sdhci-pci vmd") {
		content, ok := byName[module+".ko"]
		if !ok {
			t.Errorf("module %s is missing", module)
		} else if !bytes.HasSuffix(content, []byte("~Module signature appended~\n")) {
			t.Errorf("module %s has lost its signature", module)
		}
	}
	dep, err := parseModulesDep(byName["modules.dep"])
	if err != nil {
		t.Fatal(err)
	}
	for name, needed := range dep {
		for _, file := range append(needed, name) {
			if _, ok := files["lib/modules/"+i.KernelRelease+"/"+file]; !ok {
				t.Errorf("modules.dep names %s, which is missing", file)
			}
		}
	}
	for _, table := range []string{"modules.alias", "modules.softdep", "modules.builtin"} {
		if len(byName[table]) == 0 {
			t.Errorf("table %s is missing", table)
		}
	}
	bootInstaller(t, i)
}

// bootInstaller waits until the kernel has started the agent.
func bootInstaller(t *testing.T, i Installer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	console := &expecting{want: "edge-agent: ", found: cancel}
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512",
		"-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-device", "virtio-rng-pci", "-kernel", i.Kernel.Path, "-initrd", i.Initramfs.Path, "-append", "console=ttyS0,115200")
	qemu.Stdout, qemu.Stderr = console, console
	err := qemu.Run()
	if !strings.Contains(console.text.String(), console.want) {
		t.Fatalf("the agent did not speak (%v); the console ends with:\n%s", err, last(console.text.String(), 3000))
	}
}

package imagebuilder

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSelectModulesTakesDriversAndWhatTheyNeed(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{
		"drivers/net/ethernet/intel/igc/igc.ko", "drivers/net/wireless/ath/ath.ko", "drivers/scsi/hpsa.ko", "drivers/scsi/lpfc/lpfc.ko",
		"drivers/ptp/ptp.ko", "drivers/pps/pps_core.ko", "fs/ext4/ext4.ko", "fs/btrfs/btrfs.ko", "fs/jbd2/jbd2.ko", "drivers/char/hw_random/virtio-rng.ko", "sound/snd.ko",
	} {
		path := filepath.Join(dir, "kernel", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dep, err := parseModulesDep([]byte("kernel/drivers/net/ethernet/intel/igc/igc.ko: kernel/drivers/ptp/ptp.ko\nkernel/drivers/ptp/ptp.ko: kernel/drivers/pps/pps_core.ko\n" +
		"kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko\nkernel/sound/snd.ko:\n# Aliases extracted from modules themselves.\nalias x y\n"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := selectModules(dir, dep)
	want := []string{
		"kernel/drivers/char/hw_random/virtio-rng.ko", "kernel/drivers/net/ethernet/intel/igc/igc.ko", "kernel/drivers/pps/pps_core.ko",
		"kernel/drivers/ptp/ptp.ko", "kernel/drivers/scsi/hpsa.ko", "kernel/fs/ext4/ext4.ko", "kernel/fs/jbd2/jbd2.ko",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("selectModules = %s, %v\nwant %s", strings.Join(got, " "), err, strings.Join(want, " "))
	}
}

func TestParseModulesDepRefusesPathsOutside(t *testing.T) {
	for _, bad := range []string{"../x.ko: y.ko\n", "a.ko: ../../etc/passwd\n", "/abs.ko:\n", "no colon\n"} {
		if _, err := parseModulesDep([]byte(bad)); err == nil {
			t.Errorf("parseModulesDep(%q) succeeded", bad)
		}
	}
}

func TestInstallerRefusesAnAgentThatCannotBeInit(t *testing.T) {
	b := &Builder{CacheDir: t.TempDir()}
	script := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{script: "edge-agent", "/nonexistent/agent": "no such file", "/bin/sh": "linked dynamically"} {
		if _, err := b.BuildInstaller(t.Context(), InstallerSpec{AgentPath: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("BuildInstaller with agent %s = %v; want an error with %q", path, err, want)
		}
	}
}

package rack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// probeTimeout bounds the probe boot of one kind of firmware under KVM, where
// it takes well under two seconds.
const probeTimeout = 15 * time.Second

// verdict is what a probe of KVM found.
type verdict struct {
	// Host is the boot id and Emulator the program's path, size and time:
	// another kernel or emulator is another question.
	Host     string `json:"host"`
	Emulator string `json:"emulator"`
	Works    bool   `json:"works"`
	Reason   string `json:"reason,omitempty"`
}

// chooseAccelerator obeys the spec, or takes KVM if both kinds of firmware boot
// under it. That /dev/kvm exists proves nothing: nested and exotic hosts offer
// it and then kill ordinary firmware. The verdict is kept in dir.
func chooseAccelerator(ctx context.Context, want Accelerator, dir string, start func(*exec.Cmd) error, log *slog.Logger) (Accelerator, error) {
	if want != "" {
		return want, nil
	}
	asked, err := question()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "kvm.json")
	v, err := readVerdict(path)
	if err != nil || v.Host != asked.Host || v.Emulator != asked.Emulator {
		v = asked
		failure := probeKVM(ctx, dir, start)
		if ctx.Err() != nil {
			return "", fmt.Errorf("probing KVM: %w", ctx.Err())
		}
		v.Works = failure == nil
		if failure != nil {
			v.Reason = failure.Error()
		}
		if err := writeJSON(path, v); err != nil {
			return "", err
		}
	}
	if v.Works {
		log.Info("firmware boots under KVM")
		return AcceleratorKVM, nil
	}
	log.Info("firmware does not boot under KVM: machines are emulated in software, which is slower", "reason", v.Reason)
	return AcceleratorTCG, nil
}

func readVerdict(path string) (v verdict, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal(b, &v)
}

// question identifies what a verdict is about.
func question() (verdict, error) {
	boot, err := bootID()
	if err != nil {
		return verdict{}, err
	}
	program, err := exec.LookPath(qemuProgram)
	if err != nil {
		return verdict{}, fmt.Errorf("looking for the emulator: %w", err)
	}
	fi, err := os.Stat(program)
	if err != nil {
		return verdict{}, fmt.Errorf("looking at the emulator: %w", err)
	}
	return verdict{Host: boot, Emulator: fmt.Sprintf("%s %d %s", program, fi.Size(), fi.ModTime().UTC().Format(time.RFC3339))}, nil
}

// probeKVM boots SeaBIOS (real mode) and, where installed, OVMF (long mode)
// until they write to the serial console.
func probeKVM(ctx context.Context, dir string, start func(*exec.Cmd) error) error {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return fmt.Errorf("looking for KVM: %w", err)
	}
	scratch, err := os.MkdirTemp(dir, "kvm-probe-")
	if err != nil {
		return fmt.Errorf("making a directory for the KVM probe: %w", err)
	}
	err = probeFirmware(ctx, scratch, FirmwareBIOS, start)
	if _, missing := os.Stat(ovmfCode); err == nil && missing == nil {
		err = probeFirmware(ctx, scratch, FirmwareUEFI, start)
	}
	return errors.Join(err, os.RemoveAll(scratch))
}

func probeFirmware(ctx context.Context, dir string, fw Firmware, start func(*exec.Cmd) error) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	serial, variables := filepath.Join(dir, string(fw)+".serial"), filepath.Join(dir, "nvram.fd")
	if fw == FirmwareUEFI {
		if err := copyFile(ovmfVars, variables); err != nil {
			return err
		}
	}
	args := append([]string{"-nodefaults", "-no-user-config", "-display", "none", "-m", "size=256M"}, acceleratorArgs(AcceleratorKVM)...)
	args = append(args, firmwareArgs(fw, false, variables)...)
	args = append(args,
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD), "-mon", "chardev=qmp,mode=control",
		"-chardev", "file,id=serial0,path="+comma(serial), "-serial", "chardev:serial0")
	e, err := startEmulator(ctx, args, filepath.Join(dir, string(fw)+".log"), start)
	if err != nil {
		return fmt.Errorf("booting %s under KVM: %w", fw, err)
	}
	err = awaitFirmware(ctx, e, serial)
	if err := errors.Join(err, e.discard()); err != nil {
		return fmt.Errorf("booting %s under KVM: %w", fw, err)
	}
	return nil
}

// awaitFirmware returns nil when the firmware has written to its console and
// the emulated CPU still runs.
func awaitFirmware(ctx context.Context, e *emulator, serial string) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		var now struct {
			Status string `json:"status"`
		}
		if err := e.qmp.execute(ctx, "query-status", nil, &now); err != nil {
			return err
		}
		if now.Status != "running" {
			return fmt.Errorf("the CPU stopped: %s", now.Status)
		}
		if fi, err := os.Stat(serial); err == nil && fi.Size() > 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-e.exited:
			return fmt.Errorf("the emulator ended: %s", e.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("the firmware wrote nothing within %s: %w", probeTimeout, ctx.Err())
		}
	}
}

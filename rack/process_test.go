package rack

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// child starts a process that lives until it is killed.
func child(t *testing.T) (*exec.Cmd, process) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting a child = %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatalf("identify = %v", err)
	}
	return cmd, p
}

func TestAProcessIsKnownByStartTimeAndBootNotByPIDAlone(t *testing.T) {
	_, p := child(t)
	if !p.alive() {
		t.Errorf("alive(%+v) = false; want true", p)
	}
	earlier, otherBoot := p, p
	earlier.StartTicks--
	otherBoot.BootID = "of another day"
	for name, other := range map[string]process{"another start": earlier, "another boot": otherBoot, "nobody": {}} {
		if other.alive() {
			t.Errorf("%s: alive(%+v) = true; want false", name, other)
		}
		if _, err := other.open(); !errors.Is(err, errGone) {
			t.Errorf("%s: open(%+v) = %v; want errGone", name, other, err)
		}
		if err := other.kill(context.Background()); err != nil {
			t.Errorf("%s: kill(%+v) = %v; want nil", name, other, err)
		}
	}
	if !p.alive() {
		t.Errorf("the process with the same PID was killed in another's stead")
	}
}

func TestKillWaitsForTheEnd(t *testing.T) {
	cmd, p := child(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.kill(ctx); err != nil {
		t.Fatalf("kill = %v", err)
	}
	if p.alive() {
		t.Errorf("alive after kill = true; want false, though nobody has reaped it")
	}
	if err := cmd.Wait(); err == nil {
		t.Errorf("Wait = nil; want the signal")
	}
	if err := p.kill(ctx); err != nil {
		t.Errorf("second kill = %v; want nil", err)
	}
}

func TestWaitForAProcessIsBounded(t *testing.T) {
	_, p := child(t)
	h, err := p.open()
	if err != nil {
		t.Fatalf("open = %v", err)
	}
	defer h.close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := h.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait = %v; want its deadline exceeded", err)
	}
}

func TestProcessFilesAreReadBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.json")
	if _, ok, err := readProcess(path); ok || err != nil {
		t.Errorf("readProcess(none) = %v, %v; want false, nil", ok, err)
	}
	self, err := identify(os.Getpid())
	if err != nil {
		t.Fatalf("identify = %v", err)
	}
	if err := writeJSON(path, self); err != nil {
		t.Fatalf("writeJSON = %v", err)
	}
	if got, ok, err := readProcess(path); got != self || !ok || err != nil {
		t.Errorf("readProcess = %+v, %v, %v; want %+v", got, ok, err, self)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readProcess(path); err == nil {
		t.Errorf("readProcess(half a file) = nil error; want one")
	}
}

func TestParseStatReadsPastStrangeNames(t *testing.T) {
	const rest = " S 1 77 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 0 0\n"
	for _, name := range []string{"sleep", "a b", ") R 1 2 3", "((", "x\n)"} {
		got, err := parseStat([]byte("99 (" + name + ")" + rest))
		want := procStat{command: name, state: 'S', session: 42, startTicks: 123456}
		if err != nil || got != want {
			t.Errorf("parseStat(%q) = %+v, %v; want %+v", name, got, err, want)
		}
	}
	for _, bad := range []string{"", "1 (x", "1 x) S", "1 (x) S 1 2", "1 (x)" + strings.Replace(rest, "42", "x", 1)} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q) = nil error; want one", bad)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("99 (sleep) S 1 77 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 0 0\n"))
	f.Add([]byte(") ("))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := parseStat(b)
		if err == nil && len(st.command) > len(b) {
			t.Errorf("parseStat(%q) = %+v", b, st)
		}
	})
}

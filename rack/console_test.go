package rack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// rackOn returns a handle on a rack that is not up, in a directory of its own,
// with the directory of machine a.
func rackOn(t *testing.T) *Rack {
	t.Helper()
	r, err := New(Config{Spec: Spec{Name: "unit", StateDir: t.TempDir(), Machines: []Machine{machineUnderTest()}}})
	if err != nil {
		t.Fatalf("New = %v", err)
	}
	if err := os.MkdirAll(filepath.Dir(r.SerialPath(`machine.node["a"]`)), 0o700); err != nil {
		t.Fatal(err)
	}
	return r
}

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestConsoleFollowsAMachineOverResetsAndPowerCycles(t *testing.T) {
	r := rackOn(t)
	path := r.SerialPath(`machine.node["a"]`)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c := r.Console(`machine.node["a"]`, false)
	defer c.Close()
	boot := regexp.MustCompile(`boot (\d)`)
	want := func(text string) {
		t.Helper()
		if got, err := c.Wait(ctx, boot); err != nil || string(got) != text {
			t.Fatalf("Wait = %q, %v; want %q", got, err, text)
		}
	}
	write(t, path, "boot 1 boot 2\nbo")
	want("boot 1")
	want("boot 2")
	write(t, path, "ot 3") // a match over two reads
	want("boot 3")
	write(t, path, "boot 4")
	if err := rotate(path); err != nil {
		t.Fatalf("rotate = %v", err)
	}
	write(t, path, "boot 5")
	want("boot 4") // the end of the old log is not lost
	want("boot 5")
	late := r.Console(`machine.node["a"]`, true)
	defer late.Close()
	write(t, path, "boot 6")
	if got, err := late.Wait(ctx, boot); err != nil || string(got) != "boot 6" {
		t.Errorf("a console from now on: Wait = %q, %v; want boot 6", got, err)
	}
}

func TestConsoleWaitIsBoundedAndShowsTheLastLines(t *testing.T) {
	r := rackOn(t)
	write(t, r.SerialPath(`machine.node["a"]`), "\x1b[2J\x1b[01;01Hkernel panic\r\n")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := r.WaitSerial(ctx, `machine.node["a"]`, regexp.MustCompile("login:"))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "kernel panic") || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("WaitSerial = %q; want its deadline exceeded, with the last lines as plain text", err)
	}
}

func TestConsoleMemoryIsBounded(t *testing.T) {
	r := rackOn(t)
	path := r.SerialPath(`machine.node["a"]`)
	write(t, path, strings.Repeat("x", 3*consoleWindow)+"end")
	c := r.Console(`machine.node["a"]`, false)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := c.Wait(ctx, regexp.MustCompile("end")); err != nil {
		t.Fatalf("Wait = %v", err)
	}
	if len(c.window) > consoleWindow {
		t.Errorf("window holds %d bytes; want at most %d", len(c.window), consoleWindow)
	}
}

func TestSerialLogsAreRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "serial.log")
	for n := range 8 {
		if err := rotate(path); err != nil {
			t.Fatalf("rotate = %v", err)
		}
		write(t, path, fmt.Sprint(n))
	}
	for suffix, want := range map[string]string{"": "7", ".1": "6", ".5": "2"} {
		if got, err := os.ReadFile(path + suffix); err != nil || string(got) != want {
			t.Errorf("log%s = %q, %v; want %q", suffix, got, err, want)
		}
	}
	if _, err := os.Stat(path + ".6"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a sixth old log: %v; want none", err)
	}
}

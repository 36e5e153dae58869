//go:build e2e

package scenario

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/rack"
)

// Bounds of what a scenario waits for. Emulated machines on a busy host are
// slow; a bound is there to end a test that hangs.
const (
	commandLimit = 2 * time.Minute  // a command that boots nothing
	applyLimit   = 12 * time.Minute // an apply that boots machines
	settleLimit  = 3 * time.Minute  // one thing that a machine does by itself
)

// lab is one site with its rack, its data directory and its cache.
type lab struct {
	t     *testing.T
	bin   string
	name  string // of the site
	dir   string // everything of this lab
	data  string
	cache string
	site  string // path of site.hcl
	rack  *rack.Rack
}

// labs numbers the labs of this process.
var labs atomic.Int32

// newLab prepares a site from a file of testdata. In it, @site@ stands for a
// name that nobody else uses and @dir@ for the lab's directory.
func newLab(t *testing.T, file string) *lab {
	t.Helper()
	l := emptyLab(t)
	l.site = l.file(file)
	return l
}

// emptyLab prepares everything but a site.
func emptyLab(t *testing.T) *lab {
	t.Helper()
	scenario(t)
	// A control socket's path has 107 bytes at most, which t.TempDir exceeds
	// with the names of tests.
	dir, err := os.MkdirTemp("", "edge-e2e-")
	if err != nil {
		t.Fatalf("making a directory = %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing %s = %v", dir, err)
		}
	})
	l := &lab{
		t: t, bin: program(t), name: fmt.Sprintf("e2e-%d-%d", os.Getpid(), labs.Add(1)), dir: dir,
		data: filepath.Join(dir, "data"), cache: cacheDir(t),
	}
	l.rack, err = rack.New(rack.Config{Spec: rack.Spec{Name: l.name, StateDir: l.rackDir()}})
	if err != nil {
		t.Fatalf("rack.New = %v", err)
	}
	return l
}

// sub runs a part of the scenario as a test of its own on the same lab.
func (l *lab) sub(name string, f func(l *lab)) bool {
	return l.t.Run(name, func(t *testing.T) {
		scenario(t)
		inner := *l
		inner.t = t
		f(&inner)
	})
}

// file writes a file of testdata into the lab and returns its path.
func (l *lab) file(name string) string {
	l.t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		l.t.Fatalf("reading a site = %v", err)
	}
	text := strings.NewReplacer("@site@", l.name, "@dir@", l.dir).Replace(string(b))
	path := filepath.Join(l.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		l.t.Fatalf("writing a site = %v", err)
	}
	return path
}

// raise brings the rack of a site up; it is taken down when the test ends, and
// nothing of it may be left then.
func (l *lab) raise(site string, flags ...string) {
	l.t.Helper()
	l.t.Cleanup(func() {
		if l.t.Failed() {
			l.confess()
		}
		ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
		defer cancel()
		argv := l.command("rack", "down", "--rack-dir", l.rackDir(), site)
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			// On a host too busy for that, the handle still knows what to end.
			l.t.Errorf("rack down = %v, %s", err, out)
			if err := l.rack.Down(context.Background(), true); err != nil {
				l.t.Errorf("Down = %v", err)
			}
		}
		l.checkNothingIsLeft()
	})
	l.must(commandLimit, append([]string{"rack", "up", "--rack-dir", l.rackDir(), site}, flags...)...)
}

// rackDir is where the rack keeps disks and logs.
func (l *lab) rackDir() string { return filepath.Join(l.dir, "rack") }

// checkNothingIsLeft looks for what a rack makes on its host: the namespace,
// mounts, and processes.
func (l *lab) checkNothingIsLeft() {
	l.t.Helper()
	for _, p := range []string{"/run/netns/" + l.rack.Namespace(), "/etc/netns/" + l.rack.Namespace()} {
		if _, err := os.Lstat(p); err == nil {
			l.t.Errorf("after rack down there is %s; want nothing", p)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		l.t.Errorf("reading mounts = %v", err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, l.name) || strings.Contains(line, l.dir) {
			l.t.Errorf("after rack down there is the mount %q; want none", line)
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		l.t.Errorf("listing processes = %v", err)
	}
	for _, p := range processes {
		b, err := os.ReadFile(p)
		if err == nil && (bytes.Contains(b, []byte(l.dir)) || bytes.Contains(b, []byte(l.rack.Namespace()))) {
			l.t.Errorf("after rack down there is the process %s %q; want none", filepath.Dir(p), bytes.ReplaceAll(b, []byte{0}, []byte{' '}))
		}
	}
}

// confess logs what the machines of a failed scenario said last.
func (l *lab) confess() {
	logs, _ := filepath.Glob(filepath.Join(l.rackDir(), "*", "serial.log"))
	for _, path := range append(logs, filepath.Join(l.rackDir(), "supervisor.log")) {
		b, err := os.ReadFile(path)
		if err == nil {
			l.t.Logf("the end of %s:\n%s", path, b[max(0, len(b)-2500):])
		}
	}
}

// command is edge-provision outside the rack, inside is it within.
func (l *lab) command(args ...string) []string {
	return append([]string{l.bin, "--data-dir", l.data, "--cache-dir", l.cache}, args...)
}

func (l *lab) inside(args ...string) []string {
	return append([]string{"ip", "netns", "exec", l.rack.Namespace()}, l.command(args...)...)
}

// result is how a command ended; code is -1 when a signal ended it.
type result struct {
	code           int
	stdout, stderr string
}

// run runs a command to its end.
func (l *lab) run(limit time.Duration, stdin string, argv []string) result {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		l.t.Fatalf("%s did not end in %s: %v\n%s%s", strings.Join(argv, " "), limit, err, stdout.String(), stderr.String())
	}
	r := result{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	l.t.Logf("%s = exit %d\n%s%s", strings.Join(argv, " "), r.code, r.stdout, r.stderr)
	return r
}

// must runs edge-provision outside the rack and demands success.
func (l *lab) must(limit time.Duration, args ...string) result {
	l.t.Helper()
	return l.want(0, l.run(limit, "", l.command(args...)))
}

// want demands an exit code.
func (l *lab) want(code int, r result) result {
	l.t.Helper()
	if r.code != code {
		l.t.Fatalf("exit code %d; want %d", r.code, code)
	}
	return r
}

// apply applies a site inside the rack.
func (l *lab) apply(args ...string) result {
	l.t.Helper()
	return l.run(applyLimit, "", l.inside(append([]string{"apply", "--auto-approve"}, args...)...))
}

// line is one line of `apply --json`, as far as scenarios look at it.
type line struct {
	Time    time.Time `json:"time"`
	Type    string    `json:"type"`
	Address string    `json:"address"`
	Phase   string    `json:"phase"`
	Message string    `json:"message"`
	Bytes   int64     `json:"bytes"`
	Total   int64     `json:"total"`
}

// interrupt applies the site and does act as soon as seen is true of what apply
// reports: act gets the controller's process. It returns the line that was
// seen; apply must end by itself after that.
func (l *lab) interrupt(seen func(line) bool, act func(*os.Process), args ...string) line {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), applyLimit)
	defer cancel()
	argv := l.inside(append([]string{"apply", "--auto-approve", "--json"}, args...)...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr, cmd.WaitDelay = &stderr, 10*time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatalf("apply --json = %v", err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatalf("apply --json = %v", err)
	}
	var (
		caught line
		acted  bool
		last   []string
	)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var now line
		if err := json.Unmarshal(lines.Bytes(), &now); err != nil {
			l.t.Errorf("apply --json printed %q: %v", lines.Text(), err)
		}
		last = append(last, lines.Text())
		if !acted && seen(now) {
			caught, acted = now, true
			act(cmd.Process)
		}
	}
	_, _ = io.Copy(io.Discard, out)
	err = cmd.Wait()
	l.t.Logf("apply --json ended: %v\n%s\n%s", err, strings.Join(last[max(0, len(last)-25):], "\n"), stderr.String())
	if !acted {
		l.t.Fatal("apply never reported what was waited for")
	}
	return caught
}

// kill ends the controller as a crash does.
func kill(p *os.Process) { _ = p.Kill() }

// machine is the rack's account of a machine.
func (l *lab) machine(address string) rack.MachineStatus {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	m, err := l.rack.Machine(ctx, address)
	if err != nil {
		l.t.Fatalf("asking the rack for %s = %v", address, err)
	}
	return m
}

// power presses a machine's buttons.
func (l *lab) power(address string, action rack.PowerAction) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.rack.Power(ctx, address, action); err != nil {
		l.t.Fatalf("power %s of %s = %v", action, address, err)
	}
}

// eventually asks every second until done says that it is so.
func (l *lab) eventually(what string, limit time.Duration, done func() bool) {
	l.t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for !done() {
		select {
		case <-again.C:
		case <-deadline.C:
			l.t.Fatalf("not in %s: %s", limit, what)
		}
	}
}

// disk is the path of a machine's nth disk.
func (l *lab) disk(address string, n int) string {
	l.t.Helper()
	disks := l.machine(address).Disks
	if n >= len(disks) {
		l.t.Fatalf("%s has %d disks; want more than %d", address, len(disks), n)
	}
	return disks[n]
}

// difference is the offset of the first of n bytes in which two files differ,
// -1 when there is none.
func (l *lab) difference(a, b string, n int64) int64 {
	l.t.Helper()
	fa, err := os.Open(a)
	if err != nil {
		l.t.Fatal(err)
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		l.t.Fatal(err)
	}
	defer fb.Close()
	const step = 1 << 20
	ba, bb := make([]byte, step), make([]byte, step)
	for at := int64(0); at < n; at += step {
		want := int(min(step, n-at))
		_, errA := io.ReadFull(fa, ba[:want])
		_, errB := io.ReadFull(fb, bb[:want])
		if err := errors.Join(errA, errB); err != nil {
			l.t.Fatalf("reading %s and %s at %d = %v", a, b, at, err)
		}
		if !bytes.Equal(ba[:want], bb[:want]) {
			i := 0
			for ba[i] == bb[i] {
				i++
			}
			return at + int64(i)
		}
	}
	return -1
}

// size is a file's length in bytes.
func (l *lab) size(path string) int64 {
	l.t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		l.t.Fatal(err)
	}
	return info.Size()
}

// power says how often a machine was switched on, reset and booted.
func power(m rack.MachineStatus) string {
	return fmt.Sprintf("%d power-ons, %d resets, %d boots", m.PowerOns, m.Resets, m.Boots)
}

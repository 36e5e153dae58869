package k3s

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// component is a program that this one runs for as long as it lives itself.
type component struct {
	name string
	// path is another program's; empty: this program's own file, which runs the
	// component of that name.
	path string
	args []string
	log  string // file for its output; empty: standard error
	env  []string
}

// processes are the components that run. The first that ends by itself ends all:
// K3s has them in one process.
type processes struct {
	log    *slog.Logger
	failed chan error

	mu      sync.Mutex
	running []*running
}

type running struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}
}

func newProcesses(log *slog.Logger) *processes {
	return &processes{log: log, failed: make(chan error, 16)}
}

// start runs a component. It ends with this process at the latest.
func (p *processes) start(c component) error {
	path := c.path
	if path == "" {
		path = "/proc/self/exe"
	}
	cmd := exec.Command(path, c.args...)
	cmd.Args[0] = c.name
	cmd.Env = append(os.Environ(), c.env...)
	var out io.WriteCloser = os.Stderr
	if c.log != "" {
		if err := os.MkdirAll(filepath.Dir(c.log), 0o755); err != nil {
			return fmt.Errorf("making the log of %s: %w", c.name, err)
		}
		f, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("opening the log of %s: %w", c.name, err)
		}
		out = f
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r := &running{name: c.name, cmd: cmd, ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel sends the signal when the thread ends that started it.
		runtime.LockOSThread()
		defer close(r.ended)
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		err = cmd.Wait()
		if c.log != "" {
			err = errors.Join(err, out.Close())
		}
		p.failed <- fmt.Errorf("%s exited: %w", c.name, errors.Join(err, errExited))
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s: %w", c.name, err)
	}
	p.log.Info("Running "+c.name, "pid", cmd.Process.Pid)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = append(p.running, r)
	return nil
}

var errExited = errors.New("a component that should run has ended")

// grace is how long a component may take to end in an orderly way.
const grace = 5 * time.Second

// stop ends the components, the last started first.
func (p *processes) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.running) - 1; i >= 0; i-- {
		r := p.running[i]
		// An error says that it has ended already.
		_ = r.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-r.ended:
		case <-time.After(grace):
			p.log.Warn("killing a component that does not end", "name", r.name)
			_ = r.cmd.Process.Kill()
			<-r.ended
		}
	}
	p.running = nil
}

// errGiveUp, in an error's chain, says that repeating is of no use.
var errGiveUp = errors.New("giving up")

// until calls f every interval until it returns nil; the error is the last one.
func until(ctx context.Context, interval time.Duration, f func(context.Context) error) error {
	for {
		err := f(ctx)
		if err == nil || errors.Is(err, errGiveUp) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(interval):
		}
	}
}

// Command edge-provision takes powered-off machines to catalogued, imaged
// servers, as a site.hcl declares them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// version is set by the linker.
var version = "0.0.0-dev"

// Exit codes, the same for every command.
const (
	exitOK        = 0
	exitError     = 1
	exitDifferent = 2 // plan -detailed-exitcode: something differs; plan: something could not be asked
)

func main() { os.Exit(process(os.Args[1:])) }

// process is the program as a process of its own, in a world that may be set up
// otherwise.
func process(args []string, otherwise ...func(*app)) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	i := &interruption{stop: make(chan struct{}), cancel: cancel, stderr: os.Stderr}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM) // a signal before this ends the process
	go i.listen(signals)
	a := &app{stop: i.stop, signals: i, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	for _, set := range otherwise {
		set(a)
	}
	return a.execute(ctx, args)
}

// interruption turns the first Ctrl-C into a request to stop, and the second one
// into an order; or hands each to the command that asked for them.
type interruption struct {
	stop   chan struct{}
	cancel context.CancelCauseFunc
	stderr io.Writer

	mu    sync.Mutex
	taker chan<- os.Signal
}

func (i *interruption) listen(signals <-chan os.Signal) {
	asked := 0
	for s := range signals {
		if i.handOver(s) {
			continue
		}
		asked++
		switch asked {
		case 1:
			fmt.Fprintln(i.stderr, "\nStopping. Press Ctrl-C again to stop at once.")
			close(i.stop)
		case 2:
			i.cancel(errInterrupted)
		default:
			os.Exit(exitError)
		}
	}
}

// handOver gives a signal to the command that wants it, if one does and it has
// not left several unread.
func (i *interruption) handOver(s os.Signal) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	select {
	case i.taker <- s:
		return true
	default:
		return false
	}
}

// takeSignals sends each Ctrl-C and SIGTERM to a channel until they are given
// back.
func (a *app) takeSignals(to chan<- os.Signal) (giveBack func()) {
	i := a.signals
	if i == nil {
		return func() {}
	}
	set := func(c chan<- os.Signal) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.taker = c
	}
	set(to)
	return func() { set(nil) }
}

// errInterrupted is why a command ended that somebody stopped.
var errInterrupted = errors.New("interrupted")

// run is the program without its process: arguments and streams in, exit code
// out.
func run(ctx context.Context, stop <-chan struct{}, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stop: stop, stdin: stdin, stdout: stdout, stderr: stderr}
	return a.execute(ctx, args)
}

func (a *app) execute(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(doubleDashes(root, args))
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-ctx.Done():
		case <-a.stop:
			// Only a command that says so has something to finish first.
			if !a.graceful.Load() {
				cancel(errInterrupted)
			}
		}
	}()
	return a.exit(root.ExecuteContext(ctx))
}

// exit shows an error that was not shown yet, and returns the exit code.
func (a *app) exit(err error) int {
	var code exitCode
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	}
	a.fail(err)
	return exitError
}

// exitCode is an error that has been shown already.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// doubleDashes lets users of Terraform write long flags with one dash: -out
// becomes --out. One-letter flags, also with their value attached (-ojson),
// negative numbers and everything after "--" stay as they are.
func doubleDashes(root *cobra.Command, args []string) []string {
	long, short := map[string]bool{"help": true, "version": true}, map[string]bool{}
	collectFlags(root, long, short)
	out := make([]string, 0, len(args))
	for i, arg := range args {
		if arg == "--" {
			return append(out, args[i:]...)
		}
		name, _, _ := strings.Cut(arg, "=")
		if len(name) > 2 && name[0] == '-' && name[1] >= 'a' && name[1] <= 'z' && (long[name[1:]] || !short[name[1:2]]) {
			arg = "-" + arg
		}
		out = append(out, arg)
	}
	return out
}

// collectFlags notes the names of all flags of a command and those below it.
func collectFlags(c *cobra.Command, long, short map[string]bool) {
	note := func(f *pflag.Flag) { long[f.Name], short[f.Shorthand] = true, true }
	c.Flags().VisitAll(note)
	c.PersistentFlags().VisitAll(note)
	for _, below := range c.Commands() {
		collectFlags(below, long, short)
	}
}

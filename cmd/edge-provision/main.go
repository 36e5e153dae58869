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

func main() {
	stop := make(chan struct{})
	ctx, cancel := context.WithCancelCause(context.Background())
	go interrupts(stop, cancel, os.Stderr)
	os.Exit(run(ctx, stop, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// interrupts turns the first Ctrl-C into a request to stop, and the second one
// into an order.
func interrupts(stop chan<- struct{}, cancel context.CancelCauseFunc, stderr io.Writer) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	<-signals
	fmt.Fprintln(stderr, "\nStopping. Press Ctrl-C again to stop at once.")
	close(stop)
	<-signals
	cancel(errInterrupted)
	<-signals
	os.Exit(exitError)
}

// errInterrupted is why a command ended that somebody stopped.
var errInterrupted = errors.New("interrupted")

// run is the program without its process: arguments and streams in, exit code
// out.
func run(ctx context.Context, stop <-chan struct{}, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stop: stop, stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.root()
	root.SetArgs(doubleDashes(root, args))
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-ctx.Done():
		case <-stop:
			// Only a command that says so has something to finish first.
			if !a.graceful.Load() {
				cancel(errInterrupted)
			}
		}
	}()
	err := root.ExecuteContext(ctx)
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

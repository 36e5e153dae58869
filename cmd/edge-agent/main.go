// Command edge-agent runs on machines. As process 1 of the installer it finds
// drivers and network, and does what the controller orders. On a living Linux,
// "edge-agent facts" prints what it sees of the machine as JSON.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/probe"
	"github.com/edge-provision/edge-provision/inventory/probe/lldp"
	"github.com/edge-provision/edge-provision/workflows/agent/boot"
)

// version is set when the installer is built.
var version = "development"

func main() {
	if os.Getpid() == 1 {
		if err := boot.Main(version); err != nil {
			fmt.Fprintln(os.Stderr, "edge-agent:", err)
		}
		// Process 1 must not end: the kernel would panic over it.
		select {}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const usage = `usage: edge-agent facts [-listen DURATION] | version

facts    print the facts of this machine as JSON (as root: disks are read for signatures);
         -listen 35s waits so long to hear by LLDP which port of which switch each
         network port is connected to, unless systemd-networkd knows it
version  print the version

As process 1 of the installer it takes its orders from the kernel command line.
`

// run carries out a command on a living Linux and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("facts", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	listen := flags.Duration("listen", 0, "")
	switch {
	case len(args) == 1 && args[0] == "version":
		fmt.Fprintln(stdout, version)
		return 0
	case len(args) > 0 && args[0] == "facts" && flags.Parse(args[1:]) == nil && flags.NArg() == 0 && *listen >= 0 && *listen <= maxListen:
		facts, err := look(ctx, *listen)
		if err != nil {
			fmt.Fprintln(stderr, "edge-agent: some facts could not be read:", err)
		}
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		if err := out.Encode(facts); err != nil {
			fmt.Fprintln(stderr, "edge-agent: printing the facts:", err)
			return 1
		}
		return 0
	}
	fmt.Fprint(stderr, usage)
	return 2
}

// maxListen bounds -listen: a switch that has said nothing for ten times its usual
// half minute says nothing.
const maxListen = 5 * time.Minute

// look gathers the facts of this machine, and listens meanwhile what its ports are
// connected to: for as long as listen at most, and not for ports of which
// systemd-networkd knows it.
func look(ctx context.Context, listen time.Duration) (inventory.Facts, error) {
	machine := probe.Machine(inventory.MAC{})
	listener := lldp.NewListener(lldp.Config{Ports: func() []string { return probe.Linked(machine) }})
	listening, stop := context.WithCancel(ctx)
	var background sync.WaitGroup
	background.Go(func() { listener.Run(listening) })
	defer background.Wait()
	defer stop()
	patient, cancel := context.WithTimeout(ctx, listen)
	defer cancel()
	source := machine // the listener reads the other one meanwhile
	source.Heard = func(_ context.Context, port string) ([]inventory.Neighbor, error) {
		listener.Wait(patient, func(port string) bool { return probe.Remembers(machine, port) })
		return listener.Heard(port)
	}
	return probe.Collect(ctx, source)
}

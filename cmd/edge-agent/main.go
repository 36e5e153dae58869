// Command edge-agent runs on machines. As process 1 of the installer it finds
// drivers and network, and does what the controller orders. On a living Linux,
// "edge-agent facts" prints what it sees of the machine as JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/probe"
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

const usage = `usage: edge-agent facts | version

facts    print the facts of this machine as JSON (as root: disks are read for signatures)
version  print the version

As process 1 of the installer it takes its orders from the kernel command line.
`

// run carries out a command on a living Linux and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) != 1 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	switch args[0] {
	case "version":
		fmt.Fprintln(stdout, version)
		return 0
	case "facts":
		facts, err := probe.Collect(ctx, probe.Machine(inventory.MAC{}))
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

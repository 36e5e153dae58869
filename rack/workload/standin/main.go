// Program standin takes the place of images that the end-to-end tests cannot
// have: Fluentd, the operator of Portworx with its volumes, and K3s's local-path
// provisioner. It is none of them. It keeps just the part of their contract that
// our steps write to and read from, over the real API server and the real
// kubelet; docs/standin.md says for each what that does not prove.
//
// Which one it is depends on the name it is started under.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// roles by the name of the program.
var roles = map[string]func(ctx context.Context) error{
	"fluentd-standin":     shipLogs,
	"operator":            operatePortworx, // as upstream's Deployment calls it
	"provisioner-standin": provision,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	name := filepath.Base(os.Args[0])
	role, ok := roles[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "standin: %q is none of fluentd-standin, operator and provisioner-standin\n", name)
		os.Exit(2)
	}
	fmt.Fprintf(os.Stderr, "%s: this is a stand-in for tests, not the real program\n", name)
	if err := role(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

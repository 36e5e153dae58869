// Program k3s-standin is a stand-in for K3s in one file, with the real components
// of Kubernetes and the real etcd, which it runs under their own names. Installed
// as "k3s" it keeps K3s's contract; it is not K3s: see docs/standin.md.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/edge-provision/edge-provision/rack/standin/k3s"
)

func main() {
	name := filepath.Base(os.Args[0])
	if run, ok := components[name]; ok {
		// Started as /proc/self/exe, the process would be called "exe".
		if err := os.WriteFile("/proc/self/comm", []byte(name), 0); err != nil {
			fmt.Fprintf(os.Stderr, "%s: naming this process: %v\n", name, err)
		}
		os.Exit(run())
	}
	args := os.Args[1:]
	// K3s is also what the links ctr and crictl beside it lead to.
	if name == "ctr" || name == "crictl" {
		args = append([]string{name}, args...)
	}
	os.Exit(k3s.Main(args))
}

// Program k3s-standin is the real components of Kubernetes and the real etcd in
// one file. It runs the component by whose name it is started.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if run, ok := components[filepath.Base(os.Args[0])]; ok {
		os.Exit(run())
	}
	fmt.Fprintf(os.Stderr, "k3s-standin: %s is not one of the programs in this file\n", os.Args[0])
	os.Exit(2)
}

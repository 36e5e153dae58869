// Package k3s is a stand-in for K3s: it keeps K3s's contract with whoever
// installs, configures and watches it, over the real kube-apiserver,
// kube-controller-manager, kube-scheduler, kubelet, kube-proxy and etcd, and over
// Debian's containerd and runc. It is not K3s and shares no code with it; what it
// does not prove about K3s is listed in docs/standin.md. The contract is that of
// K3s's documentation (docs.k3s.io) in November 2026.
package k3s

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"k8s.io/component-base/version"
)

// Main runs the command line "k3s ARGS…" and returns its exit code.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, args, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "level=fatal msg=%q\n", err.Error())
		return 1
	}
	return 0
}

// Kubectl makes the cluster's administrator kubectl's default on a server.
func Kubectl() {
	const path = "/etc/rancher/k3s/k3s.yaml"
	if _, err := os.Stat(path); err == nil && os.Getenv("KUBECONFIG") == "" {
		// The name and the value are good ones, which is all that can fail.
		_ = os.Setenv("KUBECONFIG", path)
	}
}

const usage = `k3s-standin: not K3s, but a stand-in for tests with K3s's contract

USAGE:
   k3s server|agent [FLAGS]                run a node
   k3s kubectl|ctr|crictl ARGS             ask the cluster or the container runtime
   k3s etcd-snapshot save|ls|prune [FLAGS]
   k3s token print                         print this server's token
   k3s --version
`

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		args = []string{"help"}
	}
	verb, args := args[0], args[1:]
	switch verb {
	case "help", "--help", "-h":
		_, err := io.WriteString(out, usage)
		return err
	case "--version", "-v", "version":
		_, err := fmt.Fprintf(out, "k3s version %s (standin: not K3s, but real Kubernetes parts with its contract)\ngo version %s\n", version.Get().GitVersion, version.Get().GoVersion)
		return err
	case "kubectl":
		return become("/proc/self/exe", append([]string{"kubectl"}, args...))
	case "ctr":
		for name, value := range map[string]string{"CONTAINERD_ADDRESS": containerdSocket, "CONTAINERD_NAMESPACE": "k8s.io"} {
			if err := os.Setenv(name, value); err != nil {
				return err
			}
		}
		return become(debianCtr, append([]string{"ctr"}, args...))
	case "crictl":
		return crictl(ctx, args, out)
	case "server", "agent":
		set, err := load(args, os.Getenv, os.Stderr)
		if err != nil {
			return err
		}
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		log.Info("Starting k3s-standin "+version.Get().GitVersion+", which is not K3s", "role", verb)
		if err := os.WriteFile("/proc/self/comm", []byte("k3s-"+verb), 0); err != nil {
			return fmt.Errorf("naming this process: %w", err)
		}
		if verb == "server" {
			return runServer(ctx, set, log)
		}
		return runAgent(ctx, set, log)
	case "etcd-snapshot":
		return etcdSnapshot(ctx, args, out)
	case "token":
		set, err := load(nil, os.Getenv, io.Discard)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(set.dataDir() + "/server/token")
		if err != nil {
			return err
		}
		_, err = out.Write(b)
		return err
	}
	return fmt.Errorf("no help topic for %q: k3s-standin is not K3s and has not all of its commands", verb)
}

func etcdSnapshot(ctx context.Context, args []string, out io.Writer) error {
	verb := "save"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		verb, args = args[0], args[1:]
	}
	a := snapshotArgs{name: "on-demand", retention: 5}
	var rest []string
	for i := 0; i < len(args); i++ {
		key, value, given := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if key != "name" && key != "snapshot-retention" && key != "etcd-snapshot-retention" {
			rest = append(rest, args[i])
			continue
		}
		if !given {
			if i++; i == len(args) {
				return fmt.Errorf("flag needs an argument: -%s", key)
			}
			value = args[i]
		}
		if key == "name" {
			a.name = value
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return fmt.Errorf("invalid value %q for flag -%s", value, key)
		}
		a.retention = n
	}
	set, err := load(rest, os.Getenv, io.Discard)
	if err != nil {
		return err
	}
	return snapshotCommand(ctx, set, verb, a, out)
}

// become replaces this process by another program.
func become(path string, args []string) error {
	return fmt.Errorf("running %s: %w", path, syscall.Exec(path, args, os.Environ()))
}

// notify tells systemd about this service (sd_notify(3)), if it wants to know,
// and once: children must not speak for it.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state))
		err = errors.Join(err, conn.Close())
	}
	if err != nil {
		slog.Error("telling systemd", "error", err)
	}
}

// Program calico-standin is not Calico: it stands in for tigera-operator and for
// calico-node in tests where their images cannot be had. See docs/standin.md.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/edge-provision/edge-provision/rack/standin/calico"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "calico-standin:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	log.Info("starting calico-standin, which is not Calico", "args", args)
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 50, 100
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	// Under the operator's name it takes the operator's flags, which say nothing
	// that it does.
	if filepath.Base(args[0]) == "operator" {
		pod, err := client.CoreV1().Pods("tigera-operator").Get(ctx, os.Getenv("POD_NAME"), meta.GetOptions{})
		if err != nil {
			return fmt.Errorf("asking for this pod's image: %w", err)
		}
		return (&calico.Operator{Kubernetes: client, Dynamic: objects, Image: pod.Spec.Containers[0].Image, Log: log}).Run(ctx)
	}
	if len(args) != 3 || args[1] != "node" {
		return fmt.Errorf("usage: calico-standin node CIDR")
	}
	address, err := netip.ParseAddr(os.Getenv("NODEIP"))
	if err != nil {
		return fmt.Errorf("NODEIP: %w", err)
	}
	pool, err := netip.ParsePrefix(args[2])
	if err != nil {
		return err
	}
	return (&calico.Node{Kubernetes: client, Dynamic: objects, Name: os.Getenv("NODENAME"), Address: address, Pool: pool, Log: log}).Run(ctx)
}

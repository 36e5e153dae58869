package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// The resources that stand-ins look at.
var (
	storageClusters = schema.GroupVersionResource{Group: "core.libopenstorage.org", Version: "v1", Resource: "storageclusters"}
	storageNodes    = schema.GroupVersionResource{Group: "core.libopenstorage.org", Version: "v1", Resource: "storagenodes"}
	definitions     = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	claims          = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	volumes         = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumes"}
	classes         = schema.GroupVersionResource{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"}
)

// inCluster opens the cluster that this pod runs in.
func inCluster() (dynamic.Interface, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, err
	}
	return dynamic.NewForConfig(config)
}

// every calls look each second. What it could not do it says, and tries again.
func every(ctx context.Context, look func(ctx context.Context) error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := ""
	for {
		if err := look(ctx); err != nil && err.Error() != last {
			last = err.Error()
			fmt.Fprintln(os.Stderr, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

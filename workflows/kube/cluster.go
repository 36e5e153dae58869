package kube

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrNotFound says that the API server knows no such object.
var ErrNotFound = errors.New("there is no such object")

// Cluster is one Kubernetes cluster. It is safe for concurrent use.
type Cluster struct {
	config Config
}

// Open reads the kubeconfig; it does not ask the server anything.
func Open(config Config) (*Cluster, error) { return &Cluster{config: config}, nil }

var errSoon = errors.New("this part of the package is being written")

func (c *Cluster) Version(ctx context.Context) (string, error) { return "", errSoon }
func (c *Cluster) Resolve(ctx context.Context, set Set, opts Options) (Set, error) {
	return set, errSoon
}
func (c *Cluster) Diff(ctx context.Context, set Set, opts Options) (Diff, error) {
	return Diff{}, errSoon
}
func (c *Cluster) Apply(ctx context.Context, set Set, opts Options) error { return errSoon }
func (c *Cluster) Wait(ctx context.Context, set Set, opts Options) error  { return errSoon }
func (c *Cluster) Loss(ctx context.Context, set Set, opts Options) ([]string, error) {
	return nil, errSoon
}
func (c *Cluster) Remove(ctx context.Context, set Set, opts Options, data bool) error {
	return errSoon
}
func (c *Cluster) Get(ctx context.Context, apiVersion, kind, namespace, name string) (Object, error) {
	return nil, errSoon
}
func (c *Cluster) List(ctx context.Context, apiVersion, kind, namespace, selector string) ([]Object, error) {
	return nil, fmt.Errorf("%w", errSoon)
}
func (c *Cluster) WaitFor(ctx context.Context, apiVersion, kind, namespace, name string, bound time.Duration, done func(Object) (Status, error)) (Object, error) {
	return nil, errSoon
}

package kube

import (
	"context"
	"fmt"
	"net/url"
)

// AskService sends a GET to a port of a service through the API server, so that
// nothing but the API server has to be reachable from here. Source: Kubernetes
// API, the proxy subresource of services.
func (c *Cluster) AskService(ctx context.Context, namespace, service string, port int, path string, query url.Values) ([]byte, error) {
	return c.raw(ctx, fmt.Sprintf("/api/v1/namespaces/%s/services/%s:%d/proxy%s", url.PathEscape(namespace), url.PathEscape(service), port, path), query)
}

// AskPod sends a GET to a port of a pod through the API server.
func (c *Cluster) AskPod(ctx context.Context, namespace, pod string, port int, path string) ([]byte, error) {
	return c.raw(ctx, fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy%s", url.PathEscape(namespace), url.PathEscape(pod), port, path), nil)
}

// Server is the host and port of the API server.
func (c *Cluster) Server() string { return c.server.Host }

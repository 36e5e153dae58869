package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// resource is how a kind is addressed.
type resource struct {
	gvr        schema.GroupVersionResource
	namespaced bool
}

// UnknownKindError says that the API server does not serve a kind.
type UnknownKindError struct {
	Kind schema.GroupVersionKind
	// Versions are those of the group that are served.
	Versions []string
}

func (e *UnknownKindError) Error() string {
	switch {
	case len(e.Versions) == 0:
		return fmt.Sprintf("the cluster does not know %s of %s; apply its definition (CustomResourceDefinition) first, or check the spelling",
			e.Kind.Kind, e.Kind.GroupVersion())
	case slices.Contains(e.Versions, e.Kind.Version):
		return fmt.Sprintf("the cluster serves %s, but no %s in it; apply its definition (CustomResourceDefinition) first, or check the spelling",
			e.Kind.GroupVersion(), e.Kind.Kind)
	}
	return fmt.Sprintf("the cluster does not serve %s of %s; of that group it serves %s",
		e.Kind.Kind, e.Kind.GroupVersion(), strings.Join(e.Versions, ", "))
}

// lookup asks how a kind is addressed. Only answers that it is served are kept:
// what is not there may come.
func (c *Cluster) lookup(ctx context.Context, gvk schema.GroupVersionKind) (resource, error) {
	c.mu.Lock()
	r, ok := c.served[gvk.GroupVersion()][gvk.Kind]
	c.mu.Unlock()
	if ok {
		return r, nil
	}
	kinds, err := c.ask(ctx, gvk.GroupVersion())
	if err != nil && !errors.Is(err, ErrNotFound) {
		return resource{}, err
	}
	c.mu.Lock()
	c.served[gvk.GroupVersion()] = kinds
	c.mu.Unlock()
	if r, ok := kinds[gvk.Kind]; ok {
		return r, nil
	}
	versions, err := c.versions(ctx, gvk.Group)
	if err != nil {
		return resource{}, err
	}
	return resource{}, &UnknownKindError{Kind: gvk, Versions: versions}
}

func apiPath(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.Group + "/" + gv.Version
}

// ask reads the resources of one version of a group.
func (c *Cluster) ask(ctx context.Context, gv schema.GroupVersion) (map[string]resource, error) {
	body, err := c.raw(ctx, apiPath(gv), nil)
	if err != nil {
		return nil, err
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, &UnreachableError{Server: c.server.Host, Operation: "asking for " + apiPath(gv), Err: err}
	}
	kinds := map[string]resource{}
	for _, r := range list.APIResources {
		// Subresources such as deployments/scale have kinds of their own.
		if !strings.Contains(r.Name, "/") {
			kinds[r.Kind] = resource{gv.WithResource(r.Name), r.Namespaced}
		}
	}
	return kinds, nil
}

// versions are the served versions of a group.
func (c *Cluster) versions(ctx context.Context, group string) ([]string, error) {
	if group == "" {
		return []string{"v1"}, nil
	}
	body, err := c.raw(ctx, "/apis/"+group, nil)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var g metav1.APIGroup
	if err := json.Unmarshal(body, &g); err != nil {
		return nil, &UnreachableError{Server: c.server.Host, Operation: "asking for /apis/" + group, Err: err}
	}
	var out []string
	for _, v := range g.Versions {
		out = append(out, v.Version)
	}
	return out, nil
}

// at is the door to the objects of a resource.
func (c *Cluster) at(r resource, namespace string) dynamic.ResourceInterface {
	if r.namespaced {
		return c.client.Resource(r.gvr).Namespace(namespace)
	}
	return c.client.Resource(r.gvr)
}

// Get reads one object; the error is ErrNotFound when it, or its kind, is not
// there.
func (c *Cluster) Get(ctx context.Context, apiVersion, kind, namespace, name string) (Object, error) {
	r, err := c.kind(ctx, apiVersion, kind)
	if err != nil {
		return nil, err
	}
	return c.get(ctx, r, ID{Group: r.gvr.Group, Kind: kind, Namespace: namespace, Name: name})
}

func (c *Cluster) get(ctx context.Context, r resource, id ID) (Object, error) {
	o, err := c.at(r, id.Namespace).Get(ctx, id.Name, metav1.GetOptions{})
	return o, c.asked(ctx, "reading "+id.String(), err)
}

// kind is lookup for a caller who takes a kind that is not served as one that
// has no objects.
func (c *Cluster) kind(ctx context.Context, apiVersion, kind string) (resource, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return resource{}, err
	}
	r, err := c.lookup(ctx, gv.WithKind(kind))
	var unknown *UnknownKindError
	if errors.As(err, &unknown) {
		return r, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return r, err
}

// maxListed bounds the objects of one List.
const maxListed = 20000

// List reads the objects of a kind that a label selector fits, in all
// namespaces when namespace is empty. A kind that is not served has none.
func (c *Cluster) List(ctx context.Context, apiVersion, kind, namespace, selector string) ([]Object, error) {
	r, err := c.kind(ctx, apiVersion, kind)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return c.list(ctx, r, kind, namespace, metav1.ListOptions{LabelSelector: selector})
}

func (c *Cluster) list(ctx context.Context, r resource, kind, namespace string, options metav1.ListOptions) ([]Object, error) {
	var out []Object
	options.Limit = 500
	for {
		page, err := c.at(r, namespace).List(ctx, options)
		if err != nil {
			return nil, c.asked(ctx, "listing objects of kind "+kind, err)
		}
		for i := range page.Items {
			out = append(out, &page.Items[i])
		}
		options.Continue = page.GetContinue()
		if options.Continue == "" {
			return out, nil
		}
		if len(out) > maxListed {
			return nil, fmt.Errorf("listing objects of kind %s: there are more than %d", kind, maxListed)
		}
	}
}

// Package volume asks a storage class for a volume, writes to it from one pod,
// reads from another, and gives it back: the only proof of storage that does not
// take anybody's word.
package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// Cluster is what the canary needs of a cluster; *kube.Cluster implements it.
type Cluster interface {
	Apply(ctx context.Context, set kube.Set, opts kube.Options) error
	Remove(ctx context.Context, set kube.Set, opts kube.Options, data bool) error
	WaitFor(ctx context.Context, apiVersion, kind, namespace, name string, bound time.Duration, done func(kube.Object) (kube.Status, error)) (kube.Object, error)
}

// Canary is one try of one storage class.
type Canary struct {
	Cluster Cluster
	// Class is the storage class that is tried. The volume is made by a twin of
	// it that deletes what it made, because a class that retains would leave the
	// canary's volume behind. Shared asks for a volume that pods of several nodes
	// may write to.
	Class  kube.Object
	Shared bool
	// Image has a shell.
	Image string
	// Owner is the step's; the canary's objects are owned below it.
	Owner kube.Owner
}

const (
	// bound is how long a volume may take to be made and a pod to use it.
	bound = 5 * time.Minute
	word  = "edge-provision was here"
)

// name is that of the canary's namespace and class. Two steps may try their
// classes at the same time.
func (c Canary) name() string {
	sum := sha256.Sum256([]byte(c.Owner.Catalog + " " + c.Owner.Address + " " + c.Class.GetName()))
	return "edge-provision-canary-" + hex.EncodeToString(sum[:4])
}

// Run returns nil when what one pod wrote another has read. It leaves nothing
// behind, and begins with what a canary that was cut off has left.
func (c Canary) Run(ctx context.Context) (err error) {
	if err := c.clean(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.clean(context.WithoutCancel(ctx))) }()
	mode := "ReadWriteOnce"
	if c.Shared {
		mode = "ReadWriteMany"
	}
	claim := kube.Make("v1", "PersistentVolumeClaim", c.name(), "canary", map[string]any{"spec": map[string]any{
		"storageClassName": c.name(), "accessModes": []any{mode},
		"resources": map[string]any{"requests": map[string]any{"storage": "64Mi"}},
	}})
	common := []kube.Object{c.namespace(), c.twin(), claim}
	for _, pod := range []struct{ name, script string }{
		{"writer", "echo '" + word + "' >/canary/word && sync"},
		{"reader", "grep -q '" + word + "' /canary/word"},
	} {
		if err := c.run(ctx, common, pod.name, pod.script); err != nil {
			return fmt.Errorf("storage class %s: %s: %w", c.Class.GetName(), pod.name, err)
		}
	}
	return nil
}

// schedules begins the names by which a class has Stork keep its volumes, at once for
// the first time: what is kept of the canary's would outlive it.
const schedules = "snapshotschedule.stork.libopenstorage.org/"

// twin is the class with another name, which deletes what it made and keeps nothing.
func (c Canary) twin() kube.Object {
	twin := c.Class.DeepCopy()
	twin.SetName(c.name())
	twin.Object["reclaimPolicy"] = "Delete"
	parameters, _ := twin.Object["parameters"].(map[string]any)
	maps.DeleteFunc(parameters, func(key string, _ any) bool { return strings.HasPrefix(key, schedules) })
	annotations := twin.GetAnnotations()
	maps.DeleteFunc(annotations, func(key, _ string) bool { return strings.HasPrefix(key, schedules) })
	twin.SetAnnotations(annotations)
	return twin
}

// namespace admits a pod of root where that is needed, which a cluster may refuse
// elsewhere.
func (c Canary) namespace() kube.Object {
	if !c.Shared {
		return kube.Make("v1", "Namespace", "", c.name(), nil)
	}
	return kube.Make("v1", "Namespace", "", c.name(), map[string]any{
		"metadata": map[string]any{"labels": map[string]any{"pod-security.kubernetes.io/enforce": "baseline"}},
	})
}

// user is who writes and reads. The kubelet hands a volume to a group only when one node
// at a time mounts it, unless its driver says otherwise (Kubernetes, CSIDriver,
// fsGroupPolicy); one for many belongs to root.
func (c Canary) user() map[string]any {
	out := map[string]any{"runAsNonRoot": true, "runAsUser": int64(65534), "fsGroup": int64(65534)}
	if c.Shared {
		out = map[string]any{"runAsUser": int64(0)}
	}
	out["seccompProfile"] = map[string]any{"type": "RuntimeDefault"}
	return out
}

// run applies the claim and one pod and waits for the pod's end. The pod before
// it is pruned, so that a volume for one node at a time is free again.
func (c Canary) run(ctx context.Context, common []kube.Object, name, script string) error {
	set, err := kube.NewSet(append([]kube.Object{c.pod(name, script)}, copies(common)...)...)
	if err != nil {
		return err
	}
	if err := c.Cluster.Apply(ctx, set, c.options()); err != nil {
		return err
	}
	_, err = c.Cluster.WaitFor(ctx, "v1", "Pod", c.name(), name, bound, ended)
	return err
}

func copies(objects []kube.Object) []kube.Object {
	out := make([]kube.Object, len(objects))
	for i, o := range objects {
		out[i] = o.DeepCopy()
	}
	return out
}

// options: a claim of a class that binds late has no volume before its pod.
func (c Canary) options() kube.Options {
	return kube.Options{Owner: kube.Owner{Catalog: c.Owner.Catalog, Address: c.Owner.Address + "/canary/" + c.Class.GetName()}, NoWait: true}
}

// clean gives the volume back; it holds nothing but the canary's word.
func (c Canary) clean(ctx context.Context) error {
	return c.Cluster.Remove(ctx, kube.Set{}, c.options(), true)
}

func ended(pod kube.Object) (kube.Status, error) {
	phase, _, _ := unstructured.NestedString(pod.Object, "status", "phase")
	return kube.Status{Done: phase == "Succeeded", Failed: phase == "Failed", Reason: "its phase is " + phase}, nil
}

func (c Canary) pod(name, script string) kube.Object {
	return kube.Make("v1", "Pod", c.name(), name, map[string]any{"spec": map[string]any{
		"restartPolicy": "Never", "terminationGracePeriodSeconds": int64(0), "automountServiceAccountToken": false,
		"securityContext": c.user(),
		"containers": []any{map[string]any{
			"name": "canary", "image": c.Image, "imagePullPolicy": "IfNotPresent", "command": []any{"sh", "-c", script},
			"volumeMounts":    []any{map[string]any{"name": "canary", "mountPath": "/canary"}},
			"securityContext": map[string]any{"allowPrivilegeEscalation": false, "capabilities": map[string]any{"drop": []any{"ALL"}}},
		}},
		"volumes": []any{map[string]any{"name": "canary", "persistentVolumeClaim": map[string]any{"claimName": "canary"}}},
	}})
}

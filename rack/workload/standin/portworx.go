package main

import (
	"context"
	"reflect"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// failAnnotation on a StorageCluster keeps this stand-in from reporting that it works;
// the annotation's value is what it says instead.
const failAnnotation = "standin.edge-provision.io/fail"

// deleteFinalizer is the operator's own (pkg/controller/storagecluster).
const deleteFinalizer = "operator.libopenstorage.org/delete"

// operatePortworx does to the objects of Portworx's API what Portworx's operator does, as
// far as its sources tell: it writes its definitions anew when it starts, completes a
// StorageCluster, says how it comes up, and holds it until it may go. Each node that it
// names has a StorageNode, and Stork's definition comes. No disk is touched.
func operatePortworx(ctx context.Context) error {
	client, err := inCluster()
	if err != nil {
		return err
	}
	if err := rewriteDefinitions(ctx, client); err != nil {
		return err
	}
	return every(ctx, func(ctx context.Context) error {
		list, err := client.Resource(storageClusters).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			err := operate(ctx, client, &list.Items[i])
			// Somebody else wrote it meanwhile: it is looked at again.
			if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				return err
			}
		}
		return nil
	})
}

// rewriteDefinitions replaces each definition by one of the operator's own, which has
// none of the labels that the one in the cluster was given.
func rewriteDefinitions(ctx context.Context, client dynamic.Interface) error {
	for _, r := range []schema.GroupVersionResource{storageClusters, storageNodes} {
		d, err := client.Resource(definitions).Get(ctx, r.Resource+"."+r.Group, metav1.GetOptions{})
		if err != nil {
			return err
		}
		d.SetLabels(nil)
		d.SetManagedFields(nil)
		if _, err := client.Resource(definitions).Update(ctx, d, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

func operate(ctx context.Context, client dynamic.Interface, cluster *unstructured.Unstructured) error {
	resource := client.Resource(storageClusters).Namespace(cluster.GetNamespace())
	if cluster.GetDeletionTimestamp() != nil {
		return takeDown(ctx, client, cluster)
	}
	was := cluster.DeepCopy()
	if err := complete(cluster); err != nil {
		return err
	}
	if !reflect.DeepEqual(was.Object, cluster.Object) {
		_, err := resource.Update(ctx, cluster, metav1.UpdateOptions{})
		return err
	}
	phase, condition := next(cluster)
	if phase == "Running" {
		if err := schedules(ctx, client); err != nil {
			return err
		}
		nodes, _, err := unstructured.NestedSlice(cluster.Object, "spec", "nodes")
		if err != nil {
			return err
		}
		for _, n := range nodes {
			m, _ := n.(map[string]any)
			name, _, _ := unstructured.NestedString(m, "selector", "nodeName")
			if err := online(ctx, client, cluster, name); err != nil {
				return err
			}
		}
	}
	return status(ctx, resource, cluster, map[string]any{"phase": phase, "clusterName": cluster.GetName(), "clusterUid": string(cluster.GetUID()), "conditions": []any{condition}})
}

// complete is what the operator writes into a StorageCluster: its finalizer, all disks
// where none are named (setPortworxDefaults), and none of the values that its types leave
// out.
func complete(cluster *unstructured.Unstructured) error {
	if finalizers := cluster.GetFinalizers(); !slices.Contains(finalizers, deleteFinalizer) {
		cluster.SetFinalizers(append(finalizers, deleteFinalizer))
	}
	for _, part := range [][]string{{"monitoring", "telemetry"}, {"autopilot"}, {"stork"}, {"csi"}} {
		path := append(append([]string{"spec"}, part...), "enabled")
		if on, there, _ := unstructured.NestedBool(cluster.Object, path...); there && !on {
			unstructured.RemoveNestedField(cluster.Object, path...)
		}
	}
	storage, _, err := unstructured.NestedMap(cluster.Object, "spec", "storage")
	if err != nil || storage["devices"] != nil || storage["useAll"] != nil {
		return err
	}
	return unstructured.SetNestedField(cluster.Object, true, "spec", "storage", "useAll")
}

// next is the phase after the one that a StorageCluster is in: each comes up over an
// error, as what somebody wrote at the same moment is one to the operator.
func next(cluster *unstructured.Unstructured) (phase string, condition map[string]any) {
	was, _, _ := unstructured.NestedString(cluster.Object, "status", "phase")
	why := cluster.GetAnnotations()[failAnnotation]
	switch {
	case why != "":
		return "Degraded", runtimeState("Offline", why)
	case was == "":
		return "Initializing", runtimeState("Unknown", "Portworx is being installed")
	case was == "Initializing":
		return "Degraded", runtimeState("NotInQuorum", "too few nodes are up yet")
	}
	return "Running", runtimeState("Online", "")
}

func runtimeState(state, message string) map[string]any {
	out := map[string]any{"source": "Portworx", "type": "RuntimeState", "status": state}
	if message != "" {
		out["message"] = message
	}
	return out
}

// takeDown lets a StorageCluster go, which volumes hold up unless it says that they do
// not.
func takeDown(ctx context.Context, client dynamic.Interface, cluster *unstructured.Unstructured) error {
	resource := client.Resource(storageClusters).Namespace(cluster.GetNamespace())
	if ignored, _, _ := unstructured.NestedBool(cluster.Object, "spec", "deleteStrategy", "ignoreVolumes"); !ignored {
		all, err := client.Resource(volumes).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all.Items, func(v unstructured.Unstructured) bool {
			return v.GetAnnotations()["pv.kubernetes.io/provisioned-by"] == "pxd.portworx.com"
		}) {
			return status(ctx, resource, cluster, map[string]any{"phase": "Uninstalling", "conditions": []any{
				map[string]any{"source": "Portworx", "type": "Delete", "status": "Failed", "message": "there are volumes of Portworx"},
			}})
		}
	}
	cluster.SetFinalizers(slices.DeleteFunc(cluster.GetFinalizers(), func(f string) bool { return f == deleteFinalizer }))
	_, err := resource.Update(ctx, cluster, metav1.UpdateOptions{})
	return err
}

// status writes a status when it is another.
func status(ctx context.Context, resource dynamic.ResourceInterface, o *unstructured.Unstructured, want map[string]any) error {
	now, _, err := unstructured.NestedMap(o.Object, "status")
	if err != nil {
		return err
	}
	o = o.DeepCopy()
	for k, v := range want {
		if err := unstructured.SetNestedField(o.Object, v, "status", k); err != nil {
			return err
		}
	}
	if reflect.DeepEqual(now, o.Object["status"]) {
		return nil
	}
	_, err = resource.UpdateStatus(ctx, o, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		// The definition has no status subresource.
		_, err = resource.Update(ctx, o, metav1.UpdateOptions{})
	}
	return err
}

// online makes the StorageNode of one node.
func online(ctx context.Context, client dynamic.Interface, cluster *unstructured.Unstructured, name string) error {
	resource := client.Resource(storageNodes).Namespace(cluster.GetNamespace())
	node, err := resource.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		node = &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "core.libopenstorage.org/v1", "kind": "StorageNode",
			"metadata": map[string]any{"name": name, "ownerReferences": []any{map[string]any{
				"apiVersion": "core.libopenstorage.org/v1", "kind": "StorageCluster", "name": cluster.GetName(), "uid": string(cluster.GetUID()),
			}}},
			"spec": map[string]any{},
		}}
		node, err = resource.Create(ctx, node, metav1.CreateOptions{})
	}
	if err != nil {
		return err
	}
	return status(ctx, resource, node, map[string]any{"phase": "Online"})
}

// schedules brings the definition of Stork's SchedulePolicy, without a schema.
func schedules(ctx context.Context, client dynamic.Interface) error {
	const name = "schedulepolicies.stork.libopenstorage.org"
	if _, err := client.Resource(definitions).Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err
	}
	_, err := client.Resource(definitions).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"group": "stork.libopenstorage.org", "scope": "Cluster",
			"names": map[string]any{"kind": "SchedulePolicy", "plural": "schedulepolicies", "singular": "schedulepolicy"},
			"versions": []any{map[string]any{
				"name": "v1alpha1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
			}},
		},
	}}, metav1.CreateOptions{})
	return err
}

package main

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

// failAnnotation on a StorageCluster makes this stand-in report a failure, with
// the annotation's value as its reason.
const failAnnotation = "standin.edge-provision.io/fail"

// operatePortworx gives every StorageCluster the status that Portworx's operator
// gives a cluster that works, a StorageNode for each node that it names, and the
// definition that Stork brings. No disk is touched.
func operatePortworx(ctx context.Context) error {
	client, err := inCluster()
	if err != nil {
		return err
	}
	return every(ctx, func(ctx context.Context) error {
		list, err := client.Resource(storageClusters).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			if err := operate(ctx, client, &list.Items[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func operate(ctx context.Context, client dynamic.Interface, cluster *unstructured.Unstructured) error {
	phase, reason := "Running", ""
	if why := cluster.GetAnnotations()[failAnnotation]; why != "" {
		phase, reason = "Failed", why
	}
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
	return status(ctx, client.Resource(storageClusters).Namespace(cluster.GetNamespace()), cluster, map[string]any{"phase": phase, "reason": reason})
}

// status writes a status when it is another.
func status(ctx context.Context, resource dynamic.ResourceInterface, o *unstructured.Unstructured, want map[string]any) error {
	same := true
	for k, v := range want {
		got, _, _ := unstructured.NestedString(o.Object, "status", k)
		same = same && got == v
	}
	if same {
		return nil
	}
	o = o.DeepCopy()
	for k, v := range want {
		if err := unstructured.SetNestedField(o.Object, v, "status", k); err != nil {
			return err
		}
	}
	_, err := resource.UpdateStatus(ctx, o, metav1.UpdateOptions{})
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

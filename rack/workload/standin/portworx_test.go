package main

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
)

// portworx is an API server with a definition, a StorageCluster that names one node, and
// what else there is.
func portworx(t *testing.T, objects ...runtime.Object) *fake.FakeDynamicClient {
	t.Helper()
	objects = append(objects,
		&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
			"metadata": map[string]any{"name": "storageclusters.core.libopenstorage.org", "labels": map[string]any{"ours": "yes"}},
		}},
		&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": "storagenodes.core.libopenstorage.org"},
		}},
		&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "core.libopenstorage.org/v1", "kind": "StorageCluster", "metadata": map[string]any{"name": "clinic", "namespace": "portworx", "uid": "u"},
			"spec": map[string]any{
				"nodes":      []any{map[string]any{"selector": map[string]any{"nodeName": "a"}}},
				"monitoring": map[string]any{"telemetry": map[string]any{"enabled": false}},
			},
		}})
	return fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		storageClusters: "StorageClusterList", storageNodes: "StorageNodeList", definitions: "CustomResourceDefinitionList", volumes: "PersistentVolumeList",
	}, objects...)
}

func look(t *testing.T, client *fake.FakeDynamicClient) *unstructured.Unstructured {
	t.Helper()
	cluster, err := client.Resource(storageClusters).Namespace("portworx").Get(t.Context(), "clinic", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return cluster
}

func TestTheOperatorWritesItsDefinitionsAnew(t *testing.T) {
	client := portworx(t)
	if err := rewriteDefinitions(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	d, err := client.Resource(definitions).Get(t.Context(), "storageclusters.core.libopenstorage.org", metav1.GetOptions{})
	if err != nil || len(d.GetLabels()) > 0 {
		t.Errorf("the definition has labels %v, %v; want none", d.GetLabels(), err)
	}
}

func TestAStorageClusterComesUpOverAnErrorAndIsCompleted(t *testing.T) {
	client := portworx(t)
	var phases []string
	for range 5 {
		if err := operate(t.Context(), client, look(t, client)); err != nil {
			t.Fatal(err)
		}
		phase, _, _ := unstructured.NestedString(look(t, client).Object, "status", "phase")
		phases = append(phases, phase)
	}
	if want := []string{"", "Initializing", "Degraded", "Running", "Running"}; !slices.Equal(phases, want) {
		t.Errorf("its phases are %q; want %q", phases, want)
	}
	cluster := look(t, client)
	all, _, _ := unstructured.NestedBool(cluster.Object, "spec", "storage", "useAll")
	_, off, _ := unstructured.NestedBool(cluster.Object, "spec", "monitoring", "telemetry", "enabled")
	id, _, _ := unstructured.NestedString(cluster.Object, "status", "clusterUid")
	if !all || off || id != "u" || !slices.Contains(cluster.GetFinalizers(), deleteFinalizer) {
		t.Errorf("useAll is %t, a false value is there: %t, its id is %q, its finalizers are %q", all, off, id, cluster.GetFinalizers())
	}
	if _, err := client.Resource(storageNodes).Namespace("portworx").Get(t.Context(), "a", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	cluster.SetAnnotations(map[string]string{failAnnotation: "no quorum"})
	if err := operate(t.Context(), client, cluster); err != nil {
		t.Fatal(err)
	}
	if conditions, _, _ := unstructured.NestedSlice(look(t, client).Object, "status", "conditions"); len(conditions) != 1 || conditions[0].(map[string]any)["message"] != "no quorum" {
		t.Errorf("its conditions are %v; want what the annotation says", conditions)
	}
}

func TestVolumesHoldUpAStorageClusterUnlessTheyAreIgnored(t *testing.T) {
	client := portworx(t, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolume",
		"metadata": map[string]any{"name": "pvc-1", "annotations": map[string]any{"pv.kubernetes.io/provisioned-by": "pxd.portworx.com"}},
	}})
	cluster := look(t, client)
	cluster.SetFinalizers([]string{deleteFinalizer, "other"})
	now := metav1.Now()
	cluster.SetDeletionTimestamp(&now)
	for ignore, want := range map[bool]string{false: deleteFinalizer + " other", true: "other"} {
		c := cluster.DeepCopy()
		if err := unstructured.SetNestedMap(c.Object, map[string]any{"ignoreVolumes": ignore}, "spec", "deleteStrategy"); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Resource(storageClusters).Namespace("portworx").Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := operate(t.Context(), client, c); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(look(t, client).GetFinalizers(), " "); got != want {
			t.Errorf("with ignoreVolumes %t its finalizers are %q; want %q", ignore, got, want)
		}
	}
}

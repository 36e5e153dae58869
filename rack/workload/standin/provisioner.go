package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

// provisioners are those that this stand-in takes the place of.
var provisioners = []string{"pxd.portworx.com", "rancher.io/local-path"}

// volumeDir is where volumes lie, on the node and in this pod.
const volumeDir = "/var/lib/standin-volumes"

// provision makes a directory on this node for every claim whose pod has been
// placed here, and a PersistentVolume that is tied to this node. Nothing is
// replicated, and nothing is shared between nodes, whatever the class asks for.
func provision(ctx context.Context) error {
	client, err := inCluster()
	if err != nil {
		return err
	}
	p := provisioner{client: client, node: os.Getenv("NODE_NAME")}
	return every(ctx, p.look)
}

type provisioner struct {
	client dynamic.Interface
	node   string
}

func (p provisioner) look(ctx context.Context) error {
	list, err := p.client.Resource(claims).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		if err := p.claim(ctx, &list.Items[i]); err != nil {
			return err
		}
	}
	return p.release(ctx)
}

func (p provisioner) claim(ctx context.Context, claim *unstructured.Unstructured) error {
	phase, _, _ := unstructured.NestedString(claim.Object, "status", "phase")
	if phase != "Pending" || claim.GetAnnotations()["volume.kubernetes.io/selected-node"] != p.node {
		return nil
	}
	className, _, _ := unstructured.NestedString(claim.Object, "spec", "storageClassName")
	class, err := p.client.Resource(classes).Get(ctx, className, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	by, _, _ := unstructured.NestedString(class.Object, "provisioner")
	if !slices.Contains(provisioners, by) {
		return nil
	}
	name := "pvc-" + string(claim.GetUID())
	path := filepath.Join(volumeDir, name)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	// The umask took something away; pods run as whoever they are.
	if err := os.Chmod(path, 0o777); err != nil {
		return err
	}
	reclaim, _, _ := unstructured.NestedString(class.Object, "reclaimPolicy")
	modes, _, _ := unstructured.NestedSlice(claim.Object, "spec", "accessModes")
	size, _, _ := unstructured.NestedString(claim.Object, "spec", "resources", "requests", "storage")
	_, err = p.client.Resource(volumes).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolume",
		"metadata": map[string]any{"name": name, "annotations": map[string]any{"pv.kubernetes.io/provisioned-by": by}},
		"spec": map[string]any{
			"capacity": map[string]any{"storage": size}, "accessModes": modes,
			"persistentVolumeReclaimPolicy": reclaim, "storageClassName": className,
			"hostPath": map[string]any{"path": path, "type": "Directory"},
			"claimRef": map[string]any{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.GetNamespace(), "name": claim.GetName(), "uid": string(claim.GetUID())},
			"nodeAffinity": map[string]any{"required": map[string]any{"nodeSelectorTerms": []any{map[string]any{"matchExpressions": []any{
				map[string]any{"key": "kubernetes.io/hostname", "operator": "In", "values": []any{p.node}},
			}}}}},
		},
	}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// release takes back volumes of this node whose claims are gone.
func (p provisioner) release(ctx context.Context) error {
	list, err := p.client.Resource(volumes).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, v := range list.Items {
		phase, _, _ := unstructured.NestedString(v.Object, "status", "phase")
		reclaim, _, _ := unstructured.NestedString(v.Object, "spec", "persistentVolumeReclaimPolicy")
		path, _, _ := unstructured.NestedString(v.Object, "spec", "hostPath", "path")
		if phase != "Released" || reclaim != "Delete" || filepath.Dir(path) != volumeDir || !slices.Contains(provisioners, v.GetAnnotations()["pv.kubernetes.io/provisioned-by"]) {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			continue // it lies on another node
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if err := p.client.Resource(volumes).Delete(ctx, v.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

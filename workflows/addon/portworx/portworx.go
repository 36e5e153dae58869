// Package portworx declares Portworx Enterprise on K3s: upstream's operator, a
// StorageCluster that names its disks, storage classes for databases and for
// files shared by pods, and snapshots. The data plane is proprietary; what this
// package knows of it is what Portworx documents.
//
// Disks are named by their stable id, from the catalog's facts. Portworx is never
// told to use all disks it finds: the one with the operating system is among
// them.
package portworx

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// Namespace is where the operator and the StorageCluster live.
const Namespace = "portworx"

// Config is what Portworx is installed with.
type Config struct {
	// Upstream is the operator with its CRDs, as the chart renders them. A
	// StorageCluster and hooks in it are left out.
	Upstream []kube.Object
	// Name of the StorageCluster.
	Name string
	// Image is Portworx's own, such as portworx/oci-monitor:3.6.1.
	Image string
	// Registry replaces the registries of all images; empty keeps them.
	Registry string
	// Preloaded says that images are on the nodes already, so that nothing is
	// pulled that is there.
	Preloaded bool
	// Versions is the content of the px-versions ConfigMap, by which the
	// operator knows its components' images without the internet.
	Versions string
	Nodes    []Node
	// Kernels are the series that this release supports; see Preflight.
	Kernels []string
	// Waived are requirements that are not checked; see Preflight.
	Waived []string
	// DataInterface and ManagementInterface name the ports that storage and
	// control use; empty leaves the choice to Portworx.
	DataInterface, ManagementInterface string
	// Telemetry sends diagnostics to Pure Storage; it needs the internet.
	Telemetry bool
	// Snapshots is how often volumes that ask for it are kept; zero: never.
	Snapshots Snapshots
}

// Node is one machine of the storage cluster.
type Node struct {
	// Machine is its address in site.hcl, for messages.
	Machine string
	// Name is the Kubernetes node's.
	Name string
	// Devices are the /dev/disk/by-id names of its data disks.
	Devices []string
	// KVDB and Metadata are disks of their own for the key-value store and for
	// Portworx's metadata; empty keeps both on the data disks.
	KVDB, Metadata string
	Cores          int
	// MemoryBytes is what pods may use of its memory, or where that is not known what
	// is built in.
	MemoryBytes int64
	Kernel      string // release, such as 6.1.0-40-amd64; empty: not known
	// KVDBBytes, MetadataBytes and DeviceBytes are the sizes behind the names.
	KVDBBytes, MetadataBytes int64
	DeviceBytes              []int64
	// Occupied are disks that were asked for and carry what is not known to be this
	// StorageCluster's, and Doubted those that were its own and do not look any more as
	// it left them. Each is a clause for a person. None of them is given to Portworx.
	Occupied, Doubted []string
}

// Snapshots is a schedule by which volumes are kept.
type Snapshots struct {
	// EveryMinutes between two, and how many are kept.
	EveryMinutes, Retain int
}

// Set is all objects of an installation.
func (c Config) Set() (kube.Set, error) {
	if !slices.ContainsFunc(c.Upstream, func(o kube.Object) bool { return o.GetKind() == "Deployment" }) {
		return kube.Set{}, errors.New("portworx: the upstream manifests hold no Deployment: the operator is missing")
	}
	if problems := Preflight(c.Nodes, c.Kernels, c.Waived); len(problems) > 0 {
		return kube.Set{}, fmt.Errorf("portworx: %s", strings.Join(problems, "\n  "))
	}
	objects := []kube.Object{kube.Make("v1", "Namespace", "", Namespace, map[string]any{
		"metadata": map[string]any{"labels": map[string]any{"pod-security.kubernetes.io/enforce": "privileged"}},
	})}
	for _, o := range c.Upstream {
		if !declares(o) {
			objects = append(objects, c.adapt(o))
		}
	}
	if c.Versions != "" {
		objects = append(objects, kube.Make("v1", "ConfigMap", Namespace, "px-versions", map[string]any{"data": map[string]any{"versions": c.Versions}}))
	}
	objects = append(objects, c.storageCluster())
	objects = append(objects, c.Classes()...)
	return kube.NewSet(objects...)
}

// declares reports whether an upstream object is one that this package makes
// itself. The chart's hooks delete or keep by kubectl in a pod; removal here is
// done in order instead.
func declares(o kube.Object) bool {
	return o.GetAnnotations()["helm.sh/hook"] != "" || o.GetKind() == "StorageCluster" ||
		o.GetKind() == "Namespace" && o.GetName() == Namespace
}

// adapt lets the operator start from an image that is on the node.
func (c Config) adapt(o kube.Object) kube.Object {
	if !c.Preloaded || o.GetKind() != "Deployment" {
		return o
	}
	o = o.DeepCopy()
	containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
	for _, container := range containers {
		if m, ok := container.(map[string]any); ok {
			m["imagePullPolicy"] = "IfNotPresent"
		}
	}
	if len(containers) > 0 {
		// The path exists: containers were read from it.
		_ = unstructured.SetNestedSlice(o.Object, containers, "spec", "template", "spec", "containers")
	}
	return o
}

// storageCluster is core.libopenstorage.org/v1 StorageCluster. Source: Portworx's
// StorageCluster CRD reference. Autopilot is not asked for: it goes by rules that nobody
// has here, and by a Prometheus of Portworx's own, which is not installed.
func (c Config) storageCluster() kube.Object {
	pull := "Always"
	if c.Preloaded {
		pull = "IfNotPresent"
	}
	spec := map[string]any{
		"image": c.Image, "imagePullPolicy": pull,
		"kvdb":            map[string]any{"internal": true},
		"secretsProvider": "k8s",
		"stork":           map[string]any{"enabled": true},
		"csi":             map[string]any{"enabled": true},
		"monitoring": map[string]any{
			"prometheus": map[string]any{"exportMetrics": true},
			"telemetry":  c.telemetry(),
		},
		"deleteStrategy": map[string]any{"type": uninstall},
		// A node that is not named gets no disks: without this the operator would say
		// useAll for it (libopenstorage/operator, setPortworxDefaults).
		"storage":        map[string]any{"devices": []any{}},
		"updateStrategy": map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxUnavailable": int64(1)}},
		"placement":      c.placement(),
		"nodes":          c.nodes(),
	}
	if c.Registry != "" {
		spec["customImageRegistry"] = strings.TrimSuffix(c.Registry, "/")
	}
	if network := c.network(); len(network) > 0 {
		spec["network"] = network
	}
	return kube.Make("core.libopenstorage.org/v1", "StorageCluster", Namespace, c.Name, map[string]any{
		"metadata": map[string]any{"annotations": c.annotations()},
		"spec":     spec,
	})
}

// What becomes of the disks when the StorageCluster is deleted. It is declared as one
// that keeps them; see Leaving.
const (
	uninstall        = "Uninstall"
	uninstallAndWipe = "UninstallAndWipe"
)

// Leaving is what a StorageCluster is told right before it is deleted, as a merge patch.
// Its volumes do not hold it up: those of our classes outlive their claims, and somebody
// has typed that it goes (StorageCluster reference, deleteStrategy.ignoreVolumes: "If set
// to false, the deletion is blocked if Portworx volumes exist").
func Leaving(wipe bool) map[string]any {
	kind := uninstall
	if wipe {
		kind = uninstallAndWipe
	}
	return map[string]any{"spec": map[string]any{"deleteStrategy": map[string]any{"type": kind, "ignoreVolumes": true}}}
}

// annotations: Portworx's controller for claims would listen on the ports of K3s's own
// controller manager, on the host's network (libopenstorage/operator, pvccontroller.go;
// the vendor's troubleshooting page has these). The operator measures nodes by itself,
// and all of that is skipped where somebody has waived a part of it.
func (c Config) annotations() map[string]any {
	out := map[string]any{
		"portworx.io/disable-storage-class":      "false",
		"portworx.io/pvc-controller-port":        "10261",
		"portworx.io/pvc-controller-secure-port": "10262",
	}
	if len(c.Waived) > 0 {
		out["portworx.io/health-check"] = "skip"
	}
	return out
}

// telemetry: the operator's own form of an object has no false in it, so that one would
// be gone as soon as it writes the StorageCluster. Empty is off.
func (c Config) telemetry() map[string]any {
	if c.Telemetry {
		return map[string]any{"enabled": true}
	}
	return map[string]any{}
}

func (c Config) network() map[string]any {
	network := map[string]any{}
	if c.DataInterface != "" {
		network["dataInterface"] = c.DataInterface
	}
	if c.ManagementInterface != "" {
		network["mgmtInterface"] = c.ManagementInterface
	}
	return network
}

// placement keeps Portworx off nodes that the step does not name.
func (c Config) placement() map[string]any {
	var names []any
	for _, n := range c.Nodes {
		names = append(names, n.Name)
	}
	return map[string]any{"nodeAffinity": map[string]any{"requiredDuringSchedulingIgnoredDuringExecution": map[string]any{
		"nodeSelectorTerms": []any{map[string]any{"matchExpressions": []any{
			map[string]any{"key": "kubernetes.io/hostname", "operator": "In", "values": names},
		}}},
	}}}
}

// nodes gives each node the disks that its own facts name: two machines of one
// model have disks of different ids.
func (c Config) nodes() []any {
	var out []any
	for _, n := range c.Nodes {
		storage := map[string]any{"devices": anySlice(n.Devices)}
		if n.KVDB != "" {
			storage["kvdbDevice"] = n.KVDB
		}
		if n.Metadata != "" {
			storage["systemMetadataDevice"] = n.Metadata
		}
		out = append(out, map[string]any{"selector": map[string]any{"nodeName": n.Name}, "storage": storage})
	}
	return out
}

// Working reads a StorageCluster's status. Source: the operator's ClusterStatus;
// older operators say Online, newer ones Running. No phase says that waiting longer is
// idle: the operator says Degraded, and older ones Failed, of anything that went wrong
// in one round, and tries again.
func Working(cluster kube.Object) error {
	phase, _, _ := unstructured.NestedString(cluster.Object, "status", "phase")
	if phase == "Running" || phase == "Online" {
		return nil
	}
	reason, _, _ := unstructured.NestedString(cluster.Object, "status", "reason")
	return fmt.Errorf("StorageCluster %s: its phase is %q%s", cluster.GetName(), phase, suffix(strings.Join(append(conditions(cluster), reason), "; ")))
}

// conditions are what the operator says in words, such as "RuntimeState is NotInQuorum: …".
func conditions(cluster kube.Object) []string {
	all, _, _ := unstructured.NestedSlice(cluster.Object, "status", "conditions")
	var out []string
	for _, c := range all {
		m, _ := c.(map[string]any)
		if message, _ := m["message"].(string); message != "" {
			out = append(out, fmt.Sprintf("%v is %v: %s", m["type"], m["status"], message))
		}
	}
	return out
}

// Online reads the status of one StorageNode.
func Online(node kube.Object) error {
	phase, _, _ := unstructured.NestedString(node.Object, "status", "phase")
	if phase == "Online" {
		return nil
	}
	return fmt.Errorf("StorageNode %s: its phase is %q", node.GetName(), phase)
}

func suffix(reason string) string {
	if reason = strings.Trim(reason, "; "); reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

func anySlice(s []string) []any {
	out := make([]any, len(s))
	for i, e := range s {
		out[i] = e
	}
	return out
}

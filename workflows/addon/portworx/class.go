package portworx

import (
	"cmp"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// The storage classes that this package declares. Source: Portworx's CSI
// documentation of StorageClass parameters.
const (
	// DatabaseClass keeps three copies and suits a database that needs to
	// survive a node.
	DatabaseClass = "edge-database"
	// SharedClass is for files that pods on several nodes read and write,
	// such as models.
	SharedClass = "edge-shared"

	provisioner  = "pxd.portworx.com"
	policyName   = "edge-snapshots"
	snapshotKeep = 7
)

// ScheduleDefinition is the CRD that Stork brings for schedules.
const ScheduleDefinition = "schedulepolicies.stork.libopenstorage.org"

// Schedules reports whether volumes of the database class are kept by schedule.
func (c Config) Schedules() bool { return c.Snapshots.EveryMinutes > 0 }

// Schedule is how often volumes of the database class are kept, and how many.
func (c Config) Schedule() kube.Object {
	return kube.Make("stork.libopenstorage.org/v1alpha1", "SchedulePolicy", "", policyName, map[string]any{
		"policy": map[string]any{"interval": map[string]any{
			"intervalMinutes": int64(c.Snapshots.EveryMinutes), "retain": int64(cmp.Or(c.Snapshots.Retain, snapshotKeep)),
		}},
	})
}

// Classes are the storage classes.
func (c Config) Classes() []kube.Object {
	database := map[string]any{"repl": "3", "io_profile": "db_remote", "io_priority": "high"}
	if c.Schedules() {
		database["snapshotschedule.stork.libopenstorage.org/edge"] = "schedulePolicyName: " + policyName + "\nannotations:\n  portworx/snapshot-type: local\n"
	}
	shared := map[string]any{"repl": "2", "sharedv4": "true", "sharedv4_svc_type": "ClusterIP"}
	return []kube.Object{class(DatabaseClass, database), class(SharedClass, shared)}
}

// class waits with a volume until a pod wants it, so that it lies where the pod
// runs; data outlives the claim.
func class(name string, parameters map[string]any) kube.Object {
	return kube.Make("storage.k8s.io/v1", "StorageClass", "", name, map[string]any{
		"provisioner": provisioner, "parameters": parameters,
		"allowVolumeExpansion": true, "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer",
	})
}

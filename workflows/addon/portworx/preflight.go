package portworx

import (
	"fmt"
	"slices"
	"strings"
)

// What Portworx asks of a node. Source: its installation prerequisites.
const (
	minNodes         = 3
	minCores         = 4
	minMemory        = 4 << 30 // for pods, as the operator measures it
	minKVDBBytes     = 32 << 30
	minMetadataBytes = 64 << 30 // StorageCluster reference, storage.systemMetadataDevice
	minDisk          = 8 << 30
)

// The requirements that can be waived.
const (
	Cores  = "cores"
	Memory = "memory"
)

// Preflight lists why Portworx would not work on these nodes, with what to do;
// empty when it would. Kernels are the series, such as 6.1, that this release of
// Portworx supports: its module is built for the running kernel, and on another
// it would not start. Without any, kernels are not looked at. Waived are
// requirements on a node's size that somebody has decided to do without: Cores,
// Memory.
func Preflight(nodes []Node, kernels, waived []string) []string {
	var out []string
	if len(nodes) < minNodes {
		out = append(out, fmt.Sprintf("it needs %d nodes with disks, and %d are named. With one or two, use step \"local_path\" for volumes that stay on their node; "+
			"for files shared between two nodes Longhorn is an alternative", minNodes, len(nodes)))
	}
	kvdb := 0
	for _, n := range nodes {
		out = append(out, n.problems(kernels, waived)...)
		if n.KVDB != "" {
			kvdb++
		}
	}
	if kvdb > 0 && kvdb < minNodes {
		out = append(out, fmt.Sprintf("its key-value store needs a disk of its own on %d nodes, and %d have one; give one to each or to none", minNodes, kvdb))
	}
	return out
}

func (n Node) problems(kernels, waived []string) []string {
	var out []string
	say := func(format string, args ...any) {
		out = append(out, n.Machine+": "+fmt.Sprintf(format, args...))
	}
	for _, d := range n.Doubted {
		say("%s. If nobody needs that, erase it with a wipe step; else leave it out by `disks`", d)
	}
	if len(n.Devices) == 0 {
		say("no disk is left for it: the root disk is never used, nor one that carries anything%s. Add a disk, widen `disks`, or erase one that nobody needs with a wipe step", listed(n.Occupied))
	}
	for i, bytes := range n.DeviceBytes {
		if bytes < minDisk {
			say("%s has %d bytes; a data disk needs at least %d GiB", n.Devices[i], bytes, minDisk>>30)
		}
	}
	for _, d := range slices.Concat(n.Devices, []string{n.KVDB, n.Metadata}) {
		if d != "" && !strings.HasPrefix(d, "/dev/disk/by-id/") {
			say("%s is no stable name of a disk: kernel names change from boot to boot. Use the one in /dev/disk/by-id", d)
		}
	}
	if n.KVDB != "" && n.KVDBBytes < minKVDBBytes {
		say("its key-value disk %s has %d bytes; %d GiB are needed", n.KVDB, n.KVDBBytes, minKVDBBytes>>30)
	}
	if n.Metadata != "" && n.MetadataBytes < minMetadataBytes {
		say("its metadata disk %s has %d bytes; %d GiB are needed", n.Metadata, n.MetadataBytes, minMetadataBytes>>30)
	}
	if n.Cores > 0 && n.Cores < minCores && !slices.Contains(waived, Cores) {
		say("it has %d cores; Portworx needs %d (a trial can waive \"cores\")", n.Cores, minCores)
	}
	if n.MemoryBytes > 0 && n.MemoryBytes < minMemory && !slices.Contains(waived, Memory) {
		say("it has %d MiB of memory for pods; Portworx needs %d MiB (a trial can waive \"memory\")", n.MemoryBytes>>20, minMemory>>20)
	}
	if len(kernels) > 0 && n.Kernel != "" && !slices.Contains(kernels, series(n.Kernel)) {
		say("its kernel %s is not one that Portworx supports (%s); choose an image with another kernel", n.Kernel, strings.Join(kernels, ", "))
	}
	return out
}

// listed is a list in brackets; nothing for none.
func listed(clauses []string) string {
	if len(clauses) == 0 {
		return ""
	}
	return " (" + strings.Join(clauses, "; ") + ")"
}

// series is the first two numbers of a kernel's release: 6.1 of 6.1.0-40-amd64.
func series(release string) string {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return release
	}
	minor, _, _ := strings.Cut(parts[1], "-")
	return parts[0] + "." + minor
}

package drift

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/edge-provision/edge-provision/inventory"
)

// ChangedPaths are the Paths of inventory.FactChange between two reports of one
// source, sorted, each once. Of disks, ports and PCI functions that both reports list,
// only what Compare counts is a change: not what the kernel of one boot calls them,
// which driver they have, or what is written on a disk.
func ChangedPaths(before, after inventory.Facts) []string {
	hardware := sync.OnceValue(func() map[string]bool { return changedLists(before, after) })
	seen := map[string]bool{}
	for _, c := range inventory.Diff(before, after) {
		path, _, isMember := strings.Cut(c.Path, "[")
		if isMember && inBoth(path, before, after) && !hardware()[path] {
			continue
		}
		for path != "" {
			seen[path] = true
			path = path[:max(0, strings.LastIndexByte(path, '.'))]
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// inBoth says whether two reports have a list whose members a kernel names.
func inBoth(list string, before, after inventory.Facts) bool {
	switch list {
	case "disks":
		return before.Disks != nil && after.Disks != nil
	case "nics":
		return before.NICs != nil && after.NICs != nil
	case "pci":
		return before.PCI != nil && after.PCI != nil
	}
	return false
}

// changedLists are the lists in which Compare finds a change.
func changedLists(before, after inventory.Facts) map[string]bool {
	out := map[string]bool{}
	for _, c := range Compare(before, after) {
		list, _, _ := strings.Cut(c.Path, "[")
		out[list] = true
	}
	return out
}

package steps

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/query"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/addon/portworx"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/remote"
)

// node chooses one machine's disks from its facts. Used are those that the
// StorageCluster in the cluster names.
func (s *portworxStep) node(ctx context.Context, machine string, info MachineInfo, used []string) (portworx.Node, error) {
	n := portworx.Node{Machine: machine, Name: info.Hostname}
	f := info.Facts
	if f == nil {
		return n, workflows.GiveUp(fmt.Errorf("%s: nothing is known of its disks; it has never reported facts", machine))
	}
	if f.CPU != nil {
		n.Cores = f.CPU.Cores
	}
	if f.Memory != nil {
		n.MemoryBytes = f.Memory.Bytes
	}
	doc := query.NewDoc(inventory.Machine{}, f)
	var data []inventory.Disk
	for _, d := range f.Disks {
		if shared(f.Disks, d.ByID) || !usable(d, info.RootDisk) {
			continue
		}
		role, err := s.role(doc.WithDisk(d))
		if err != nil {
			return n, fmt.Errorf("%s: %s: %w", machine, d.Name, err)
		}
		if role == "" {
			continue
		}
		id := deviceID(d)
		whose, err := s.whose(ctx, machine, d, used)
		if err != nil {
			return n, err
		}
		switch whose {
		case occupied:
			n.Occupied = append(n.Occupied, fmt.Sprintf("%s carries %s", id, carries(d)))
			continue
		case doubted:
			n.Doubted = append(n.Doubted, fmt.Sprintf("%s was StorageCluster %s's when that was removed, and it is not certain that it is as it was then: it carries %s", id, s.config.Name, carries(d)))
			continue
		}
		switch role {
		case "kvdb_disk":
			if n.KVDB != "" {
				return n, fmt.Errorf("%s: kvdb_disk matches %s and %s, and must match one", machine, n.KVDB, id)
			}
			n.KVDB, n.KVDBBytes = id, d.Bytes
		case "metadata_disk":
			if n.Metadata != "" {
				return n, fmt.Errorf("%s: metadata_disk matches %s and %s, and must match one", machine, n.Metadata, id)
			}
			n.Metadata, n.MetadataBytes = id, d.Bytes
		case "disks":
			data = append(data, d)
		}
	}
	slices.SortFunc(data, func(a, b inventory.Disk) int { return cmp.Compare(a.ByID, b.ByID) })
	for _, d := range data {
		n.Devices, n.DeviceBytes = append(n.Devices, deviceID(d)), append(n.DeviceBytes, d.Bytes)
	}
	return n, nil
}

// usable reports whether a disk can be Portworx's at all: it has a stable name and is
// not the root disk.
func usable(d inventory.Disk, root *workflows.DiskName) bool {
	return d.ByID != "" && d.Bus != "usb" && (root == nil || !root.Alike(workflows.NameDisk(d)))
}

// shared reports whether several disks go by one name, of which udev gives it to one:
// it is made of model and serial number, which nobody wrote for some.
func shared(disks []inventory.Disk, byID string) bool {
	named := 0
	for _, d := range disks {
		if d.ByID == byID {
			named++
		}
	}
	return named > 1
}

func deviceID(d inventory.Disk) string {
	return "/dev/disk/by-id/" + strings.TrimPrefix(d.ByID, "/dev/disk/by-id/")
}

// carries is what a disk carries, for a person.
func carries(d inventory.Disk) string {
	if d.Signatures == nil {
		return "what nobody has read"
	}
	return strings.Join(d.Signatures, ", ")
}

// role is which rule takes a disk: the narrow ones first. Without `disks` every
// disk that is left is for data.
func (s *portworxStep) role(doc query.Doc) (string, error) {
	for _, name := range []string{"kvdb_disk", "metadata_disk", "disks"} {
		rule := s.rules[name]
		if rule == nil {
			if name == "disks" {
				return name, nil
			}
			continue
		}
		result, err := rule.Eval(doc)
		if err != nil {
			return "", err
		}
		if result == query.True {
			return name, nil
		}
	}
	return "", nil
}

// ownership is whether a disk may be given to Portworx.
type ownership int

const (
	// free: it carries nothing, or what this StorageCluster has put there.
	free ownership = iota
	// occupied: it carries what is somebody else's, as far as anybody knows.
	occupied
	// doubted: it was this StorageCluster's, and may have been used for something else
	// since.
	doubted
)

// whose finds out what a disk carries. Of one that the StorageCluster in the cluster
// names, Portworx has written to it since, so that it does not look empty any more. Of
// one that a removal left with its data the machine is asked: it is the same only
// while what is recognised on it is.
func (s *portworxStep) whose(ctx context.Context, machine string, d inventory.Disk, used []string) (ownership, error) {
	id := deviceID(d)
	if d.Signatures != nil && len(d.Signatures) == 0 || slices.Contains(used, id) {
		return free, nil
	}
	left, err := s.env.Marks.Marked(ctx, s.leftKey(machine, id))
	if err != nil || !left {
		return occupied, err
	}
	h, err := s.env.Hosts.Host(ctx, machine)
	if err != nil {
		return doubted, err
	}
	defer h.Close()
	look, err := likeness(ctx, h, id)
	if err != nil {
		return doubted, fmt.Errorf("%s: looking at what %s carries: %w", machine, id, err)
	}
	same, err := s.env.Marks.Marked(ctx, s.leftKey(machine, id, look))
	if err != nil || !same {
		return doubted, err
	}
	return free, nil
}

// leftKey names in the catalog a disk that a removal left with this StorageCluster's
// data, and with a look one that looked so.
func (s *portworxStep) leftKey(machine, device string, look ...string) string {
	return "portworx-left/" + workflows.DigestOf(append([]string{s.env.Site, s.config.Name, machine, device}, look...))
}

// leave remembers the disks of a StorageCluster that is about to go without its data,
// and how they look. One that is not this step's stays, and one that never came to be
// one of Portworx's has put nothing on them.
func (s *portworxStep) leave(ctx context.Context) error {
	live, err := s.live(ctx)
	if err != nil || live == nil || live.GetLabels()[kube.OwnerLabel] != s.opts.Owner.Label() {
		return err
	}
	if id, _, _ := unstructured.NestedString(live.Object, "status", "clusterUid"); id == "" {
		return nil
	}
	for _, m := range s.machines {
		info, err := s.env.Machines.Machine(ctx, m)
		if err != nil {
			return err
		}
		if err := s.leaveOn(ctx, m, devicesOf(live, info.Hostname)); err != nil {
			return err
		}
	}
	return nil
}

// leaveOn remembers the disks of one machine. That they were the StorageCluster's is so
// whether or not it can be asked; without their look they are taken by nobody.
func (s *portworxStep) leaveOn(ctx context.Context, machine string, devices []string) error {
	looks, err := s.likenesses(ctx, machine, devices)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		s.env.Say("what disks of %s carry cannot be seen (%v), so that another installation will not take them as they are", machine, err)
	}
	for _, d := range devices {
		look, seen := looks[d]
		if seen && look == blank {
			continue
		}
		if err := s.env.Marks.Mark(ctx, s.leftKey(machine, d)); err != nil {
			return err
		}
		if !seen {
			continue
		}
		if err := s.env.Marks.Mark(ctx, s.leftKey(machine, d, look)); err != nil {
			return err
		}
	}
	return nil
}

// likenesses are those of a machine's disks, as far as they could be seen.
func (s *portworxStep) likenesses(ctx context.Context, machine string, devices []string) (map[string]string, error) {
	if len(devices) == 0 {
		return nil, nil
	}
	h, err := s.env.Hosts.Host(ctx, machine)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	out := map[string]string{}
	var errs []error
	for _, d := range devices {
		look, err := likeness(ctx, h, d)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out[d] = look
	}
	return out, errors.Join(errs...)
}

// blank is the likeness of a disk that carries nothing.
const blank = ""

// likeness tells what is on a disk from what else could be: a file system, an array or a
// volume group that is made anew has another UUID. What has none, as a partition table,
// is told by the beginning of the disk. It stays the same while Portworx runs.
func likeness(ctx context.Context, h *remote.Host, device string) (string, error) {
	r, err := h.Run(ctx, remote.Command{Line: "wipefs --no-act --json " + remote.Quote(device)})
	if err != nil {
		return blank, err
	}
	var found struct {
		Signatures []struct{ Offset, Type, UUID string }
	}
	if err := json.Unmarshal([]byte(cmp.Or(strings.TrimSpace(r.Stdout), "{}")), &found); err != nil {
		return blank, fmt.Errorf("reading the answer of wipefs: %w", err)
	}
	if len(found.Signatures) == 0 {
		return blank, nil
	}
	var all []string
	nameless := false
	for _, f := range found.Signatures {
		all = append(all, strings.Join([]string{f.Type, f.Offset, f.UUID}, " "))
		nameless = nameless || f.UUID == ""
	}
	slices.Sort(all)
	if nameless {
		r, err := h.Run(ctx, remote.Command{Line: "head -c 1048576 " + remote.Quote(device) + " | sha256sum"})
		if err != nil {
			return blank, err
		}
		all = append(all, r.Stdout)
	}
	return workflows.DigestOf(all), nil
}

// devicesOf are the devices that a StorageCluster names for a node.
func devicesOf(live kube.Object, node string) []string {
	if live == nil {
		return nil
	}
	nodes, _, _ := unstructured.NestedSlice(live.Object, "spec", "nodes")
	for _, n := range nodes {
		m, _ := n.(map[string]any)
		if name, _, _ := unstructured.NestedString(m, "selector", "nodeName"); name != node {
			continue
		}
		devices, _, _ := unstructured.NestedStringSlice(m, "storage", "devices")
		for _, field := range []string{"kvdbDevice", "systemMetadataDevice"} {
			if d, found, _ := unstructured.NestedString(m, "storage", field); found {
				devices = append(devices, d)
			}
		}
		return devices
	}
	return nil
}

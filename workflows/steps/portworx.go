package steps

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/edge-provision/edge-provision/inventory/query"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/addon/portworx"
	"github.com/edge-provision/edge-provision/workflows/addon/volume"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// portworxType gives a cluster replicated storage on disks that the catalog
// knows.
var portworxType = Type{
	Name: "portworx",
	Shape: site.StepType{
		Spec: clusterSpec(hcldec.ObjectSpec{
			"manifest":             manifestBlocks(1),
			"nodes":                attribute("nodes", cty.DynamicPseudoType, true),
			"disks":                attribute("disks", cty.String, false),
			"kvdb_disk":            attribute("kvdb_disk", cty.String, false),
			"metadata_disk":        attribute("metadata_disk", cty.String, false),
			"name":                 attribute("name", cty.String, false),
			"image":                attribute("image", cty.String, true),
			"registry":             attribute("registry", cty.String, false),
			"preloaded":            attribute("preloaded", cty.Bool, false),
			"versions":             attribute("versions", cty.String, false),
			"kernels":              attribute("kernels", cty.List(cty.String), false),
			"waive":                attribute("waive", cty.List(cty.String), false),
			"data_interface":       attribute("data_interface", cty.String, false),
			"management_interface": attribute("management_interface", cty.String, false),
			"telemetry":            attribute("telemetry", cty.Bool, false),
			"licence":              attribute("licence", cty.String, false),
			"probe_image":          attribute("probe_image", cty.String, false),
			"snapshots": &hcldec.BlockSpec{TypeName: "snapshots", Nested: hcldec.ObjectSpec{
				"every_minutes": attribute("every_minutes", cty.Number, true),
				"retain":        attribute("retain", cty.Number, false),
			}},
		}),
		Outputs: map[string]cty.Type{"database_class": cty.String, "shared_class": cty.String, "devices": cty.Map(cty.List(cty.String))},
		Check:   checkPortworx,
	},
	New:   newPortworx,
	Needs: allNeeds(listedFiles, imageNeeds("image", "probe_image")),
}

// diskRules are the attributes that hold an expression over one disk.
var diskRules = []string{"disks", "kvdb_disk", "metadata_disk"}

func checkPortworx(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
	diags := checkCluster(inputs, ranges)
	for _, name := range diskRules {
		v, _ := inputs.GetAttr(name).Unmark()
		if !v.IsKnown() || v.IsNull() {
			continue
		}
		_, wrong := query.Parse(v.AsString(), query.Disk)
		for _, d := range wrong {
			diags = append(diags, mistake(ranges, name, d.Summary, fmt.Sprintf("%s: %s", name, d.Detail)))
		}
	}
	waive, _ := inputs.GetAttr("waive").UnmarkDeep()
	if waive.IsWhollyKnown() && !waive.IsNull() {
		for _, w := range waive.AsValueSlice() {
			if w.AsString() != portworx.Cores && w.AsString() != portworx.Memory {
				diags = append(diags, mistake(ranges, "waive", "Requirement that cannot be waived", fmt.Sprintf("%q is not \"cores\" or \"memory\".", w.AsString())))
			}
		}
	}
	if v, _ := inputs.GetAttr("versions").Unmark(); v.IsKnown() && !v.IsNull() {
		if _, err := portworxComponents(v.AsString()); err != nil {
			diags = append(diags, mistake(ranges, "versions", "Not the versions of Portworx", upper(err.Error())+"."))
		}
	}
	if v, _ := inputs.GetAttr("licence").Unmark(); v.IsKnown() && !v.IsNull() && !activation.MatchString(v.AsString()) {
		if file, err := base64.StdEncoding.DecodeString(v.AsString()); err != nil || len(file) == 0 {
			diags = append(diags, mistake(ranges, "licence", "Not a licence of Portworx",
				"It is neither an activation id, such as 9035-1a42-9af0-ccd9-dab6, nor the content of a licence file in base64. "+
					"Where the machines cannot reach the vendor's server, write filebase64(\"licence.bin\")."))
		}
	}
	nodes := inputs.GetAttr("nodes")
	if nodes.IsWhollyKnown() {
		if n := len(site.References(nodes)); n > 0 && n < 3 {
			diags = append(diags, mistake(ranges, "nodes", "Too few nodes for Portworx",
				fmt.Sprintf("Portworx needs 3 nodes with disks and %d are named. On one or two, step \"local_path\" gives volumes that stay on their node; "+
					"Longhorn, by a helm step, shares files between two.", n)))
		}
	}
	return diags
}

// portworxStep is the inputs of one portworx step.
type portworxStep struct {
	*clusterStep
	inputs   cty.Value
	machines []string
	config   portworx.Config
	rules    map[string]*query.Expr
	chosen   []portworx.Node
}

func newPortworx(inputs cty.Value, env Env) (Step, error) {
	base, err := newClusterStep(inputs, env)
	if err != nil {
		return nil, err
	}
	s := &portworxStep{clusterStep: base, inputs: inputs, rules: map[string]*query.Expr{}}
	if s.machines, err = machines(inputs.GetAttr("nodes")); err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	for _, name := range diskRules {
		if v := text(inputs, name); v != "" {
			expr, diags := query.Parse(v, query.Disk)
			if diags.HasErrors() {
				return nil, fmt.Errorf("%s: %w", name, diags)
			}
			s.rules[name] = expr
		}
	}
	s.config = portworx.Config{
		Name: cmp.Or(text(inputs, "name"), env.Site), Image: text(inputs, "image"), Registry: text(inputs, "registry"),
		Preloaded: preloaded(inputs, env), Versions: text(inputs, "versions"), Kernels: textList(inputs, "kernels"), Waived: textList(inputs, "waive"),
		DataInterface: text(inputs, "data_interface"), ManagementInterface: text(inputs, "management_interface"), Telemetry: truth(inputs, "telemetry"),
	}
	if b, _ := inputs.GetAttr("snapshots").Unmark(); !b.IsNull() {
		s.config.Snapshots = portworx.Snapshots{EveryMinutes: int(number(b, "every_minutes")), Retain: int(number(b, "retain"))}
	}
	s.set, s.verify, s.outputs = s.objects, s.works, s.devices
	return s, nil
}

// objects chooses the disks of every node and makes the StorageCluster.
func (s *portworxStep) objects(ctx context.Context) (kube.Set, error) {
	if len(s.env.Preload) > 0 && s.config.Preloaded {
		if err := checkOffline(s.config.Versions, s.config.Image); err != nil {
			return kube.Set{}, err
		}
	}
	if s.config.Upstream == nil {
		upstream, err := readObjects(ctx, s.env.Artifacts, fileRefs(s.inputs.GetAttr("manifest")))
		if err != nil {
			return kube.Set{}, err
		}
		s.config.Upstream = upstream
	}
	live, err := s.live(ctx)
	if err != nil {
		return kube.Set{}, err
	}
	s.config.Nodes = nil
	for _, m := range s.machines {
		info, err := s.env.Machines.Machine(ctx, m)
		if err != nil {
			return kube.Set{}, err
		}
		n, err := s.node(ctx, m, info, devicesOf(live, info.Hostname))
		if err != nil {
			return kube.Set{}, err
		}
		if err := s.measure(ctx, &n); err != nil {
			return kube.Set{}, err
		}
		s.config.Nodes = append(s.config.Nodes, n)
	}
	s.chosen = s.config.Nodes
	set, err := s.config.Set()
	if err != nil || !s.config.Schedules() {
		return set, err
	}
	// Stork brings the definition of schedules when it first runs.
	_, err = s.cluster.Get(ctx, "apiextensions.k8s.io/v1", "CustomResourceDefinition", "", portworx.ScheduleDefinition)
	if errors.Is(err, kube.ErrNotFound) {
		return set, nil
	}
	if err != nil {
		return set, err
	}
	schedule, err := kube.NewSet(s.config.Schedule())
	if err != nil {
		return set, err
	}
	return kube.Join(set, schedule)
}

// live is the StorageCluster in the cluster; nil when there is none.
func (s *portworxStep) live(ctx context.Context) (kube.Object, error) {
	live, err := s.cluster.Get(ctx, "core.libopenstorage.org/v1", "StorageCluster", portworx.Namespace, s.config.Name)
	if errors.Is(err, kube.ErrNotFound) {
		return nil, nil
	}
	return live, err
}

// measure takes from the cluster's own node what the facts cannot know: what pods may
// use of its memory, by which Portworx's operator goes, and the kernel that runs.
func (s *portworxStep) measure(ctx context.Context, n *portworx.Node) error {
	node, err := s.cluster.Get(ctx, "v1", "Node", "", n.Name)
	if errors.Is(err, kube.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if text, _, _ := unstructured.NestedString(node.Object, "status", "allocatable", "memory"); text != "" {
		memory, err := resource.ParseQuantity(text)
		if err != nil {
			return fmt.Errorf("%s: the memory of node %s: %w", n.Machine, n.Name, err)
		}
		n.MemoryBytes = memory.Value()
	}
	n.Kernel, _, _ = unstructured.NestedString(node.Object, "status", "nodeInfo", "kernelVersion")
	return nil
}

// Do implements Step. Schedules come in a second round, when Stork runs.
func (s *portworxStep) Do(ctx context.Context) (cty.Value, error) {
	out, err := s.clusterStep.Do(ctx)
	if err != nil || !s.config.Schedules() {
		return out, err
	}
	_, err = s.cluster.WaitFor(ctx, "apiextensions.k8s.io/v1", "CustomResourceDefinition", "", portworx.ScheduleDefinition, statusBound, func(kube.Object) (kube.Status, error) {
		return kube.Status{Done: true}, nil
	})
	if err != nil {
		return cty.NilVal, fmt.Errorf("waiting for Stork: %w", err)
	}
	return s.clusterStep.Do(ctx)
}

const (
	// storageBound is how long Portworx may take to come up; its vendor says about 15
	// minutes for a first installation.
	storageBound = 30 * time.Minute
	// wiperBound is how long it may take to go: the operator runs a program on every
	// node first (libopenstorage/operator, RunNodeWiper), which can take several
	// minutes.
	wiperBound = 20 * time.Minute
)

// works asks the operator, every node, and then for a volume of each class.
func (s *portworxStep) works(ctx context.Context) error {
	_, err := s.cluster.WaitFor(ctx, "core.libopenstorage.org/v1", "StorageCluster", portworx.Namespace, s.config.Name, storageBound, func(o kube.Object) (kube.Status, error) {
		if err := portworx.Working(o); err != nil {
			return kube.Status{Reason: err.Error()}, nil
		}
		return kube.Status{Done: true}, nil
	})
	if err != nil {
		return err
	}
	for _, n := range s.chosen {
		_, err := s.cluster.WaitFor(ctx, "core.libopenstorage.org/v1", "StorageNode", portworx.Namespace, n.Name, statusBound, func(o kube.Object) (kube.Status, error) {
			if err := portworx.Online(o); err != nil {
				return kube.Status{Reason: err.Error()}, nil
			}
			return kube.Status{Done: true}, nil
		})
		if err != nil {
			return err
		}
	}
	if err := s.license(ctx); err != nil {
		return err
	}
	image := cmp.Or(text(s.inputs, "probe_image"), k3sBusyBox)
	for _, class := range s.config.Classes() {
		s.env.Say("trying storage class %s with a volume", class.GetName())
		canary := volume.Canary{Cluster: s.cluster, Class: class, Shared: class.GetName() == portworx.SharedClass, Image: image, Owner: s.opts.Owner}
		if err := canary.Run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// activation is the id by which Portworx fetches a licence from its vendor's server.
var activation = regexp.MustCompile(`^[0-9A-Fa-f]{4}(-[0-9A-Fa-f]{4})+$`)

// Source of both: docs.portworx.com, pxctl license: "add" takes a file, "activate" an
// id, on its command line only, where root on the node can see it while it runs.
const (
	activateLicence = `IFS= read -r id && /opt/pwx/bin/pxctl license activate "$id"`
	addLicence      = `f=$(mktemp /run/portworx-licence.XXXXXX) && trap 'rm -f "$f"' EXIT HUP INT TERM && base64 -d >"$f" && /opt/pwx/bin/pxctl license add "$f"`
)

// license gives Portworx its licence, once for each cluster of Portworx's. That one
// has an id of its own, which is kept and lost with the data: disks that were wiped
// bear no licence either.
func (s *portworxStep) license(ctx context.Context) error {
	licence := text(s.inputs, "licence")
	if licence == "" {
		return nil
	}
	live, err := s.cluster.Get(ctx, "core.libopenstorage.org/v1", "StorageCluster", portworx.Namespace, s.config.Name)
	if err != nil {
		return err
	}
	id, _, _ := unstructured.NestedString(live.Object, "status", "clusterUid")
	if id == "" {
		return fmt.Errorf("adding the licence: StorageCluster %s does not say which cluster of Portworx's it is (status.clusterUid); apply again once kubectl get storagecluster shows it", s.config.Name)
	}
	mark := "portworx-licence/" + id + "/" + workflows.DigestOf(licence)
	done, err := s.env.Marks.Marked(ctx, mark)
	if err != nil || done {
		return err
	}
	h, err := s.env.Hosts.Host(ctx, s.machines[0])
	if err != nil {
		return err
	}
	defer h.Close()
	line := addLicence
	if activation.MatchString(licence) {
		line = activateLicence
	}
	if _, err = h.Run(ctx, remote.Command{Line: line, Stdin: strings.NewReader(licence + "\n"), Sensitive: true}); err != nil {
		return fmt.Errorf("adding the licence: %w", err)
	}
	return s.env.Marks.Mark(ctx, mark)
}

// Loss implements Remover: the volumes are on disks that are kept unless their
// wiping is typed.
func (s *portworxStep) Loss(ctx context.Context) ([]string, error) {
	if err := s.reach(ctx); err != nil {
		return nil, err
	}
	live, err := s.live(ctx)
	if live == nil {
		s.doubt(err)
		return nil, err
	}
	var out []string
	for _, m := range s.machines {
		info, err := s.env.Machines.Machine(ctx, m)
		if err != nil {
			return nil, err
		}
		if devices := devicesOf(live, info.Hostname); len(devices) > 0 {
			out = append(out, fmt.Sprintf("%s: every volume on %s", m, strings.Join(devices, ", ")))
		}
	}
	return out, nil
}

// Remove implements Remover. With data the StorageCluster is told to wipe its
// disks before it goes; without, it is remembered which they are, so that another
// installation on them finds its volumes again. One that is gone was told so, and
// remembered, by a removal that did not come to its end.
func (s *portworxStep) Remove(ctx context.Context, data bool) error {
	id := kube.ID{Kind: "StorageCluster", Namespace: portworx.Namespace, Name: s.config.Name}
	s.opts.Gone, s.opts.Parting = wiperBound, map[string]map[string]any{id.String(): portworx.Leaving(data)}
	if !data {
		if err := s.leave(ctx); err != nil {
			return fmt.Errorf("remembering which disks keep their data: %w", err)
		}
	}
	return s.clusterStep.Remove(ctx, data)
}

// devices are what each machine gives.
func (s *portworxStep) devices(context.Context) (map[string]cty.Value, error) {
	devices := map[string]cty.Value{}
	for _, n := range s.chosen {
		devices[n.Machine] = stringList(n.Devices)
	}
	return map[string]cty.Value{
		"database_class": cty.StringVal(portworx.DatabaseClass), "shared_class": cty.StringVal(portworx.SharedClass), "devices": cty.MapVal(devices),
	}, nil
}

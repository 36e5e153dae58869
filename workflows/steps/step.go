// Package steps is what a run can do. provision.go takes a machine from
// powered off to installed; each type of workflow step is one file; types.go is
// the list of them. It is the only package that knows bmc, pxe and imagebuilder
// at once: it turns what the site declares into their configuration.
package steps

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Type is one kind of step.
type Type struct {
	Name string
	// Shape is what site.hcl may write in the step's block.
	Shape site.StepType
	// New makes the step from its inputs, which are wholly known.
	New func(inputs cty.Value, env Env) (Step, error)
	// Needs lists the files and container images that the step brings to
	// machines, for bundles; nil: the objects among its inputs that have a
	// source and a sha256. Inputs that are secret or not known
	// before the site is there are unknown in it: what depends on them is left
	// out, since it is rendered on site.
	Needs func(inputs cty.Value) (artifact.Needs, error)
}

// Step is one declared step whose inputs are known. Every method may be called
// again at any time, also after a crash in the middle of Do.
type Step interface {
	// Inspect asks what there is, and changes nothing. Its answer is Absent
	// or Present with what differs; when it cannot ask, Unreachable.
	Inspect(ctx context.Context) (Finding, error)
	// Do brings the step about from wherever it stands, and returns its
	// outputs: an object with the attributes of Shape.Outputs.
	Do(ctx context.Context) (cty.Value, error)
	// Verify looks at the result from outside: an error means that Do's word
	// was not enough.
	Verify(ctx context.Context) error
}

// Undoer is a Step that can take back what it created.
type Undoer interface {
	Undo(ctx context.Context) error
}

// Remover is a Step that `destroy` can take away.
type Remover interface {
	// Loss lists, a line each, the data that Remove would destroy and that
	// nothing brings back; empty when only what a new run creates again goes. A
	// line may end with a number in parentheses, which is not the same at every
	// look; all before it is, as long as the data is there.
	Loss(ctx context.Context) ([]string, error)
	// Remove takes away what the step brought, and nothing else. It may begin
	// anywhere; what is gone already is no error. Data that Loss names is kept
	// unless data is true, which somebody has typed.
	Remove(ctx context.Context, data bool) error
}

// Finding is the answer of an inspection.
type Finding struct {
	Presence workflows.Presence
	// Changes are lines for a person; secrets have been taken out.
	Changes []string
	// Detail says why the answer is Unreachable.
	Detail string
}

// Env is what a step may use of the world.
type Env struct {
	// Address is the step's own, for errors and journals.
	Address string
	// Catalog is the id of the catalog, which marks what is ours in a cluster.
	Catalog string
	// Site is the site's name.
	Site  string
	Hosts Hosts
	Power Powers
	// Machines tells what is known of the machines that the step names.
	Machines Machines
	// Artifacts hands out the files that the step brings to machines.
	Artifacts Artifacts
	// Preload are archives of container images that belong on every node of a
	// cluster, because the nodes can ask no registry: those of a bundle.
	Preload []artifact.Ref
	Clock   workflows.Clock
	// Inputs is the digest of the step's inputs, keyed because they may hold
	// secrets; Applied is the one of the last time the step succeeded.
	Inputs, Applied string
	// Marks remembers what must never be done twice, whatever happens to the
	// step's name.
	Marks Marks
	// Declared knows what other steps declare in a cluster; nil: nothing.
	Declared *Declared
	// Say reports one line of progress.
	Say func(format string, args ...any)
}

// Hosts opens SSH connections to machines by their address in site.hcl. An
// implementation verifies the host key that the machine reported when it was
// installed. The caller closes the host.
type Hosts interface {
	Host(ctx context.Context, machine string) (*remote.Host, error)
}

// Machines tells what the catalog knows of a machine by its address in site.hcl.
type Machines interface {
	Machine(ctx context.Context, machine string) (MachineInfo, error)
}

// MachineInfo is one machine as a step needs it.
type MachineInfo struct {
	// Hostname is its name on the network and in a cluster.
	Hostname string
	// IP is where it is reached; invalid while that is not known.
	IP netip.Addr
	// Facts is what was observed of it; nil when nothing was.
	Facts *inventory.Facts
	// RootDisk is the disk its image was written to; nil for an adopted
	// machine, whose disks tell by their mount points.
	RootDisk *workflows.DiskName
}

// Artifacts hands out verified files. The caller closes the file; its content
// has the digest of the reference, or there is an error that says what is wrong
// and where the file was looked for.
type Artifacts interface {
	Open(ctx context.Context, ref artifact.Ref) (*os.File, error)
	// ImageArchive hands out a container image as a tar file that containerd
	// imports, equal bytes for an equal image.
	ImageArchive(ctx context.Context, image artifact.Image) (*os.File, error)
}

// Powers gives the BMC of a machine.
type Powers interface {
	BMC(machine string) (*bmc.Controller, error)
}

// Marks keeps facts about the past that outlive renames: a disk that was wiped.
type Marks interface {
	Marked(ctx context.Context, key string) (bool, error)
	Mark(ctx context.Context, key string) error
}

// machines reads an input that is a machine, or a list, set, tuple or map of
// them.
func machines(v cty.Value) ([]string, error) {
	addresses := site.References(v)
	if len(addresses) == 0 {
		return nil, errors.New("it names no machine; write machine.NAME, machine.NAME[\"key\"] or values(machine.NAME)")
	}
	return addresses, nil
}

// attribute is a shorthand for a step's shape.
func attribute(name string, t cty.Type, required bool) *hcldec.AttrSpec {
	return &hcldec.AttrSpec{Name: name, Type: t, Required: required}
}

// text is a string attribute's value; "" for null.
func text(inputs cty.Value, name string) string {
	v := inputs.GetAttr(name)
	if v.IsNull() {
		return ""
	}
	v, _ = v.Unmark()
	return v.AsString()
}

// textMap is a map of strings; nil for null.
func textMap(inputs cty.Value, name string) map[string]string {
	v, _ := inputs.GetAttr(name).UnmarkDeep()
	if v.IsNull() {
		return nil
	}
	out := map[string]string{}
	for k, e := range v.AsValueMap() {
		if !e.IsNull() {
			out[k] = e.AsString()
		}
	}
	return out
}

// onHosts calls do for each machine in turn with an open connection, and says
// which machine an error is about. It goes on after a failure so that one run
// shows every host's trouble.
func onHosts(ctx context.Context, hosts Hosts, machines []string, do func(ctx context.Context, machine string, h *remote.Host) error) error {
	var errs []error
	for _, m := range machines {
		h, err := hosts.Host(ctx, m)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, do(ctx, m, h))
		h.Close()
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// unreachable turns an error of asking into a Finding, when it is one that says
// nothing about the host; any other error stays one.
func unreachable(err error) (Finding, error) {
	var gone *remote.UnreachableError
	if errors.As(err, &gone) || errors.Is(err, context.DeadlineExceeded) {
		return Finding{Presence: workflows.Unreachable, Detail: err.Error()}, nil
	}
	return Finding{}, err
}

// once is the inspection of a step that is an action: done when it succeeded
// with these very inputs.
func once(env Env) Finding {
	switch env.Applied {
	case env.Inputs:
		return Finding{Presence: workflows.Present}
	case "":
		return Finding{Presence: workflows.Absent}
	}
	return Finding{Presence: workflows.Absent, Changes: []string{"its inputs or triggers have changed since it ran"}}
}

// until repeats ask every interval until it says yes, or ctx ends; the error
// then tells what was seen last.
func until(ctx context.Context, clock workflows.Clock, interval time.Duration, ask func(ctx context.Context) error) error {
	for {
		err := ask(ctx)
		if err == nil || workflows.Final(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: last seen: %w", context.Cause(ctx), err)
		case <-clock.After(interval):
		}
	}
}

// mistake is a diagnostic of a step's Check.
func mistake(ranges map[string]hcl.Range, attribute, summary, detail string) *hcl.Diagnostic {
	d := &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail}
	if r, ok := ranges[attribute]; ok {
		d.Subject = &r
	}
	return d
}

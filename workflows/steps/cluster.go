package steps

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// clusterStep is what all steps share that bring objects to a cluster: they
// differ in which objects, and in how they verify.
type clusterStep struct {
	env     Env
	cluster *kube.Cluster
	opts    kube.Options
	// set makes the objects; it may ask the cluster.
	set func(ctx context.Context) (kube.Set, error)
	// verify looks at the result after every object works by its own status;
	// nil: that is enough.
	verify func(ctx context.Context) error
	// outputs are known once the objects are there; nil: none.
	outputs func(ctx context.Context) (map[string]cty.Value, error)
}

// clusterSpec adds to a step's attributes those that all of these steps have.
func clusterSpec(own hcldec.ObjectSpec) hcldec.ObjectSpec {
	own["cluster"] = attribute("cluster", cty.DynamicPseudoType, true)
	own["force_conflicts"] = attribute("force_conflicts", cty.Bool, false)
	own["ignore_fields"] = attribute("ignore_fields", cty.List(cty.String), false)
	own["prune_data"] = attribute("prune_data", cty.List(cty.String), false)
	return own
}

// newClusterStep opens the cluster that the inputs name: step.k3s.NAME, or any
// object with a kubeconfig in it.
func newClusterStep(inputs cty.Value, env Env) (*clusterStep, error) {
	v, _ := inputs.GetAttr("cluster").UnmarkDeep()
	if v.IsNull() || !v.Type().IsObjectType() || !v.Type().HasAttribute("kubeconfig") {
		return nil, errors.New("cluster: it is no cluster; write step.k3s.NAME, or { kubeconfig = … }")
	}
	kubeconfig := v.GetAttr("kubeconfig")
	if kubeconfig.IsNull() || kubeconfig.Type() != cty.String {
		return nil, errors.New("cluster: its kubeconfig is not set")
	}
	cluster, err := kube.Open(kube.Config{Kubeconfig: []byte(kubeconfig.AsString())})
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	s := &clusterStep{env: env, cluster: cluster}
	s.opts = kube.Options{
		Owner: kube.Owner{Catalog: env.Catalog, Address: env.Address},
		Force: truth(inputs, "force_conflicts"), IgnoreFields: textList(inputs, "ignore_fields"), PruneData: textList(inputs, "prune_data"),
		Say: env.Say,
	}
	if env.Declared != nil {
		s.opts.Elsewhere = func(id kube.ID) string { return env.Declared.elsewhere(cluster.Server(), env.Address, id) }
	}
	return s, nil
}

// Inspect implements Step.
func (s *clusterStep) Inspect(ctx context.Context) (Finding, error) {
	if err := s.reach(ctx); err != nil {
		return notAnswering(err)
	}
	set, err := s.resolve(ctx)
	if err != nil {
		s.doubt(err)
		return notAnswering(err)
	}
	diff, err := s.cluster.Diff(ctx, set, s.opts)
	if err != nil {
		s.doubt(err)
		return notAnswering(err)
	}
	if err := diff.Conflicts(); err != nil {
		return Finding{}, workflows.GiveUp(err)
	}
	f := Finding{Presence: workflows.Present, Changes: diff.Lines()}
	if !diff.Installed {
		f.Presence = workflows.Absent
	}
	return f, nil
}

// reach asks whether the API server answers, once for all steps of its cluster
// while a site is observed. A step that does its work asks with the patience that
// each request has.
func (s *clusterStep) reach(ctx context.Context) error {
	if s.env.Declared == nil {
		return nil
	}
	return s.env.Declared.reach(ctx, s.cluster)
}

// doubt has the next step of the cluster ask whether the API server still answers,
// when this one waited for an answer in vain: it must neither wait for the same,
// nor be kept from its work by what is this step's alone.
func (s *clusterStep) doubt(err error) {
	if s.env.Declared != nil && noAnswer(err) {
		s.env.Declared.doubt(s.cluster.Server())
	}
}

// announce implements announcer.
func (s *clusterStep) announce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	if s.reach(ctx) != nil {
		return
	}
	_, err := s.resolve(ctx)
	s.doubt(err)
}

// resolve makes the objects and tells the other steps about them.
func (s *clusterStep) resolve(ctx context.Context) (kube.Set, error) {
	set, err := s.set(ctx)
	if err != nil {
		return set, err
	}
	// Which object it is can depend on the namespace that it is given.
	if set, err = s.cluster.Resolve(ctx, set, s.opts); err != nil {
		return set, err
	}
	if s.env.Declared != nil {
		if err := s.env.Declared.declare(s.cluster.Server(), s.env.Address, set); err != nil {
			return set, err
		}
	}
	return set, nil
}

// notAnswering tells an API server or host that gives no answer from objects that
// it does not take, or that cannot be made: those are refused, whenever it is
// asked.
func notAnswering(err error) (Finding, error) {
	var gone *kube.UnreachableError
	if errors.As(err, &gone) {
		return Finding{Presence: workflows.Unreachable, Detail: err.Error()}, nil
	}
	f, err := unreachable(err)
	return f, workflows.GiveUp(err)
}

// Do implements Step.
func (s *clusterStep) Do(ctx context.Context) (cty.Value, error) {
	set, err := s.resolve(ctx)
	if err != nil {
		return cty.NilVal, err
	}
	if err := s.cluster.Apply(ctx, set, s.opts); err != nil {
		return cty.NilVal, err
	}
	if s.outputs == nil {
		return cty.EmptyObjectVal, nil
	}
	out, err := s.outputs(ctx)
	return cty.ObjectVal(out), err
}

// Verify implements Step.
func (s *clusterStep) Verify(ctx context.Context) error {
	set, err := s.set(ctx)
	if err != nil {
		return err
	}
	if !s.opts.NoWait {
		if err := s.cluster.Wait(ctx, set, s.opts); err != nil {
			return err
		}
	}
	if s.verify == nil {
		return nil
	}
	return s.verify(ctx)
}

// Loss implements Remover.
func (s *clusterStep) Loss(ctx context.Context) ([]string, error) {
	if err := s.reach(ctx); err != nil {
		return nil, err
	}
	loss, err := s.cluster.Loss(ctx, s.last(ctx), s.opts)
	s.doubt(err)
	return loss, err
}

// last is the set for a removal. What is removed tells the inventory in the
// cluster; the set adds delete hooks only. So a step can go also when its files
// or machines are gone already.
func (s *clusterStep) last(ctx context.Context) kube.Set {
	set, err := s.set(ctx)
	if err != nil {
		s.env.Say("its objects cannot be made any more (%v); what was applied is removed, without delete hooks", err)
		return kube.Set{}
	}
	return set
}

// Remove implements Remover.
func (s *clusterStep) Remove(ctx context.Context, data bool) error {
	return s.cluster.Remove(ctx, s.last(ctx), s.opts, data)
}

// Undo implements Undoer. What holds data is left.
func (s *clusterStep) Undo(ctx context.Context) error { return s.Remove(ctx, false) }

// manifestBlocks is the spec of files with Kubernetes objects.
func manifestBlocks(least int) hcldec.Spec {
	return &hcldec.BlockListSpec{TypeName: "manifest", Nested: fileSpec, MinItems: least}
}

// fileRefs reads blocks of fileSpec.
func fileRefs(blocks cty.Value) []artifact.Ref {
	var out []artifact.Ref
	if blocks.IsNull() || !blocks.IsKnown() {
		return nil
	}
	for _, b := range blocks.AsValueSlice() {
		source, digest := b.GetAttr("source"), b.GetAttr("sha256")
		if source.IsKnown() && !source.IsNull() && digest.IsKnown() && !digest.IsNull() {
			out = append(out, artifact.Ref{Source: source.AsString(), SHA256: digest.AsString()})
		}
	}
	return out
}

// maxManifestBytes bounds what one file of manifests unpacks to. Calico's
// definitions, the largest known, have three million.
const maxManifestBytes = 64 << 20

// readObjects reads the objects of verified files, which may be gzipped.
func readObjects(ctx context.Context, artifacts Artifacts, refs []artifact.Ref) ([]kube.Object, error) {
	var out []kube.Object
	for _, ref := range refs {
		content, err := readFile(ctx, artifacts, ref)
		if err != nil {
			return nil, err
		}
		objects, err := kube.Parse(ref.Source, content)
		if err != nil {
			return nil, err
		}
		out = append(out, objects...)
	}
	return out, nil
}

func readFile(ctx context.Context, artifacts Artifacts, ref artifact.Ref) ([]byte, error) {
	if artifacts == nil {
		return nil, fmt.Errorf("%s: files are not available here", ref.Source)
	}
	f, err := artifacts.Open(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxManifestBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", ref.Source, err)
	}
	if bytes.HasPrefix(content, []byte{0x1f, 0x8b}) && !strings.HasSuffix(ref.Source, ".tgz") && !strings.HasSuffix(ref.Source, ".tar.gz") {
		unpack, err := gzip.NewReader(bytes.NewReader(content))
		if err != nil {
			return nil, fmt.Errorf("unpacking %s: %w", ref.Source, err)
		}
		if content, err = io.ReadAll(io.LimitReader(unpack, maxManifestBytes+1)); err != nil {
			return nil, fmt.Errorf("unpacking %s: %w", ref.Source, err)
		}
	}
	if len(content) > maxManifestBytes {
		return nil, fmt.Errorf("%s has more than %d bytes", ref.Source, maxManifestBytes)
	}
	return content, nil
}

// plainValues turns an HCL object into what JSON would hold, with whole numbers
// as integers: a template prints the number 1000000 as such, and not as 1e+06.
func plainValues(v cty.Value) (map[string]any, error) {
	v, _ = v.UnmarkDeep()
	if v.IsNull() {
		return nil, nil
	}
	if !v.Type().IsObjectType() && !v.Type().IsMapType() {
		return nil, errors.New("values must be an object")
	}
	b, err := ctyjson.Marshal(v, v.Type())
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var out map[string]any
	if err := d.Decode(&out); err != nil {
		return nil, err
	}
	return wholeNumbers(out).(map[string]any), nil
}

func wholeNumbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = wholeNumbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = wholeNumbers(e)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		// JSON that cty wrote holds a number.
		f, _ := v.Float64()
		return f
	}
	return v
}

// truth is a bool attribute; false for null.
func truth(inputs cty.Value, name string) bool {
	v, _ := inputs.GetAttr(name).Unmark()
	return !v.IsNull() && v.True()
}

// number is a whole number attribute; 0 for null.
func number(inputs cty.Value, name string) int64 {
	v, _ := inputs.GetAttr(name).Unmark()
	if v.IsNull() {
		return 0
	}
	n, _ := v.AsBigFloat().Int64()
	return n
}

// textList is a list of strings; nil for null.
func textList(inputs cty.Value, name string) []string {
	v, _ := inputs.GetAttr(name).UnmarkDeep()
	if v.IsNull() {
		return nil
	}
	var out []string
	for _, e := range v.AsValueSlice() {
		out = append(out, e.AsString())
	}
	return out
}

// clusterOutput is a string that the cluster's step gives; "" when it is not
// there.
func clusterOutput(inputs cty.Value, name string) string {
	v, _ := inputs.GetAttr("cluster").UnmarkDeep()
	if !v.Type().IsObjectType() || !v.Type().HasAttribute(name) {
		return ""
	}
	a := v.GetAttr(name)
	if a.IsNull() || a.Type() != cty.String {
		return ""
	}
	return a.AsString()
}

// sensitiveAttribute reports whether what was written for an attribute is
// secret.
func sensitiveAttribute(inputs cty.Value, name string) bool {
	return site.IsSensitive(inputs.GetAttr(name))
}

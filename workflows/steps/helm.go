package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/kube/chart"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// helmType renders a chart and applies what comes of it. There is no Helm release
// in the cluster: the objects are owned and pruned like those of any other step.
var helmType = Type{
	Name: "helm",
	Shape: site.StepType{
		Spec: clusterSpec(hcldec.ObjectSpec{
			"chart":            fileBlock("chart", true),
			"release":          attribute("release", cty.String, false),
			"namespace":        attribute("namespace", cty.String, true),
			"create_namespace": attribute("create_namespace", cty.Bool, false),
			"values":           attribute("values", cty.DynamicPseudoType, false),
			"api_versions":     attribute("api_versions", cty.List(cty.String), false),
			"skip_crds":        attribute("skip_crds", cty.Bool, false),
			"wait":             attribute("wait", cty.Bool, false),
			"wait_timeout":     attribute("wait_timeout", cty.String, false),
		}),
		Outputs: map[string]cty.Type{"chart": cty.String, "version": cty.String, "manifest_digest": cty.String},
		CanUndo: true,
		Check:   checkHelm,
	},
	New: newHelm,
}

func checkHelm(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
	diags := append(checkCluster(inputs, ranges), checkPatience(inputs, ranges)...)
	values, _ := inputs.GetAttr("values").UnmarkDeep()
	if values.IsKnown() && !values.IsNull() && !values.Type().IsObjectType() && !values.Type().IsMapType() {
		diags = append(diags, mistake(ranges, "values", "Invalid values", "values must be an object, such as { replicas = 2 }."))
	}
	return diags
}

// helmStep is the inputs of one helm step.
type helmStep struct {
	*clusterStep
	ref     artifact.Ref
	request chart.Request
	// namespace is whether the step declares its namespace itself.
	namespace bool
	// skip leaves out what is in the crds/ directories of the chart.
	skip   bool
	chart  *chart.Chart
	digest string
}

func newHelm(inputs cty.Value, env Env) (Step, error) {
	base, err := newClusterStep(inputs, env)
	if err != nil {
		return nil, err
	}
	values, err := plainValues(inputs.GetAttr("values"))
	if err != nil {
		return nil, fmt.Errorf("values: %w", err)
	}
	s := &helmStep{clusterStep: base, skip: truth(inputs, "skip_crds")}
	s.ref = fileRefs(cty.TupleVal([]cty.Value{inputs.GetAttr("chart")}))[0]
	s.request = chart.Request{
		Release: text(inputs, "release"), Namespace: text(inputs, "namespace"), Values: values, APIVersions: textList(inputs, "api_versions"),
	}
	if s.request.Release == "" {
		s.request.Release = env.Address[strings.LastIndex(env.Address, ".")+1:]
	}
	s.opts.Namespace = s.request.Namespace
	create, _ := inputs.GetAttr("create_namespace").Unmark()
	s.namespace = (create.IsNull() || create.True()) && !slices.Contains([]string{"default", "kube-system", "kube-public"}, s.request.Namespace)
	s.opts.Sensitive = sensitiveAttribute(inputs, "values")
	if err := s.patience(inputs); err != nil {
		return nil, err
	}
	s.set, s.outputs = s.render, s.known
	return s, nil
}

// render makes the chart's objects for the cluster's own version.
func (s *helmStep) render(ctx context.Context) (kube.Set, error) {
	if s.chart == nil {
		f, err := s.open(ctx)
		if err != nil {
			return kube.Set{}, err
		}
		s.chart = f
	}
	request := s.request
	var err error
	if request.KubeVersion, err = s.cluster.Version(ctx); err != nil {
		return kube.Set{}, err
	}
	rendered, err := s.chart.Render(ctx, request)
	if err != nil {
		return kube.Set{}, err
	}
	if s.skip {
		rendered.CRDs = nil
	}
	crds, odd, err := kube.ParseRendered(s.chart.Name()+"/crds", rendered.CRDs)
	if err != nil {
		return kube.Set{}, err
	}
	objects, twice, err := kube.ParseRendered(s.chart.Name(), rendered.Manifests)
	if err != nil {
		return kube.Set{}, err
	}
	for _, w := range slices.Concat(rendered.Warnings, odd, twice, kube.OddHooks(objects)) {
		s.env.Say("%s", w)
	}
	if s.namespace && !hasNamespace(objects, s.request.Namespace) {
		objects = append(objects, kube.Make("v1", "Namespace", "", s.request.Namespace, nil))
	}
	set, err := kube.NewSet(append(crds, objects...)...)
	s.digest = set.Digest()
	return set, err
}

func hasNamespace(objects []kube.Object, name string) bool {
	for _, o := range objects {
		if o.GetKind() == "Namespace" && o.GetName() == name {
			return true
		}
	}
	return false
}

func (s *helmStep) open(ctx context.Context) (*chart.Chart, error) {
	if s.env.Artifacts == nil {
		return nil, errors.New("charts are not available here")
	}
	f, err := s.env.Artifacts.Open(ctx, s.ref)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := chart.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.ref.Source, err)
	}
	return c, nil
}

func (s *helmStep) known(context.Context) (map[string]cty.Value, error) {
	return map[string]cty.Value{
		"chart": cty.StringVal(s.chart.Name()), "version": cty.StringVal(s.chart.Version()), "manifest_digest": cty.StringVal(s.digest),
	}, nil
}

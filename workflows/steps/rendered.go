package steps

import (
	"context"
	"fmt"
	"slices"

	"github.com/zclconf/go-cty/cty"
	"sigs.k8s.io/yaml"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/kube/chart"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Rendered adds to what steps need what shows only when their files are read:
// the container images of manifests and charts, and what charts come to. Notes
// are lines for a person about what cannot be known here.
func Rendered(ctx context.Context, s *site.Site, needs []StepNeeds, artifacts Artifacts) (out []StepNeeds, notes []string, err error) {
	out = slices.Clone(needs)
	for i, n := range out {
		step := findStep(s, n.Address)
		if step == nil {
			continue
		}
		inputs, err := Public(step.Inputs)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", n.Address, err)
		}
		r, err := render(ctx, s, step, inputs, artifacts)
		if err != nil {
			return nil, nil, fmt.Errorf("%s (%s): %w", n.Address, step.DeclRange, err)
		}
		unseen, lacking, err := operatorImages(step.Type, inputs)
		if err != nil {
			return nil, nil, fmt.Errorf("%s (%s): %w", n.Address, step.DeclRange, err)
		}
		asking := ""
		if step.Type == manifestType.Name || step.Type == helmType.Name {
			asking = pulled(r.objects)
		}
		for _, note := range []string{r.note, lacking, asking} {
			if note != "" {
				notes = append(notes, n.Address+": "+note)
			}
		}
		out[i].Images = slices.Concat(n.Images, unseen, podImages(r.objects))
		if r.spec != "" {
			text, err := stream(r.objects)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", n.Address, err)
			}
			out[i].Documents = append(slices.Clone(n.Documents), artifact.Document{Name: "manifest.yaml", Content: text, Spec: r.spec})
		}
	}
	return out, notes, nil
}

// stream writes objects as a YAML stream.
func stream(objects []kube.Object) ([]byte, error) {
	var out []byte
	for _, o := range objects {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			return nil, err
		}
		out = append(append(out, "---\n"...), text...)
	}
	return out, nil
}

func findStep(s *site.Site, address string) *site.Step {
	for _, w := range s.Workflows {
		for _, step := range w.Steps {
			if step.Address == address {
				return step
			}
		}
	}
	return nil
}

// rendering is what a step's manifests or chart come to, as far as its declaration
// tells.
type rendering struct {
	objects []kube.Object
	// spec is the digest of all that a chart was rendered from: renderings of one
	// spec are equal. Empty where no chart was rendered.
	spec string
	note string // why objects are missing
}

func render(ctx context.Context, s *site.Site, step *site.Step, inputs cty.Value, artifacts Artifacts) (rendering, error) {
	if inputs.Type().HasAttribute("manifest") {
		objects, err := readObjects(ctx, artifacts, fileRefs(inputs.GetAttr("manifest")))
		if err != nil || step.Type != manifestType.Name || inputs.GetAttr("content").IsNull() {
			return rendering{objects: applied(step.Type, objects)}, err
		}
		if !inputs.GetAttr("content").IsKnown() {
			return rendering{objects: objects, note: "its content is secret or known only on site; container images that only it brings are not in the bundle"}, nil
		}
		written, err := parseContent(inputs.GetAttr("content"))
		return rendering{objects: append(objects, written...)}, err
	}
	if step.Type != helmType.Name {
		return rendering{}, nil
	}
	if !inputs.GetAttr("values").IsWhollyKnown() {
		return rendering{note: "its values are secret or known only on site, so it is rendered there; container images that only it brings are not in the bundle"}, nil
	}
	version := kubernetesOf(s, step)
	if version == "" {
		return rendering{note: "no k3s step of its workflow says which Kubernetes it runs on, so it is rendered on site; container images that only it brings are not in the bundle"}, nil
	}
	return renderChart(ctx, inputs, version, step.Name, artifacts)
}

// kubernetesOf is the version of the cluster that a step of the same workflow
// makes, or "".
func kubernetesOf(s *site.Site, step *site.Step) string {
	for _, w := range s.Workflows {
		if !slices.Contains(w.Steps, step) {
			continue
		}
		for _, other := range w.Steps {
			if v, ok := known(other.Inputs, "version"); ok && other.Type == k3sType.Name {
				return v
			}
		}
	}
	return ""
}

func renderChart(ctx context.Context, inputs cty.Value, version, name string, artifacts Artifacts) (rendering, error) {
	values, err := plainValues(inputs.GetAttr("values"))
	if err != nil {
		return rendering{}, fmt.Errorf("values: %w", err)
	}
	refs := fileRefs(cty.TupleVal([]cty.Value{inputs.GetAttr("chart")}))
	if len(refs) == 0 || !inputs.GetAttr("namespace").IsKnown() {
		return rendering{}, nil
	}
	f, err := artifacts.Open(ctx, refs[0])
	if err != nil {
		return rendering{}, err
	}
	defer f.Close()
	c, err := chart.Read(f)
	if err != nil {
		return rendering{}, err
	}
	request := chart.Request{Release: name, Namespace: text(inputs, "namespace"), Values: values, KubeVersion: version}
	if v := inputs.GetAttr("release"); v.IsKnown() && !v.IsNull() {
		request.Release = v.AsString()
	}
	if v := inputs.GetAttr("api_versions"); v.IsWhollyKnown() {
		request.APIVersions = textList(inputs, "api_versions")
	}
	rendered, err := c.Render(ctx, request)
	if err != nil {
		return rendering{}, err
	}
	objects, _, err := kube.ParseRendered(c.Name(), rendered.Manifests)
	return rendering{objects: objects, spec: workflows.DigestOf([]any{"chart", refs[0].SHA256, request})}, err
}

// podImages are the images that pods of the objects run, sorted, each once.
func podImages(objects []kube.Object) []artifact.Image {
	var names []string
	for _, o := range objects {
		for _, c := range containers(o) {
			if image, ok := c["image"].(string); ok && image != "" {
				names = append(names, image)
			}
		}
	}
	slices.Sort(names)
	var out []artifact.Image
	for _, n := range slices.Compact(names) {
		out = append(out, artifact.Image{Name: n})
	}
	return out
}

// containers are those of an object's pods, wherever in its specification pods
// are described.
func containers(o kube.Object) []map[string]any {
	var out []map[string]any
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
				listed, _ := v[list].([]any)
				for _, c := range listed {
					if m, ok := c.(map[string]any); ok {
						out = append(out, m)
					}
				}
			}
			for _, e := range v {
				walk(e)
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	// A definition's schema speaks of containers without having any.
	if o.GetKind() != "CustomResourceDefinition" {
		walk(o.Object["spec"])
	}
	return out
}

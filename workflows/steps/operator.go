package steps

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"
	"sigs.k8s.io/yaml"

	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/kube"
)

// operatorImages are the container images that a step's operator pulls by itself,
// which no pod of its manifest names: those that the step lists. The note says
// what a bundle lacks where it lists none.
func operatorImages(kind string, inputs cty.Value) (images []artifact.Image, note string, err error) {
	switch kind {
	case k3sType.Name:
		if images := inputs.GetAttr("images"); images.IsKnown() && images.LengthInt() == 0 {
			return nil, "it names no images, so those that K3s itself runs are not in the bundle; write an images block with its air-gap archive", nil
		}
	case calicoType.Name:
		return calicoImages(inputs)
	case portworxType.Name:
		return portworxImages(inputs)
	}
	return nil, "", nil
}

// calicoImages are those that the step pins.
func calicoImages(inputs cty.Value) ([]artifact.Image, string, error) {
	if !inputs.GetAttr("images").IsWhollyKnown() || !inputs.GetAttr("registry").IsKnown() || !inputs.GetAttr("version").IsKnown() {
		return nil, "its images are secret or known only on site; those that its operator pulls are not in the bundle", nil
	}
	pinned := textMap(inputs, "images")
	if len(pinned) == 0 {
		return nil, "it pins no images, so those that its operator pulls are in the bundle only if another step names them or K3s's images hold them", nil
	}
	registry := text(inputs, "registry")
	if registry == "" {
		registry = "docker.io"
	}
	var out []artifact.Image
	for _, name := range slices.Sorted(maps.Keys(pinned)) {
		out = append(out, artifact.Image{Name: strings.TrimSuffix(registry, "/") + "/" + name + ":" + text(inputs, "version"), Digest: pinned[name]})
	}
	return out, "", nil
}

// portworxImages are those of the px-versions text: the operator takes each
// component's image from there (libopenstorage/operator, pkg/manifest, type
// Version).
func portworxImages(inputs cty.Value) ([]artifact.Image, string, error) {
	versions, registry := inputs.GetAttr("versions"), inputs.GetAttr("registry")
	switch {
	case !versions.IsKnown() || !registry.IsKnown():
		return nil, "its versions are secret or known only on site; images that only its operator pulls are not in the bundle", nil
	case text(inputs, "versions") == "":
		return nil, "it gives no versions, so nothing is known of the images of its operator's components, and none of them is in the bundle", nil
	case text(inputs, "registry") != "":
		return nil, "its operator takes the components' images from " + text(inputs, "registry") + " under names of its own making; none of them is in the bundle", nil
	}
	var listed struct {
		Components map[string]string `json:"components"`
	}
	if err := yaml.Unmarshal([]byte(text(inputs, "versions")), &listed); err != nil {
		return nil, "", fmt.Errorf("versions: it is not what Portworx's version service answers: %w", err)
	}
	var out []artifact.Image
	for _, name := range slices.Compact(slices.Sorted(maps.Values(listed.Components))) {
		if name != "" {
			out = append(out, artifact.Image{Name: name})
		}
	}
	return out, "", nil
}

// preloaded reports whether a step's images are on the nodes: where it does not
// say, they are when a bundle has brought them.
func preloaded(inputs cty.Value, env Env) bool {
	if v := inputs.GetAttr("preloaded"); !v.IsNull() {
		return truth(inputs, "preloaded")
	}
	return len(env.Preload) > 0
}

// pulled says which images pods ask a registry for though a node has them: what
// cannot be answered where a bundle is applied.
func pulled(objects []kube.Object) string {
	var names []string
	for _, o := range objects {
		for _, c := range containers(o) {
			image, _ := c["image"].(string)
			tag := image[strings.LastIndex(image, "/")+1:]
			// Kubernetes, "Images": without a policy an image is pulled always
			// when its tag is latest or missing.
			policy, _ := c["imagePullPolicy"].(string)
			open := !strings.Contains(tag, ":") || strings.HasSuffix(tag, ":latest")
			if image != "" && (policy == "Always" || policy == "" && open && !strings.Contains(tag, "@")) {
				names = append(names, image)
			}
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return "its pods ask a registry each time they start for " + strings.Join(slices.Compact(names), ", ") + "; write imagePullPolicy: IfNotPresent where a bundle is applied"
}

// applied leaves out what a step for an operator does not apply of upstream's
// manifest: hooks of the chart, which removal here does without.
func applied(kind string, objects []kube.Object) []kube.Object {
	if kind != calicoType.Name && kind != portworxType.Name {
		return objects
	}
	return slices.DeleteFunc(objects, func(o kube.Object) bool { return o.GetAnnotations()["helm.sh/hook"] != "" })
}

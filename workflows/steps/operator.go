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

// applied leaves out what a step for an operator does not apply of upstream's
// manifest: hooks of the chart, which removal here does without.
func applied(kind string, objects []kube.Object) []kube.Object {
	if kind != calicoType.Name && kind != portworxType.Name {
		return objects
	}
	return slices.DeleteFunc(objects, func(o kube.Object) bool { return o.GetAnnotations()["helm.sh/hook"] != "" })
}

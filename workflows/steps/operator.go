package steps

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"
	"sigs.k8s.io/yaml"

	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/stack"
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
	registry := cmp.Or(text(inputs, "registry"), calicoRegistry(text(inputs, "version")))
	var out []artifact.Image
	for _, name := range slices.Sorted(maps.Keys(pinned)) {
		out = append(out, artifact.Image{Name: strings.TrimSuffix(registry, "/") + "/" + name + ":" + text(inputs, "version"), Digest: pinned[name]})
	}
	return out, "", nil
}

// calicoRegistry is where a release's operator looks for images when it is told nothing:
// quay.io since Calico 3.31 (tigera/operator, CalicoRegistry; tigera/docs#2353), Docker
// Hub before.
func calicoRegistry(version string) string {
	v, err := stack.ParseVersion(version)
	if err == nil && v.Compare(stack.Version{Major: 3, Minor: 31}) < 0 {
		return "docker.io"
	}
	return "quay.io"
}

// portworxImages are those of the px-versions text: the operator takes each
// component's image from there (libopenstorage/operator, pkg/manifest, type
// Version). The one that Portworx itself runs from is in none of them: its monitor
// pulls it, of the monitor's own version (the vendor's list of images for clusters
// without the internet).
func portworxImages(inputs cty.Value) ([]artifact.Image, string, error) {
	for _, name := range []string{"versions", "registry", "image", "preloaded"} {
		if !inputs.GetAttr(name).IsKnown() {
			return nil, "its " + name + " is secret or known only on site; images that only its operator pulls are not in the bundle", nil
		}
	}
	versions, registry := text(inputs, "versions"), text(inputs, "registry")
	if v := inputs.GetAttr("preloaded"); v.IsNull() || v.True() {
		if err := checkOffline(versions, text(inputs, "image")); err != nil {
			return nil, "", err
		}
	}
	switch {
	case versions == "":
		return nil, "it gives no versions, so nothing is known of the images of its operator's components, and none of them is in the bundle", nil
	case registry != "":
		return nil, "its operator takes the components' images from " + registry + " under names of its own making; none of them is in the bundle", nil
	}
	components, err := portworxComponents(versions)
	if err != nil {
		return nil, "", err
	}
	names := slices.Collect(maps.Values(components))
	engine, note := portworxEngine(text(inputs, "image"))
	var out []artifact.Image
	for _, name := range slices.Compact(slices.Sorted(slices.Values(append(names, engine)))) {
		if name != "" {
			out = append(out, artifact.Image{Name: name})
		}
	}
	return out, note, nil
}

// portworxEngine is the image that Portworx's monitor pulls and runs Portworx from. The
// note is about a monitor of another name.
func portworxEngine(image string) (engine, note string) {
	at := strings.LastIndex(image, "/") + 1
	tag, ours := strings.CutPrefix(image[at:], "oci-monitor:")
	if !ours {
		return "", "its image is no oci-monitor with a tag, so it is not known what that pulls in turn, and it is not in the bundle"
	}
	return image[:at] + "px-enterprise:" + tag, ""
}

// portworxComponents reads the images of a px-versions text.
func portworxComponents(versions string) (map[string]string, error) {
	var listed struct {
		Components map[string]string `json:"components"`
	}
	if err := yaml.Unmarshal([]byte(versions), &listed); err != nil {
		return nil, fmt.Errorf("versions: it is not what Portworx's version service answers: %w", err)
	}
	return listed.Components, nil
}

// unlisted are components of which Portworx's version service may name no image, and
// that its operator then looks for in a registry, as here (the vendor's page on clusters
// without the internet; libopenstorage/operator, pvccontroller.go, stork.go,
// portworx_api.go). VERSION is that of Kubernetes.
var unlisted = map[string]string{
	"kubeControllerManager": "registry.k8s.io/kube-controller-manager-amd64:vVERSION",
	"kubeScheduler":         "registry.k8s.io/kube-scheduler-amd64:vVERSION",
	"pause":                 "registry.k8s.io/pause:3.1",
}

// checkOffline says what a px-versions text lacks for a cluster that can ask neither
// Portworx's version service nor a registry: without it the operator does not go on.
func checkOffline(versions, image string) error {
	if versions == "" {
		return fmt.Errorf("versions: without them the operator asks Portworx's version service, which a site that is applied from a bundle does not reach, and it is not known which images it pulls. "+
			"Give what https://install.portworx.com/%s/version?kbver=KUBERNETES&opver=OPERATOR answers (docs/addons.md), or say preloaded = false where the site reaches the internet", cmp.Or(image[strings.LastIndex(image, ":")+1:], "VERSION"))
	}
	components, err := portworxComponents(versions)
	if err != nil {
		return err
	}
	var lacking []string
	for _, name := range slices.Sorted(maps.Keys(unlisted)) {
		if components[name] == "" {
			lacking = append(lacking, name+": "+unlisted[name])
		}
	}
	if len(lacking) > 0 {
		return fmt.Errorf("versions: its components lack what the operator would look for in a registry; add them, VERSION being that of Kubernetes: %s", strings.Join(lacking, ", "))
	}
	return nil
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

package steps

import (
	"slices"
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/site"
)

func names(images []artifact.Image) []string {
	var out []string
	for _, i := range images {
		out = append(out, i.Name)
	}
	return out
}

func TestImagesThatOperatorsPullAreThoseThatTheStepLists(t *testing.T) {
	digest := "sha256:" + strings.Repeat("1", 64)
	calicoOf := func(version string, images cty.Value, registry string) cty.Value {
		return cty.ObjectVal(map[string]cty.Value{"images": images, "registry": cty.StringVal(registry), "version": cty.StringVal(version)})
	}
	calico := func(images cty.Value, registry string) cty.Value { return calicoOf("v3.32.1", images, registry) }
	node := cty.MapVal(map[string]cty.Value{"calico/node": cty.StringVal(digest)})
	pxOf := func(image string, preloaded, versions cty.Value, registry string) cty.Value {
		return cty.ObjectVal(map[string]cty.Value{"versions": versions, "registry": cty.StringVal(registry), "image": cty.StringVal(image), "preloaded": preloaded})
	}
	said := cty.NullVal(cty.Bool)
	px := func(versions cty.Value, registry string) cty.Value {
		return pxOf("portworx/oci-monitor:3.6.1", said, versions, registry)
	}
	listed := "version: 3.6.1\ncomponents:\n  stork: openstorage/stork:26.2.0\n  csiProvisioner: registry.k8s.io/sig-storage/csi-provisioner:v5.2.0\n  other: openstorage/stork:26.2.0\n  nothing: \"\"\n"
	versions := listed + "  pause: k/pause:3.1\n  kubeScheduler: k/s:1\n  kubeControllerManager: k/c:1\n"
	all := []string{"k/c:1", "k/pause:3.1", "k/s:1", "openstorage/stork:26.2.0", "portworx/px-enterprise:3.6.1", "registry.k8s.io/sig-storage/csi-provisioner:v5.2.0"}
	for _, c := range []struct {
		what, kind string
		inputs     cty.Value
		want       []string
		note       string
	}{
		{"pinned", "calico", calico(cty.MapVal(map[string]cty.Value{"calico/node": cty.StringVal(digest), "calico/cni": cty.StringVal(digest)}), ""), []string{"quay.io/calico/cni:v3.32.1", "quay.io/calico/node:v3.32.1"}, ""},
		{"pinned, the first release of quay.io", "calico", calicoOf("v3.31.0", node, ""), []string{"quay.io/calico/node:v3.31.0"}, ""},
		{"pinned, older", "calico", calicoOf("v3.30.9", node, ""), []string{"docker.io/calico/node:v3.30.9"}, ""},
		{"pinned in a registry", "calico", calico(node, "reg:5000/"), []string{"reg:5000/calico/node:v3.32.1"}, ""},
		{"not pinned", "calico", calico(cty.NullVal(cty.Map(cty.String)), ""), nil, "pins no images"},
		{"secret", "calico", calico(cty.UnknownVal(cty.Map(cty.String)), ""), nil, "known only on site"},
		{"versions", "portworx", px(cty.StringVal(versions), ""), all, ""},
		{"a monitor of a registry's", "portworx", pxOf("reg:5000/px/oci-monitor:3.6.1", said, cty.StringVal("components: {pause: p, kubeScheduler: s, kubeControllerManager: c}"), ""), []string{"c", "p", "reg:5000/px/px-enterprise:3.6.1", "s"}, ""},
		{"another monitor", "portworx", pxOf("portworx/px-pure-csi-driver:25.8.0", said, cty.StringVal("components: {pause: p, kubeScheduler: s, kubeControllerManager: c}"), ""), []string{"c", "p", "s"}, "no oci-monitor"},
		{"no versions, with the internet", "portworx", pxOf("portworx/oci-monitor:3.6.1", cty.False, cty.NullVal(cty.String), ""), nil, "gives no versions"},
		{"some versions, with the internet", "portworx", pxOf("portworx/oci-monitor:3.6.1", cty.False, cty.StringVal("components: {stork: s}"), ""), []string{"portworx/px-enterprise:3.6.1", "s"}, ""},
		{"versions known later", "portworx", px(cty.UnknownVal(cty.String), ""), nil, "known only on site"},
		{"versions and a registry", "portworx", px(cty.StringVal(versions), "reg:5000"), nil, "reg:5000"},
		{"K3s without images", "k3s", cty.ObjectVal(map[string]cty.Value{"images": cty.ListValEmpty(cty.String)}), nil, "air-gap archive"},
		{"K3s with images", "k3s", cty.ObjectVal(map[string]cty.Value{"images": cty.ListVal([]cty.Value{cty.StringVal("a")})}), nil, ""},
		{"no operator", "fluentd", cty.EmptyObjectVal, nil, ""},
	} {
		images, note, err := operatorImages(c.kind, c.inputs)
		if err != nil || !slices.Equal(names(images), c.want) || (note == "") != (c.note == "") || !strings.Contains(note, c.note) {
			t.Errorf("%s: operatorImages() = %q, %q, %v; want %q and a note with %q", c.what, names(images), note, err, c.want, c.note)
		}
	}
	// Nobody on site could be asked for what is missing.
	for what, c := range map[string]struct {
		inputs cty.Value
		want   []string
	}{
		"a list":                     {px(cty.StringVal("- a\n"), ""), []string{"version service"}},
		"nothing":                    {px(cty.NullVal(cty.String), ""), []string{"https://install.portworx.com/3.6.1/version?kbver=", "preloaded = false"}},
		"nothing, with a registry":   {px(cty.StringVal(""), "reg:5000"), []string{"https://install.portworx.com/3.6.1/version?kbver="}},
		"nothing, images are there":  {pxOf("portworx/oci-monitor:3.6.1", cty.True, cty.NullVal(cty.String), ""), []string{"https://install.portworx.com/"}},
		"what the service lists":     {px(cty.StringVal(listed), ""), []string{"kubeControllerManager: registry.k8s.io/kube-controller-manager-amd64:vVERSION, kubeScheduler: ", ", pause: registry.k8s.io/pause:3.1"}},
		"one of three, and registry": {px(cty.StringVal(listed+"  pause: p\n"), "reg:5000"), []string{"kubeControllerManager: ", "kubeScheduler: "}},
	} {
		images, _, err := operatorImages("portworx", c.inputs)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) || len(images) > 0 {
				t.Errorf("operatorImages with versions of %s = %q, %v; want it refused with %q", what, names(images), err, want)
			}
		}
	}
}

const upstreamWithHooks = `apiVersion: apps/v1
kind: Deployment
metadata: {name: operator, namespace: d}
spec: {template: {spec: {containers: [{name: o, image: "operator:1"}]}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: gone, namespace: d, annotations: {helm.sh/hook: pre-delete}}
spec: {template: {spec: {containers: [{name: k, image: "kubectl:1"}]}}}
`

func TestImagesOfWhatIsNotAppliedAreNotNeeded(t *testing.T) {
	for kind, want := range map[string][]string{
		"portworx": {"operator:1"}, "calico": {"operator:1"},
		// Of a manifest step everything is applied, hooks as a chart's.
		"manifest": {"kubectl:1", "operator:1"},
	} {
		objects, err := kube.Parse("test", []byte(upstreamWithHooks))
		if err != nil {
			t.Fatal(err)
		}
		if got := names(podImages(applied(kind, objects))); !slices.Equal(got, want) {
			t.Errorf("images of a %s step = %q; want %q", kind, got, want)
		}
	}
}

func TestImagesOfWrittenContentAreNeeded(t *testing.T) {
	inputs := func(content cty.Value) cty.Value {
		return cty.ObjectVal(map[string]cty.Value{"manifest": cty.ListValEmpty(cty.Object(map[string]cty.Type{"source": cty.String, "sha256": cty.String})), "content": content})
	}
	step := &site.Step{Type: "manifest", Name: "app"}
	r, err := render(t.Context(), nil, step, inputs(cty.StringVal(upstreamWithHooks)), nil)
	if got, want := names(podImages(r.objects)), []string{"kubectl:1", "operator:1"}; err != nil || !slices.Equal(got, want) || r.note != "" {
		t.Errorf("render() = %q, %q, %v; want %q", got, r.note, err, want)
	}
	r, err = render(t.Context(), nil, step, inputs(cty.UnknownVal(cty.String)), nil)
	if err != nil || len(r.objects) != 0 || !strings.Contains(r.note, "known only on site") {
		t.Errorf("render() of secret content = %v, %q, %v; want a note", r.objects, r.note, err)
	}
}

func TestImagesAreOnTheNodesWhenABundleBroughtThem(t *testing.T) {
	bundled := Env{Preload: []artifact.Ref{{Source: "till.tar"}}}
	for _, c := range []struct {
		what     string
		declared cty.Value
		env      Env
		want     bool
	}{
		{"nothing said, no bundle", cty.NullVal(cty.Bool), Env{}, false},
		{"nothing said, a bundle", cty.NullVal(cty.Bool), bundled, true},
		{"said", cty.True, Env{}, true},
		{"denied, a bundle", cty.False, bundled, false},
	} {
		if got := preloaded(cty.ObjectVal(map[string]cty.Value{"preloaded": c.declared}), c.env); got != c.want {
			t.Errorf("%s: preloaded() = %v; want %v", c.what, got, c.want)
		}
	}
}

func TestImagesThatAreAlwaysPulledAreNamed(t *testing.T) {
	for pod, want := range map[string]string{
		`{name: a, image: "a:1"}`:                                          "",
		`{name: a, image: "reg:5000/a"}`:                                   "reg:5000/a",
		`{name: a, image: "a:latest"}`:                                     "a:latest",
		`{name: a, image: "a:latest", imagePullPolicy: IfNotPresent}`:      "",
		`{name: a, image: "a:1", imagePullPolicy: Always}`:                 "a:1",
		`{name: a, image: "a@sha256:` + strings.Repeat("1", 64) + `"}`:     "",
		`{name: a, image: "b:latest"}, {name: b, image: "a"}`:              "a, b:latest",
		`{name: a, image: "b:latest"}, {name: b, image: "b:latest"}`:       "b:latest",
		`{name: a, image: "a:1", imagePullPolicy: Never}, {name: nothing}`: "",
	} {
		objects, err := kube.Parse("test", []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: d}\nspec: {containers: ["+pod+"]}\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := pulled(objects); (got == "") != (want == "") || !strings.Contains(got, " for "+want) && want != "" {
			t.Errorf("pulled(%s) = %q; want %q named", pod, got, want)
		}
	}
}

package steps

import (
	"cmp"
	"context"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows/addon/volume"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// localPathType is storage for sites of one or two machines: volumes that lie on
// the disk of the node whose pod asked for them, by K3s's own provisioner.
var localPathType = Type{
	Name: "local_path",
	Shape: site.StepType{
		Spec: clusterSpec(hcldec.ObjectSpec{
			"class":       attribute("class", cty.String, false),
			"probe_image": attribute("probe_image", cty.String, false),
		}),
		Outputs: map[string]cty.Type{"class": cty.String},
		CanUndo: true,
		Check:   checkCluster,
	},
	New:   newLocalPath,
	Needs: imageNeeds("probe_image"),
}

func newLocalPath(inputs cty.Value, env Env) (Step, error) {
	s, err := newClusterStep(inputs, env)
	if err != nil {
		return nil, err
	}
	class := kube.Make("storage.k8s.io/v1", "StorageClass", "", cmp.Or(text(inputs, "class"), "edge-local"), map[string]any{
		"provisioner": "rancher.io/local-path", "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer",
	})
	s.set = func(context.Context) (kube.Set, error) { return kube.NewSet(class.DeepCopy()) }
	s.verify = func(ctx context.Context) error {
		env.Say("trying storage class %s with a volume", class.GetName())
		return volume.Canary{Cluster: s.cluster, Class: class, Image: cmp.Or(text(inputs, "probe_image"), k3sBusyBox), Owner: s.opts.Owner}.Run(ctx)
	}
	s.outputs = func(context.Context) (map[string]cty.Value, error) {
		return map[string]cty.Value{"class": cty.StringVal(class.GetName())}, nil
	}
	return s, nil
}

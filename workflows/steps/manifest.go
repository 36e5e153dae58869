package steps

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// manifestType keeps Kubernetes objects in a cluster as declared.
var manifestType = Type{
	Name: "manifest",
	Shape: site.StepType{
		Spec: clusterSpec(hcldec.ObjectSpec{
			"manifest":     manifestBlocks(0),
			"content":      attribute("content", cty.String, false),
			"namespace":    attribute("namespace", cty.String, false),
			"wait":         attribute("wait", cty.Bool, false),
			"wait_timeout": attribute("wait_timeout", cty.String, false),
		}),
		Outputs: map[string]cty.Type{"objects": cty.List(cty.String), "digest": cty.String},
		Check:   checkManifest,
		CanUndo: true,
	},
	New: newManifest,
}

func checkManifest(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
	diags := append(checkCluster(inputs, ranges), checkPatience(inputs, ranges)...)
	files, content := inputs.GetAttr("manifest"), inputs.GetAttr("content")
	if content.IsNull() && files.IsKnown() && files.LengthInt() == 0 {
		diags = append(diags, mistake(ranges, "content", "No objects", "A manifest step needs content, manifest blocks, or both."))
	}
	plain, _ := content.Unmark()
	if plain.IsKnown() && !plain.IsNull() {
		if _, err := parseContent(content); err != nil {
			diags = append(diags, mistake(ranges, "content", "Invalid manifest", upper(err.Error())+"."))
		}
	}
	if v, _ := inputs.GetAttr("namespace").Unmark(); v.IsKnown() && !v.IsNull() && !namespacePattern.MatchString(v.AsString()) {
		diags = append(diags, mistake(ranges, "namespace", "Invalid namespace",
			fmt.Sprintf("%q is no name of a namespace: lower-case letters, digits and hyphens, at most 63 of them.", v.AsString())))
	}
	return diags
}

// checkCluster finds what is wrong with the attributes that clusterSpec adds.
func checkCluster(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
	var diags hcl.Diagnostics
	fields, _ := inputs.GetAttr("ignore_fields").UnmarkDeep()
	if !fields.IsWhollyKnown() || fields.IsNull() {
		return nil
	}
	for _, f := range fields.AsValueSlice() {
		if err := kube.CheckIgnoreField(f.AsString()); err != nil {
			diags = append(diags, mistake(ranges, "ignore_fields", "Invalid field", upper(err.Error())+"."))
		}
	}
	return diags
}

// checkPatience finds what is wrong with wait_timeout, the bound of each wait.
func checkPatience(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
	v, _ := inputs.GetAttr("wait_timeout").Unmark()
	if !v.IsKnown() || v.IsNull() {
		return nil
	}
	if d, err := site.ParseDuration(v.AsString()); err == nil && d >= time.Second && d <= 24*time.Hour {
		return nil
	}
	return hcl.Diagnostics{mistake(ranges, "wait_timeout", "Invalid duration", fmt.Sprintf("%q is not a duration between 1s and 24h; write it like 30m.", v.AsString()))}
}

// patience reads whether and how long the step waits for what it applies.
func (s *clusterStep) patience(inputs cty.Value) error {
	wait, _ := inputs.GetAttr("wait").Unmark()
	s.opts.NoWait = !wait.IsNull() && wait.False()
	v := text(inputs, "wait_timeout")
	if v == "" {
		return nil
	}
	var err error
	if s.opts.Wait, err = site.ParseDuration(v); err != nil {
		return fmt.Errorf("wait_timeout: %w", err)
	}
	return nil
}

// parseContent reads the objects that are written in the step itself. The
// decoder's words can repeat a part of the text, so that of a sensitive one only
// the fact is told.
func parseContent(content cty.Value) ([]kube.Object, error) {
	plain, _ := content.Unmark()
	objects, err := kube.Parse("content", []byte(plain.AsString()))
	if err == nil {
		_, err = kube.NewSet(objects...)
	}
	if err != nil && content.IsMarked() {
		err = errors.New("content: it is no manifest; what is wrong is not shown, because it is sensitive")
	}
	return objects, err
}

func newManifest(inputs cty.Value, env Env) (Step, error) {
	s, err := newClusterStep(inputs, env)
	if err != nil {
		return nil, err
	}
	s.opts.Namespace = text(inputs, "namespace")
	s.opts.Sensitive = sensitiveAttribute(inputs, "content")
	if err := s.patience(inputs); err != nil {
		return nil, err
	}
	refs := fileRefs(inputs.GetAttr("manifest"))
	content := inputs.GetAttr("content")
	s.set = func(ctx context.Context) (kube.Set, error) {
		objects, err := readObjects(ctx, env.Artifacts, refs)
		if err != nil {
			return kube.Set{}, err
		}
		if !content.IsNull() {
			written, err := parseContent(content)
			if err != nil {
				return kube.Set{}, err
			}
			objects = append(objects, written...)
		}
		for _, odd := range kube.OddHooks(objects) {
			env.Say("%s", odd)
		}
		return kube.NewSet(objects...)
	}
	s.outputs = func(ctx context.Context) (map[string]cty.Value, error) {
		set, err := s.set(ctx)
		if err != nil {
			return nil, err
		}
		if set, err = s.cluster.Resolve(ctx, set, s.opts); err != nil {
			return nil, err
		}
		var names []string
		for _, o := range set.Objects {
			names = append(names, kube.IDOf(o).String())
		}
		return map[string]cty.Value{"objects": stringList(names), "digest": cty.StringVal(set.Digest())}, nil
	}
	return s, nil
}

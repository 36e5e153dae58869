package steps

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/stack"
)

// kernels are the kernel series of Debian's releases, which do not change
// within a release (https://www.debian.org/releases/, "What's new" of each).
var kernels = map[string]string{"bullseye": "5.10", "bookworm": "6.1", "trixie": "6.12"}

// installed is one set of versions in a site: what one workflow installs, on
// the kernel of one image.
type installed struct {
	versions stack.Versions
	steps    map[string]*site.Step // by component
}

// stacks reads the versions that a site declares.
func stacks(s *site.Site) []installed {
	var out []installed
	for _, w := range s.Workflows {
		one := installed{versions: stack.Versions{}, steps: map[string]*site.Step{}}
		for _, step := range w.Steps {
			if v, ok := declaredVersion(step.Inputs); ok && slices.Contains(stack.Components, step.Type) && !never(step.When) {
				one.versions[step.Type], one.steps[step.Type] = v, step
			}
		}
		if len(one.versions) == 0 {
			continue
		}
		seen := map[string]bool{}
		for _, i := range s.Images {
			if k := kernels[i.Release]; k != "" && !i.Imported() && !seen[k] {
				seen[k] = true
				with := installed{versions: maps.Clone(one.versions), steps: one.steps}
				with.versions["kernel"] = k
				out = append(out, with)
			}
		}
		if len(seen) == 0 {
			out = append(out, one)
		}
	}
	return out
}

// known is an attribute of an object, if it is a known string.
func known(inputs cty.Value, name string) (string, bool) {
	bare, _ := inputs.Unmark()
	if bare == cty.NilVal || bare.IsNull() || !bare.IsKnown() || !bare.Type().IsObjectType() || !bare.Type().HasAttribute(name) {
		return "", false
	}
	v, _ := bare.GetAttr(name).Unmark()
	if v.Type() != cty.String || v.IsNull() || !v.IsKnown() {
		return "", false
	}
	return v.AsString(), true
}

// declaredVersion is the version that a step's inputs ask for: the attribute
// version, or the tag of the attribute image.
func declaredVersion(inputs cty.Value) (string, bool) {
	if v, ok := known(inputs, "version"); ok {
		return v, true
	}
	image, ok := known(inputs, "image")
	if !ok {
		return "", false
	}
	full, err := artifact.FullName(image)
	tag := full[strings.LastIndex(full, ":")+1:]
	return tag, err == nil && tag != "latest"
}

// CheckVersions compares the versions of a site with the set that it names.
func CheckVersions(s *site.Site, set stack.Set) hcl.Diagnostics {
	var diags hcl.Diagnostics
	said := map[string]bool{}
	for _, one := range stacks(s) {
		for _, f := range stack.Check(set, one.versions, s.StackAllow) {
			step := one.steps[f.Component]
			subject := s.Range("stack")
			if step != nil {
				subject = versionRange(step)
			}
			key := subject.String() + f.Text
			if said[key] {
				continue
			}
			said[key] = true
			diags = append(diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Unknown combination of versions", Detail: f.Text, Subject: &subject})
		}
	}
	return diags
}

// versionRange is where a step says its version.
func versionRange(step *site.Step) hcl.Range {
	if r, ok := step.Ranges["version"]; ok {
		return r
	}
	return step.Range("image")
}

// CheckUpgrade compares the versions of a site with those that its steps
// reported when they were last applied.
func CheckUpgrade(s *site.Site, seen site.Known, sets []stack.Set) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, one := range stacks(s) {
		had := stack.Versions{}
		for component, step := range one.steps {
			if v, ok := known(seen.Steps[step.Address], "version"); ok {
				had[component] = v
			}
		}
		for _, f := range stack.Upgrade(sets, had, one.versions) {
			subject := versionRange(one.steps[f.Component])
			if !slices.ContainsFunc(diags, func(d *hcl.Diagnostic) bool { return d.Detail == f.Text && *d.Subject == subject }) {
				diags = append(diags, &hcl.Diagnostic{
					Severity: hcl.DiagError, Summary: "Unsupported upgrade", Subject: &subject,
					Detail: fmt.Sprintf("%s: %s", one.steps[f.Component].Address, f.Text),
				})
			}
		}
	}
	return diags
}

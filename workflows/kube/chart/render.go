package chart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"text/template"
	"time"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	helmchart "helm.sh/helm/v4/pkg/chart/v2"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
)

// Request is everything that a rendering depends on beside the chart. Templates
// always see an installation (.Release.IsInstall): a chart that rendered
// otherwise after the first time would differ from its cluster for ever.
type Request struct {
	// Release and Namespace are what templates see as .Release.
	Release, Namespace string
	// Values override those of the chart.
	Values map[string]any
	// KubeVersion is the cluster's version, such as v1.36.3+k3s1. Charts choose
	// API versions and images by it, so there is no default.
	KubeVersion string
	// APIVersions are what the cluster serves beside Kubernetes' own, each as
	// group/version or group/version/Kind.
	APIVersions []string
}

// Rendered is what a chart comes to.
type Rendered struct {
	// CRDs are the documents of the crds/ directories of the chart and of those
	// dependencies that the values do not switch off, Manifests all the others,
	// hooks included; both are YAML streams.
	CRDs, Manifests []byte
	// Notes is the chart's NOTES.txt, for a person.
	Notes string
	// Warnings are values that look mistyped but may be meant, and schemas by which
	// nothing was checked.
	Warnings []string
}

// maxRenderedBytes bounds what a chart may come to.
const maxRenderedBytes = 64 << 20

// Render renders the chart. Equal arguments give equal bytes; a chart whose
// templates draw random numbers, make keys or print the time is refused, because
// its next plan would never say "no changes".
func (c *Chart) Render(ctx context.Context, r Request) (Rendered, error) {
	warnings, err := c.checkValues(r.Values)
	if err != nil {
		return Rendered{}, err
	}
	// The clocks differ in every unit that a template could print.
	once, err := c.render(ctx, r, time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC))
	if err != nil {
		return Rendered{}, err
	}
	again, err := c.render(ctx, r, time.Date(2033, 11, 24, 17, 48, 59, 123456789, time.UTC))
	if err != nil {
		return Rendered{}, err
	}
	first, second := once.files, again.files
	for _, name := range sortedKeys(first) {
		if first[name] != second[name] && path.Base(name) != "NOTES.txt" {
			return Rendered{}, fmt.Errorf("chart %s renders differently twice: %s: %s. It makes keys, random names or times while it is rendered; set the values that give them",
				c.Name(), name, firstDifference(first[name], second[name]))
		}
	}
	out := Rendered{Warnings: append(warnings, once.warnings...), Notes: strings.TrimSpace(first[path.Join(c.chart.ChartFullPath(), "templates", "NOTES.txt")])}
	out.CRDs = definitions(once.crds)
	for _, name := range sortedKeys(first) {
		if path.Base(name) != "NOTES.txt" {
			out.Manifests = appendDocument(out.Manifests, name, first[name])
		}
	}
	if len(out.Manifests) > maxRenderedBytes {
		return Rendered{}, fmt.Errorf("chart %s renders to %d bytes; more than %d are refused", c.Name(), len(out.Manifests), maxRenderedBytes)
	}
	return out, nil
}

// definitions is the stream of what crds/ directories hold. A dependency that is taken
// in under two names brings its own twice; Helm passes over what it has made already.
func definitions(crds []helmchart.CRD) []byte {
	var out []byte
	seen := map[string]bool{}
	for _, crd := range crds {
		text := string(crd.File.Data)
		if !seen[text] {
			out = appendDocument(out, crd.Filename, text)
		}
		seen[text] = true
	}
	return out
}

// pass is what one run of Helm's engine gives.
type pass struct {
	// files are the outputs of templates by their names.
	files map[string]string
	// crds are of the chart whose dependencies have been switched, as in Helm's Install.
	crds     []helmchart.CRD
	warnings []string
}

// render runs Helm's engine once, at a time that templates see as now.
func (c *Chart) render(ctx context.Context, r Request, now time.Time) (pass, error) {
	version, err := common.ParseKubeVersion(r.KubeVersion)
	if err != nil {
		return pass{}, fmt.Errorf("rendering chart %s: the cluster's version %q: %w", c.Name(), r.KubeVersion, err)
	}
	if want := c.chart.Metadata.KubeVersion; want != "" && !chartutil.IsCompatibleRange(want, version.String()) {
		return pass{}, fmt.Errorf("chart %s %s is for Kubernetes %s; the cluster has %s", c.Name(), c.Version(), want, r.KubeVersion)
	}
	// Dependencies are switched off in the chart itself, so that each
	// rendering begins with a fresh one.
	fresh := clone(c.chart)
	values := deepCopy(r.Values)
	if err := chartutil.ProcessDependencies(fresh, values); err != nil {
		return pass{}, fmt.Errorf("rendering chart %s: its dependencies: %w", c.Name(), err)
	}
	capabilities := common.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *version
	capabilities.APIVersions = append(builtin(*version), r.APIVersions...)
	options := common.ReleaseOptions{Name: r.Release, Namespace: r.Namespace, Revision: 1, IsInstall: true}
	// The schema is checked by validate, which fetches nothing.
	top, err := util.ToRenderValuesWithSchemaValidation(fresh, values, options, capabilities, true)
	if err != nil {
		return pass{}, fmt.Errorf("rendering chart %s: %w", c.Name(), err)
	}
	all, err := top.Table("Values")
	if err != nil {
		return pass{}, fmt.Errorf("rendering chart %s: %w", c.Name(), err)
	}
	warnings, err := validate(fresh, all)
	if err != nil {
		return pass{}, err
	}
	e := engine.Engine{CustomTemplateFuncs: template.FuncMap{"now": func() time.Time { return now }}}
	rendered, err := e.RenderWithContext(ctx, fresh, top)
	if err != nil {
		return pass{}, fmt.Errorf("rendering chart %s: %w", c.Name(), err)
	}
	maps.DeleteFunc(rendered, func(_, text string) bool { return strings.TrimSpace(text) == "" })
	return pass{rendered, fresh.CRDObjects(), warnings}, nil
}

// clone copies what ProcessDependencies changes: the tree of charts, their
// dependency lists and their values.
func clone(c *helmchart.Chart) *helmchart.Chart {
	out := &helmchart.Chart{
		Raw: c.Raw, Lock: c.Lock, Templates: c.Templates, Schema: c.Schema, Files: c.Files,
		Values: deepCopy(c.Values),
	}
	metadata := *c.Metadata
	metadata.Dependencies = nil
	for _, d := range c.Metadata.Dependencies {
		dependency := *d
		metadata.Dependencies = append(metadata.Dependencies, &dependency)
	}
	out.Metadata = &metadata
	for _, d := range c.Dependencies() {
		out.AddDependency(clone(d))
	}
	return out
}

// deepCopy copies values as far as maps and lists go.
func deepCopy(values map[string]any) map[string]any {
	out := make(map[string]any, len(values))
	for k, v := range values {
		out[k] = copyValue(v)
	}
	return out
}

func copyValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return deepCopy(v)
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = copyValue(e)
		}
		return out
	}
	return v
}

// appendDocument adds a template's output to a YAML stream, with its origin for
// messages about it.
func appendDocument(stream []byte, name, text string) []byte {
	stream = fmt.Appendf(stream, "---\n# Source: %s\n%s", name, strings.TrimPrefix(text, "---\n"))
	if !bytes.HasSuffix(stream, []byte("\n")) {
		stream = append(stream, '\n')
	}
	return stream
}

// firstDifference is the first line that two texts do not share. It may hold a
// secret that was just made, so that only its place is told.
func firstDifference(a, b string) string {
	other := strings.Split(b, "\n")
	for i, line := range strings.Split(a, "\n") {
		if i >= len(other) || line != other[i] {
			key, _, found := strings.Cut(strings.TrimSpace(line), ":")
			if !found {
				key = "(a value)"
			}
			return fmt.Sprintf("line %d, %s", i+1, key)
		}
	}
	return "its length"
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

var errNoFetch = errors.New("nothing is fetched while rendering")

package chart

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
	helmchart "helm.sh/helm/v4/pkg/chart/v2"
)

// checkValues looks for values that nothing in the chart reads. Helm passes over
// them in silence, and what was meant stays at its default. At the top level a
// name that neither values.yaml nor any file of the chart mentions is an error;
// below that a template may hand on a whole map, so that it is only a warning.
func (c *Chart) checkValues(values map[string]any) ([]string, error) {
	words := mentioned(c.chart)
	var errs []error
	for _, key := range sortedKeys(values) {
		if _, known := c.chart.Values[key]; !known && !words[key] {
			errs = append(errs, fmt.Errorf("chart %s has no value %q, and none of its templates reads one%s",
				c.Name(), key, suggestion(key, sortedKeys(c.chart.Values))))
		}
	}
	return unread("", values, c.chart.Values, words), errors.Join(errs...)
}

var word = regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_-]*`)

// mentioned are all words in the files of a chart and its dependencies, and the
// names under which dependencies take their values.
func mentioned(c *helmchart.Chart) map[string]bool {
	words := map[string]bool{"global": true, "tags": true}
	files := map[string][]byte{}
	collect(c, "", files)
	for _, data := range files {
		for _, w := range word.FindAll(data, -1) {
			words[string(w)] = true
			// `a-b` is one name in `index .Values "a-b"` and two in a range.
			for _, part := range bytes.Split(w, []byte("-")) {
				words[string(part)] = true
			}
		}
	}
	return words
}

// unread lists nested values whose name the chart does not know, where
// values.yaml shows what it does know.
func unread(at string, values, defaults map[string]any, words map[string]bool) []string {
	var out []string
	for _, key := range sortedKeys(values) {
		known, there := defaults[key]
		if at != "" && !there && len(defaults) > 0 && !words[key] {
			if near := suggestion(key, sortedKeys(defaults)); near != "" {
				out = append(out, fmt.Sprintf("value %s%s is not in the chart's values.yaml%s", at, key, near))
			}
		}
		below, isMap := values[key].(map[string]any)
		inside, wasMap := known.(map[string]any)
		if isMap && wasMap {
			out = append(out, unread(at+key+".", below, inside, words)...)
		} else if there && known != nil && isMap != wasMap {
			out = append(out, fmt.Sprintf("value %s%s: values.yaml has %s where %s is given", at, key, shape(wasMap), shape(isMap)))
		}
	}
	return out
}

func shape(isMap bool) string {
	if isMap {
		return "a map"
	}
	return "no map"
}

// suggestion is the closest known name, as the end of a sentence; empty when
// none is close.
func suggestion(name string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := levenshtein.Distance(strings.ToLower(name), strings.ToLower(k), nil); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// printer words the complaints of the validator.
var printer = message.NewPrinter(language.English)

// noFetch answers every reference out of the chart with an error.
type noFetch struct{}

// Load implements jsonschema.URLLoader.
func (noFetch) Load(string) (any, error) { return nil, errNoFetch }

// validate checks values against the values.schema.json of the chart and of its
// dependencies. A schema that refers to others elsewhere, which Helm fetches, checks
// nothing here, and is warned of.
func validate(c *helmchart.Chart, values map[string]any) (warnings []string, err error) {
	var errs []error
	if c.Schema != nil {
		err := against(c.Schema, values)
		var elsewhere *jsonschema.LoadURLError
		switch {
		case errors.As(err, &elsewhere):
			warnings = append(warnings, fmt.Sprintf("chart %s: the values are not checked by its values.schema.json: %v", c.Name(), err))
		case err != nil:
			errs = append(errs, fmt.Errorf("chart %s: its values.schema.json refuses the values: %w", c.Name(), err))
		}
	}
	for _, d := range c.Dependencies() {
		if below, ok := values[d.Name()].(map[string]any); ok {
			more, err := validate(d, below)
			warnings, errs = append(warnings, more...), append(errs, err)
		}
	}
	return warnings, errors.Join(errs...)
}

// against compiles a schema and checks one document with it.
func against(schema []byte, values map[string]any) error {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return fmt.Errorf("it is no JSON: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noFetch{})
	const here = "file:///values.schema.json"
	if err := compiler.AddResource(here, document); err != nil {
		return err
	}
	compiled, err := compiler.Compile(here)
	if err != nil {
		return err
	}
	err = compiled.Validate(plain(values))
	var invalid *jsonschema.ValidationError
	if errors.As(err, &invalid) {
		return errors.New(strings.Join(leaves(invalid), "; "))
	}
	return err
}

// leaves are the innermost complaints, each with the path of its value.
func leaves(e *jsonschema.ValidationError) []string {
	if len(e.Causes) == 0 {
		return []string{strings.TrimSpace(fmt.Sprintf("%s: %s", strings.Join(e.InstanceLocation, "."), e.ErrorKind.LocalizedString(printer)))}
	}
	var out []string
	for _, cause := range e.Causes {
		out = append(out, leaves(cause)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// plain turns values into the types that the validator knows.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = plain(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = plain(e)
		}
		return out
	case int:
		return float64(v)
	case int64:
		return float64(v)
	}
	return v
}

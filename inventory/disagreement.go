package inventory

import (
	"encoding/json"
	"maps"
	"slices"
)

// Disagreement is a fact of which sources say different things.
type Disagreement struct {
	// Path leads to the fact: bios.version.
	Path string `json:"path"`
	// Values are what each source says, as JSON.
	Values map[Source]string `json:"values"`
}

// Disagreements are the facts that sources report differently, by path. Lists are
// not compared: each source names disks and ports its own way, and a list comes
// whole from one source. What a source did not observe it does not contradict, and
// neither does a placeholder, nor another spelling or rounding of the same.
func Disagreements(bySource map[Source]Facts) []Disagreement {
	said := map[string]map[Source]string{}
	for source, f := range bySource {
		single("", tree(f), func(path, value string) {
			if source != SourceManual && placeholder(path, value) {
				return
			}
			if said[path] == nil {
				said[path] = map[Source]string{}
			}
			said[path][source] = value
		})
	}
	delete(said, "schema_version")
	var out []Disagreement
	for _, path := range slices.Sorted(maps.Keys(said)) {
		if differ(path, slices.Collect(maps.Values(said[path]))) {
			out = append(out, Disagreement{Path: path, Values: said[path]})
		}
	}
	return out
}

func differ(path string, values []string) bool {
	for i, a := range values {
		if slices.ContainsFunc(values[i+1:], func(b string) bool { return !alike(path, a, b) }) {
			return true
		}
	}
	return false
}

// single calls f for every value of a document that is not in a list.
func single(path string, v any, f func(path, value string)) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			single(join(path, k), e, f)
		}
	case string, json.Number, bool:
		f(path, text(v))
	}
}

package inventory

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// Precedence says whose word counts for a part of the facts.
type Precedence struct {
	// Path is the part, with all that is below it: bmc. Empty: everything that no
	// other Precedence names.
	Path string
	// Sources are believed in this order; others come after them, by name.
	Sources []Source
	// Why is half a sentence for the documentation.
	Why string
}

// precedences is the one table by which Merge chooses. docs/catalog.md prints it.
var precedences = []Precedence{
	{"bmc", []Source{SourceRedfish, SourceIPMI, SourceAgent, SourceManual}, "a BMC knows itself best"},
	{"chassis", []Source{SourceManual, SourceAgent, SourceRedfish, SourceIPMI}, "asset tags and enclosures are given by people, and firmware seldom learns of them"},
	{"", []Source{SourceAgent, SourceRedfish, SourceIPMI, SourceLLDP, SourceCluster, SourceManual}, "who stands on the machine knows best; what a person wrote fills gaps"},
}

// Precedences is the table by which Merge chooses between sources.
func Precedences() []Precedence { return slices.Clone(precedences) }

// identifying are the facts in which firmware shows a placeholder when nobody
// wrote a value, with what tells it. A placeholder is believed only when no source
// knows better; what a person wrote is none.
var identifying = map[string]func(string) bool{
	"system.serial":     JunkSerial,
	"system.uuid":       junkUUIDText,
	"baseboard.serial":  JunkSerial,
	"chassis.serial":    JunkSerial,
	"chassis.asset_tag": JunkSerial,
}

// PlaceholderPaths are the facts of which a placeholder such as "To Be Filled By
// O.E.M." gives way to any other source's value, sorted.
func PlaceholderPaths() []string { return slices.Sorted(maps.Keys(identifying)) }

func junkUUIDText(text string) bool {
	u, err := uuid.Parse(text)
	return err != nil || JunkUUID(u)
}

// Merge is the one view of a machine over what each source saw last. Each field
// comes from the source that Precedences puts first among those that observed it;
// a list comes whole from one source, also when it is empty. What it returns shares
// memory with what it was given: neither may be written to.
func Merge(bySource map[Source]Facts) Facts {
	sorted := make(map[Source]Facts, len(bySource))
	for source, f := range bySource {
		f = f.canonical()
		f.SchemaVersion = 0
		sorted[source] = f
	}
	// Most parts are told by one source, and need no look at what is in them.
	var merged Facts
	all := reflect.ValueOf(&merged).Elem()
	several := map[Source]Facts{}
	for part := range all.NumField() {
		var tell []Source
		for source, f := range sorted {
			if !reflect.ValueOf(f).Field(part).IsZero() {
				tell = append(tell, source)
			}
		}
		if len(tell) == 1 {
			all.Field(part).Set(reflect.ValueOf(sorted[tell[0]]).Field(part))
			continue
		}
		for _, source := range tell {
			f := several[source]
			reflect.ValueOf(&f).Elem().Field(part).Set(reflect.ValueOf(sorted[source]).Field(part))
			several[source] = f
		}
	}
	if len(several) > 0 {
		chosen := reflect.ValueOf(mergeFields(several))
		for part := range all.NumField() {
			if v := chosen.Field(part); !v.IsZero() {
				all.Field(part).Set(v)
			}
		}
	}
	merged.SchemaVersion = SchemaVersion
	return merged
}

// mergeFields is Merge by single fields.
func mergeFields(bySource map[Source]Facts) Facts {
	trees := make(map[Source]map[string]any, len(bySource))
	for source, f := range bySource {
		if t, ok := tree(f).(map[string]any); ok {
			trees[source] = t
		}
	}
	var merged Facts
	raw, err := json.Marshal(mergeObjects("", trees))
	if err == nil {
		err = json.Unmarshal(raw, &merged)
	}
	if err != nil { // the trees came from Facts, so they fit them
		merged = Facts{}
	}
	return merged
}

// OwnFacts is Merge over what was seen on the machine itself, and what people wrote,
// without what a BMC says of it. What identifies a machine, puts it into a class, or
// has anything erased goes by this alone: a BMC may be declared for the wrong machine,
// and has other names for some things. known is false when there is nothing of it.
func OwnFacts(documents map[Source]Document) (f Facts, known bool) {
	bySource := make(map[Source]Facts, len(documents))
	for source, d := range documents {
		if source != SourceRedfish && source != SourceIPMI {
			bySource[source] = d.Facts
		}
	}
	if len(bySource) == 0 {
		return Facts{}, false
	}
	return Merge(bySource), true
}

// mergeObjects is the object at a path over all sources that have one.
func mergeObjects(path string, from map[Source]map[string]any) map[string]any {
	out := map[string]any{}
	for _, object := range from {
		for key := range object {
			if _, done := out[key]; done {
				continue
			}
			objects, values := map[Source]map[string]any{}, map[Source]any{}
			for source, other := range from {
				switch v := other[key].(type) {
				case nil:
				case map[string]any:
					objects[source] = v
				default:
					values[source] = v
				}
			}
			at := join(path, key)
			if len(objects) > 0 {
				out[key] = mergeObjects(at, objects)
			} else {
				out[key] = believed(at, values)
			}
		}
	}
	return out
}

// believed is the value that counts at a path.
func believed(path string, values map[Source]any) any {
	order := inOrder(path, slices.Collect(maps.Keys(values)))
	if junk, ok := identifying[path]; ok {
		for _, source := range order {
			if text, ok := values[source].(string); source == SourceManual || ok && !junk(text) {
				return values[source]
			}
		}
	}
	if len(order) == 0 {
		return nil
	}
	return values[order[0]]
}

// inOrder sorts sources by who is believed first at a path.
func inOrder(path string, sources []Source) []Source {
	order := precedences[slices.IndexFunc(precedences, func(p Precedence) bool {
		return p.Path == "" || p.Path == path || strings.HasPrefix(path, p.Path+".")
	})].Sources
	place := func(s Source) int {
		if i := slices.Index(order, s); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortFunc(sources, func(a, b Source) int {
		if d := place(a) - place(b); d != 0 {
			return d
		}
		return strings.Compare(string(a), string(b))
	})
	return sources
}

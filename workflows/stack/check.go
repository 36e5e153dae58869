package stack

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Versions are the versions of components, by component, as a site declares or
// has them.
type Versions map[string]string

// Finding is one reason against a combination of versions.
type Finding struct {
	// Component is what it is about; of a pair, the one to change first.
	Component string
	// Pair is "a/b" where two components are not known to work together: a
	// site can allow it by that name.
	Pair string
	Text string
}

// Check compares versions with a set. Components that are not given are not
// compared; allowed are pairs that need not be known.
func Check(set Set, versions Versions, allowed []string) []Finding {
	var out []Finding
	outside := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(versions)) {
		c, ok := set.Components[name]
		if !ok {
			continue
		}
		v, err := ParseVersion(versions[name])
		if err != nil {
			out = append(out, Finding{Component: name, Text: fmt.Sprintf("%s: %v", name, err)})
			continue
		}
		if !c.Holds(v) {
			advice := ""
			if c.Recommended != "" {
				advice = "; it recommends " + c.Recommended
			}
			outside[name] = fmt.Sprintf("%s %s is not in set %s, which holds %s%s", name, versions[name], set.Name, c.describe(), advice)
		}
	}
	for _, key := range Pairs {
		a, b, _ := strings.Cut(key, "/")
		if _, ok := versions[a]; !ok || slices.Contains(allowed, key) {
			continue
		}
		if _, ok := versions[b]; !ok {
			continue
		}
		if f, ok := pair(set, versions, outside, key, a, b); ok {
			out = append(out, f)
		}
	}
	// A component that is in no pair with another of the site still has a range.
	for _, name := range slices.Sorted(maps.Keys(outside)) {
		if !slices.ContainsFunc(out, func(f Finding) bool { return f.Pair != "" && slices.Contains(strings.Split(f.Pair, "/"), name) }) && !allowedAny(versions, allowed, name) {
			out = append(out, Finding{Component: name, Text: outside[name]})
		}
	}
	return out
}

// allowedAny reports whether a pair with another component of the site was
// allowed for this component, which makes its version the site's own concern.
func allowedAny(versions Versions, allowed []string, name string) bool {
	return slices.ContainsFunc(allowed, func(key string) bool {
		a, b, _ := strings.Cut(key, "/")
		_, hasA := versions[a]
		_, hasB := versions[b]
		return hasA && hasB && (a == name || b == name)
	})
}

// pair says what is not known of two components.
func pair(set Set, versions Versions, outside map[string]string, key, a, b string) (Finding, bool) {
	f := Finding{Pair: key, Component: a}
	allow := fmt.Sprintf(" To go on without that knowledge, write stack_allow = [%q] into the site block.", key)
	known := set.Pairs[key]
	switch {
	case outside[a] != "":
		f.Text = fmt.Sprintf("Nobody is known to say that %s %s works with %s %s: %s.%s", a, versions[a], b, versions[b], outside[a], allow)
	case outside[b] != "":
		f.Component = b
		f.Text = fmt.Sprintf("Nobody is known to say that %s %s works with %s %s: %s.%s", b, versions[b], a, versions[a], outside[b], allow)
	case known.Status == "":
		f.Text = fmt.Sprintf("Set %s does not know whether %s %s works with %s %s", set.Name, a, versions[a], b, versions[b])
		if known.Advice != "" {
			f.Text += ": " + known.Advice
		}
		f.Text += "." + allow
	default:
		return f, false
	}
	return f, true
}

// Upgrade compares what a site has with what it shall have. Going back is
// refused, and so is skipping a minor version of a component that does not
// allow it; then the set to apply first is named. Components that are not on
// both sides are new or gone, which is no upgrade.
func Upgrade(sets []Set, from, to Versions) []Finding {
	var out []Finding
	for _, name := range slices.Sorted(maps.Keys(to)) {
		had, ok := from[name]
		if !ok || name == "kernel" {
			continue
		}
		before, errBefore := ParseVersion(had)
		after, errAfter := ParseVersion(to[name])
		if errBefore != nil || errAfter != nil {
			continue // Check has said it of what is declared
		}
		switch {
		case after.Compare(before) < 0:
			out = append(out, Finding{Component: name, Text: fmt.Sprintf(
				"%s %s is installed, and %s is declared. Going back is not supported: its data may have been converted. Declare %s or newer, or install anew.", name, had, to[name], had)})
		case after.Major != before.Major || after.Minor > before.Minor+1:
			if f, refused := skipped(sets, name, had, to[name], before); refused {
				out = append(out, f)
			}
		}
	}
	return out
}

// skipped refuses an upgrade over more than one minor version where a set says
// that this is not allowed, and finds the set in between.
func skipped(sets []Set, name, had, want string, before Version) (Finding, bool) {
	source, between := "", ""
	next := Version{Major: before.Major, Minor: before.Minor + 1}
	for _, s := range sets {
		c := s.Components[name]
		if c.OneMinorAtATime != "" {
			source = c.OneMinorAtATime
		}
		for _, r := range c.Ranges {
			if between == "" && r.From.Major == next.Major && r.From.Minor == next.Minor {
				between = s.Name
				if c.Recommended != "" {
					between += " (" + name + " " + c.Recommended + ")"
				}
			}
		}
	}
	if source == "" {
		return Finding{}, false
	}
	advice := fmt.Sprintf("apply a version %d.%d first; no set of this program holds one", next.Major, next.Minor)
	if between != "" {
		advice = "apply set " + between + " first"
	}
	return Finding{Component: name, Text: fmt.Sprintf(
		"%s %s is installed, and %s is declared. A minor version must not be skipped (%s): %s.", name, had, want, source, advice)}, true
}

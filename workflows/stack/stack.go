// Package stack knows which versions belong together. Sets of versions are
// data: files in this package, or one in a bundle. Each says for every pair of
// components that matters to each other who says that they work together, and
// whether that is documented or was run. A combination outside of a set is
// refused, unless the site allows the pair by name.
package stack

import (
	"embed"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

//go:embed sets/*.hcl
var files embed.FS

// maxSetBytes bounds the text of a set.
const maxSetBytes = 1 << 20

// Components are the parts of a stack, as sets name them; a step type of the
// same name installs each, except the kernel, which comes with the image.
var Components = []string{"calico", "fluentd", "k3s", "kernel", "portworx", "prometheus"}

// Pairs are the pairs that have to be known: those in which one component runs
// on the other.
var Pairs = []string{"calico/k3s", "calico/kernel", "fluentd/k3s", "k3s/kernel", "k3s/portworx", "k3s/prometheus", "kernel/portworx"}

// Status says how a pair is known to work.
type Status string

// Statuses of pairs. A pair without one is not known.
const (
	Documented Status = "documented" // a vendor's page says so
	Run        Status = "run"        // a test of this project runs it
)

// Set is one set of versions.
type Set struct {
	Name string
	// After is the set to apply first when coming from an older one; empty for
	// the oldest.
	After      string
	Components map[string]Component
	Pairs      map[string]Pair
	text       []byte
}

// Component is one part of a set.
type Component struct {
	// Recommended is the version to choose where nothing speaks for another;
	// empty: none is.
	Recommended string
	Ranges      []Range
	// OneMinorAtATime is the address of the page that says that no minor
	// version may be skipped; empty: nobody says so.
	OneMinorAtATime string
}

// Range is a span of versions: From included, Below not; a zero Below is no
// end.
type Range struct{ From, Below Version }

// Pair is what is known of two components.
type Pair struct {
	Status Status // empty: not known
	Source string
	Says   string
	Advice string
}

// Text is the file that the set was read from.
func (s Set) Text() []byte { return slices.Clone(s.text) }

// setFile is a set's file.
type setFile struct {
	Stacks []struct {
		Name       string `hcl:"name,label"`
		After      string `hcl:"after,optional"`
		Components []struct {
			Name        string `hcl:"name,label"`
			Recommended string `hcl:"recommended,optional"`
			OneMinor    string `hcl:"one_minor_at_a_time,optional"`
			Ranges      []struct {
				From  string `hcl:"from"`
				Below string `hcl:"below,optional"`
			} `hcl:"range,block"`
		} `hcl:"component,block"`
		Pairs []struct {
			A      string `hcl:"a,label"`
			B      string `hcl:"b,label"`
			Status string `hcl:"status"`
			Source string `hcl:"source"`
			Says   string `hcl:"says"`
		} `hcl:"pair,block"`
		Unknown []struct {
			A      string `hcl:"a,label"`
			B      string `hcl:"b,label"`
			Advice string `hcl:"advice"`
		} `hcl:"unknown,block"`
	} `hcl:"stack,block"`
}

// Sets returns the sets of this program, oldest first.
func Sets() ([]Set, error) {
	entries, err := files.ReadDir("sets")
	if err != nil {
		return nil, err
	}
	var sets []Set
	for _, e := range entries {
		text, err := files.ReadFile("sets/" + e.Name())
		if err != nil {
			return nil, err
		}
		set, err := Parse(text, e.Name())
		if err != nil {
			return nil, err
		}
		sets = append(sets, set)
	}
	return sets, nil
}

// Find returns a set by its name.
func Find(name string) (Set, error) {
	sets, err := Sets()
	if err != nil {
		return Set{}, err
	}
	var names []string
	for _, s := range sets {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return Set{}, fmt.Errorf("there is no set of versions %q; this program has %s", name, strings.Join(names, ", "))
}

// Parse reads the text of one set.
func Parse(text []byte, name string) (Set, error) {
	if len(text) > maxSetBytes {
		return Set{}, fmt.Errorf("version set %s has %d bytes; want up to %d", name, len(text), maxSetBytes)
	}
	if strings.Count(string(text), "{")+strings.Count(string(text), "[")+strings.Count(string(text), "(") > 1000 {
		return Set{}, fmt.Errorf("version set %s has more brackets than any set", name)
	}
	f, diags := hclsyntax.ParseConfig(text, name, hcl.InitialPos)
	var file setFile
	if !diags.HasErrors() {
		diags = append(diags, gohcl.DecodeBody(f.Body, nil, &file)...)
	}
	if diags.HasErrors() {
		return Set{}, fmt.Errorf("reading version set: %w", diags)
	}
	if len(file.Stacks) != 1 {
		return Set{}, fmt.Errorf("version set %s has %d stack blocks; want one", name, len(file.Stacks))
	}
	in := file.Stacks[0]
	set := Set{Name: in.Name, After: in.After, Components: map[string]Component{}, Pairs: map[string]Pair{}, text: slices.Clone(text)}
	for _, c := range in.Components {
		out := Component{Recommended: c.Recommended, OneMinorAtATime: c.OneMinor}
		if !slices.Contains(Components, c.Name) || len(c.Ranges) == 0 {
			return Set{}, fmt.Errorf("version set %s: component %q is unknown or has no range", name, c.Name)
		}
		for _, r := range c.Ranges {
			from, err := ParseVersion(r.From)
			if err != nil {
				return Set{}, fmt.Errorf("version set %s: component %s: %w", name, c.Name, err)
			}
			var below Version
			if r.Below != "" {
				if below, err = ParseVersion(r.Below); err != nil {
					return Set{}, fmt.Errorf("version set %s: component %s: %w", name, c.Name, err)
				}
			}
			out.Ranges = append(out.Ranges, Range{From: from, Below: below})
		}
		if c.Recommended != "" {
			if v, err := ParseVersion(c.Recommended); err != nil || !out.Holds(v) {
				return Set{}, fmt.Errorf("version set %s: component %s recommends %q, which is not in its ranges", name, c.Name, c.Recommended)
			}
		}
		set.Components[c.Name] = out
	}
	for _, p := range in.Pairs {
		key := p.A + "/" + p.B
		if !slices.Contains(Pairs, key) || p.Source == "" || Status(p.Status) != Documented && Status(p.Status) != Run {
			return Set{}, fmt.Errorf("version set %s: pair %q is none that matters, or lacks a source, or is neither documented nor run", name, key)
		}
		set.Pairs[key] = Pair{Status: Status(p.Status), Source: p.Source, Says: p.Says}
	}
	for _, p := range in.Unknown {
		set.Pairs[p.A+"/"+p.B] = Pair{Advice: p.Advice}
	}
	return set, nil
}

// Holds reports whether a version is in one of the ranges.
func (c Component) Holds(v Version) bool {
	return slices.ContainsFunc(c.Ranges, func(r Range) bool { return r.From.Compare(v) <= 0 && (r.Below == Version{} || v.Compare(r.Below) < 0) })
}

// describe writes the ranges for a person.
func (c Component) describe() string {
	var out []string
	for _, r := range c.Ranges {
		if r.Below == (Version{}) {
			out = append(out, fmt.Sprintf("%s and newer", r.From))
			continue
		}
		out = append(out, fmt.Sprintf("%s up to below %s", r.From, r.Below))
	}
	return strings.Join(out, ", or ")
}

package site

import (
	"fmt"
	"sort"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// sensitiveMark is on every value that must not be shown.
type sensitiveMark struct{}

// Sensitive is the mark of values that must not be shown. Marks go with a value
// through templates, operators, functions and objects.
var Sensitive any = sensitiveMark{}

// After marks an unknown value with what has to happen before it is known:
// "inspection", or the address of a step within its workflow.
type After string

// IsSensitive reports whether v or anything inside it is sensitive.
func IsSensitive(v cty.Value) bool {
	if v == cty.NilVal {
		return false
	}
	_, pvm := v.UnmarkDeepWithPaths()
	for _, p := range pvm {
		if _, ok := p.Marks[Sensitive]; ok {
			return true
		}
	}
	return false
}

// unknownAfter is an unknown value of a type that says what it waits for.
func unknownAfter(t cty.Type, what string) cty.Value {
	return cty.UnknownVal(t).Mark(After(what))
}

// afterText is the "(known after …)" of an unknown value.
func afterText(marks cty.ValueMarks) string {
	var what []string
	for m := range marks {
		if a, ok := m.(After); ok {
			what = append(what, string(a))
		}
	}
	if len(what) == 0 {
		return "(not known yet)"
	}
	sort.Strings(what)
	text := what[0]
	for _, w := range what[1:] {
		text += ", " + w
	}
	return "(known after " + text + ")"
}

// Redact gives v for showing: sensitive parts are replaced by "(sensitive
// value)" and unknown ones by "(known after …)". The result is wholly known,
// carries no mark, and is made of objects and tuples.
func Redact(v cty.Value) cty.Value {
	if v == cty.NilVal {
		return cty.NullVal(cty.DynamicPseudoType)
	}
	bare, marks := v.Unmark()
	if _, ok := marks[Sensitive]; ok {
		return cty.StringVal(redacted)
	}
	if !bare.IsKnown() {
		return cty.StringVal(afterText(marks))
	}
	if bare.IsNull() {
		return bare
	}
	t := bare.Type()
	switch {
	case t.IsObjectType(), t.IsMapType():
		attrs := make(map[string]cty.Value)
		for it := bare.ElementIterator(); it.Next(); {
			k, e := it.Element()
			k, _ = k.Unmark()
			attrs[k.AsString()] = Redact(e.WithMarks(onlyAfter(marks)))
		}
		return cty.ObjectVal(attrs)
	case t.IsListType(), t.IsTupleType(), t.IsSetType():
		var elems []cty.Value
		for it := bare.ElementIterator(); it.Next(); {
			_, e := it.Element()
			elems = append(elems, Redact(e.WithMarks(onlyAfter(marks))))
		}
		return cty.TupleVal(elems)
	}
	return bare
}

// onlyAfter keeps the marks that say what a value waits for.
func onlyAfter(marks cty.ValueMarks) cty.ValueMarks {
	out := make(cty.ValueMarks)
	for m := range marks {
		if _, ok := m.(After); ok {
			out[m] = struct{}{}
		}
	}
	return out
}

// Secrets lists the sensitive strings and numbers inside v as text, so that the
// output of a command can be searched for them before it is logged.
func Secrets(v cty.Value) []string {
	var out []string
	collectSecrets(v, false, &out)
	sort.Strings(out)
	return out
}

func collectSecrets(v cty.Value, inside bool, out *[]string) {
	if v == cty.NilVal {
		return
	}
	bare, marks := v.Unmark()
	if _, ok := marks[Sensitive]; ok {
		inside = true
	}
	if bare.IsNull() || !bare.IsKnown() {
		return
	}
	if t := bare.Type(); t.IsPrimitiveType() {
		if s, err := convert.Convert(bare, cty.String); inside && err == nil && t != cty.Bool {
			*out = append(*out, s.AsString())
		}
		return
	}
	if !bare.CanIterateElements() {
		return
	}
	for it := bare.ElementIterator(); it.Next(); {
		_, e := it.Element()
		collectSecrets(e, inside, out)
	}
}

// References lists the addresses of the machines, networks, images and steps
// inside v, in order of appearance, each once. It is how a step reads an
// attribute that takes machine.node, machine.node["a"] or a list of them.
func References(v cty.Value) []string {
	var out []string
	seen := make(map[string]bool)
	var walk func(cty.Value)
	walk = func(v cty.Value) {
		if v == cty.NilVal {
			return
		}
		bare, _ := v.Unmark()
		if bare.IsNull() || !bare.IsKnown() || !bare.CanIterateElements() {
			return
		}
		if id, ok := idOf(bare); ok {
			if !seen[id] {
				seen[id] = true
				out = append(out, id)
			}
			return
		}
		for it := bare.ElementIterator(); it.Next(); {
			_, e := it.Element()
			walk(e)
		}
	}
	walk(v)
	return out
}

// idOf is the address that a referenced object carries in its id and kind.
func idOf(v cty.Value) (string, bool) {
	t := v.Type()
	if !t.IsObjectType() || !t.HasAttribute("id") || !t.HasAttribute("kind") {
		return "", false
	}
	id, _ := v.GetAttr("id").Unmark()
	if id.Type() != cty.String || id.IsNull() || !id.IsKnown() {
		return "", false
	}
	return id.AsString(), true
}

// instanceAddress writes the address of one instance.
func instanceAddress(address string, each eachValue) string {
	switch each.mode {
	case eachForEach:
		return fmt.Sprintf("%s[%q]", address, each.text)
	case eachCount:
		return fmt.Sprintf("%s[%s]", address, each.text)
	}
	return address
}

// named are the attributes of a machine, network or image that name it and
// never change while it is declared as it is.
var named = []string{"id", "kind", "name", "key", "hostname", "wipe"}

// condense cuts every machine, network and image inside v down to what names
// it. A step that is given a machine is given the machine and not what is known
// of it: otherwise its inputs would be unknown until that machine was
// inspected, and would change with every new fact. What a step does want to
// know is referred to attribute by attribute.
func condense(v cty.Value) cty.Value {
	out, err := cty.TransformWithTransformer(v, condenser{})
	if err != nil {
		return v
	}
	return out
}

// condenser implements cty.Transformer.
type condenser struct{}

func (condenser) Enter(_ cty.Path, v cty.Value) (cty.Value, error) {
	bare, marks := v.Unmark()
	if bare.IsNull() || !bare.IsKnown() {
		return v, nil
	}
	if _, ok := idOf(bare); !ok || bare.GetAttr("kind").RawEquals(cty.StringVal(kindStep)) {
		return v, nil
	}
	attrs := make(map[string]cty.Value)
	for _, name := range named {
		if bare.Type().HasAttribute(name) {
			attrs[name] = bare.GetAttr(name)
		}
	}
	return cty.ObjectVal(attrs).WithMarks(marks), nil
}

func (condenser) Exit(_ cty.Path, v cty.Value) (cty.Value, error) { return v, nil }

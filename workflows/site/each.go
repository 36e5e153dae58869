package site

import (
	"sort"
	"strconv"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// eachMode is how a block came to have instances.
type eachMode int

const (
	eachNone eachMode = iota
	eachForEach
	eachCount
)

// eachValue is one instance of a block with for_each or count.
type eachValue struct {
	mode  eachMode
	text  string // the key or number as text
	key   cty.Value
	value cty.Value
}

// missing says why each or count cannot be used, or nothing.
func (v eachValue) missing(root string) string {
	if root == "each" && v.mode != eachForEach {
		return "each can only be used in a block with for_each."
	}
	if root == "count" && v.mode != eachCount {
		return "count can only be used in a block with count."
	}
	return ""
}

// variables adds each or count to a context.
func (v eachValue) variables(into map[string]cty.Value) {
	switch v.mode {
	case eachForEach:
		into["each"] = cty.ObjectVal(map[string]cty.Value{"key": v.key, "value": v.value})
	case eachCount:
		into["count"] = cty.ObjectVal(map[string]cty.Value{"index": v.key})
	}
}

// gather makes the value that a reference to a block gives: the instance
// itself, an object of instances by key, or a tuple by number.
func gather(each []eachValue, values []cty.Value) cty.Value {
	if len(each) == 1 && each[0].mode == eachNone {
		return values[0]
	}
	if len(each) > 0 && each[0].mode == eachCount {
		return cty.TupleVal(values)
	}
	attrs := make(map[string]cty.Value)
	for i, one := range each {
		attrs[one.text] = values[i]
	}
	return cty.ObjectVal(attrs)
}

// expand evaluates for_each and count, which must be known from declarations
// alone. A block without them has one instance.
func (e *evaluator) expand(block *hclsyntax.Block, sc scope) ([]eachValue, bool) {
	forEach, count := block.Body.Attributes["for_each"], block.Body.Attributes["count"]
	each, ok := []eachValue{{}}, true
	switch {
	case forEach != nil && count != nil:
		e.add(failure("Both for_each and count", count.NameRange.Ptr(), "A block has for_each or count, not both."))
		return nil, false
	case forEach != nil:
		each, ok = e.expandForEach(forEach, sc)
	case count != nil:
		each, ok = e.expandCount(count, sc)
	}
	if e.instances += len(each); e.instances > maxAllInstances {
		e.add(failure("Too many instances", block.DefRange().Ptr(), "The blocks of the site and its modules have more than %d instances together.", maxAllInstances))
		return nil, false
	}
	return each, ok
}

// settled evaluates an expression that must be known and not sensitive.
func (e *evaluator) settled(attr *hclsyntax.Attribute, sc scope) (cty.Value, bool) {
	v, diags := attr.Expr.Value(e.context(attr.Expr.Variables(), sc))
	e.add(improve(diags))
	if diags.HasErrors() {
		return cty.DynamicVal, false
	}
	bare, marks := v.Unmark()
	rng := attr.Expr.Range().Ptr()
	if _, ok := marks[Sensitive]; ok {
		e.add(failure("Sensitive value not allowed here", rng, "%s decides about addresses, which are shown everywhere, so its value must not be sensitive. nonsensitive() takes the mark off where that is right.", attr.Name))
		return cty.DynamicVal, false
	}
	if !bare.IsKnown() {
		if len(onlyAfter(marks)) > 0 {
			e.add(failure("Value must be known", rng, "%s must be known from declarations alone, and this is %s.", attr.Name, afterText(marks)))
		}
		return cty.DynamicVal, false
	}
	if bare.IsNull() {
		e.add(failure("Wrong type", rng, "%s must not be null.", attr.Name))
		return cty.DynamicVal, false
	}
	return bare, true
}

// current gives an instance with what its element of for_each is by now: the
// key was known from the start, and the value may have become known since.
func (e *evaluator) current(address string, block *hclsyntax.Block, sc scope, each eachValue) eachValue {
	attr := block.Body.Attributes["for_each"]
	if !e.runtime || each.mode != eachForEach || attr == nil || each.value.IsWhollyKnown() {
		return each
	}
	each.value = e.node("the element of "+address, attr.Expr.Range(), func() cty.Value {
		v, diags := attr.Expr.Value(e.context(attr.Expr.Variables(), sc))
		bare, marks := v.Unmark()
		if diags.HasErrors() || bare.IsNull() || !bare.IsKnown() || !bare.CanIterateElements() {
			return each.value
		}
		for it := bare.ElementIterator(); it.Next(); {
			key, value := it.Element()
			if key, _ = key.Unmark(); key.Type() == cty.String && key.IsKnown() && key.AsString() == each.text {
				return value.WithMarks(marks)
			}
		}
		return each.value
	})
	return each
}

func (e *evaluator) expandForEach(attr *hclsyntax.Attribute, sc scope) ([]eachValue, bool) {
	v, ok := e.settled(attr, sc)
	if !ok {
		return nil, false
	}
	rng := attr.Expr.Range().Ptr()
	t := v.Type()
	switch {
	case t.IsMapType(), t.IsObjectType():
	case t.IsSetType() && (t.ElementType() == cty.String || v.LengthInt() == 0):
	default:
		e.add(failure("Wrong type", rng, "for_each takes a map or a set of strings, and this is a %s. A list of strings becomes a set by toset().", t.FriendlyName()))
		return nil, false
	}
	if v.LengthInt() > maxInstances {
		e.add(failure("Too many instances", rng, "for_each has %d elements; a block has at most %d instances.", v.LengthInt(), maxInstances))
		return nil, false
	}
	var each []eachValue
	for it := v.ElementIterator(); it.Next(); {
		key, value := it.Element()
		if t.IsSetType() {
			key = value
		}
		if !key.IsKnown() || key.IsNull() || key.IsMarked() {
			e.add(failure("Value must be known", rng, "The keys of for_each must be known from declarations alone."))
			return nil, false
		}
		text := key.AsString()
		if text == "" || len(text) > 128 {
			e.add(failure("Invalid key", rng, "A key of for_each has 1 to 128 bytes; %q has %d.", clip(text), len(text)))
			return nil, false
		}
		each = append(each, eachValue{mode: eachForEach, text: text, key: key, value: value})
	}
	sort.Slice(each, func(i, j int) bool { return each[i].text < each[j].text })
	return each, true
}

func (e *evaluator) expandCount(attr *hclsyntax.Attribute, sc scope) ([]eachValue, bool) {
	v, ok := e.settled(attr, sc)
	if !ok {
		return nil, false
	}
	rng := attr.Expr.Range().Ptr()
	n, err := convert.Convert(v, cty.Number)
	if err != nil {
		e.add(failure("Wrong type", rng, "count is a whole number, and this is a %s.", v.Type().FriendlyName()))
		return nil, false
	}
	size, accuracy := n.AsBigFloat().Int64()
	if accuracy != 0 || size < 0 || size > maxInstances {
		e.add(failure("Wrong type", rng, "count is a whole number from 0 to %d.", maxInstances))
		return nil, false
	}
	each := make([]eachValue, size)
	for i := range each {
		each[i] = eachValue{mode: eachCount, text: strconv.Itoa(i), key: cty.NumberIntVal(int64(i))}
	}
	return each, true
}

package site

import (
	"strings"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// maxResultSize bounds what one function gives, in bytes of text. A function
// that doubles its argument, inside itself thirty times, would otherwise ask for
// more memory than there is.
const maxResultSize = 4 << 20

// limited is f with a bound on the size of its result, and of what it would
// have to make on the way.
func limited(name string, f function.Function) function.Function {
	for _, p := range f.Params() {
		if p.Type.IsCapsuleType() {
			return f // try and can take expressions
		}
	}
	if v := f.VarParam(); v != nil && v.Type.IsCapsuleType() {
		return f
	}
	return function.New(&function.Spec{
		Description: f.Description(),
		Params:      f.Params(),
		VarParam:    f.VarParam(),
		Type: func(args []cty.Value) (cty.Type, error) {
			if estimate(name, args) > maxResultSize {
				return cty.NilType, errTooLong
			}
			return f.ReturnTypeForValues(args)
		},
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			v, err := f.Call(args)
			if err == nil && valueSize(v) > 4*maxResultSize {
				// Elements cost more than their text, so the bound on the
				// size of the value is wider than that on its text.
				return cty.NilVal, errTooLong
			}
			return v, err
		},
	})
}

// estimate is how many bytes the functions make that repeat an argument.
func estimate(name string, args []cty.Value) int {
	text := func(i int) string {
		if v, _ := args[i].Unmark(); v.Type() == cty.String && v.IsKnown() && !v.IsNull() {
			return v.AsString()
		}
		return ""
	}
	total, longest := 0, 1
	for _, a := range args {
		total += valueSize(a)
		if bare, _ := a.Unmark(); bare.IsKnown() && !bare.IsNull() && bare.CanIterateElements() {
			longest = max(longest, bare.LengthInt())
		}
	}
	switch name {
	case "format":
		return total + strings.Count(text(0), "%")*total
	case "formatlist":
		return total + strings.Count(text(0), "%")*total*longest
	case "join":
		return total + len(text(0))*longest
	}
	return 0
}

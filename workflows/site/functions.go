package site

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"

	"github.com/edge-provision/edge-provision/inventory/query"
)

// functions are all that an expression can call. They are Terraform's under
// Terraform's names, without those whose result differs from run to run (uuid,
// timestamp, bcrypt), so that a plan of the same site is the same plan.
func functions(m *module) map[string]function.Function {
	all := map[string]function.Function{
		// numbers
		"abs": stdlib.AbsoluteFunc, "ceil": stdlib.CeilFunc, "floor": stdlib.FloorFunc, "log": stdlib.LogFunc,
		"max": stdlib.MaxFunc, "min": stdlib.MinFunc, "parseint": stdlib.ParseIntFunc, "pow": stdlib.PowFunc, "signum": stdlib.SignumFunc,
		// strings
		"chomp": stdlib.ChompFunc, "format": bounded(stdlib.FormatFunc), "formatlist": bounded(stdlib.FormatListFunc),
		"indent": indentFunc, "join": stdlib.JoinFunc, "lower": stdlib.LowerFunc, "regex": stdlib.RegexFunc, "regexall": stdlib.RegexAllFunc,
		"replace": replaceFunc, "split": stdlib.SplitFunc, "strrev": stdlib.ReverseFunc, "substr": stdlib.SubstrFunc, "title": stdlib.TitleFunc,
		"trim": stdlib.TrimFunc, "trimprefix": stdlib.TrimPrefixFunc, "trimsuffix": stdlib.TrimSuffixFunc, "trimspace": stdlib.TrimSpaceFunc,
		"upper": stdlib.UpperFunc, "startswith": testString(strings.HasPrefix), "endswith": testString(strings.HasSuffix), "strcontains": testString(strings.Contains),
		// collections
		"alltrue": boolsFunc(false), "anytrue": boolsFunc(true), "chunklist": stdlib.ChunklistFunc, "coalesce": stdlib.CoalesceFunc,
		"coalescelist": stdlib.CoalesceListFunc, "compact": stdlib.CompactFunc, "concat": stdlib.ConcatFunc, "contains": stdlib.ContainsFunc,
		"distinct": stdlib.DistinctFunc, "element": stdlib.ElementFunc, "flatten": stdlib.FlattenFunc, "index": indexFunc, "keys": stdlib.KeysFunc,
		"length": lengthFunc, "lookup": stdlib.LookupFunc, "merge": stdlib.MergeFunc, "one": oneFunc, "range": stdlib.RangeFunc,
		"reverse": stdlib.ReverseListFunc, "setintersection": stdlib.SetIntersectionFunc, "setproduct": setProductFunc, "setsubtract": stdlib.SetSubtractFunc,
		"setunion": stdlib.SetUnionFunc, "slice": stdlib.SliceFunc, "sort": stdlib.SortFunc, "sum": sumFunc, "values": stdlib.ValuesFunc, "zipmap": stdlib.ZipmapFunc,
		// encodings
		"base64encode": base64EncodeFunc, "base64decode": base64DecodeFunc, "csvdecode": stdlib.CSVDecodeFunc, "jsondecode": stdlib.JSONDecodeFunc,
		"jsonencode": stdlib.JSONEncodeFunc, "urlencode": textFunc(url.QueryEscape),
		// hashes
		"md5": hashFunc(func(b []byte) []byte { s := md5.Sum(b); return s[:] }), "sha1": hashFunc(func(b []byte) []byte { s := sha1.Sum(b); return s[:] }),
		"sha256": hashFunc(func(b []byte) []byte { s := sha256.Sum256(b); return s[:] }), "sha512": hashFunc(func(b []byte) []byte { s := sha512.Sum512(b); return s[:] }),
		"uuidv5": uuidFunc,
		// times: of given instants only
		"formatdate": stdlib.FormatDateFunc, "timeadd": stdlib.TimeAddFunc,
		// paths: as text only
		"basename": textFunc(path.Base), "dirname": textFunc(path.Dir),
		// conversions
		"tostring": stdlib.MakeToFunc(cty.String), "tonumber": stdlib.MakeToFunc(cty.Number), "tobool": stdlib.MakeToFunc(cty.Bool),
		"tolist": stdlib.MakeToFunc(cty.List(cty.DynamicPseudoType)), "toset": stdlib.MakeToFunc(cty.Set(cty.DynamicPseudoType)),
		"tomap": stdlib.MakeToFunc(cty.Map(cty.DynamicPseudoType)), "try": tryfunc.TryFunc, "can": tryfunc.CanFunc,
		"sensitive": sensitiveFunc, "nonsensitive": nonsensitiveFunc,
		// networks
		"cidrhost": cidrHostFunc, "cidrnetmask": cidrNetmaskFunc, "cidrsubnet": cidrSubnetFunc, "cidrsubnets": cidrSubnetsFunc,
		// the world outside, where allowed
		"file": m.fileFunc(false), "filebase64": m.fileFunc(true), "templatefile": m.templateFileFunc(), "env": m.envFunc(),
	}
	// units, the same as in queries
	for name, f := range query.Functions() {
		all[name] = f
	}
	for name, f := range all {
		all[name] = limited(name, f)
	}
	return all
}

// widthPattern finds a width or precision of four digits or more, or one that
// is an argument, in a format.
var widthPattern = regexp.MustCompile(`%[^A-Za-z%]*([0-9]{4,}|\*)`)

// bounded refuses formats that make long strings of short ones.
func bounded(f function.Function) function.Function {
	return function.New(&function.Spec{
		Params:   f.Params(),
		VarParam: f.VarParam(),
		Type: func(args []cty.Value) (cty.Type, error) {
			if len(args) > 0 && args[0].Type() == cty.String && args[0].IsKnown() && !args[0].IsNull() && widthPattern.MatchString(args[0].AsString()) {
				return cty.NilType, function.NewArgErrorf(0, "a width or precision has at most three digits, and is no argument")
			}
			return f.ReturnTypeForValues(args)
		},
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) { return f.Call(args) },
	})
}

// textSpec is a function from strings to one value.
func textSpec(result cty.Type, names []string, impl func([]string) (cty.Value, error)) function.Function {
	spec := &function.Spec{Type: function.StaticReturnType(result)}
	for _, name := range names {
		spec.Params = append(spec.Params, function.Parameter{Name: name, Type: cty.String})
	}
	spec.Impl = func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		texts := make([]string, len(args))
		for i, a := range args {
			texts[i] = a.AsString()
		}
		return impl(texts)
	}
	return function.New(spec)
}

func textFunc(f func(string) string) function.Function {
	return textSpec(cty.String, []string{"text"}, func(a []string) (cty.Value, error) { return cty.StringVal(f(a[0])), nil })
}

func testString(f func(s, part string) bool) function.Function {
	return textSpec(cty.Bool, []string{"text", "part"}, func(a []string) (cty.Value, error) { return cty.BoolVal(f(a[0], a[1])), nil })
}

func hashFunc(f func([]byte) []byte) function.Function {
	return textFunc(func(s string) string { return hex.EncodeToString(f([]byte(s))) })
}

var base64EncodeFunc = textFunc(func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) })

var base64DecodeFunc = textSpec(cty.String, []string{"text"}, func(a []string) (cty.Value, error) {
	b, err := base64.StdEncoding.DecodeString(a[0])
	if err != nil {
		return cty.NilVal, function.NewArgErrorf(0, "the text is not base64")
	}
	if !utf8.Valid(b) {
		return cty.NilVal, function.NewArgErrorf(0, "the decoded bytes are not UTF-8 text")
	}
	return cty.StringVal(string(b)), nil
})

var uuidFunc = textSpec(cty.String, []string{"namespace", "name"}, func(a []string) (cty.Value, error) {
	spaces := map[string]uuid.UUID{"dns": uuid.NameSpaceDNS, "url": uuid.NameSpaceURL, "oid": uuid.NameSpaceOID, "x500": uuid.NameSpaceX500}
	space, ok := spaces[a[0]]
	if !ok {
		var err error
		if space, err = uuid.Parse(a[0]); err != nil {
			return cty.NilVal, function.NewArgErrorf(0, "the namespace is dns, url, oid, x500 or a UUID")
		}
	}
	return cty.StringVal(uuid.NewSHA1(space, []byte(a[1])).String()), nil
})

// replaceFunc is Terraform's replace, whose pattern between slashes is a
// regular expression.
var replaceFunc = textSpec(cty.String, []string{"text", "part", "by"}, func(a []string) (cty.Value, error) {
	if n := len(a[1]); n > 1 && a[1][0] == '/' && a[1][n-1] == '/' {
		re, err := regexp.Compile(a[1][1 : n-1])
		if err != nil {
			return cty.NilVal, function.NewArgError(1, err)
		}
		if len(re.FindAllStringIndex(a[0], -1))*len(a[2]) > maxResultSize {
			return cty.NilVal, errTooLong
		}
		return cty.StringVal(re.ReplaceAllString(a[0], a[2])), nil
	}
	if strings.Count(a[0], a[1])*len(a[2]) > maxResultSize {
		return cty.NilVal, errTooLong
	}
	return cty.StringVal(strings.ReplaceAll(a[0], a[1], a[2])), nil
})

var errTooLong = fmt.Errorf("the result would have more than %d MiB", maxResultSize>>20)

var indentFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "spaces", Type: cty.Number}, {Name: "text", Type: cty.String}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		n, accuracy := args[0].AsBigFloat().Int64()
		if accuracy != 0 || n < 0 || n > 100 {
			return cty.NilVal, function.NewArgErrorf(0, "the number of spaces is a whole number from 0 to 100")
		}
		return cty.StringVal(strings.ReplaceAll(args[1].AsString(), "\n", "\n"+strings.Repeat(" ", int(n)))), nil
	},
})

// lengthFunc is the length of a collection or the number of characters.
var lengthFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType, AllowDynamicType: true, AllowUnknown: true}},
	Type:   function.StaticReturnType(cty.Number),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		v := args[0]
		switch t := v.Type(); {
		case t == cty.DynamicPseudoType:
			return cty.UnknownVal(cty.Number), nil
		case t.IsTupleType():
			return cty.NumberIntVal(int64(t.Length())), nil
		case t.IsObjectType():
			return cty.NumberIntVal(int64(len(t.AttributeTypes()))), nil
		case !v.IsKnown():
			return cty.UnknownVal(cty.Number), nil
		case t == cty.String:
			return stdlib.Strlen(v)
		case t.IsCollectionType():
			return v.Length(), nil
		}
		return cty.NilVal, function.NewArgErrorf(0, "length takes a string or a collection")
	},
})

// indexFunc is the position of a value in a list, as in Terraform; HCL's own
// function of that name is the index operator.
var indexFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "list", Type: cty.DynamicPseudoType}, {Name: "value", Type: cty.DynamicPseudoType}},
	Type:   function.StaticReturnType(cty.Number),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		if t := args[0].Type(); !t.IsListType() && !t.IsTupleType() {
			return cty.NilVal, function.NewArgErrorf(0, "index takes a list")
		}
		for it := args[0].ElementIterator(); it.Next(); {
			i, v := it.Element()
			eq, err := stdlib.Equal(v, args[1])
			if err != nil {
				return cty.NilVal, err
			}
			if !eq.IsKnown() {
				return cty.UnknownVal(cty.Number), nil
			}
			if eq.True() {
				return i, nil
			}
		}
		return cty.NilVal, errors.New("the list does not have this value")
	},
})

// oneFunc is the only element of a list, or null of an empty one.
var oneFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "list", Type: cty.DynamicPseudoType}},
	Type: func(args []cty.Value) (cty.Type, error) {
		t := args[0].Type()
		switch {
		case t.IsListType(), t.IsSetType():
			return t.ElementType(), nil
		case t.IsTupleType() && t.Length() == 1:
			return t.TupleElementType(0), nil
		case t.IsTupleType() && t.Length() == 0:
			return cty.DynamicPseudoType, nil
		}
		return cty.NilType, function.NewArgErrorf(0, "one takes a list, set or tuple with no or one element")
	},
	Impl: func(args []cty.Value, t cty.Type) (cty.Value, error) {
		switch args[0].LengthInt() {
		case 0:
			return cty.NullVal(t), nil
		case 1:
			it := args[0].ElementIterator()
			it.Next()
			_, v := it.Element()
			return v, nil
		}
		return cty.NilVal, function.NewArgErrorf(0, "one takes a list, set or tuple with no or one element")
	},
})

// boolsFunc is alltrue (stop is false) or anytrue (stop is true).
func boolsFunc(stop bool) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "list", Type: cty.List(cty.Bool)}},
		Type:   function.StaticReturnType(cty.Bool),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			unknown := false
			for _, v := range args[0].AsValueSlice() {
				switch {
				case !v.IsKnown():
					unknown = true
				case (!v.IsNull() && v.True()) == stop:
					return cty.BoolVal(stop), nil
				}
			}
			if unknown {
				return cty.UnknownVal(cty.Bool), nil
			}
			return cty.BoolVal(!stop), nil
		},
	})
}

var sumFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "list", Type: cty.DynamicPseudoType}},
	Type:   function.StaticReturnType(cty.Number),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		if !args[0].CanIterateElements() || args[0].LengthInt() == 0 {
			return cty.NilVal, function.NewArgErrorf(0, "sum takes a list of at least one number")
		}
		total := cty.Zero
		for it := args[0].ElementIterator(); it.Next(); {
			_, v := it.Element()
			n, err := convert.Convert(v, cty.Number)
			if err != nil || n.IsNull() {
				return cty.NilVal, function.NewArgErrorf(0, "sum takes numbers only")
			}
			total = total.Add(n)
		}
		return total, nil
	},
})

// setProductFunc bounds the number of combinations, which grows by
// multiplication.
var setProductFunc = function.New(&function.Spec{
	VarParam: &function.Parameter{Name: "sets", Type: cty.DynamicPseudoType},
	Type: func(args []cty.Value) (cty.Type, error) {
		n := 1
		for _, a := range args {
			if a.IsKnown() && !a.IsNull() && a.CanIterateElements() {
				n *= max(1, a.LengthInt())
			}
			if n > 1<<16 {
				return cty.NilType, fmt.Errorf("there would be more than %d combinations", 1<<16)
			}
		}
		return stdlib.SetProductFunc.ReturnTypeForValues(args)
	},
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) { return stdlib.SetProductFunc.Call(args) },
})

var sensitiveFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType, AllowUnknown: true, AllowNull: true, AllowMarked: true, AllowDynamicType: true}},
	Type:   func(args []cty.Value) (cty.Type, error) { return args[0].Type(), nil },
	Impl:   func(args []cty.Value, _ cty.Type) (cty.Value, error) { return args[0].Mark(Sensitive), nil },
})

var nonsensitiveFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType, AllowUnknown: true, AllowNull: true, AllowMarked: true, AllowDynamicType: true}},
	Type:   func(args []cty.Value) (cty.Type, error) { return args[0].Type(), nil },
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		v, marks := args[0].Unmark()
		return v.WithMarks(onlyAfter(marks)), nil
	},
})

// number reads a whole number argument.
func number(args []cty.Value, i int) (int, error) {
	n, accuracy := args[i].AsBigFloat().Int64()
	if accuracy != 0 || n < -1<<31 || n > 1<<32 {
		return 0, function.NewArgErrorf(i, "%s is not a whole number in range", args[i].AsBigFloat().Text('g', 10))
	}
	return strconv.Atoi(strconv.FormatInt(n, 10))
}

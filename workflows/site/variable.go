package site

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// environPrefix starts the environment variables that set variables.
const environPrefix = "EDGE_VAR_"

// variable is one variable block and the value it got.
type variable struct {
	name      string
	block     *hclsyntax.Block
	typ       cty.Type
	defaults  *typeexpr.Defaults
	sensitive bool
	value     cty.Value // with its mark
}

// sortVariable reads a variable block; it may refer to nothing.
func (m *module) sortVariable(block *hclsyntax.Block) hcl.Diagnostics {
	name := block.Labels[0]
	if old := m.variables[name]; old != nil {
		return duplicate(block, "variable", old.block.DefRange())
	}
	v := &variable{name: name, block: block, typ: cty.DynamicPseudoType}
	m.variables[name] = v
	var diags hcl.Diagnostics
	known := []string{"type", "default", "description", "sensitive"}
	for _, attr := range sortedAttributes(block.Body) {
		switch attr.Name {
		case "type":
			t, defaults, more := typeexpr.TypeConstraintWithDefaults(attr.Expr)
			diags = append(diags, more...)
			if !more.HasErrors() {
				v.typ, v.defaults = t, defaults
			}
		case "sensitive":
			val, more := attr.Expr.Value(nil)
			diags = append(diags, more...)
			if more.HasErrors() {
				continue
			}
			if val.Type() != cty.Bool || val.IsNull() {
				diags = append(diags, failure("Wrong type", attr.Expr.Range().Ptr(), "sensitive is true or false.")...)
				continue
			}
			v.sensitive = val.True()
		case "default", "description":
		default:
			diags = append(diags, failure("Unsupported argument", attr.NameRange.Ptr(), "A variable has no %q.%s", attr.Name, suggest(attr.Name, known))...)
		}
	}
	for _, b := range block.Body.Blocks {
		if b.Type != "validation" {
			diags = append(diags, failure("Unsupported block type", b.TypeRange.Ptr(), "Blocks of type %q are not expected in a variable.%s", b.Type, suggest(b.Type, []string{"validation"}))...)
		}
	}
	return diags
}

// given is a value from outside, not yet converted.
type given struct {
	value cty.Value
	from  string // for messages: "the option --var"
	rng   *hcl.Range
}

// setVariables gives every variable its value: its default, or what the
// environment, the files of -var-file and -var say, the later winning.
func (m *module) setVariables() hcl.Diagnostics {
	values := make(map[string]given)
	var diags hcl.Diagnostics
	for _, kv := range m.opts.Environ {
		name, value, _ := strings.Cut(kv, "=")
		if v := m.variables[strings.TrimPrefix(name, environPrefix)]; strings.HasPrefix(name, environPrefix) && v != nil {
			val, more := v.fromText(value, "the environment variable "+name)
			diags = append(diags, more...)
			values[v.name] = given{value: val, from: "the environment variable " + name}
		}
	}
	for _, path := range m.opts.VarFiles {
		diags = append(diags, m.readVarFile(path, values)...)
	}
	for name, text := range m.opts.Vars {
		v := m.variables[name]
		if v == nil {
			diags = append(diags, failure("Undeclared variable", nil, "The option --var sets %q, which the site does not declare.%s", name, suggest(name, m.variableNames()))...)
			continue
		}
		val, more := v.fromText(text, "the option --var")
		diags = append(diags, more...)
		values[name] = given{value: val, from: "the option --var"}
	}
	for _, v := range m.variables {
		diags = append(diags, v.set(values)...)
	}
	return append(diags, m.validateVariables(func(v *variable) cty.Value { return v.value })...)
}

// validateVariables runs the validations of all variables of a module.
func (m *module) validateVariables(value func(*variable) cty.Value) hcl.Diagnostics {
	all := make(map[string]cty.Value)
	for name, v := range m.variables {
		all[name] = value(v)
	}
	var diags hcl.Diagnostics
	for name, v := range m.variables {
		diags = append(diags, m.validateVariable(v, all[name], all)...)
	}
	return diags
}

func (m *module) variableNames() []string {
	var names []string
	for name := range m.variables {
		names = append(names, name)
	}
	return names
}

// readVarFile reads the attributes of one file of values.
func (m *module) readVarFile(path string, values map[string]given) hcl.Diagnostics {
	src, diags := m.varSource(path)
	if diags.HasErrors() {
		return diags
	}
	m.files[path] = &hcl.File{Bytes: src.bytes}
	if diags := checkSource(src); diags.HasErrors() {
		return diags
	}
	file, diags := hclsyntax.ParseConfig(src.bytes, path, hcl.InitialPos)
	if diags.HasErrors() {
		return diags
	}
	m.files[path] = file
	body, ok := file.Body.(*hclsyntax.Body)
	if !ok {
		return diags
	}
	for _, b := range body.Blocks {
		diags = append(diags, failure("Unsupported block type", b.TypeRange.Ptr(), "A file of variable values has only attributes: NAME = VALUE.")...)
	}
	for _, attr := range sortedAttributes(body) {
		v := m.variables[attr.Name]
		if v == nil {
			// One file of values often serves many sites.
			diags = append(diags, warning("Undeclared variable", attr.NameRange.Ptr(), "The site declares no variable %q, so this value is not used.%s", attr.Name, suggest(attr.Name, m.variableNames()))...)
			continue
		}
		val, more := attr.Expr.Value(nil)
		diags = append(diags, more...)
		if more.HasErrors() {
			val = cty.DynamicVal
		}
		values[attr.Name] = given{value: val, from: "the file " + path, rng: attr.Expr.Range().Ptr()}
	}
	return diags
}

// varSource is a file of values, which may have been read before.
func (m *module) varSource(path string) (source, hcl.Diagnostics) {
	if text, ok := m.opts.VarTexts[path]; ok {
		return source{name: path, bytes: text}, nil
	}
	return readSource(path)
}

// fromText reads a value from a command line or an environment: a string as it
// is, anything else as an HCL expression.
func (v *variable) fromText(text, from string) (cty.Value, hcl.Diagnostics) {
	if v.typ == cty.String || v.typ == cty.DynamicPseudoType {
		return cty.StringVal(text), nil
	}
	src := source{name: "<value of var." + v.name + ">", bytes: []byte(text)}
	diags := checkSource(src)
	if !diags.HasErrors() {
		var expr hclsyntax.Expression
		expr, diags = hclsyntax.ParseExpression(src.bytes, src.name, hcl.InitialPos)
		if !diags.HasErrors() {
			var val cty.Value
			if val, diags = expr.Value(nil); !diags.HasErrors() {
				return val, nil
			}
		}
	}
	// The text is not repeated: it may be a secret.
	return cty.DynamicVal, failure("Invalid variable value", v.block.DefRange().Ptr(),
		"The value of var.%s, given by %s, is not an HCL expression for a %s: %s.", v.name, from, v.typ.FriendlyNameForConstraint(), diags[0].Summary)
}

// set takes the value from outside or the default, and converts it.
func (v *variable) set(values map[string]given) hcl.Diagnostics {
	v.value = cty.UnknownVal(v.typ)
	g, ok := values[v.name]
	if !ok {
		if v.block.Body.Attributes["default"] == nil {
			return failure("Missing variable value", v.block.DefRange().Ptr(),
				"var.%s has no default and no value was given. Give one with --var %s=…, with --var-file, or in the environment as %s%s.", v.name, v.name, environPrefix, v.name)
		}
		var diags hcl.Diagnostics
		if g, diags = v.defaultValue(); diags.HasErrors() {
			return diags
		}
	}
	if !g.value.IsWhollyKnown() {
		return nil // said where it was read
	}
	val, diags := v.take(g)
	v.value = val
	return diags
}

// defaultValue evaluates the default, which may refer to nothing.
func (v *variable) defaultValue() (given, hcl.Diagnostics) {
	attr := v.block.Body.Attributes["default"]
	val, diags := attr.Expr.Value(nil)
	return given{value: val, from: "its default", rng: attr.Expr.Range().Ptr()}, diags
}

// take converts a value to the variable's type and marks it. What does not fit
// is unknown.
func (v *variable) take(g given) (cty.Value, hcl.Diagnostics) {
	val := g.value
	if v.defaults != nil {
		val = v.defaults.Apply(val)
	}
	val, err := convert.Convert(val, v.typ)
	if err != nil {
		rng := g.rng
		if rng == nil {
			rng = v.block.DefRange().Ptr()
		}
		return cty.UnknownVal(v.typ), failure("Invalid variable value", rng, "The value of var.%s, given by %s, does not have the declared type: %s.", v.name, g.from, err)
	}
	if v.sensitive {
		val = val.Mark(Sensitive)
	}
	return val, nil
}

// validateVariable evaluates the validation blocks, which see all variables.
func (m *module) validateVariable(v *variable, value cty.Value, all map[string]cty.Value) hcl.Diagnostics {
	if bare, _ := value.Unmark(); !bare.IsKnown() {
		return nil
	}
	ctx := &hcl.EvalContext{Variables: map[string]cty.Value{"var": cty.ObjectVal(all)}, Functions: m.functions}
	var diags hcl.Diagnostics
	for _, b := range v.block.Body.Blocks {
		condition, message := b.Body.Attributes["condition"], b.Body.Attributes["error_message"]
		for _, attr := range sortedAttributes(b.Body) {
			if attr != condition && attr != message {
				diags = append(diags, failure("Unsupported argument", attr.NameRange.Ptr(), "A validation has no %q.%s", attr.Name, suggest(attr.Name, []string{"condition", "error_message"}))...)
			}
		}
		if condition == nil || message == nil {
			diags = append(diags, failure("Incomplete validation", b.DefRange().Ptr(), "A validation has a condition and an error_message.")...)
			continue
		}
		val, more := condition.Expr.Value(ctx)
		more = improve(more)
		text, textDiags := message.Expr.Value(ctx)
		more = append(more, improve(textDiags)...)
		diags = append(diags, more...)
		if more.HasErrors() {
			continue
		}
		val, _ = val.Unmark()
		val, err := convert.Convert(val, cty.Bool)
		if err == nil && !val.IsKnown() && m.call != nil {
			continue // it depends on what is known later
		}
		if err != nil || val.IsNull() || !val.IsKnown() {
			diags = append(diags, failure("Wrong type", condition.Expr.Range().Ptr(), "The condition of a validation is true or false.")...)
			continue
		}
		if val.True() {
			continue
		}
		why := "the validation's message is not a string"
		if s, err := convert.Convert(Redact(text), cty.String); err == nil && !s.IsNull() {
			why = s.AsString()
		}
		diags = append(diags, &hcl.Diagnostic{
			Severity: hcl.DiagError, Summary: "Invalid variable value", Subject: v.block.DefRange().Ptr(),
			Detail: fmt.Sprintf("The value of var.%s is refused by its validation at %s: %s", v.name, condition.Expr.Range(), why),
		})
	}
	return diags
}

package site

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// Errors of functions that reach outside the site's text.
var (
	errNoFiles = errors.New("reading files is not allowed here; the option --allow-file allows it, for files below the site's directory")
	errNoEnv   = errors.New("reading the environment is not allowed here; the option --allow-env allows it, or declare a variable and set it by " + environPrefix + "NAME")
)

// readBelow reads a file below the site's directory; os.Root keeps links and
// ".." inside.
func (m *module) readBelow(name string) ([]byte, error) {
	if !m.opts.AllowFile {
		return nil, errNoFiles
	}
	if filepath.IsAbs(name) {
		return nil, fmt.Errorf("%s is an absolute path; only files below the site's directory can be read", clip(name))
	}
	root, err := os.OpenRoot(m.dir)
	if err != nil {
		return nil, fmt.Errorf("opening the site's directory: %w", err)
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", clip(name))
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFileBytes {
		return nil, fmt.Errorf("%s has more than %d MiB", clip(name), maxFileBytes>>20)
	}
	return b, nil
}

// fileFunc is file(path), or filebase64(path).
func (m *module) fileFunc(encode bool) function.Function {
	return textSpec(cty.String, []string{"path"}, func(a []string) (cty.Value, error) {
		b, err := m.readBelow(a[0])
		if err != nil {
			return cty.NilVal, function.NewArgError(0, err)
		}
		if encode {
			return cty.StringVal(base64.StdEncoding.EncodeToString(b)), nil
		}
		if !utf8.Valid(b) {
			return cty.NilVal, function.NewArgErrorf(0, "%s is not UTF-8 text; filebase64 reads other bytes", clip(a[0]))
		}
		return cty.StringVal(string(b)), nil
	})
}

// templateFileFunc is templatefile(path, variables). A template calls every
// function but those that read files, so that it cannot include itself.
func (m *module) templateFileFunc() function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "path", Type: cty.String}, {Name: "variables", Type: cty.DynamicPseudoType}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			name := args[0].AsString()
			b, err := m.readBelow(name)
			if err != nil {
				return cty.NilVal, function.NewArgError(0, err)
			}
			if t := args[1].Type(); !t.IsObjectType() && !t.IsMapType() {
				return cty.NilVal, function.NewArgErrorf(1, "the variables of a template are an object")
			}
			if err := checkTemplate(name, b); err != nil {
				return cty.NilVal, function.NewArgError(0, err)
			}
			expr, diags := hclsyntax.ParseTemplate(b, name, hcl.InitialPos)
			if diags.HasErrors() {
				return cty.NilVal, function.NewArgError(0, diags)
			}
			countExpression(expr, false)
			variables := maps.Clone(args[1].AsValueMap())
			if variables == nil {
				variables = make(map[string]cty.Value)
			}
			ctx := withBudget(&hcl.EvalContext{Variables: variables, Functions: make(map[string]function.Function)}, nil)
			for fn, f := range m.functions {
				if !strings.Contains(fn, "file") {
					ctx.Functions[fn] = f
				}
			}
			v, diags := expr.Value(ctx)
			if diags.HasErrors() {
				return cty.NilVal, function.NewArgError(1, diags)
			}
			if v.Type() != cty.String || !v.IsKnown() || v.IsNull() {
				return cty.NilVal, function.NewArgErrorf(0, "%s does not give a text", clip(name))
			}
			return v, nil
		},
	})
}

// checkTemplate bounds a template as checkSource bounds a site. Its tokens are
// those of a heredoc.
func checkTemplate(name string, b []byte) error {
	if !utf8.Valid(b) {
		return fmt.Errorf("%s is not UTF-8 text", clip(name))
	}
	if n := strings.Count(string(b), "${") + strings.Count(string(b), "%{"); n > maxPending {
		return fmt.Errorf("%s has %d interpolations and directives; a template has at most %d", clip(name), n, maxPending)
	}
	tokens, diags := hclsyntax.LexTemplate(b, name, hcl.InitialPos)
	if diags.HasErrors() {
		return diags
	}
	return errorOf(checkTokens(tokens))
}

// errorOf is the error of diagnostics, or nil.
func errorOf(diags hcl.Diagnostics) error {
	if diags.HasErrors() {
		return diags
	}
	return nil
}

// envFunc is env(name): the variable's value, or an error when it is not set.
func (m *module) envFunc() function.Function {
	return textSpec(cty.String, []string{"name"}, func(a []string) (cty.Value, error) {
		if !m.opts.AllowEnv {
			return cty.NilVal, errNoEnv
		}
		for _, kv := range m.opts.Environ {
			if name, value, _ := strings.Cut(kv, "="); name == a[0] {
				if !utf8.ValidString(value) {
					return cty.NilVal, function.NewArgErrorf(0, "the value of %s is not UTF-8 text", clip(a[0]))
				}
				return cty.StringVal(value), nil
			}
		}
		return cty.NilVal, function.NewArgErrorf(0, "the environment has no variable %s", clip(a[0]))
	})
}

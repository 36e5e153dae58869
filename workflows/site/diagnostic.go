package site

import (
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// failure makes one error. The summary is constant, so that it can be searched
// for; what differs goes into the detail, in full sentences.
func failure(summary string, subject *hcl.Range, detail string, args ...any) hcl.Diagnostics {
	return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: summary, Subject: subject, Detail: fmt.Sprintf(detail, args...)}}
}

// warning makes one warning.
func warning(summary string, subject *hcl.Range, detail string, args ...any) hcl.Diagnostics {
	return hcl.Diagnostics{{Severity: hcl.DiagWarning, Summary: summary, Subject: subject, Detail: fmt.Sprintf(detail, args...)}}
}

// suggest is " Did you mean …?" when one of the names is close to the given
// one, and else empty.
func suggest(given string, names []string) string {
	if near := nearest(given, names); near != "" {
		return fmt.Sprintf(" Did you mean %q?", near)
	}
	return ""
}

// offer is suggest, or else the list of what there is.
func offer(given string, names []string) string {
	hint := suggest(given, names)
	switch {
	case hint != "" || len(names) == 0:
		return hint
	case len(names) == 1:
		return fmt.Sprintf(" There is only %q.", names[0])
	}
	return " There are " + listNames(names) + "."
}

// nearest is the closest of the names, or empty when none is close.
func nearest(given string, names []string) string {
	sorted := append([]string(nil), names...)
	sort.Strings(sorted)
	best, bound := "", max(2, min(len(given)/3, 5))+1
	for _, name := range sorted {
		if strings.EqualFold(given, name) {
			return name
		}
		if d := levenshtein.Distance(given, name, nil); d < bound && d < len(name) {
			best, bound = name, d
		}
	}
	return best
}

// listNames writes names for a sentence, at most ten of them.
func listNames(names []string) string {
	sorted := append([]string(nil), names...)
	sort.Strings(sorted)
	more := ""
	if len(sorted) > 10 {
		more = fmt.Sprintf(" and %d more", len(sorted)-10)
		sorted = sorted[:10]
	}
	return strings.Join(sorted, ", ") + more
}

// tidy sorts diagnostics by place and drops repetitions: a block with for_each
// says the same wrong thing once per instance.
func tidy(diags hcl.Diagnostics) hcl.Diagnostics {
	seen := make(map[string]bool, len(diags))
	var out hcl.Diagnostics
	for _, d := range diags {
		subject := hcl.Range{}
		if d.Subject != nil {
			subject = *d.Subject
		}
		key := fmt.Sprintf("%d\x00%s\x00%s\x00%v", d.Severity, d.Summary, d.Detail, subject)
		if !seen[key] {
			seen[key] = true
			out = append(out, d)
		}
	}
	sort.SliceStable(out, func(i, j int) bool {
		a, b := out[i].Subject, out[j].Subject
		if a == nil || b == nil {
			return a == nil && b != nil
		}
		if a.Filename != b.Filename {
			return a.Filename < b.Filename
		}
		return a.Start.Byte < b.Start.Byte
	})
	return out
}

// improve adds what HCL's own diagnostics lack: which attributes and keys there
// are, and which was probably meant. It also takes the expression's values away
// when one of them is marked, because HCL's writer would print them.
func improve(diags hcl.Diagnostics) hcl.Diagnostics {
	for _, d := range diags {
		if d.Expression == nil || d.EvalContext == nil {
			continue
		}
		if t, ok := d.Expression.(*hclsyntax.ScopeTraversalExpr); ok {
			switch d.Summary {
			case "Unsupported attribute", "Invalid index":
				if detail := missingStep(t.Traversal, d.EvalContext); detail != "" {
					d.Detail = detail
				}
			}
		}
		if anyMarked(d.Expression, d.EvalContext) {
			switch d.Summary {
			case "Invalid function argument", "Error in function call":
				// Functions repeat their arguments in their errors.
				d.Detail = "The function refuses its arguments. Why is not shown, because one of them is sensitive or not known yet."
			}
			d.Expression, d.EvalContext = nil, nil
		}
	}
	return diags
}

// anyMarked reports whether a value that the expression refers to is marked.
func anyMarked(expr hcl.Expression, ctx *hcl.EvalContext) bool {
	for _, traversal := range expr.Variables() {
		v, diags := traversal.TraverseAbs(ctx)
		if diags.HasErrors() || v == cty.NilVal || v.ContainsMarked() {
			return true
		}
	}
	return false
}

// missingStep says which step of the traversal has no match and what there is.
func missingStep(traversal hcl.Traversal, ctx *hcl.EvalContext) string {
	for n := 2; n <= len(traversal); n++ {
		parent, diags := traversal[:n-1].TraverseAbs(ctx)
		if diags.HasErrors() {
			return ""
		}
		parent, _ = parent.Unmark()
		if !parent.Type().IsObjectType() {
			continue
		}
		var name string
		switch step := traversal[n-1].(type) {
		case hcl.TraverseAttr:
			name = step.Name
		case hcl.TraverseIndex:
			if step.Key.Type() != cty.String {
				continue
			}
			name = step.Key.AsString()
		}
		if parent.Type().HasAttribute(name) {
			continue
		}
		var names []string
		for attr := range parent.Type().AttributeTypes() {
			names = append(names, attr)
		}
		text := traversalText(traversal[:n-1])
		if len(names) == 0 {
			return fmt.Sprintf("%s is empty, so it has no %q.", text, name)
		}
		if s := suggest(name, names); s != "" {
			return fmt.Sprintf("%s has no %q.%s", text, name, s)
		}
		return fmt.Sprintf("%s has no %q; it has %s.", text, name, listNames(names))
	}
	return ""
}

// traversalText writes a traversal as the source has it.
func traversalText(traversal hcl.Traversal) string {
	var b strings.Builder
	for _, step := range traversal {
		switch s := step.(type) {
		case hcl.TraverseRoot:
			b.WriteString(s.Name)
		case hcl.TraverseAttr:
			b.WriteString("." + s.Name)
		case hcl.TraverseIndex:
			key, _ := s.Key.Unmark()
			switch {
			case key.Type() == cty.String && key.IsKnown() && !key.IsNull():
				fmt.Fprintf(&b, "[%q]", key.AsString())
			case key.Type() == cty.Number && key.IsKnown() && !key.IsNull():
				fmt.Fprintf(&b, "[%s]", key.AsBigFloat().Text('f', -1))
			}
		}
	}
	return b.String()
}

// WriteDiagnostics renders diagnostics with their source lines through HCL's
// own writer. A width of 0 does not wrap.
func WriteDiagnostics(w io.Writer, files map[string]*hcl.File, diags hcl.Diagnostics, color bool, width uint) error {
	if err := hcl.NewDiagnosticTextWriter(w, files, width, color).WriteDiagnostics(diags); err != nil {
		return fmt.Errorf("writing diagnostics: %w", err)
	}
	return nil
}

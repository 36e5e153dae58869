package site

import (
	"io"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

type module struct{}
type stepBlock struct{}
type eachValue struct{}

func Load(path string, opts Options) (*Site, hcl.Diagnostics) { return nil, nil }

// StepInputs evaluates a step's body again with what is known now.
func (s *Site) StepInputs(step *Step, known Known) (cty.Value, hcl.Diagnostics) {
	return cty.NilVal, nil
}

// StepWhen evaluates a step's condition again; unknown stays unknown.
func (s *Site) StepWhen(step *Step, known Known) (cty.Value, hcl.Diagnostics) {
	return cty.NilVal, nil
}

// OutputValues evaluates every output.
func (s *Site) OutputValues(known Known) (map[string]cty.Value, hcl.Diagnostics) { return nil, nil }

// Graph gives the dependencies by address.
func (s *Site) Graph() Graph { return Graph{} }

// Redact replaces sensitive parts by a placeholder and unknown ones by
// "(known after …)", so that the result is known and unmarked.
func Redact(v cty.Value) cty.Value { return v }

// Secrets lists the sensitive strings inside v.
func Secrets(v cty.Value) []string { return nil }

// References lists the addresses of machines, steps, … inside v.
func References(v cty.Value) []string { return nil }

// Format gives src in canonical layout.
func Format(filename string, src []byte) ([]byte, hcl.Diagnostics) { return src, nil }

// WriteDiagnostics renders diagnostics with their source lines.
func WriteDiagnostics(w io.Writer, files map[string]*hcl.File, diags hcl.Diagnostics, color bool, width uint) error {
	return nil
}

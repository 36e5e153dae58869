package resource

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// Problem is an error as RFC 9457 has it, sent as application/problem+json.
type Problem struct {
	// Type is /v1/problems/NAME on the server that sent it, which explains it.
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	// Detail says what is wrong in this request, and what to do.
	Detail string `json:"detail,omitempty"`
	// Instance is "urn:uuid:" and the id of the request, which the server's log
	// bears too.
	Instance string `json:"instance,omitempty"`
	// Parameter names the query parameter, header or path segment at fault.
	Parameter string `json:"parameter,omitempty"`
	// Diagnostics point into the text of a filter.
	Diagnostics []Diagnostic `json:"diagnostics,omitempty"`
	// Candidates are the ids of the machines that an ambiguous name fits.
	Candidates []string `json:"candidates,omitempty"`
	// Run is the id of the run that stands in the way.
	Run uuid.UUID `json:"run,omitzero"`
	// Examined is how many rows were looked at before a query was given up.
	Examined int64 `json:"rows_examined,omitempty"`
}

// Diagnostic is one mistake in a filter.
type Diagnostic struct {
	Summary string `json:"summary"`
	Detail  string `json:"detail,omitempty"`
	// Start and End are byte offsets into the filter.
	Start int `json:"start"`
	End   int `json:"end"`
	// Text is the line of the filter with carets under the place, for a
	// terminal or a monospaced font.
	Text string `json:"text"`
}

// Error is the detail, with the carets of a filter.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Title)
	if p.Detail != "" {
		b.WriteString(": " + p.Detail)
	}
	for _, d := range p.Diagnostics {
		b.WriteString("\n" + strings.TrimRight(d.Text, "\n"))
	}
	if p.Type == "" {
		fmt.Fprintf(&b, " (HTTP status %d)", p.Status)
	}
	return b.String()
}

// Name is the last part of Type, such as "invalid-filter".
func (p *Problem) Name() string { return p.Type[strings.LastIndexByte(p.Type, '/')+1:] }

// ProblemType explains one type of problem.
type ProblemType struct {
	Name   string `json:"name"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	// Meaning says when it occurs and what to do.
	Meaning string `json:"meaning"`
}

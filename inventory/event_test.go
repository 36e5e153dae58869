package inventory_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
)

// TestEventKindsAreAllConstants reads the source: a kind that is recorded and not listed
// could be neither asked for nor sent to a webhook.
func TestEventKindsAreAllConstants(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "event.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var want []inventory.EventKind
	for spec := range ast.Preorder(file) {
		v, ok := spec.(*ast.ValueSpec)
		if !ok {
			continue
		}
		if kind, ok := v.Type.(*ast.Ident); !ok || kind.Name != "EventKind" {
			continue
		}
		text, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, inventory.EventKind(text))
	}
	if got := inventory.EventKinds(); len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("EventKinds() = %q; want the constants of event.go: %q", got, want)
	}
}

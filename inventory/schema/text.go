package schema

import (
	_ "embed" // text.json
	"encoding/json"
	"path"
	"reflect"
	"strings"
	"sync"
)

// textFile has the comments of the types that are described, and of their fields:
// reflection does not know them. `go generate` renews it and a test compares it
// with the source.
//
//go:generate go test -run ^TestTextsAreThoseOfTheSource$ . -update
//go:generate go test -run ^TestPublishedSchemaIsThatOfTheFacts$ . -update
//go:embed text.json
var textFile []byte

var texts = sync.OnceValue(func() map[string]string {
	var out map[string]string
	if json.Unmarshal(textFile, &out) != nil {
		return nil // the test of the file would fail
	}
	return out
})

// Text is what the comment of a type, or of a field in it, says, in one line; empty
// without one.
func Text(t reflect.Type, field string) string {
	name, _, _ := strings.Cut(t.Name(), "[")
	key := path.Base(t.PkgPath()) + "." + name
	if field != "" {
		key += "." + field
	}
	return texts()[key]
}

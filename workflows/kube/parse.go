package kube

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

const (
	// maxManifestBytes bounds one step's manifests; the largest upstream file
	// that we know, Calico's definitions, has 3 MB.
	maxManifestBytes = 32 << 20
	// maxDocuments bounds the objects of one step, also those inside of lists.
	maxDocuments = 5000
	// maxDepth bounds nesting, far beyond any real schema; the recursive
	// comparisons here and in the libraries follow it.
	maxDepth = 200
)

// Parse reads manifests: YAML or JSON documents, separated by lines of "---",
// each an object or a List of them. Empty documents are skipped, duplicate keys
// are refused. Name says in errors where the text comes from.
func Parse(name string, manifest []byte) ([]Object, error) {
	objects, _, err := parse(name, manifest, false)
	return objects, err
}

// ParseRendered reads what came of a chart's templates as Helm does, which is less
// strict: dashes at the beginning of a line end a document whatever follows them (the
// expression sep of Helm's pkg/release/v1/util/manifest.go), and of keys that are there
// twice the last one counts. Notes say for a person where that is so.
func ParseRendered(name string, manifest []byte) (objects []Object, notes []string, err error) {
	return parse(name, manifest, true)
}

func parse(name string, manifest []byte, rendered bool) (out []Object, notes []string, err error) {
	if len(manifest) > maxManifestBytes {
		return nil, nil, fmt.Errorf("%s: it has %d bytes; the limit is %d", name, len(manifest), maxManifestBytes)
	}
	for n, document := range split(manifest, rendered) {
		o, note, err := parseDocument(document, rendered)
		if err == nil {
			out, err = expand(out, o)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: document %d: %w", name, n+1, err)
		}
		if note != "" {
			notes = append(notes, fmt.Sprintf("%s: document %d: %v %s: %s", name, n+1, o["kind"], str(&unstructured.Unstructured{Object: o}, "metadata", "name"), note))
		}
	}
	return out, notes, nil
}

var errTooMany = fmt.Errorf("there are more than %d objects in one manifest", maxDocuments)

// parseDocument reads one document; nil when there is nothing in it. The note says
// which keys of a rendered one are there twice.
func parseDocument(document []byte, rendered bool) (m map[string]any, note string, err error) {
	if len(bytes.TrimSpace(document)) == 0 {
		return nil, "", nil
	}
	asJSON, err := yaml.YAMLToJSONStrict(document)
	if err != nil && rendered {
		asJSON, note, err = lastKeys(document, err)
	}
	if err != nil {
		return nil, "", err
	}
	if bytes.Equal(bytes.TrimSpace(asJSON), []byte("null")) {
		return nil, "", nil
	}
	if depth(asJSON) > maxDepth {
		return nil, "", fmt.Errorf("it is nested deeper than %d levels", maxDepth)
	}
	if err := json.Unmarshal(asJSON, &m); err != nil {
		return nil, "", errors.New("it is not an object: a manifest has apiVersion, kind and metadata")
	}
	return m, note, nil
}

// lastKeys reads a document that was refused, with the last of those keys that it has
// twice. What is wrong with it otherwise stays wrong.
func lastKeys(document []byte, refused error) (asJSON []byte, note string, err error) {
	if asJSON, err = yaml.YAMLToJSON(document); err != nil {
		return nil, "", refused
	}
	lines := strings.Fields(strings.TrimPrefix(refused.Error(), "yaml: unmarshal errors:"))
	return asJSON, strings.Join(lines, " ") + "; the last one counts", nil
}

// expand appends m to out, or its items when it is a List.
func expand(out []Object, m map[string]any) ([]Object, error) {
	if m == nil {
		return out, nil
	}
	o := &unstructured.Unstructured{Object: m}
	kind, _ := m["kind"].(string)
	items, listed := m["items"].([]any)
	if kind == "List" || listed && strings.HasSuffix(kind, "List") {
		for i, item := range items {
			object, ok := item.(map[string]any)
			if !ok {
				return nil, fmt.Errorf("items[%d] is not an object", i)
			}
			var err error
			if out, err = expand(out, object); err != nil {
				return nil, fmt.Errorf("items[%d]: %w", i, err)
			}
		}
		return out, nil
	}
	if err := wellFormed(o); err != nil {
		return nil, err
	}
	if len(out) == maxDocuments {
		return nil, errTooMany
	}
	return append(out, o), nil
}

// split cuts a manifest at the lines of three dashes (YAML 1.2.2, section 9.1.4).
// What follows the dashes on the same line belongs to the next document. Of rendered
// text that may be the first line of an object.
func split(manifest []byte, rendered bool) [][]byte {
	var out [][]byte
	begin := 0
	for at := 0; at < len(manifest); {
		end := bytes.IndexByte(manifest[at:], '\n')
		next := at + end + 1
		if end < 0 {
			next = len(manifest)
		}
		line := manifest[at:next]
		if bytes.HasPrefix(line, []byte("---")) && (rendered || len(line) == 3 || strings.IndexByte(" \t\r\n", line[3]) >= 0) {
			out = append(out, manifest[begin:at])
			begin = at + 3
			for rendered && begin < next && (manifest[begin] == ' ' || manifest[begin] == '\t') {
				begin++
			}
		}
		at = next
	}
	return append(out, manifest[begin:])
}

// depth is how many brackets of a JSON text are open at once at most.
func depth(text []byte) int {
	open, most, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			open++
			most = max(most, open)
		case c == '}' || c == ']':
			open--
		}
	}
	return most
}

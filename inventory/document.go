package inventory

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of a facts document. They are far above what a server has: a document
// beyond them is an error or an attack.
const (
	MaxDocumentBytes = 1 << 20
	MaxListLen       = 4096 // members of a list
	MaxTextBytes     = 4096 // of a string
	maxDepth         = 16
)

// DecodeFacts reads a facts document that a stranger sent. It refuses more than
// MaxDocumentBytes, a duplicate key, an unknown field, invalid UTF-8, NUL, a
// newer schema version and whatever Validate refuses.
func DecodeFacts(raw []byte) (Facts, error) {
	f, err := decodeFacts(raw)
	if err != nil {
		return Facts{}, fmt.Errorf("reading a facts document: %w", err)
	}
	return f, nil
}

func decodeFacts(raw []byte) (Facts, error) {
	var f Facts
	if len(raw) > MaxDocumentBytes {
		return f, fmt.Errorf("it has %d bytes; at most %d are accepted", len(raw), MaxDocumentBytes)
	}
	if !utf8.Valid(raw) {
		return f, errors.New("it is not valid UTF-8")
	}
	if err := CheckKeys(raw, maxDepth); err != nil {
		return f, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return f, err
	}
	if f.SchemaVersion > SchemaVersion {
		return f, fmt.Errorf("its schema version is %d and this program knows %d: the sender is newer, update the controller", f.SchemaVersion, SchemaVersion)
	}
	return f, f.Validate()
}

// CheckKeys walks the tokens of a JSON document and refuses a key given twice in one
// object, which encoding/json would accept, more than one value, and nesting more
// than 16 deep. Objects at most fold deep are structs, whose keys encoding/json
// reads without regard to case; deeper ones may be maps.
func CheckKeys(raw []byte, fold int) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	type level struct {
		keys   map[string]bool // nil in a list
		expect bool            // the next token is a key
	}
	var stack []level
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			if len(stack) > 0 {
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		if err != nil {
			return err
		}
		if len(stack) > 0 {
			top := &stack[len(stack)-1]
			key, isKey := tok.(string)
			if top.keys != nil && top.expect && isKey {
				name := key
				if len(stack) <= fold {
					name = strings.ToLower(key)
				}
				if top.keys[name] {
					return fmt.Errorf("key %q is given twice", clip(key))
				}
				top.keys[name], top.expect = true, false
				continue
			}
			top.expect = true
		}
		switch tok {
		case json.Delim('{'):
			stack = append(stack, level{keys: map[string]bool{}, expect: true})
		case json.Delim('['):
			stack = append(stack, level{})
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
			if len(stack) == 0 && d.More() {
				return errors.New("there is more after the document")
			}
		}
		if len(stack) > maxDepth {
			return fmt.Errorf("it is nested more than %d deep", maxDepth)
		}
	}
}

// Validate refuses what no observation can be: a negative number, a text with
// NUL or invalid UTF-8 or longer than 4 KiB, a list of more than 4096 members,
// a NIC with a group address, or a neighbor of no port.
func (f Facts) Validate() error {
	for what, n := range map[string]int{
		"disks": len(f.Disks), "nics": len(f.NICs), "neighbors": len(f.Neighbors), "pci": len(f.PCI), "memory modules": f.moduleCount(),
	} {
		if n > MaxListLen {
			return fmt.Errorf("%d %s are more than the %d that are accepted", n, what, MaxListLen)
		}
	}
	for _, n := range f.NICs {
		if n.MAC[0]&1 == 1 {
			return fmt.Errorf("NIC %s has the group address %s", clip(n.Name), n.MAC)
		}
	}
	for _, n := range f.Neighbors {
		if n.MAC.IsZero() || n.MAC[0]&1 == 1 {
			return fmt.Errorf("a neighbor was heard on a port with the address %s, which no port has", n.MAC)
		}
	}
	// Before the tree: JSON would put U+FFFD in place of what is not UTF-8.
	if err := checkText("", reflect.ValueOf(f)); err != nil {
		return err
	}
	return checkValues("", tree(f))
}

// checkText refuses text that no database keeps as it is.
func checkText(path string, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return checkText(path, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			if err := checkText(join(path, name), v.Field(i)); err != nil {
				return err
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := checkText(path+"[]", v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.String:
		switch s := v.String(); {
		case !utf8.ValidString(s):
			return fmt.Errorf("%s is not valid UTF-8", path)
		case strings.ContainsRune(s, 0):
			return fmt.Errorf("%s contains a NUL", path)
		}
	}
	return nil
}

func (f Facts) moduleCount() int {
	if f.Memory == nil {
		return 0
	}
	return len(f.Memory.Modules)
}

// checkValues refuses bad text and negative numbers anywhere in the document.
func checkValues(path string, v any) error {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if err := checkValues(join(path, k), e); err != nil {
				return err
			}
		}
	case []any:
		if len(v) > MaxListLen {
			return fmt.Errorf("%s has %d members; at most %d are accepted", path, len(v), MaxListLen)
		}
		for _, e := range v {
			if err := checkValues(path+"[]", e); err != nil {
				return err
			}
		}
	case json.Number:
		if strings.HasPrefix(v.String(), "-") {
			return fmt.Errorf("%s is negative", path)
		}
	case string:
		if len(v) > MaxTextBytes {
			return fmt.Errorf("%s has %d bytes; at most %d are accepted", path, len(v), MaxTextBytes)
		}
	}
	return nil
}

// Canonical is the one byte form of the document: JSON with sorted keys and no
// blanks, lists in the order of what identifies their members. Its digest is
// "sha256:" and hex over these bytes. The error is Validate's.
func (f Facts) Canonical() (content []byte, digest string, err error) {
	if err := f.Validate(); err != nil {
		return nil, "", fmt.Errorf("facts document: %w", err)
	}
	content, err = json.Marshal(tree(f)) // a map's keys come out sorted
	if err != nil {
		return nil, "", fmt.Errorf("facts document: %w", err)
	}
	sum := sha256.Sum256(content)
	return content, "sha256:" + hex.EncodeToString(sum[:]), nil
}

// canonical is f with its version set and its lists sorted.
func (f Facts) canonical() Facts {
	if f.SchemaVersion == 0 {
		f.SchemaVersion = SchemaVersion
	}
	f.Disks = sorted(f.Disks, func(d Disk) string { return d.Name + "\x00" + d.Serial })
	f.NICs = sorted(f.NICs, func(n NIC) string { return n.MAC.String() + n.Name })
	f.Neighbors = sorted(f.Neighbors, func(n Neighbor) string { return n.MAC.String() + "\x00" + n.Chassis + "\x00" + n.Port })
	f.PCI = sorted(f.PCI, func(p PCI) string { return p.Address })
	if f.Memory != nil {
		m := *f.Memory
		m.Modules = sorted(m.Modules, func(m MemoryModule) string { return m.Locator + "\x00" + m.Serial })
		f.Memory = &m
	}
	if f.CPU != nil {
		c := *f.CPU
		c.Flags = sorted(c.Flags, func(s string) string { return s })
		f.CPU = &c
	}
	return f
}

func sorted[T any](list []T, key func(T) string) []T {
	if list == nil {
		return nil
	}
	out := slices.Clone(list)
	slices.SortStableFunc(out, func(a, b T) int { return strings.Compare(key(a), key(b)) })
	return out
}

package bundle

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// maxLockBytes bounds a lock file that is read.
const maxLockBytes = 16 << 20

// Lock is what a site's bundle is made of, as a file that a person reads and
// version control keeps. It pins what site.hcl leaves open, such as the digest
// behind a container image's tag.
type Lock struct {
	Entries []LockEntry
}

// LockEntry is one artifact.
type LockEntry struct {
	Kind   string   `hcl:"kind,label"`
	Name   string   `hcl:"name,label"`
	Source string   `hcl:"source,optional"`
	Digest string   `hcl:"digest"`
	Bytes  int64    `hcl:"bytes"`
	UsedBy []string `hcl:"used_by,optional"`
}

// LockOf is the lock of a bundle.
func LockOf(c *Contents) Lock {
	var l Lock
	for _, i := range c.Items {
		source := i.Source
		if source == i.Name {
			source = ""
		}
		l.Entries = append(l.Entries, LockEntry{Kind: i.Kind, Name: i.Name, Source: source, Digest: i.Digest, Bytes: i.Bytes, UsedBy: i.UsedBy})
	}
	return l
}

// Encode gives the lock as HCL.
func (l Lock) Encode() []byte {
	f := hclwrite.NewEmptyFile()
	body := f.Body()
	body.AppendUnstructuredTokens(hclwrite.Tokens{{Type: hclsyntax.TokenComment, Bytes: []byte(
		"# Written by `edge-provision bundle build`, and held against the site and the bundle.\n# Keep it beside the site, in version control; change it with `bundle build --update`.\n")}})
	body.SetAttributeValue("format_version", cty.NumberIntVal(FormatVersion))
	for _, e := range l.Entries {
		body.AppendNewline()
		b := body.AppendNewBlock("artifact", []string{e.Kind, e.Name}).Body()
		if e.Source != "" {
			b.SetAttributeValue("source", cty.StringVal(e.Source))
		}
		b.SetAttributeValue("digest", cty.StringVal(e.Digest))
		b.SetAttributeValue("bytes", cty.NumberIntVal(e.Bytes))
		if len(e.UsedBy) > 0 {
			var users []cty.Value
			for _, u := range e.UsedBy {
				users = append(users, cty.StringVal(u))
			}
			b.SetAttributeValue("used_by", cty.ListVal(users))
		}
	}
	return f.Bytes()
}

// ReadLock reads a lock file; the error of one that is not there is
// fs.ErrNotExist.
func ReadLock(path string) (Lock, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Lock{}, err
	}
	if info.Size() > maxLockBytes {
		return Lock{}, fmt.Errorf("lock file %s has %d bytes; want up to %d", path, info.Size(), maxLockBytes)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Lock{}, err
	}
	return ParseLock(text, path)
}

// ParseLock reads the text of a lock file.
func ParseLock(text []byte, name string) (Lock, error) {
	var file struct {
		FormatVersion int         `hcl:"format_version"`
		Artifacts     []LockEntry `hcl:"artifact,block"`
	}
	// A lock is flat; deep nests would take the parser's stack.
	if nested(text) > 16 {
		return Lock{}, fmt.Errorf("lock file %s is nested deeper than any lock: write it anew with `bundle build --update`", name)
	}
	f, diags := hclsyntax.ParseConfig(text, name, hcl.InitialPos)
	if !diags.HasErrors() {
		diags = append(diags, gohcl.DecodeBody(f.Body, nil, &file)...)
	}
	if diags.HasErrors() {
		return Lock{}, fmt.Errorf("reading lock file: %w", diags)
	}
	if file.FormatVersion != FormatVersion {
		return Lock{}, fmt.Errorf("lock file %s has format version %d; this program reads version %d", name, file.FormatVersion, FormatVersion)
	}
	for _, e := range file.Artifacts {
		if !validDigest(e.Digest) {
			return Lock{}, fmt.Errorf("lock file %s: %s %q has digest %.90q; want sha256: and 64 hexadecimal digits", name, e.Kind, e.Name, e.Digest)
		}
	}
	slices.SortFunc(file.Artifacts, compareEntries)
	return Lock{Entries: file.Artifacts}, nil
}

// nested is the deepest nest of brackets in a text, those in strings included.
func nested(text []byte) int {
	depth, deepest := 0, 0
	for _, c := range text {
		switch c {
		case '{', '[', '(':
			depth++
			deepest = max(deepest, depth)
		case '}', ']', ')':
			depth--
		}
	}
	return deepest
}

func compareEntries(a, b LockEntry) int {
	return compareItems(Item{Kind: a.Kind, Name: a.Name}, Item{Kind: b.Kind, Name: b.Name})
}

// Find returns an entry.
func (l Lock) Find(kind, name string) (LockEntry, bool) {
	for _, e := range l.Entries {
		if e.Kind == kind && e.Name == name {
			return e, true
		}
	}
	return LockEntry{}, false
}

// Difference is one line of how two locks differ.
type Difference struct {
	Text string
	// Conflict says that a thing of the same name has another content: not an
	// addition that the site asked for, but something that has moved.
	Conflict bool
}

// Compare tells how a lock became another. Documents follow from the site's own
// declaration, so that theirs are no conflicts.
func (l Lock) Compare(next Lock) []Difference {
	var out []Difference
	old := map[string]LockEntry{}
	for _, e := range l.Entries {
		old[e.Kind+" "+e.Name] = e
	}
	for _, e := range next.Entries {
		key := e.Kind + " " + e.Name
		before, ok := old[key]
		delete(old, key)
		switch {
		case !ok:
			out = append(out, Difference{Text: "+ " + key + " " + e.Digest})
		case before.Digest != e.Digest:
			out = append(out, Difference{Text: fmt.Sprintf("~ %s %s -> %s", key, before.Digest, e.Digest), Conflict: e.Kind != KindDocument})
		}
	}
	for _, e := range l.Entries {
		key := e.Kind + " " + e.Name
		if _, gone := old[key]; gone {
			out = append(out, Difference{Text: "- " + key + " " + e.Digest})
		}
	}
	slices.SortFunc(out, func(a, b Difference) int { return strings.Compare(a.Text[2:], b.Text[2:]) })
	return out
}

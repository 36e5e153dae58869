package query

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

// Digest names what the expression says: expressions that may answer differently
// have different digests. Constants count in full, which String clips, rounds or
// hides. keyed makes the digest of an expression with a sensitive value, which
// nobody without the key can then guess at.
//
// Catalogs keep these digests, and machines are reacted to once for each of them:
// the form that is digested must not change for an expression that means the same.
func (e *Expr) Digest(keyed func(form []byte) string) string {
	f := canonical{loops: map[*variable]int{}}
	f.list(e.root.String(), func() { e.node.canonical(&f) })
	if e.sensitive {
		return keyed([]byte(f.b.String()))
	}
	sum := sha256.Sum256([]byte(f.b.String()))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// canonical is an expression written out whole, as nested lists. A loop's variable is
// a number, so that its name does not count.
type canonical struct {
	b     strings.Builder
	loops map[*variable]int
}

// list writes (name …).
func (f *canonical) list(name string, rest func()) {
	f.b.WriteString("(" + name)
	rest()
	f.b.WriteByte(')')
}

func (f *canonical) word(s string) { f.b.WriteString(" " + s) }
func (f *canonical) text(s string) { f.word(strconv.Quote(s)) }
func (f *canonical) int(i int64)   { f.word(strconv.FormatInt(i, 10)) }

// parts writes a list of forms.
func (f *canonical) parts(name string, parts ...interface{ canonical(*canonical) }) {
	f.list(name, func() {
		for _, p := range parts {
			p.canonical(f)
		}
	})
}

// loop is the number of a loop's variable.
func (f *canonical) loop(v *variable) int64 {
	if _, known := f.loops[v]; !known {
		f.loops[v] = len(f.loops)
	}
	return int64(f.loops[v])
}

func (r *ref) canonical(f *canonical) {
	f.list("ref", func() {
		if r.v == nil {
			f.word(r.root)
		} else {
			f.int(f.loop(r.v))
		}
		for _, s := range r.steps {
			switch {
			case s.isIndex:
				f.int(int64(s.index))
			case s.isKey:
				f.text(s.name)
			default:
				f.word(s.name)
			}
		}
	})
}

// canonical leaves out what each element contributes: whoever asks about the elements
// says so itself.
func (l *list) canonical(f *canonical) {
	f.list("in", func() {
		f.int(f.loop(l.v))
		l.source.canonical(f)
		if l.cond != nil {
			l.cond.canonical(f)
		}
	})
}

func (n number) canonical(f *canonical) { f.parts("number", n.num, n.den) }

func (n constant) canonical(f *canonical) { f.word(strconv.FormatBool(bool(n))) }
func (n flag) canonical(f *canonical)     { n.ref.canonical(f) }
func (n *not) canonical(f *canonical)     { f.parts("not", n.arg) }
func (n *kept) canonical(f *canonical)    { f.parts("kept", n.arg) }
func (n *choice) canonical(f *canonical)  { f.parts("choice", n.cond, n.a, n.b) }

func (n *logic) canonical(f *canonical) {
	name := "or"
	if n.and {
		name = "and"
	}
	f.list(name, func() {
		for _, a := range n.args {
			a.canonical(f)
		}
	})
}

func (n *equality) canonical(f *canonical) {
	op := opEqual
	if n.negated {
		op = opNotEqual
	}
	f.parts(string(op), n.a, n.b)
}

func (n *compareInts) canonical(f *canonical)  { f.parts(string(n.op), n.a, n.b) }
func (n *compareTexts) canonical(f *canonical) { f.parts(string(n.op), n.a, n.b) }

func (n *quantifier) canonical(f *canonical) {
	name := "any"
	if n.all {
		name = "all"
	}
	f.parts(name, n.list, n.body)
}

func (n *match) canonical(f *canonical) {
	name := "regex"
	if n.glob {
		name = "glob"
	}
	f.list(name, func() {
		f.text(n.pattern)
		n.arg.canonical(f)
	})
}

func (n *missing) canonical(f *canonical) {
	switch {
	case n.ref != nil:
		f.parts("missing", n.ref)
	case n.cond != nil:
		f.parts("missing", n.cond)
	case n.num != nil:
		f.parts("missing", n.num)
	default:
		f.parts("missing", n.text)
	}
}

func (n *changed) canonical(f *canonical) {
	f.list("changed", func() {
		n.ref.canonical(f)
		f.word(n.window.String())
	})
}

func (n *older) canonical(f *canonical) {
	f.list("older", func() {
		n.ref.canonical(f)
		f.word(n.window.String())
	})
}

func (t constText) canonical(f *canonical)   { f.text(t.content) }
func (t refText) canonical(f *canonical)     { t.ref.canonical(f) }
func (t *choiceText) canonical(f *canonical) { f.parts("choice", t.cond, t.a, t.b) }

func (i constInt) canonical(f *canonical)    { f.int(int64(i)) }
func (i refInt) canonical(f *canonical)      { i.ref.canonical(f) }
func (i *arithmetic) canonical(f *canonical) { f.parts(string(i.op), i.a, i.b) }
func (i *sign) canonical(f *canonical)       { f.parts("sign", i.arg) }
func (i *count) canonical(f *canonical)      { f.parts("count", i.list) }
func (i *choiceInt) canonical(f *canonical)  { f.parts("choice", i.cond, i.a, i.b) }

package query

import (
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// Eval answers the expression for one document. The error is for a document
// that does not fit the expression: Root Disk without a disk, or without the
// catalog's knowledge where NeedsCatalog asks for it.
func (e *Expr) Eval(doc Doc) (Result, error) {
	if e.root == Disk && doc.disk == nil {
		return Absent, errors.New("evaluating an expression over a disk: the document has no disk; make it with Doc.WithDisk")
	}
	if e.NeedsCatalog() && !doc.ofCatalog {
		return Absent, errors.New("evaluating an expression that asks for history, ages or leases: the document has none; make it with DocOf")
	}
	return e.node.eval(env{doc: &doc}), nil
}

// env is what variables stand for: the document, and the elements that the
// loops around are at.
type env struct {
	doc  *Doc
	loop *binding
}

type binding struct {
	v     *variable
	value reflect.Value
	outer *binding
}

func (e env) with(v *variable, value reflect.Value) env {
	return env{doc: e.doc, loop: &binding{v: v, value: value, outer: e.loop}}
}

// load finds what the path leads to; false when something on the way is absent.
func (r *ref) load(env env) (reflect.Value, bool) {
	v, ok := r.start(env)
	for _, s := range r.steps {
		if !ok {
			return v, false
		}
		switch {
		case s.isIndex:
			if s.index >= v.Len() {
				return v, false
			}
			v = v.Index(s.index)
			continue
		case s.isKey:
			v = v.MapIndex(reflect.ValueOf(s.name))
			ok = v.IsValid()
			continue
		case s.field == leasesField:
			v = reflect.ValueOf(env.doc.leases)
			continue
		}
		v = v.Field(s.field)
		if v.Kind() == reflect.Pointer {
			v, ok = v.Elem(), !v.IsNil()
		}
	}
	return v, ok
}

func (r *ref) start(env env) (reflect.Value, bool) {
	if r.v != nil {
		for b := env.loop; b != nil; b = b.outer {
			if b.v == r.v {
				return b.value, true
			}
		}
		return reflect.Value{}, false
	}
	switch r.root {
	case "facts":
		return reflect.ValueOf(env.doc.facts).Elem(), env.doc.facts != nil
	case "disk":
		return reflect.ValueOf(env.doc.disk).Elem(), env.doc.disk != nil
	}
	return reflect.ValueOf(&env.doc.machine).Elem(), true
}

// int is a fact that is a number. Zero stands for "not observed" in the
// vocabulary (its JSON form leaves it out), so it is absent.
func (r *ref) int(env env) (int64, bool) {
	v, ok := r.load(env)
	if !ok || v.Int() == 0 {
		return 0, false
	}
	return v.Int(), true
}

// text is a fact that is a string; the empty one was not observed.
func (r *ref) text(env env) (string, bool) {
	v, ok := r.load(env)
	if !ok || v.IsZero() {
		return "", false
	}
	switch x := v.Interface().(type) {
	case inventory.MAC:
		return x.String(), true
	case uuid.UUID:
		return x.String(), true
	}
	if canonical, err := r.typ.form.parse(v.String()); err == nil {
		return canonical, true
	}
	return v.String(), true // as its source wrote it, which is in no form
}

// bool is a fact that is a condition: a pointer that is nil is absent, a plain
// bool is always observed.
func (r *ref) bool(env env) Result {
	v, ok := r.load(env)
	if !ok {
		return Absent
	}
	return answer(v.Bool())
}

// time is a fact that is a time, as the catalog keeps it; the zero time has not been.
func (r *ref) time(env env) (time.Time, bool) {
	v, ok := r.load(env)
	if !ok || v.IsZero() {
		return time.Time{}, false
	}
	at, ok := v.Interface().(time.Time)
	return stamp(at), ok && !at.IsZero()
}

// isMissing is missing(ref). A list is missing when nobody looked for it; an object
// when none of its values was observed, and facts when no source reported anything.
func (r *ref) isMissing(env env) bool {
	if r.isFacts() {
		return env.doc.facts == nil
	}
	switch r.typ.kind {
	case kindNumber:
		_, ok := r.int(env)
		return !ok
	case kindString:
		_, ok := r.text(env)
		return !ok
	case kindBool:
		return r.bool(env) == Absent
	case kindList:
		_, ok := r.elements(env)
		return !ok
	case kindTime:
		_, ok := r.time(env)
		return !ok
	}
	if r.typ.values != nil {
		v, ok := r.load(env)
		return !ok || v.Len() == 0
	}
	return !slices.ContainsFunc(r.leaves(), func(leaf *ref) bool { return !leaf.isMissing(env) })
}

// elements is a list of facts. It is absent, which is not empty, when no source
// looked for its elements.
func (r *ref) elements(env env) (reflect.Value, bool) {
	v, ok := r.load(env)
	return v, ok && (r.typ.always || !v.IsNil())
}

// each calls f for every element that the list's condition keeps, until f
// returns false; the answer is false when the list is absent.
func (l *list) each(env env, f func(i int, env env) bool) bool {
	elems, ok := l.source.elements(env)
	if !ok {
		return false
	}
	for i := range elems.Len() {
		inner := env.with(l.v, elems.Index(i))
		if l.cond != nil && l.cond.eval(inner) != True {
			continue
		}
		if !f(i, inner) {
			break
		}
	}
	return true
}

func (l *list) count(e env) (int64, bool) {
	var n int64
	ok := l.each(e, func(int, env) bool { n++; return true })
	return n, ok
}

func answer(b bool) Result {
	if b {
		return True
	}
	return False
}

// inverse is Kleene's not.
func (r Result) inverse() Result {
	switch r {
	case True:
		return False
	case False:
		return True
	}
	return Absent
}

func (n constant) eval(env) Result { return answer(bool(n)) }
func (n flag) eval(env env) Result { return n.ref.bool(env) }
func (n *not) eval(env env) Result { return n.arg.eval(env).inverse() }
func (n *kept) eval(env env) Result {
	return answer(n.arg.eval(env) == True)
}

// eval: one False decides &&, one True decides ||, whatever is absent beside it.
func (n *logic) eval(env env) Result {
	decisive, out := True, False
	if n.and {
		decisive, out = False, True
	}
	for _, a := range n.args {
		switch a.eval(env) {
		case decisive:
			return decisive
		case Absent:
			out = Absent
		}
	}
	return out
}

func (n *equality) eval(env env) Result {
	a, b := n.a.eval(env), n.b.eval(env)
	if a == Absent || b == Absent {
		return Absent
	}
	return answer((a == b) != n.negated)
}

func (n *compareInts) eval(env env) Result {
	a, ok1 := n.a.value(env)
	b, ok2 := n.b.value(env)
	if !ok1 || !ok2 {
		return Absent
	}
	switch {
	case a < b:
		return answer(n.op.holds(-1))
	case a > b:
		return answer(n.op.holds(1))
	}
	return answer(n.op.holds(0))
}

// eval compares strings by code point, which is the order of their UTF-8 bytes.
func (n *compareTexts) eval(env env) Result {
	a, ok1 := n.a.value(env)
	b, ok2 := n.b.value(env)
	if !ok1 || !ok2 {
		return Absent
	}
	switch {
	case a < b:
		return answer(n.op.holds(-1))
	case a > b:
		return answer(n.op.holds(1))
	}
	return answer(n.op.holds(0))
}

func (n *quantifier) eval(e env) Result {
	decisive := answer(!n.all)
	out := decisive.inverse()
	ok := n.list.each(e, func(_ int, inner env) bool {
		switch n.body.eval(inner) {
		case decisive:
			out = decisive
			return false
		case Absent:
			out = Absent
		}
		return true
	})
	if !ok {
		return Absent
	}
	return out
}

func (n *match) eval(env env) Result {
	s, ok := n.arg.value(env)
	if !ok {
		return Absent
	}
	return answer(n.re.MatchString(s))
}

func (n *missing) eval(env env) Result {
	switch {
	case n.ref != nil:
		return answer(n.ref.isMissing(env))
	case n.cond != nil:
		return answer(n.cond.eval(env) == Absent)
	case n.num != nil:
		_, ok := n.num.rat(env)
		return answer(!ok)
	}
	_, ok := n.text.value(env)
	return answer(!ok)
}

func (n *changed) eval(env env) Result {
	if env.doc.facts == nil {
		return Absent
	}
	_, ok := n.last(env)
	return answer(ok)
}

// last is when the fact changed last within the window.
func (n *changed) last(env env) (time.Time, bool) {
	path, from := n.ref.path(), env.doc.now.Add(-n.window)
	var last time.Time
	for _, c := range env.doc.changes {
		at := stamp(c.At)
		if c.Path == path && at.After(from) && !at.After(env.doc.now) && at.After(last) {
			last = at
		}
	}
	return last, !last.IsZero()
}

func (n *older) eval(env env) Result {
	at, ok := n.ref.time(env)
	if !ok {
		return Absent
	}
	return answer(!at.After(env.doc.now.Add(-n.window)))
}

func (n *choice) eval(env env) Result {
	switch n.cond.eval(env) {
	case True:
		return n.a.eval(env)
	case False:
		return n.b.eval(env)
	}
	return Absent
}

func (t constText) value(env) (string, bool)   { return t.content, true }
func (t refText) value(env env) (string, bool) { return t.ref.text(env) }
func (t *choiceText) value(env env) (string, bool) {
	switch t.cond.eval(env) {
	case True:
		return t.a.value(env)
	case False:
		return t.b.value(env)
	}
	return "", false
}

func (t constText) eachRef(func(*ref)) {}
func (t refText) eachRef(f func(*ref)) { f(t.ref) }
func (t *choiceText) eachRef(f func(*ref)) {
	t.a.eachRef(f)
	t.b.eachRef(f)
}

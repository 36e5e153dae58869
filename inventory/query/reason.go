package query

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// longestReason bounds what Reason returns; a wide expression can fail in many
// places at once.
const longestReason = 1000

// Reason says in one line why the expression is not True for doc, naming the
// fact that is absent or has another value: "facts.memory.bytes is 1073741824,
// wanted >= 8589934592". It is empty when the answer is True. Strings from facts
// are quoted and clipped, sensitive values of the site are not shown.
func (e *Expr) Reason(doc Doc) string {
	if e.root == Disk && doc.disk == nil {
		return "there is no disk to look at"
	}
	env := env{doc: &doc}
	if e.node.eval(env) == True {
		return ""
	}
	out := e.node.reason(env, True)
	if len(out) > longestReason {
		out = strings.ToValidUTF8(out[:longestReason], "") + "…"
	}
	return out
}

const notObserved = " was not observed"

// absent names the facts among refs that are absent, or says that the whole
// cannot be computed from them.
func absent(env env, whole string, each func(func(*ref))) string {
	var names []string
	each(func(r *ref) {
		if r.isMissing(env) && !slices.Contains(names, r.String()) {
			names = append(names, r.String())
		}
	})
	switch len(names) {
	case 0:
		return whole + " cannot be computed (division by zero, or more than 64 bits)"
	case 1:
		return names[0] + notObserved
	}
	return strings.Join(names, ", ") + " were not observed"
}

func (n constant) reason(env, Result) string { return "it is always " + n.String() }

func (n flag) reason(env env, want Result) string {
	got := n.ref.bool(env)
	if got == Absent {
		return n.ref.String() + notObserved
	}
	return fmt.Sprintf("%s is %s, wanted %s", n.ref, got, want)
}

func (n *not) reason(env env, want Result) string  { return n.arg.reason(env, want.inverse()) }
func (n *kept) reason(env env, want Result) string { return n.arg.reason(env, want) }

func (n *logic) reason(env env, want Result) string {
	var parts []string
	for _, a := range n.args {
		if a.eval(env) == want {
			continue
		}
		if p := a.reason(env, want); !slices.Contains(parts, p) {
			parts = append(parts, p)
		}
	}
	// All must become want for a wanted && or an unwanted ||; else one is enough.
	if n.and == (want == True) {
		return strings.Join(parts, "; ")
	}
	return strings.Join(parts, ", and ")
}

func (n *equality) reason(env env, want Result) string {
	for _, side := range []node{n.a, n.b} {
		if side.eval(env) == Absent {
			return side.reason(env, True)
		}
	}
	return fmt.Sprintf("%s is %s, wanted %s", n, n.eval(env), want)
}

func (n *compareInts) reason(env env, want Result) string {
	a, ok1 := n.left.rat(env)
	b, ok2 := n.right.rat(env)
	_, ok3 := n.a.value(env)
	_, ok4 := n.b.value(env)
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return absent(env, n.String(), func(f func(*ref)) { n.left.eachRef(f); n.right.eachRef(f) })
	}
	return difference(n.left.String(), decimal(a), n.right.String(), decimal(b), n.op, want)
}

func (n *compareTexts) reason(env env, want Result) string {
	a, ok1 := n.a.value(env)
	b, ok2 := n.b.value(env)
	if !ok1 || !ok2 {
		return absent(env, n.String(), func(f func(*ref)) { n.a.eachRef(f); n.b.eachRef(f) })
	}
	return difference(n.a.String(), quote(a), n.b.String(), quote(b), n.op, want)
}

// difference says that left has a value and which one was wanted. A side whose
// text is its value is a constant, and needs no naming.
func difference(left, leftValue, right, rightValue string, op operator, want Result) string {
	if want == False {
		op = op.negated()
	}
	if left == leftValue || left == "(sensitive)" {
		left, leftValue, right, rightValue = right, rightValue, left, leftValue
		op = op.mirrored()
	}
	out := fmt.Sprintf("%s is %s, wanted %s %s", left, leftValue, op, right)
	if right != rightValue && right != "(sensitive)" {
		out += ", which is " + rightValue
	}
	return out
}

func (o operator) mirrored() operator {
	switch o {
	case opLess:
		return opMore
	case opLessEq:
		return opMoreEq
	case opMore:
		return opLess
	case opMoreEq:
		return opLessEq
	}
	return o
}

func (n *quantifier) reason(e env, want Result) string {
	source := n.list.source.String()
	total, ok := n.list.count(e)
	if !ok {
		return source + notObserved
	}
	noun := source
	if n.list.cond != nil {
		noun += " with " + n.list.cond.String()
	}
	// One element is enough to explain all(…) not true and any(…) not false.
	if n.all == (want == True) {
		out := ""
		n.list.each(e, func(i int, inner env) bool {
			if n.body.eval(inner) == want {
				return true
			}
			out = fmt.Sprintf("in %s[%d] %s", source, i, n.body.reason(inner, want))
			return false
		})
		return out
	}
	if total == 0 {
		return "there are no " + noun
	}
	first := ""
	n.list.each(e, func(i int, inner env) bool {
		first = fmt.Sprintf("in %s[%d] %s", source, i, n.body.reason(inner, want))
		return false
	})
	if total == 1 {
		return first
	}
	if n.contains != nil {
		return fmt.Sprintf("none of the %d %s is %s", total, n.list, n.contains)
	}
	return fmt.Sprintf("none of the %d %s fits (%s)", total, noun, first)
}

func (n *match) reason(env env, want Result) string {
	s, ok := n.arg.value(env)
	if !ok {
		return absent(env, n.String(), n.arg.eachRef)
	}
	verb := "match"
	if want == False {
		verb = "not match"
	}
	return fmt.Sprintf("%s is %s, wanted to %s %s", n.arg, quote(s), verb, n.shown)
}

func (n *missing) reason(_ env, want Result) string {
	what := strings.TrimSuffix(strings.TrimPrefix(n.String(), "missing("), ")")
	if want == True {
		return what + " was observed"
	}
	return what + notObserved
}

func (n *changed) reason(env env, want Result) string {
	at, ok := n.last(env)
	switch {
	case env.doc.facts == nil:
		return n.ref.String() + notObserved
	case want == False && ok:
		return fmt.Sprintf("%s changed at %s, within %s", n.ref, at.Format(time.RFC3339), quote(n.shown))
	}
	return fmt.Sprintf("%s did not change within %s", n.ref, quote(n.shown))
}

func (n *older) reason(env env, want Result) string {
	at, ok := n.ref.time(env)
	switch {
	case !ok:
		return n.ref.String() + notObserved
	case want == False:
		return fmt.Sprintf("%s was %s, wanted less than %s ago", n.ref, at.Format(time.RFC3339), quote(n.shown))
	}
	return fmt.Sprintf("%s was %s, wanted %s ago or earlier", n.ref, at.Format(time.RFC3339), quote(n.shown))
}

func (n *choice) reason(env env, want Result) string {
	switch n.cond.eval(env) {
	case True:
		return n.a.reason(env, want)
	case False:
		return n.b.reason(env, want)
	}
	return n.cond.reason(env, True)
}

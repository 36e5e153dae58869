package query

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// node is a condition: the part of an expression that is True, False or Absent.
type node interface {
	// eval answers in memory.
	eval(env env) Result
	// when writes SQL that is true exactly if eval is want (True or False).
	// It may be NULL instead of false: it is only ever combined by AND and OR,
	// or tested by IS NOT TRUE.
	when(w *writer, want Result)
	// reason says why eval is not want; only called when it is not.
	reason(env env, want Result) string
	// canonical writes the whole condition for Digest.
	canonical(f *canonical)
	String() string
}

// text is a string: a constant, a fact or a conditional.
type text interface {
	value(env env) (string, bool)
	write(w *writer)
	eachRef(func(*ref))
	canonical(f *canonical)
	String() string
}

type (
	// constant is a condition known when the expression was compiled.
	constant bool

	// logic is && or || of two conditions or more.
	logic struct {
		and  bool
		args []node
	}

	not struct{ arg node }

	// kept is a for-expression's if: only true keeps, absent does not.
	kept struct{ arg node }

	// flag is a fact that is itself true or false.
	flag struct{ ref *ref }

	// equality compares two conditions.
	equality struct {
		negated bool
		a, b    node
	}

	// compareInts compares the cross-multiplied sides of a numeric
	// comparison; left and right are the sides as they were written.
	compareInts struct {
		op          operator
		a, b        integer
		left, right number
	}

	compareTexts struct {
		op   operator
		a, b text
	}

	// quantifier is any(…) or all(…) over a list of facts; contains(list, x)
	// is any element equal to x.
	quantifier struct {
		all      bool
		contains *operand // x of contains, for String
		list     *list
		body     node
	}

	// match is regex(pattern, arg) or glob(pattern, arg).
	match struct {
		glob     bool
		parsed   glob // of a glob
		pattern  string
		postgres string // the pattern of a regex as PostgreSQL takes it
		shown    string // the pattern as String shows it
		re       *regexp.Regexp
		arg      text
	}

	// missing is missing(x); exactly one of its fields is set.
	missing struct {
		ref  *ref
		cond node
		num  *number
		text text
	}

	// choice is cond ? a : b.
	choice struct{ cond, a, b node }

	// changed is changed(ref, "7d"): some source reported another value of ref
	// within the window before now.
	changed struct {
		ref    *ref
		window time.Duration
		shown  string // the window as it was written
	}

	// older is older(ref, "7d"): the time is the window before now, or earlier.
	older struct {
		ref    *ref
		window time.Duration
		shown  string // the window as it was written
	}
)

type (
	constText struct {
		content   string
		sensitive bool
	}
	refText    struct{ ref *ref }
	choiceText struct {
		cond node
		a, b text
	}
)

// list is a list of facts, looped over by a variable.
type list struct {
	source *ref
	v      *variable
	cond   node     // nil keeps all
	elem   *operand // what each element contributes; nil is the element itself
	splat  bool
}

// variable is a loop's variable, of the type of its list's elements.
type variable struct {
	name   string
	typ    *dataType
	source *ref
}

// ref is a path to a fact, from a root or from a loop's variable.
type ref struct {
	root  string
	v     *variable
	steps []step
	typ   *dataType
	rng   hcl.Range
}

type step struct {
	name    string
	field   int
	isIndex bool
	index   int
	isKey   bool // name is a key of an object whose keys are anything
}

func (r *ref) field(name string, f *field, rng hcl.Range) *ref {
	return r.extend(step{name: name, field: f.index}, f.typ, rng)
}

func (r *ref) key(name string, rng hcl.Range) *ref {
	return r.extend(step{name: name, isKey: true}, r.typ.values, rng)
}

func (r *ref) at(i int, rng hcl.Range) *ref {
	return r.extend(step{isIndex: true, index: i}, r.typ.elem, rng)
}

func (r *ref) extend(s step, typ *dataType, rng hcl.Range) *ref {
	steps := make([]step, len(r.steps), len(r.steps)+1)
	copy(steps, r.steps)
	return &ref{root: r.root, v: r.v, steps: append(steps, s), typ: typ, rng: hcl.RangeBetween(r.rng, rng)}
}

// path is the dotted path below the root or variable, without indexes.
func (r *ref) path() string {
	var names []string
	for _, s := range r.steps {
		if !s.isIndex {
			names = append(names, s.name)
		}
	}
	return strings.Join(names, ".")
}

// isFacts tells the variable facts itself.
func (r *ref) isFacts() bool { return r.v == nil && r.root == "facts" && len(r.steps) == 0 }

// leaves are the values below an object that are no lists; an object whose keys are
// anything is one value.
func (r *ref) leaves() []*ref {
	var out []*ref
	for _, name := range r.typ.names() {
		f := r.typ.fields[name]
		inner := r.field(name, f, r.rng)
		switch {
		case f.typ.kind == kindList:
		case f.typ.kind == kindObject && f.typ.values == nil:
			out = append(out, inner.leaves()...)
		default:
			out = append(out, inner)
		}
	}
	return out
}

// tag is the key of machine.tags that r names.
func (r *ref) tag() (key string, ok bool) {
	if len(r.steps) == 0 {
		return "", false
	}
	last := r.steps[len(r.steps)-1]
	return last.name, last.isKey
}

func (r *ref) hasIndex() bool {
	for _, s := range r.steps {
		if s.isIndex {
			return true
		}
	}
	return false
}

func (r *ref) String() string {
	var b strings.Builder
	if b.WriteString(r.root); r.v != nil {
		b.WriteString(r.v.name)
	}
	for _, s := range r.steps {
		switch {
		case s.isIndex:
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
		case s.isKey && !hclsyntax.ValidIdentifier(s.name):
			b.WriteString("[" + quote(s.name) + "]")
		default:
			b.WriteString("." + s.name)
		}
	}
	return b.String()
}

// subject is what a complaint calls r: the elements of a list that nobody named bear
// the list's name.
func (r *ref) subject() string {
	if r.v != nil && len(r.steps) == 0 {
		return r.v.source.String() + "[*]"
	}
	return r.String()
}

// operator is a comparison.
type operator string

const (
	opEqual    operator = "=="
	opNotEqual operator = "!="
	opLess     operator = "<"
	opLessEq   operator = "<="
	opMore     operator = ">"
	opMoreEq   operator = ">="
)

func (o operator) negated() operator {
	return map[operator]operator{
		opEqual: opNotEqual, opNotEqual: opEqual, opLess: opMoreEq,
		opMoreEq: opLess, opMore: opLessEq, opLessEq: opMore,
	}[o]
}

// holds says whether a comparison whose sides compare as c (-1, 0, 1) is true.
func (o operator) holds(c int) bool {
	switch o {
	case opEqual:
		return c == 0
	case opNotEqual:
		return c != 0
	case opLess:
		return c < 0
	case opLessEq:
		return c <= 0
	case opMore:
		return c > 0
	}
	return c >= 0
}

func (n constant) String() string { return strconv.FormatBool(bool(n)) }
func (n flag) String() string     { return n.ref.String() }
func (n *kept) String() string    { return n.arg.String() }
func (n *not) String() string     { return "!" + group(n.arg) }

func (n *logic) String() string {
	parts := make([]string, len(n.args))
	for i, a := range n.args {
		parts[i] = group(a)
	}
	if n.and {
		return strings.Join(parts, " && ")
	}
	return strings.Join(parts, " || ")
}

func (n *equality) String() string {
	op := opEqual
	if n.negated {
		op = opNotEqual
	}
	return group(n.a) + " " + string(op) + " " + group(n.b)
}

func (n *compareInts) String() string {
	return n.left.String() + " " + string(n.op) + " " + n.right.String()
}

func (n *compareTexts) String() string {
	return n.a.String() + " " + string(n.op) + " " + n.b.String()
}

func (n *quantifier) String() string {
	if n.contains != nil {
		return "contains(" + n.list.String() + ", " + n.contains.String() + ")"
	}
	name := "any"
	if n.all {
		name = "all"
	}
	if n.list.splat {
		return name + "(" + n.list.String() + ")"
	}
	return name + "(" + n.list.loop(n.body.String()) + ")"
}

func (n *match) String() string {
	name := "regex"
	if n.glob {
		name = "glob"
	}
	return name + "(" + n.shown + ", " + n.arg.String() + ")"
}

func (n *missing) String() string {
	switch {
	case n.ref != nil:
		return "missing(" + n.ref.String() + ")"
	case n.cond != nil:
		return "missing(" + n.cond.String() + ")"
	case n.num != nil:
		return "missing(" + n.num.String() + ")"
	}
	return "missing(" + n.text.String() + ")"
}

func (n *changed) String() string {
	return "changed(" + n.ref.String() + ", " + quote(n.shown) + ")"
}

func (n *older) String() string {
	return "older(" + n.ref.String() + ", " + quote(n.shown) + ")"
}

func (n *choice) String() string {
	return group(n.cond) + " ? " + group(n.a) + " : " + group(n.b)
}

func (t constText) String() string {
	if t.sensitive {
		return "(sensitive)"
	}
	return quote(t.content)
}
func (t refText) String() string { return t.ref.String() }
func (t *choiceText) String() string {
	return "(" + group(t.cond) + " ? " + t.a.String() + " : " + t.b.String() + ")"
}

func (l *list) String() string {
	switch {
	case l.splat:
		return l.elem.String()
	case l.elem == nil && l.cond == nil:
		return l.source.String()
	case l.elem == nil:
		return l.loop(l.v.name)
	}
	return l.loop(l.elem.String())
}

func (l *list) loop(body string) string {
	out := "[for " + l.v.name + " in " + l.source.String() + " : " + body
	if l.cond != nil {
		out += " if " + l.cond.String()
	}
	return out + "]"
}

// group puts a condition in parentheses where it would otherwise bind to its
// neighbours.
func group(n node) string {
	switch n.(type) {
	case *logic, *equality, *compareInts, *compareTexts, *choice:
		return "(" + n.String() + ")"
	}
	return n.String()
}

// quote shows a string that may come from a stranger: escaped, so that it cannot
// steer a terminal, and clipped.
func quote(s string) string {
	const longest = 80
	if len(s) > longest {
		return strconv.QuoteToGraphic(strings.ToValidUTF8(s[:longest], "")) + "…"
	}
	return strconv.QuoteToGraphic(s)
}

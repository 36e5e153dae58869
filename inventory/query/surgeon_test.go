package query

// written is a condition that is written as another one.
type written struct {
	node
	as func(w *writer, want Result)
}

func (n written) when(w *writer, want Result) { n.as(w, want) }

// writtenText and writtenInt are the same for strings and numbers.
type writtenText struct {
	text
	as func(w *writer)
}

func (t writtenText) write(w *writer) { t.as(w) }

type writtenInt struct {
	integer
	as func(w *writer)
}

func (i writtenInt) write(w *writer) { i.as(w) }

// as writes n as other.
func as(n, other node) node { return written{n, other.when} }

// surgeon copies a compiled expression and applies a mutation to its parts.
type surgeon struct {
	mutation
	cuts int
}

func (s *surgeon) condition(n node) node {
	out := n
	switch n := n.(type) {
	case *logic:
		c := &logic{and: n.and}
		for _, a := range n.args {
			c.args = append(c.args, s.condition(a))
		}
		out = c
	case *not:
		out = &not{s.condition(n.arg)}
	case *kept:
		out = &kept{s.condition(n.arg)}
	case *equality:
		out = &equality{negated: n.negated, a: s.condition(n.a), b: s.condition(n.b)}
	case *compareInts:
		c := *n
		c.a, c.b = s.integer(n.a), s.integer(n.b)
		out = &c
	case *compareTexts:
		c := *n
		c.a, c.b = s.string(n.a), s.string(n.b)
		out = &c
	case *quantifier:
		c := *n
		c.list, c.body = s.loop(n.list), s.condition(n.body)
		out = &c
	case *match:
		c := *n
		c.arg = s.string(n.arg)
		out = &c
	case *missing:
		c := *n
		switch {
		case n.cond != nil:
			c.cond = s.condition(n.cond)
		case n.num != nil:
			num := *n.num
			num.num, num.den = s.integer(num.num), s.integer(num.den)
			c.num = &num
		case n.text != nil:
			c.text = s.string(n.text)
		}
		out = &c
	case *choice:
		out = &choice{s.condition(n.cond), s.condition(n.a), s.condition(n.b)}
	}
	if s.node != nil {
		if cut := s.node(out); cut != out {
			s.cuts++
			return cut
		}
	}
	return out
}

func (s *surgeon) string(t text) text {
	out := t
	if c, ok := t.(*choiceText); ok {
		out = &choiceText{s.condition(c.cond), s.string(c.a), s.string(c.b)}
	}
	if s.text != nil {
		if cut := s.text(out); cut != out {
			s.cuts++
			return cut
		}
	}
	return out
}

func (s *surgeon) integer(i integer) integer {
	out := i
	switch i := i.(type) {
	case *arithmetic:
		out = &arithmetic{i.op, s.integer(i.a), s.integer(i.b)}
	case *sign:
		out = &sign{s.integer(i.arg)}
	case *count:
		out = &count{s.loop(i.list)}
	case *choiceInt:
		out = &choiceInt{s.condition(i.cond), s.integer(i.a), s.integer(i.b)}
	}
	if s.int != nil {
		if cut := s.int(out); cut != out {
			s.cuts++
			return cut
		}
	}
	return out
}

func (s *surgeon) loop(l *list) *list {
	c := *l
	if l.cond != nil {
		c.cond = s.condition(l.cond)
	}
	if s.list != nil {
		if cut := s.list(&c); cut != &c {
			s.cuts++
			return cut
		}
	}
	return &c
}

// ints and texts break a comparison of numbers and of strings.
func ints(from, to operator) func(node) node {
	return func(n node) node {
		if c, ok := n.(*compareInts); ok && c.op == from {
			b := *c
			b.op = to
			return as(n, &b)
		}
		return n
	}
}

func texts(from, to operator) func(node) node {
	return func(n node) node {
		if c, ok := n.(*compareTexts); ok && c.op == from {
			b := *c
			b.op = to
			return as(n, &b)
		}
		return n
	}
}

func arith(from, to byte) func(integer) integer {
	return func(i integer) integer {
		if a, ok := i.(*arithmetic); ok && a.op == from {
			return &arithmetic{to, a.a, a.b}
		}
		return i
	}
}

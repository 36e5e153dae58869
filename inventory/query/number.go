package query

import (
	"math"
	"math/big"
	"math/bits"
	"strconv"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// number is an exact quotient of two 64-bit integers, the denominator positive.
// Decimals and divisions therefore mean the same in memory, in SQLite and in
// PostgreSQL, without floating point. Where a numerator or denominator no longer
// fits 64 bits, or a fact divides by zero, the number is absent.
type number struct {
	num, den integer
	show     func() string
}

func (n number) String() string { return n.show() }

// integer is a 64-bit integer: a constant, a fact, a count or arithmetic.
type integer interface {
	value(env env) (int64, bool)
	write(w *writer)
	eachRef(func(*ref))
	canonical(f *canonical)
}

type (
	constInt int64
	refInt   struct{ ref *ref }
	// arithmetic is + - * or % (truncated, absent for a zero divisor).
	arithmetic struct {
		op   byte
		a, b integer
	}
	// sign is -1 or 1, absent for zero.
	sign struct{ arg integer }
	// count is the number of elements of a list that its condition keeps.
	count     struct{ list *list }
	choiceInt struct {
		cond node
		a, b integer
	}
)

// numberOf reads a constant: an integer exactly, a decimal rounded to 18
// significant digits. False means that it does not fit 64 bits.
func numberOf(v cty.Value) (*big.Rat, bool) {
	f := v.AsBigFloat()
	r := new(big.Rat)
	if f.IsInf() {
		return nil, false
	}
	if f.IsInt() {
		i, _ := f.Int(nil)
		if !i.IsInt64() {
			return nil, false
		}
		return r.SetInt(i), true
	}
	// big.Float keeps 0.1 as a binary fraction; its decimal text is what was meant.
	if exp := f.MantExp(nil); exp > 64 || exp < -64 {
		return nil, false
	}
	if _, ok := r.SetString(f.Text('g', 18)); !ok || !r.Num().IsInt64() || !r.Denom().IsInt64() {
		return nil, false
	}
	return r, true
}

func constNumber(r *big.Rat, sensitive bool) number {
	return number{
		num: constInt(r.Num().Int64()), den: constInt(r.Denom().Int64()),
		show: func() string {
			if sensitive {
				return "(sensitive)"
			}
			return decimal(r)
		},
	}
}

// decimal is the shortest text of r that a person expects: 7.5, or 1/3 rounded.
func decimal(r *big.Rat) string {
	if r.IsInt() {
		return r.Num().String()
	}
	s := r.FloatString(6)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// calculator builds numbers; failed is set when constants overflow.
type calculator struct{ failed bool }

func (k *calculator) op(op byte, a, b integer) integer {
	ca, aConst := a.(constInt)
	cb, bConst := b.(constInt)
	switch {
	case aConst && bConst:
		v, ok := calculate(op, int64(ca), int64(cb))
		k.failed = k.failed || !ok
		return constInt(v)
	case op == '*' && aConst && ca == 1:
		return b
	case op == '*' && bConst && cb == 1, (op == '+' || op == '-') && bConst && cb == 0:
		return a
	}
	return &arithmetic{op: op, a: a, b: b}
}

// level brings two numbers over one denominator.
func (k *calculator) level(a, b number) (an, bn, den integer) {
	ad, aConst := a.den.(constInt)
	bd, bConst := b.den.(constInt)
	if aConst && bConst {
		g := gcd(int64(ad), int64(bd))
		up := constInt(int64(bd) / g)
		return k.op('*', a.num, up), k.op('*', b.num, constInt(int64(ad)/g)), k.op('*', ad, up)
	}
	return k.op('*', a.num, b.den), k.op('*', b.num, a.den), k.op('*', a.den, b.den)
}

func (k *calculator) add(a, b number, op byte) number {
	an, bn, den := k.level(a, b)
	return number{num: k.op(op, an, bn), den: den}
}

func (k *calculator) multiply(a, b number) number {
	an, bd := reduce(a.num, b.den)
	bn, ad := reduce(b.num, a.den)
	return number{num: k.op('*', an, bn), den: k.op('*', ad, bd)}
}

// divide multiplies by the reciprocal, whose denominator's sign moves up; a
// divisor that is the constant zero is the caller's to refuse.
func (k *calculator) divide(a, b number) number {
	if c, ok := b.num.(constInt); ok {
		if c == math.MinInt64 {
			k.failed = true
			return a
		}
		if c < 0 {
			return k.multiply(a, number{num: k.op('-', constInt(0), b.den), den: -c})
		}
		return k.multiply(a, number{num: b.den, den: c})
	}
	s := &sign{b.num}
	return k.multiply(a, number{num: k.op('*', b.den, s), den: k.op('*', b.num, s)})
}

// reduce cancels what a numerator and a denominator, both constant, share.
func reduce(num, den integer) (integer, integer) {
	n, ok1 := num.(constInt)
	d, ok2 := den.(constInt)
	if !ok1 || !ok2 || n == math.MinInt64 {
		return num, den
	}
	g := gcd(max(int64(n), -int64(n)), int64(d))
	return n / constInt(g), d / constInt(g)
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return max(a, 1)
}

// calculate is checked 64-bit arithmetic.
func calculate(op byte, a, b int64) (int64, bool) {
	switch op {
	case '+':
		s := a + b
		return s, (s > a) == (b > 0)
	case '-':
		s := a - b
		return s, (s < a) == (b > 0)
	case '%':
		if b == 0 {
			return 0, false
		}
		if b == -1 {
			return 0, true
		}
		return a % b, true
	}
	hi, lo := bits.Mul64(magnitude(a), magnitude(b))
	negative := (a < 0) != (b < 0)
	switch {
	case hi != 0, lo > 1<<63, lo == 1<<63 && !negative:
		return 0, false
	case negative:
		return -int64(lo), true
	}
	return int64(lo), true
}

func magnitude(a int64) uint64 {
	if a < 0 {
		return -uint64(a)
	}
	return uint64(a)
}

func (i constInt) value(env) (int64, bool)   { return int64(i), true }
func (i refInt) value(env env) (int64, bool) { return i.ref.int(env) }
func (i *count) value(env env) (int64, bool) { return i.list.count(env) }
func (i constInt) eachRef(func(*ref))        {}
func (i refInt) eachRef(f func(*ref))        { f(i.ref) }
func (i *count) eachRef(f func(*ref))        { f(i.list.source) }
func (i *sign) eachRef(f func(*ref))         { i.arg.eachRef(f) }
func (i *arithmetic) eachRef(f func(*ref))   { i.a.eachRef(f); i.b.eachRef(f) }
func (i *choiceInt) eachRef(f func(*ref))    { i.a.eachRef(f); i.b.eachRef(f) }
func (n number) eachRef(f func(*ref))        { n.num.eachRef(f); n.den.eachRef(f) }

func (i *arithmetic) value(env env) (int64, bool) {
	a, ok1 := i.a.value(env)
	b, ok2 := i.b.value(env)
	if !ok1 || !ok2 {
		return 0, false
	}
	return calculate(i.op, a, b)
}

func (i *sign) value(env env) (int64, bool) {
	v, ok := i.arg.value(env)
	switch {
	case !ok || v == 0:
		return 0, false
	case v < 0:
		return -1, true
	}
	return 1, true
}

func (i *choiceInt) value(env env) (int64, bool) {
	switch i.cond.eval(env) {
	case True:
		return i.a.value(env)
	case False:
		return i.b.value(env)
	}
	return 0, false
}

// rat is the number's value in env.
func (n number) rat(env env) (*big.Rat, bool) {
	num, ok1 := n.num.value(env)
	den, ok2 := n.den.value(env)
	if !ok1 || !ok2 || den <= 0 {
		return nil, false
	}
	return big.NewRat(num, den), true
}

// index is a constant that is a whole number from 0 on, for list[index].
func index(r *big.Rat) (int, bool) {
	if !r.IsInt() || r.Sign() < 0 || r.Cmp(big.NewRat(math.MaxInt32, 1)) > 0 {
		return 0, false
	}
	i, err := strconv.Atoi(r.Num().String())
	return i, err == nil
}

package query

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"sync"
	"unicode"
)

// Match reports whether text holds a match of pattern (RE2). It is what the
// function regexp(pattern, text) of a SQLite catalog must do; compiled patterns
// are kept, since a query calls it for every row.
func Match(pattern, text string) (bool, error) {
	re, err := patterns.get(pattern)
	if err != nil {
		return false, err
	}
	return re.MatchString(text), nil
}

// patternCache keeps few compiled patterns; it is emptied when full.
type patternCache struct {
	mu   sync.Mutex
	kept map[string]*regexp.Regexp
}

var patterns patternCache

func (c *patternCache) get(pattern string) (*regexp.Regexp, error) {
	const most = 64
	c.mu.Lock()
	defer c.mu.Unlock()
	if re := c.kept[pattern]; re != nil {
		return re, nil
	}
	if len(pattern) > MaxPatternBytes {
		return nil, fmt.Errorf("the pattern has %d bytes; at most %d are accepted", len(pattern), MaxPatternBytes)
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	if c.kept == nil || len(c.kept) >= most {
		c.kept = make(map[string]*regexp.Regexp, most)
	}
	c.kept[pattern] = re
	return re, nil
}

// sqlite is the pattern for SQLite's GLOB, where [ opens a class.
func (g glob) sqlite() string {
	var b strings.Builder
	for _, t := range g {
		switch {
		case t.kind != 'l':
			b.WriteRune(t.kind)
		case strings.ContainsRune("*?[", t.char):
			b.WriteString("[" + string(t.char) + "]")
		default:
			b.WriteRune(t.char)
		}
	}
	return b.String()
}

// like is the pattern for PostgreSQL's LIKE, whose escape is a backslash.
func (g glob) like() string {
	var b strings.Builder
	for _, t := range g {
		switch {
		case t.kind == '*':
			b.WriteByte('%')
		case t.kind == '?':
			b.WriteByte('_')
		case strings.ContainsRune(`%_\`, t.char):
			b.WriteString(`\` + string(t.char))
		default:
			b.WriteRune(t.char)
		}
	}
	return b.String()
}

// postgresPattern rewrites an RE2 pattern, from its parsed tree, to an advanced
// regular expression of PostgreSQL (documentation, section 9.7.3) that matches
// the same strings. What differs between the two is refused.
func postgresPattern(pattern string) (string, error) {
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := rewrite(&b, tree); err != nil {
		return "", err
	}
	return b.String(), nil
}

func rewrite(b *strings.Builder, re *syntax.Regexp) error {
	switch re.Op {
	case syntax.OpEmptyMatch:
		b.WriteString("(?:)")
	case syntax.OpLiteral:
		for _, r := range re.Rune {
			if r == 0 {
				return fmt.Errorf("it looks for a NUL, which no fact holds")
			}
			if re.Flags&syntax.FoldCase != 0 {
				if err := rewriteFolded(b, r); err != nil {
					return err
				}
				continue
			}
			writeChar(b, r)
		}
	case syntax.OpCharClass:
		return rewriteClass(b, re.Rune)
	case syntax.OpAnyCharNotNL:
		return rewriteClass(b, []rune{1, '\n' - 1, '\n' + 1, 0x10ffff})
	case syntax.OpAnyChar:
		return rewriteClass(b, []rune{1, 0x10ffff})
	case syntax.OpBeginText:
		b.WriteString(`\A`)
	case syntax.OpEndText:
		b.WriteString(`\Z`)
	case syntax.OpCapture:
		return rewriteGroup(b, re.Sub[0])
	case syntax.OpStar:
		return rewriteRepeat(b, re.Sub[0], "*")
	case syntax.OpPlus:
		return rewriteRepeat(b, re.Sub[0], "+")
	case syntax.OpQuest:
		return rewriteRepeat(b, re.Sub[0], "?")
	case syntax.OpRepeat:
		// 255 is PostgreSQL's limit (DUPMAX).
		if re.Min > 255 || re.Max > 255 {
			return fmt.Errorf("it repeats more than 255 times")
		}
		bounds := fmt.Sprintf("{%d,", re.Min)
		if re.Max >= 0 {
			bounds += fmt.Sprint(re.Max)
		}
		return rewriteRepeat(b, re.Sub[0], bounds+"}")
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			if err := rewriteGroup(b, sub); err != nil {
				return err
			}
		}
	case syntax.OpAlternate:
		for i, sub := range re.Sub {
			if i > 0 {
				b.WriteByte('|')
			}
			if err := rewriteGroup(b, sub); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("%q is not supported there", re)
	}
	return nil
}

func rewriteGroup(b *strings.Builder, re *syntax.Regexp) error {
	b.WriteString("(?:")
	if err := rewrite(b, re); err != nil {
		return err
	}
	b.WriteByte(')')
	return nil
}

// rewriteRepeat leaves out laziness: it changes which text matches, not whether
// one does. Repeated anchors are refused, as PostgreSQL refuses them.
func rewriteRepeat(b *strings.Builder, sub *syntax.Regexp, repeat string) error {
	if err := rewriteGroup(b, sub); err != nil {
		return err
	}
	b.WriteString(repeat)
	return nil
}

// rewriteFolded writes the characters that RE2 takes for r when it ignores case:
// its orbit under unicode.SimpleFold.
func rewriteFolded(b *strings.Builder, r rune) error {
	class := []rune{r, r}
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		class = append(class, f, f)
	}
	return rewriteClass(b, class)
}

func rewriteClass(b *strings.Builder, ranges []rune) error {
	b.WriteByte('[')
	empty := true
	for i := 0; i+1 < len(ranges); i += 2 {
		lo, hi := max(ranges[i], 1), ranges[i+1]
		if lo > hi {
			continue
		}
		empty = false
		writeChar(b, lo)
		if hi > lo {
			b.WriteByte('-')
			writeChar(b, hi)
		}
	}
	if empty {
		return fmt.Errorf("a class of it matches no character")
	}
	b.WriteByte(']')
	return nil
}

// writeChar writes a character so that it has no other meaning, in a class or
// outside one.
func writeChar(b *strings.Builder, r rune) {
	switch {
	case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z':
		b.WriteRune(r)
	case r > 0xffff:
		fmt.Fprintf(b, `\U%08x`, r)
	default:
		fmt.Fprintf(b, `\u%04x`, r)
	}
}

package query

import (
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
)

// Format is the text of diagnostics of Parse or SQL: each with the line of src
// that it is about and carets under the place, without colour and with control
// characters shown as "?".
func Format(src string, diags hcl.Diagnostics) string {
	var b strings.Builder
	for _, d := range diags {
		b.WriteString("Error: " + clean(d.Summary) + "\n")
		if d.Subject != nil {
			pointAt(&b, src, *d.Subject)
		}
		if d.Detail != "" {
			b.WriteString("  " + clean(d.Detail) + "\n")
		}
	}
	return b.String()
}

// pointAt writes the line that rng starts on, cut to a window around it, and
// carets below.
func pointAt(b *strings.Builder, src string, rng hcl.Range) {
	const before, width = 40, 76
	start, end := rng.Start.Byte, rng.End.Byte
	if start < 0 || start > len(src) || end < start {
		return
	}
	end = min(end, len(src))
	lineStart := strings.LastIndexByte(src[:start], '\n') + 1
	lineEnd := len(src)
	if i := strings.IndexByte(src[start:], '\n'); i >= 0 {
		lineEnd = start + i
	}
	end = min(end, lineEnd)
	head := []rune(clean(src[lineStart:start]))
	lead := ""
	if len(head) > before {
		head, lead = head[len(head)-before:], "…"
	}
	rest := []rune(clean(src[start:lineEnd]))
	tail := ""
	if room := width - len(head); len(rest) > room {
		rest, tail = rest[:room], "…"
	}
	carets := max(1, min(utf8.RuneCountInString(src[start:end]), len(rest)))
	b.WriteString("  " + lead + string(head) + string(rest) + tail + "\n")
	b.WriteString("  " + strings.Repeat(" ", utf8.RuneCountInString(lead)+len(head)) + strings.Repeat("^", carets) + "\n")
}

// clean keeps a stranger's text from steering a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || (r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) {
			return '?'
		}
		return r
	}, s)
}

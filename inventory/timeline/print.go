package timeline

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Style says how Print and PrintFindings write.
type Style struct {
	// Width is the terminal's number of columns; 0 is 80. Less than 60 is 60.
	Width int
	// Color allows escape sequences for colour.
	Color bool
	// Location is the time zone of what is printed; nil is UTC.
	Location *time.Location
	// Earlier prints all attempts, not only the latest.
	Earlier bool
}

func (s Style) width() int {
	if s.Width == 0 {
		return 80
	}
	return max(60, s.Width)
}

func (s Style) time(t time.Time, layout string) string {
	if s.Location == nil {
		return t.UTC().Format(layout)
	}
	return t.In(s.Location).Format(layout)
}

const (
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	red   = "\x1b[31m"
	green = "\x1b[32m"
	amber = "\x1b[33m"
	reset = "\x1b[0m"
)

var colours = map[Level]string{Problem: red, Progress: amber, Well: green}

func (s Style) paint(colour, text string) string {
	if !s.Color || text == "" || colour == "" {
		return text
	}
	return colour + text + reset
}

// Print writes the latest attempt of a timeline: its phases with the time each
// took, then its events. No line has more characters than the style's width.
func Print(w io.Writer, t Timeline, style Style) error {
	var b bytes.Buffer
	if len(t.Attempts) == 0 {
		b.WriteString("No events: nothing was heard from this machine.\n")
	}
	first := max(0, len(t.Attempts)-1)
	if style.Earlier {
		first = 0
	}
	for i := first; i < len(t.Attempts); i++ {
		if i > first {
			b.WriteString("\n")
		}
		style.attempt(&b, t.Attempts[i], i+1, len(t.Attempts))
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (s Style) attempt(b *bytes.Buffer, a Attempt, number, of int) {
	head := fmt.Sprintf("Attempt %d of %d, %s, %s", number, of, s.time(a.Began, "2006-01-02 15:04:05 MST"), span(a.Ended.Sub(a.Began)))
	b.WriteString(s.paint(bold, clip(head, s.width())) + "\n\n")
	longest := time.Millisecond
	for _, p := range a.Phases {
		longest = max(longest, p.Duration())
	}
	for _, p := range a.Phases {
		bar := s.width() - 28
		n := int(float64(bar)*float64(p.Duration())/float64(longest) + 0.5)
		mark := "█"
		if p.Running {
			mark = "░"
		}
		line := fmt.Sprintf("  %-10s %13s  ", p.Name, span(p.Duration()))
		b.WriteString(strings.TrimRight(line+s.paint(dim, strings.Repeat(mark, n)), " ") + "\n")
	}
	if len(a.Phases) > 0 {
		b.WriteString("\n")
	}
	for _, e := range a.Entries {
		text := e.Text
		if e.Count > 1 {
			text += fmt.Sprintf(" (%d times, until +%s)", e.Count, span(e.Last.Sub(a.Began)))
		}
		lead := fmt.Sprintf("  %s %9s  %-6s ", s.time(e.Event.Time, "15:04:05"), "+"+offset(e.Event.Time.Sub(a.Began)), actor(e.Event))
		indent := utf8.RuneCountInString(lead)
		lines := wrap(text, s.width()-indent)
		for i, line := range lines {
			if i > 0 {
				lead = strings.Repeat(" ", indent)
			}
			b.WriteString(lead + s.paint(colours[e.Level], line) + "\n")
		}
	}
}

// offset is seconds below an hour, so that the column can be read down.
func offset(d time.Duration) string {
	if d < time.Hour {
		return fmt.Sprintf("%.3f", d.Seconds())
	}
	return fmt.Sprintf("%.0f", d.Seconds())
}

// clip cuts text to a number of columns.
func clip(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:width-1]) + "…"
}

// wrap breaks text at spaces into lines of at most width columns, and words
// that are longer than a line wherever the line ends.
func wrap(text string, width int) []string {
	width = max(width, 10)
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		for utf8.RuneCountInString(word) > width {
			if line != "" {
				lines, line = append(lines, line), ""
			}
			r := []rune(word)
			lines, word = append(lines, string(r[:width])), string(r[width:])
		}
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			lines, line = append(lines, line), word
		default:
			line += " " + word
		}
	}
	if line != "" || len(lines) == 0 {
		lines = append(lines, line)
	}
	return lines
}

// PrintFindings writes what Diagnose found: for each finding its hop and
// summary, the events it rests on, and what to try.
func PrintFindings(w io.Writer, findings []Finding, style Style) error {
	var b bytes.Buffer
	for i, f := range findings {
		if i > 0 {
			b.WriteString("\n")
		}
		colour := colours[f.Level]
		lead := fmt.Sprintf("%s: ", f.Hop)
		for j, line := range wrap(f.Summary, style.width()-utf8.RuneCountInString(lead)) {
			if j == 0 {
				b.WriteString(style.paint(colour, lead) + style.paint(bold, line) + "\n")
				continue
			}
			b.WriteString(strings.Repeat(" ", utf8.RuneCountInString(lead)) + style.paint(bold, line) + "\n")
		}
		for _, e := range f.Evidence {
			line := fmt.Sprintf("  %s  %-6s %s", style.time(e.Time, "15:04:05.000"), actor(e), describe(e))
			b.WriteString(style.paint(dim, clip(line, style.width())) + "\n")
		}
		if len(f.Try) > 0 {
			b.WriteString("  Try:\n")
		}
		for _, try := range f.Try {
			for j, line := range wrap(try, style.width()-4) {
				mark := "  - "
				if j > 0 {
					mark = "    "
				}
				b.WriteString(mark + line + "\n")
			}
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

package imagebuilder

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/edge-provision/edge-provision/imagebuilder/fetch"
)

// machineSources returns, as deb822 paragraphs, those of the machine's own APT sources that offer a release: its suite
// and those named after it (bookworm-updates, bookworm-security). Other entries, such as vendors' repositories for the
// machine itself, stay out of images. etc is /etc/apt outside tests.
func machineSources(etc, release string) (string, error) {
	files, err := filepath.Glob(filepath.Join(etc, "sources.list.d", "*"))
	if err != nil {
		return "", fmt.Errorf("listing APT sources: %w", err)
	}
	slices.Sort(files)
	var found []string
	for _, path := range append([]string{filepath.Join(etc, "sources.list")}, files...) {
		extension := filepath.Ext(path)
		if extension != ".list" && extension != ".sources" {
			continue
		}
		text, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("reading APT sources: %w", err)
		}
		paragraphs := paragraphsOf(string(text))
		if extension == ".list" {
			paragraphs = lineParagraphs(string(text))
		}
		for _, p := range paragraphs {
			if kept, ok := p.forRelease(release); ok {
				found = append(found, kept.String())
			}
		}
	}
	if len(found) == 0 {
		return "", fmt.Errorf("none of this machine's APT sources in %s offers debian %s: name sources in the image's specification", etc, release)
	}
	return strings.Join(found, "\n"), nil
}

// givenSources turns what a specification names into deb822 paragraphs.
func givenSources(entries []string) (string, error) {
	var all []string
	for _, entry := range entries {
		paragraphs := lineParagraphs(entry)
		if len(paragraphs) == 0 {
			paragraphs = paragraphsOf(entry)
		}
		for _, p := range paragraphs {
			if p.value("URIs") == "" || p.value("Suites") == "" {
				return "", fmt.Errorf("APT source %.120q has no URI or no suite", entry)
			}
			all = append(all, p.String())
		}
		if len(paragraphs) == 0 {
			return "", fmt.Errorf("APT source %.120q is neither a \"deb …\" line nor a deb822 paragraph", entry)
		}
	}
	return strings.Join(all, "\n"), nil
}

// paragraph is one source in deb822 form (sources.list(5)): fields in order.
type paragraph []field

type field struct{ name, value string }

func (p paragraph) value(name string) string {
	for _, f := range p {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

func (p paragraph) String() string {
	var text strings.Builder
	for _, f := range p {
		fmt.Fprintf(&text, "%s: %s\n", f.name, f.value)
	}
	return text.String()
}

func (p paragraph) forRelease(release string) (paragraph, bool) {
	if !slices.Contains(strings.Fields(p.value("Types")), "deb") || strings.EqualFold(p.value("Enabled"), "no") {
		return nil, false
	}
	var suites []string
	for _, suite := range strings.Fields(p.value("Suites")) {
		if suite == release || strings.HasPrefix(suite, release+"-") || strings.HasPrefix(suite, release+"/") {
			suites = append(suites, suite)
		}
	}
	if len(suites) == 0 {
		return nil, false
	}
	kept := make(paragraph, 0, len(p))
	for _, f := range p {
		switch strings.ToLower(f.name) {
		case "types":
			f.value = "deb"
		case "suites":
			f.value = strings.Join(suites, " ")
		}
		kept = append(kept, f)
	}
	return kept, true
}

// paragraphsOf parses deb822 text. Comments may stand inside a paragraph; continued lines belong to the field before.
func paragraphsOf(text string) []paragraph {
	var all []paragraph
	var current paragraph
	for line := range strings.Lines(text + "\n\n") {
		line = strings.TrimRight(line, " \t\r\n")
		name, value, ok := strings.Cut(line, ":")
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "":
			if len(current) > 0 {
				all, current = append(all, current), nil
			}
		case (line[0] == ' ' || line[0] == '\t') && len(current) > 0:
			current[len(current)-1].value += "\n " + strings.TrimSpace(line)
		case ok && !strings.ContainsAny(name, " \t"):
			current = append(current, field{name, strings.TrimSpace(value)})
		}
	}
	return all
}

// optionFields maps the options of one-line sources to deb822 fields, from sources.list(5).
var optionFields = map[string]string{
	"arch": "Architectures", "signed-by": "Signed-By", "trusted": "Trusted", "check-valid-until": "Check-Valid-Until", "check-date": "Check-Date",
}

// lineParagraphs parses sources in the one-line form.
func lineParagraphs(text string) []paragraph {
	var all []paragraph
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
		rest, ok := strings.CutPrefix(line, "deb ")
		if !ok {
			continue
		}
		p := paragraph{{"Types", "deb"}}
		var options paragraph
		if inner, ok := strings.CutPrefix(strings.TrimSpace(rest), "["); ok {
			inner, rest, _ = strings.Cut(inner, "]")
			for _, option := range strings.Fields(inner) {
				name, value, _ := strings.Cut(option, "=")
				if known := optionFields[strings.ToLower(name)]; known != "" {
					options = append(options, field{known, strings.ReplaceAll(value, ",", " ")})
				}
			}
		}
		words := strings.Fields(rest)
		if len(words) < 2 {
			continue
		}
		p = append(p, field{"URIs", words[0]}, field{"Suites", words[1]})
		if len(words) > 2 {
			p = append(p, field{"Components", strings.Join(words[2:], " ")})
		}
		all = append(all, append(p, options...))
	}
	return all
}

// withoutCredentials drops what must not reach an image: user and password in a URI.
func withoutCredentials(sources string) string {
	paragraphs := paragraphsOf(sources)
	texts := make([]string, len(paragraphs))
	for i, p := range paragraphs {
		for j, f := range p {
			if !strings.EqualFold(f.name, "URIs") {
				continue
			}
			words := strings.Fields(f.value)
			for k, word := range words {
				words[k] = fetch.Redact(word)
			}
			p[j].value = strings.Join(words, " ")
		}
		texts[i] = p.String()
	}
	return strings.Join(texts, "\n")
}

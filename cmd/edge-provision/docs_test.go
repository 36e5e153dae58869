package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// repository is the root of the source tree, seen from this package.
const repository = "../.."

// notRun are the commands whose examples are parsed and not run, each with the
// reason. Every other example in the documents is run.
var notRun = map[string]string{
	"apply":              "boots machines; the scenarios in rack/scenario run it",
	"serve":              "answers a network until stopped; the scenarios in rack/scenario run it",
	"bundle key":         "writes a secret file; testdata/script/bundle.txtar runs it",
	"bundle build":       "fetches what the site needs; testdata/script/bundle.txtar and TestTheOfflineExampleIsBuilt run it",
	"bundle verify":      "needs a bundle; testdata/script/bundle.txtar runs it",
	"image build":        "needs root and the package archive; the demo and the scenarios run it",
	"rack up":            "needs root and QEMU; the tests of rack and the scenarios run it",
	"rack down":          "needs root; the tests of rack and the scenarios run it",
	"rack status":        "is about a rack that is up; the demo runs it",
	"rack power":         "is about a rack that is up; the tests of rack press the buttons",
	"bmc power":          "needs a BMC; the tests of bmc run its verbs against simulators",
	"bmc boot":           "needs a BMC; the tests of bmc run its verbs against simulators",
	"bmc status":         "needs a BMC; the tests of bmc run its verbs against simulators",
	"bmc forget-refusal": "needs a BMC; the tests of bmc run its verbs against simulators",
}

// otherLines are shell lines of documents that are about another program, each
// with the reason why it is right.
var otherLines = map[string]string{
	"export EDGE_VAR_bmc_password=correct-horse": "the shell's own; the test sets the variable",
}

func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	add := func(path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name, err := filepath.Rel(repository, path)
		if err != nil {
			t.Fatal(err)
		}
		docs[name] = string(b)
	}
	add(filepath.Join(repository, "README.md"))
	add(filepath.Join(repository, "CONTRIBUTING.md"))
	err := filepath.WalkDir(filepath.Join(repository, "docs"), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			add(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return docs
}

// fence is a fenced block of a document.
type fence struct {
	language string
	line     int
	text     string
}

func fences(text string) (blocks []fence, prose string) {
	var rest strings.Builder
	open := false
	for i, l := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(l, "```") && !open:
			open = true
			blocks = append(blocks, fence{language: strings.TrimPrefix(l, "```"), line: i + 1})
		case strings.HasPrefix(l, "```"):
			open = false
		case open:
			blocks[len(blocks)-1].text += l + "\n"
		default:
			rest.WriteString(l + "\n")
		}
	}
	return blocks, rest.String()
}

// words splits a shell line at blanks outside quotes; anything else that a
// shell would interpret is an error.
func words(line string) ([]string, error) {
	var out []string
	var word strings.Builder
	in, quote := false, rune(0)
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == '"' && strings.ContainsRune("$`\\", r):
			return nil, fmt.Errorf("%q would be interpreted by a shell", r)
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, in = r, true
		case r == '#' && !in:
			return out, nil
		case strings.ContainsRune("|&;<>$`\\*", r):
			return nil, fmt.Errorf("%q would be interpreted by a shell", r)
		case r == ' ' && in:
			out, in = append(out, word.String()), false
			word.Reset()
		case r != ' ':
			in = true
			word.WriteRune(r)
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if in {
		out = append(out, word.String())
	}
	return out, nil
}

// command removes what stands before a command: sudo and the program's folder.
func command(line []string) []string {
	for len(line) > 0 && (line[0] == "sudo" || line[0] == "-E") {
		line = line[1:]
	}
	if len(line) > 0 {
		line = slices.Clone(line)
		line[0] = strings.TrimPrefix(line[0], "bin/")
	}
	return line
}

// parseCommand holds arguments to the real commands and returns the command's
// path without the program's name.
func parseCommand(args []string) (string, error) {
	root := (&app{}).root()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	c, rest, err := root.Find(doubleDashes(root, args))
	if err != nil {
		return "", err
	}
	path := strings.TrimPrefix(c.CommandPath(), root.Name()+" ")
	if err := c.ParseFlags(rest); err != nil && !errors.Is(err, pflag.ErrHelp) {
		return path, fmt.Errorf("%s: %w", path, err)
	}
	if !c.Runnable() {
		return path, fmt.Errorf("%q is a group of commands, not a command", path)
	}
	return path, c.ValidateArgs(c.Flags().Args())
}

func makeTargets(t *testing.T) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(repository, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z0-9-]+):`).FindAllStringSubmatch(string(b), -1) {
		targets[m[1]] = true
	}
	return targets
}

// isMake reports whether a line is make with a target that exists and, after it,
// only variables.
func isMake(line []string, targets map[string]bool) bool {
	isTarget := func(word string) bool { return !strings.Contains(word, "=") }
	return len(line) > 1 && line[0] == "make" && targets[line[1]] && !slices.ContainsFunc(line[2:], isTarget)
}

// newcomer makes the folder in which the documents' commands are run: the
// README's site, the examples, and a catalog that knows two machines.
func newcomer(t *testing.T, readme string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "hcl-examples"), os.DirFS(filepath.Join(repository, "hcl-examples"))); err != nil {
		t.Fatal(err)
	}
	blocks, _ := fences(readme)
	i := slices.IndexFunc(blocks, func(f fence) bool { return f.language == "hcl" })
	if i < 0 {
		t.Fatal("README.md shows no site")
	}
	if err := os.WriteFile(filepath.Join(dir, "site.hcl"), []byte(blocks[i].text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "data"))
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	t.Setenv("EDGE_VAR_bmc_password", "correct-horse")
	t.Chdir(dir)
	a := &app{}
	err := a.withCatalog(t.Context(), func(ctx context.Context, s *store.Store) error {
		m, err := s.Declare(ctx, "store-0421", `machine.node["a"]`, inventory.MAC{0x52, 0x54, 0, 4, 0x21, 0x11})
		for i := range 2 {
			if err == nil {
				_, _, err = s.PutFacts(ctx, m.ID, inventory.SourceAgent,
					inventory.Facts{Memory: &inventory.Memory{Bytes: int64(i+1) << 30}}, time.Now().Add(time.Duration(i)*time.Second))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// placeholders are the words that stand for what a reader has.
var placeholders = map[string]string{"SITE.hcl": "site.hcl", "SITE.hcl…": "site.hcl", "MACHINE": `machine.node["a"]`, "EXPR": "facts.memory.bytes >= GiB(1)"}

// runExample runs what needs nothing but a disk.
func runExample(t *testing.T, where, path string, args []string) {
	t.Helper()
	if _, ok := notRun[path]; ok {
		return
	}
	args = slices.Clone(args)
	for i, a := range args {
		if p, ok := placeholders[a]; ok {
			args[i] = p
		}
	}
	var out, errs bytes.Buffer
	code := run(t.Context(), make(chan struct{}), args, strings.NewReader(""), &out, &errs)
	if code != exitOK {
		t.Errorf("%s: edge-provision %q exits with %d; want 0\n%s%s", where, args, code, out.String(), errs.String())
	}
}

// asksBMC reports whether an example is the plan of the README's site: it would
// send packets to BMCs that are not there.
func asksBMC(path string, args []string) bool {
	return path == "plan" && slices.ContainsFunc(args, func(a string) bool { return a == "site.hcl" })
}

func TestShellCommandsOfDocumentsWork(t *testing.T) {
	docs := documents(t)
	targets := makeTargets(t)
	newcomer(t, docs["README.md"])
	ran := 0
	for name, text := range docs {
		blocks, _ := fences(text)
		for _, b := range blocks {
			switch b.language {
			case "sh":
			case "hcl", "json", "mermaid", "text":
				continue
			default:
				t.Errorf("%s:%d: a block of language %q; write commands as sh, one a line, without their output", name, b.line, b.language)
				continue
			}
			for i, line := range strings.Split(strings.TrimSuffix(b.text, "\n"), "\n") {
				where := fmt.Sprintf("%s:%d", name, b.line+1+i)
				if _, ok := otherLines[line]; ok || strings.TrimSpace(line) == "" {
					continue
				}
				w, err := words(line)
				if err != nil {
					t.Errorf("%s: %s: %v", where, line, err)
					continue
				}
				ran++
				w = command(w)
				switch {
				case isMake(w, targets):
				case len(w) > 0 && w[0] == "edge-provision":
					path, err := parseCommand(w[1:])
					if err != nil {
						t.Errorf("%s: %s: %v", where, line, err)
					} else if !asksBMC(path, w) {
						runExample(t, where, path, w[1:])
					}
				default:
					t.Errorf("%s: %s: neither a make target that exists nor edge-provision; list it in otherLines with a reason", where, line)
				}
			}
		}
	}
	if ran < 10 {
		t.Errorf("found %d shell commands in %d documents; want 10 or more: is the reader of blocks broken?", ran, len(docs))
	}
}

var inlineCode = regexp.MustCompile("`([^`\n]+)`|(?m)^    (edge-provision .*)$")

// TestCommandsInProseExist holds `edge-provision …` and `make …` between
// backquotes, and indented, to exist. A group or a bare name may be mentioned.
func TestCommandsInProseExist(t *testing.T) {
	targets := makeTargets(t)
	for name, text := range documents(t) {
		_, prose := fences(text)
		for _, m := range inlineCode.FindAllStringSubmatch(prose, -1) {
			line := m[1] + m[2]
			w := command(strings.Fields(line))
			switch {
			case len(w) < 2:
			case w[0] == "make" && len(w) == 2 && !targets[w[1]]:
				t.Errorf("%s: `%s`: the Makefile has no such target", name, line)
			case w[0] == "edge-provision" && w[1] != "COMMAND":
				args, err := words(strings.ReplaceAll(line, "|", "/"))
				if err != nil {
					t.Errorf("%s: `%s`: %v", name, line, err)
					continue
				}
				path, err := parseCommand(args[1:])
				if mention := path == strings.Join(args[1:], " "); err != nil && !mention {
					t.Errorf("%s: `%s`: %v", name, line, err)
				}
			}
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinksOfDocumentsResolve(t *testing.T) {
	docs := documents(t)
	for name, text := range docs {
		_, prose := fences(text)
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if path != "" {
				target = filepath.Join(filepath.Dir(name), path)
			}
			if _, err := os.Stat(filepath.Join(repository, target)); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
			if anchor != "" && !slices.Contains(anchors(docs[target]), anchor) {
				t.Errorf("%s links to %s: %s has no such heading", name, m[1], target)
			}
		}
	}
}

var (
	heading     = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are the names under which a document's headings can be linked to.
func anchors(text string) (out []string) {
	_, prose := fences(text)
	for _, m := range heading.FindAllStringSubmatch(prose, -1) {
		out = append(out, strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return out
}

func TestEveryExampleIsMentioned(t *testing.T) {
	examples, err := filepath.Glob(filepath.Join(repository, "hcl-examples", "*"))
	if err != nil || len(examples) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	docs := documents(t)
	for _, e := range examples {
		found := false
		for _, text := range docs {
			found = found || strings.Contains(text, "hcl-examples/"+filepath.Base(e))
		}
		if !found {
			t.Errorf("no document mentions hcl-examples/%s", filepath.Base(e))
		}
	}
}

// section is the text under a heading, up to the next one.
func section(text, title string) (string, bool) {
	_, rest, ok := strings.Cut(text, "\n"+title+"\n")
	if i := strings.Index(rest, "\n#"); i >= 0 {
		rest = rest[:i]
	}
	return rest, ok
}

func TestExamplesInHelpParse(t *testing.T) {
	examples := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		for line := range strings.Lines(c.Example) {
			examples++
			w, err := words(strings.TrimSpace(line))
			if err != nil || len(w) < 2 || w[0] != "edge-provision" {
				t.Errorf("%s: example %q is not one command: %v", c.CommandPath(), line, err)
				continue
			}
			if path, err := parseCommand(w[1:]); err != nil || "edge-provision "+path != c.CommandPath() {
				t.Errorf("%s: example %q: parsed as %q: %v", c.CommandPath(), line, path, err)
			}
		}
	}
	walk((&app{}).root())
	if examples == 0 {
		t.Error("no command has an example")
	}
}

// TestReferenceListsEveryCommandAndFlag compares docs/commands.md with the
// commands, in both directions.
func TestReferenceListsEveryCommandAndFlag(t *testing.T) {
	page := documents(t)["docs/commands.md"]
	root := (&app{}).root()
	known := map[string]bool{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden {
			return
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.HasSubCommands() {
			c.PersistentFlags().VisitAll(func(f *pflag.Flag) {
				if !strings.Contains(page, "`--"+f.Name) {
					t.Errorf("docs/commands.md does not name --%s of %q", f.Name, c.CommandPath())
				}
			})
			return
		}
		title := "### " + strings.TrimSuffix(c.CommandPath(), c.Name()) + c.Use
		known[title] = true
		text, ok := section(page, title)
		if !ok {
			t.Errorf("docs/commands.md has no section %q", title)
			return
		}
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if !strings.Contains(text, "`--"+f.Name) && f.Name != "help" {
				t.Errorf("docs/commands.md: section %q does not name --%s", title, f.Name)
			}
		})
	}
	walk(root)
	for _, m := range regexp.MustCompile(`(?m)^### edge-provision .*$`).FindAllString(page, -1) {
		if !known[m] {
			t.Errorf("docs/commands.md has section %q; no command is used that way", m)
		}
	}
}

func TestReferenceListsEveryFieldForPrograms(t *testing.T) {
	page := documents(t)["docs/commands.md"]
	for _, v := range []any{jsonLine{}, workflows.Plan{}, workflows.Action{}, workflows.Erase{}, workflows.DiskName{}} {
		for f := range reflect.TypeOf(v).Fields() {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); !strings.Contains(page, "`"+name+"`") {
				t.Errorf("docs/commands.md does not name %q, a field of %T", name, v)
			}
		}
	}
}

// column returns the words between backquotes in the n-th column of the rows of
// a table, by the first column's word.
func column(text string, n int) map[string][]string {
	rows := map[string][]string{}
	code := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if len(cells) < n+2 {
			continue
		}
		if key := code.FindStringSubmatch(cells[1]); key != nil {
			rows[key[1]] = []string{}
			for _, m := range code.FindAllStringSubmatch(cells[n], -1) {
				rows[key[1]] = append(rows[key[1]], m[1])
			}
		}
	}
	return rows
}

func TestArchitecturePrintsTheTableOfStates(t *testing.T) {
	text, _ := section(documents(t)["docs/architecture.md"], "## A machine's life")
	table := column(text, 3)
	states := []inventory.State{
		inventory.StateDeclared, inventory.StateDiscovered, inventory.StateInspecting, inventory.StateHeld,
		inventory.StateInstalling, inventory.StateInstalled, inventory.StateFailed,
	}
	if len(table) != len(states) {
		t.Errorf("docs/architecture.md prints %d states; want %d", len(table), len(states))
	}
	for _, from := range states {
		for _, to := range states {
			_, err := workflows.Transition(from, to)
			printed := slices.Contains(table[string(from)], string(to))
			if from != to && printed != (err == nil) {
				t.Errorf("docs/architecture.md prints %s → %s: %v; want %v", from, to, printed, err == nil)
			}
		}
	}
}

func TestArchitectureListsTheKindsOfActions(t *testing.T) {
	src, err := os.ReadFile(filepath.Join(repository, "workflows", "plan.go"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`Kind\w+ +Kind = "([a-z-]+)"`).FindAllStringSubmatch(string(src), -1) {
		want = append(want, m[1])
	}
	text, _ := section(documents(t)["docs/architecture.md"], "### Kinds of actions")
	var got []string
	for kind := range column(text, 1) {
		got = append(got, kind)
	}
	slices.Sort(got)
	slices.Sort(want)
	if len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("docs/architecture.md lists kinds %q; want %q", got, want)
	}
}

func TestEveryStepTypeIsDescribed(t *testing.T) {
	text, _ := section(documents(t)["docs/site-hcl.md"], "### Step types")
	attributes, outputs := column(text, 2), column(text, 3)
	if len(attributes) != len(steps.Types) {
		t.Errorf("docs/site-hcl.md describes %d step types; want %d", len(attributes), len(steps.Types))
	}
	for _, s := range steps.Types {
		for name := range s.Shape.Spec.(hcldec.ObjectSpec) {
			if !slices.Contains(attributes[s.Name], name) {
				t.Errorf("docs/site-hcl.md does not name %s of step type %s", name, s.Name)
			}
		}
		for name := range s.Shape.Outputs {
			if !slices.Contains(outputs[s.Name], name) {
				t.Errorf("docs/site-hcl.md does not name output %s of step type %s", name, s.Name)
			}
		}
	}
}

package workflows

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// PrintOptions say how a plan is written for a person.
type PrintOptions struct {
	Color bool
	// All shows also what is as declared.
	All bool
	// Now is what the age of the last look at hardware is counted to; zero shows
	// no ages.
	Now time.Time
}

// Print writes the plan for a person: what will be done, and what will be lost,
// in the order of declaration.
func (p Plan) Print(w io.Writer, o PrintOptions) error {
	pr := printer{out: &strings.Builder{}, color: o.Color}
	shown := 0
	for _, a := range p.Actions {
		if !o.All && (a.Kind == KindNone || a.Kind == KindSkipped) {
			continue
		}
		shown++
		pr.action(a)
	}
	for _, c := range p.Classes {
		pr.class(c)
	}
	pr.hardware(p.Hardware, o.Now)
	switch {
	case p.Settled():
		pr.line("", pr.bold("No changes.")+" Site "+p.Site+" is as declared, as far as it was asked.")
	case p.Empty():
		pr.line("", pr.bold("Nothing to do.")+" But not everything is as declared; see above.")
	default:
		pr.line("", pr.summary(p))
	}
	_, err := io.WriteString(w, pr.out.String())
	return err
}

type printer struct {
	out   *strings.Builder
	color bool
}

func (pr *printer) paint(code, s string) string {
	if !pr.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (pr *printer) bold(s string) string   { return pr.paint("1", s) }
func (pr *printer) red(s string) string    { return pr.paint("31", s) }
func (pr *printer) green(s string) string  { return pr.paint("32", s) }
func (pr *printer) yellow(s string) string { return pr.paint("33", s) }

func (pr *printer) line(indent, s string) { pr.out.WriteString(indent + s + "\n") }

// symbols stand before an address: + makes, > runs, ~ changes, ! needs a person.
var symbols = map[Kind]string{
	KindInspect: "?", KindInstall: "+", KindPowerOn: "~", KindBoot: "~", KindBuild: "+", KindRun: ">", KindRemove: "-", KindForget: "-",
	KindNone: " ", KindSkipped: " ", KindOrphan: " ",
	KindDiffers: "!", KindUnreachable: "!", KindRefused: "!", KindBlocked: "!",
}

// verbs say what a kind does to an address.
var verbs = map[Kind]string{
	KindInspect: "will be booted into the installer and inspected; nothing is written",
	KindInstall: "will be installed", KindPowerOn: "will be switched on", KindBoot: "will be booted from its disk", KindBuild: "will be built", KindRun: "will run",
	KindRemove: "will be removed", KindForget: "will be forgotten; nothing is changed on any machine",
	KindNone: "is as declared", KindSkipped: "is skipped", KindOrphan: "is left alone",
	KindDiffers: "is not as declared", KindUnreachable: "cannot be asked; it is left alone",
	KindRefused: "is refused", KindBlocked: "is blocked",
}

func (pr *printer) action(a Action) {
	symbol := symbols[a.Kind]
	switch {
	case a.Kind.Changes():
		symbol = pr.green(symbol)
	case symbol == "!":
		symbol = pr.yellow(symbol)
	}
	pr.line("  ", symbol+" "+pr.bold(a.Address)+" "+verbs[a.Kind])
	if a.Reason != "" {
		pr.detail("because", a.Reason)
	}
	if a.Image != "" {
		pr.detail("image", a.Image+" "+cmpOr(short(a.ImageDigest), "(known after it is built)"))
	}
	if a.Erase != nil {
		pr.erase(*a.Erase)
	}
	if text := powerText[a.Power]; text != "" {
		pr.detail("power", text)
	}
	for _, c := range a.Changes {
		pr.detail("change", c)
	}
	if len(a.Loss) > 0 {
		for _, l := range a.Loss {
			pr.detail("DATA", pr.red(l))
		}
		pr.detail("", lossText[a.DataConsent])
	}
	if len(a.After) > 0 && a.Kind == KindRun {
		pr.detail("known", "(known after "+strings.Join(a.After, ", ")+")")
	}
	pr.line("", "")
}

// detail writes one labelled line; further lines of text are kept below it.
func (pr *printer) detail(label, text string) {
	for i, l := range strings.Split(text, "\n") {
		if i > 0 {
			label = ""
		}
		pr.line("      ", fmt.Sprintf("%-8s %s", label, l))
	}
}

// class writes who is in a class and what that starts.
func (pr *printer) class(c ClassView) {
	machines := fmt.Sprintf("%d machines", c.Machines)
	if c.Machines == 1 {
		machines = "1 machine"
	}
	pr.line("  ", "  "+pr.bold("class "+c.Name)+": "+machines)
	for _, r := range c.Reactions {
		pr.line("      ", r)
	}
	pr.line("", "")
}

var powerText = map[PowerChange]string{
	PowerUp:      "it is off and will be switched on",
	PowerCycle:   "it is ON and will be power-cycled: whatever runs on it ends",
	PowerResume:  "it is on: its installer is asked first, and it is power-cycled only if that is gone",
	PowerUnasked: "its BMC cannot be asked now; it will be switched on or power-cycled",
	PowerPerson:  "it has no BMC: you will be asked to switch it on",
	PowerDown:    "it will be switched OFF: whatever runs on it ends",
}

// consentText says by whose word a disk is erased.
var consentText = map[Consent]string{
	ConsentBlank:      "it carries nothing that is known",
	ConsentDeclared:   "consented to by wipe = true",
	ConsentUnfinished: "continues this catalog's own unfinished write",
	ConsentNeeded:     "NEEDS CONSENT: wipe = true in site.hcl, or the machine's serial typed back",
	ConsentTyped:      "consented to by typing the serial",
}

// lossText says what becomes of the data that a removal could destroy.
var lossText = map[Consent]string{
	ConsentNeeded: "is kept, unless its address is typed back when you are asked",
	ConsentTyped:  "WILL BE DESTROYED: its address was typed",
	ConsentFlag:   "WILL BE DESTROYED: consented to by -destroy-data",
}

func (pr *printer) erase(e Erase) {
	what := DescribeDisk(e.Disk)
	if len(e.Signatures) > 0 {
		what += " with " + strings.Join(e.Signatures, ", ")
	}
	pr.detail("ERASES", pr.red(what)+"; "+consentText[e.Consent])
}

// short keeps enough of a digest to compare by eye.
func short(digest string) string {
	const enough = len("sha256:") + 12
	if len(digest) > enough {
		return digest[:enough]
	}
	return digest
}

// summary counts what will be done, in words.
func (pr *printer) summary(p Plan) string {
	counts := p.Counts()
	var parts []string
	for _, c := range []struct {
		kind     Kind
		one, all string
	}{
		{KindInspect, "machine to inspect", "machines to inspect"},
		{KindBuild, "image to build", "images to build"},
		{KindInstall, "machine to install", "machines to install"},
		{KindPowerOn, "machine to switch on", "machines to switch on"},
		{KindBoot, "machine to boot", "machines to boot"},
		{KindRun, "step to run", "steps to run"},
		{KindRemove, "step to remove", "steps to remove"},
		{KindForget, "record to forget", "records to forget"},
		{KindUnreachable, "unreachable", "unreachable"},
		{KindRefused, "refused", "refused"},
		{KindBlocked, "blocked", "blocked"},
	} {
		switch n := counts[c.kind]; n {
		case 0:
		case 1:
			parts = append(parts, "1 "+c.one)
		default:
			parts = append(parts, fmt.Sprintf("%d %s", n, c.all))
		}
	}
	text := pr.bold("Plan:") + " " + strings.Join(parts, ", ") + "."
	if counts[KindRemove]+counts[KindForget] > 0 {
		return text
	}
	erased := 0
	for _, a := range p.Actions {
		if a.Erase != nil {
			erased++
		}
	}
	switch erased {
	case 0:
		return text + " No disk will be written to."
	case 1:
		return text + " " + pr.red("1 disk will be erased.")
	}
	return text + " " + pr.red(fmt.Sprintf("%d disks will be erased.", erased))
}

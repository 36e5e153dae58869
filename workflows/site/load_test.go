package site

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/inventory"
)

const runtimeSite = `
site "runtime" {}
variable "token" {
  type      = string
  sensitive = true
  default   = "s3cr3t-token"
}
locals {
  greeting = "disk ${machine.m.facts.disks[0].serial}"
}
machine "m" {
  address = "10.0.0.1"
  ssh {
  }
}
workflow "w" {
  step "ssh" "first" {
    hosts   = machine.m
    command = "echo ${local.greeting} ${var.token}"
  }
  step "ssh" "second" {
    when    = length(machine.m.facts.disks) > 1
    hosts   = machine.m
    command = step.ssh.first.stdout["machine.m"]
  }
}
output "stdout" {
  value = workflow.w.step.ssh.first.stdout
}
`

func TestStepsResolveTheirUnknownsWhenTheyRun(t *testing.T) {
	s := mustLoad(t, runtimeSite, testOptions())
	first, second := s.StepByAddress("workflow.w.step.ssh.first"), s.StepByAddress("workflow.w.step.ssh.second")
	if got, want := Text(first.Inputs.GetAttr("command")), redacted; got != want {
		t.Errorf("Text(command) = %s; want %s", got, want)
	}
	if got, want := Text(second.Inputs.GetAttr("command")), "(known after step.ssh.first)"; got != want {
		t.Errorf("Text(command) = %s; want %s", got, want)
	}
	if got, want := Text(second.When), "(known after inspection)"; got != want {
		t.Errorf("Text(When) = %s; want %s", got, want)
	}

	known := Known{
		Machines: map[string]KnownMachine{"machine.m": {Facts: &inventory.Facts{Disks: []inventory.Disk{{Serial: "D1"}, {Serial: "D2"}}}}},
		Steps: map[string]cty.Value{"workflow.w.step.ssh.first": cty.ObjectVal(map[string]cty.Value{
			"stdout": cty.MapVal(map[string]cty.Value{"machine.m": cty.StringVal("done")}),
		})},
	}
	inputs, diags := s.StepInputs(first, known)
	if diags.HasErrors() {
		t.Fatalf("StepInputs(first) = %s", render(s, diags))
	}
	command := inputs.GetAttr("command")
	if !IsSensitive(command) {
		t.Error("IsSensitive(command) = false; the mark of var.token was lost on the way")
	}
	if bare, _ := command.Unmark(); bare.AsString() != "echo disk D1 s3cr3t-token" {
		t.Errorf("command = %q; want the facts and the token in it", bare.AsString())
	}
	inputs, diags = s.StepInputs(second, known)
	if diags.HasErrors() {
		t.Fatalf("StepInputs(second) = %s", render(s, diags))
	}
	if got, want := Text(inputs.GetAttr("command")), `"done"`; got != want {
		t.Errorf("command = %s; want %s", got, want)
	}
	if when, _ := s.StepWhen(second, known); !when.RawEquals(cty.True) {
		t.Errorf("StepWhen(second) = %s; want true", Text(when))
	}
	outputs, diags := s.OutputValues(known)
	if got, want := Text(outputs["stdout"]), `{ machine.m = "done" }`; diags.HasErrors() || got != want {
		t.Errorf("OutputValues() = %s, %v; want %s", got, diags, want)
	}
}

func TestMachinesInInputsAreKnownBeforeInspection(t *testing.T) {
	s := mustLoad(t, `
site "hosts" {}
machine "m" {
  for_each = toset(["a", "b"])
  address  = "10.0.0.${each.key == "a" ? 1 : 2}"
  ssh {
  }
}
workflow "w" {
  step "ssh" "one" {
    hosts   = machine.m["a"]
    command = "true"
  }
  step "ssh" "all" {
    hosts   = values(machine.m)
    command = "true"
  }
  step "ssh" "map" {
    hosts   = machine.m
    command = "true"
  }
}
`, testOptions())
	want := [][]string{{`machine.m["a"]`}, {`machine.m["a"]`, `machine.m["b"]`}, {`machine.m["a"]`, `machine.m["b"]`}}
	for i, step := range s.Workflows[0].Steps {
		inputs, diags := s.StepInputs(step, Known{})
		if diags.HasErrors() || !inputs.IsWhollyKnown() || inputs.ContainsMarked() {
			t.Errorf("StepInputs(%s) = %s, %v; want it known and unmarked", step.Address, Text(inputs), diags)
		}
		if got := References(inputs.GetAttr("hosts")); !cmp.Equal(got, want[i]) {
			t.Errorf("References(%s) = %v; want %v", step.Address, got, want[i])
		}
		if !step.Inputs.RawEquals(inputs) {
			t.Errorf("Inputs(%s) = %s; want the same as later, %s", step.Address, Text(step.Inputs), Text(inputs))
		}
	}
}

func TestSkippedStepHasNullOutputs(t *testing.T) {
	s := mustLoad(t, runtimeSite, testOptions())
	outputs, diags := s.OutputValues(Known{Steps: map[string]cty.Value{"workflow.w.step.ssh.first": cty.NullVal(cty.DynamicPseudoType)}})
	if diags.HasErrors() || !outputs["stdout"].IsNull() {
		t.Errorf("OutputValues() = %s, %v; want null", Text(outputs["stdout"]), diags)
	}
}

func TestStepsAreEvaluatedConcurrently(t *testing.T) {
	s := mustLoad(t, runtimeSite, testOptions())
	known := Known{Machines: map[string]KnownMachine{"machine.m": {Facts: &inventory.Facts{Disks: []inventory.Disk{{Serial: "D1"}}}}}}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, step := range s.Workflows[0].Steps {
				if _, diags := s.StepInputs(step, known); diags.HasErrors() {
					t.Errorf("StepInputs(%s) = %v", step.Address, diags)
				}
			}
		})
	}
	wg.Wait()
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	const text = `
site "secret" {}
variable "password" {
  sensitive = true
  default   = "hunter2-hunter2"
}
network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
}
machine "m" {
  mac     = "52:54:00:00:00:01"
  network = network.edge
  address = "172.22.0.2"
  bmc {
    driver   = "redfish"
    address  = "https://172.22.1.2"
    username = "admin"
    password = "${var.password}"
  }
}
output "o" {
  sensitive = true
  value     = { a = [upper(var.password)] }
}
`
	s := mustLoad(t, text, testOptions())
	m := s.Machines[0]
	if got := m.BMC.Password.Reveal(); got != "hunter2-hunter2" {
		t.Errorf("Reveal() = %q; want the password", got)
	}
	var out bytes.Buffer
	if err := s.Print(&out); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(m.BMC)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&out, "%s %v %+v %#v %x %q", b, m.BMC, *m.BMC, m.BMC, m.BMC.Password, m.BMC.Password)
	if strings.Contains(strings.ToLower(out.String()), "hunter2") || strings.Contains(out.String(), fmt.Sprintf("%x", "hunter2")) {
		t.Errorf("the password is in the output:\n%s", out.String())
	}
	if got, want := Secrets(s.Outputs[0].Value), []string{"HUNTER2-HUNTER2"}; !cmp.Equal(got, want) {
		t.Errorf("Secrets() = %v; want %v", got, want)
	}
}

func TestDiagnosticsDoNotShowSensitiveValues(t *testing.T) {
	s, diags := loadText(t, `
site "secret" {}
variable "password" {
  sensitive = true
  default   = "hunter2-hunter2"
}
variable "numeric" {
  type      = number
  sensitive = true
  default   = 7
}
locals {
  bad  = var.password + 1
  deep = { a = var.password }.b
  call = cidrhost(var.password, 1)
  file = file(var.password)
}
output "o" {
  value = local.bad
}
`, Options{Vars: map[string]string{"numeric": "hunter2-not-a-number"}})
	if len(diags) < 4 {
		t.Fatalf("Load() = %d diagnostics; want at least 4", len(diags))
	}
	if text := render(s, diags); strings.Count(text, "hunter2") != strings.Count(text, `default   = "hunter2-hunter2"`) {
		t.Errorf("a diagnostic shows the sensitive value:\n%s", text)
	}
}

func TestVariablesTakeTheNearestValue(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	site := write("site.hcl", `
site "v" {}
variable "size" {
  type    = number
  default = 1
}
variable "tags" {
  type    = list(string)
  default = []
}
variable "node" {
  type    = object({ name = string, port = optional(number, 22) })
  default = { name = "x" }
}
output "size" { value = var.size }
output "tags" { value = var.tags }
output "node" { value = var.node.port }
`)
	one, two := write("one.vars", "size = 3\n"), write("two.vars", "size = 4\n")
	env := []string{"EDGE_VAR_size=2", "EDGE_VAR_other=x", "OTHER=y"}
	tests := []struct {
		name string
		opts Options
		want string
	}{
		{"default", Options{}, "1"},
		{"environment", Options{Environ: env}, "2"},
		{"file", Options{Environ: env, VarFiles: []string{one}}, "3"},
		{"later file", Options{Environ: env, VarFiles: []string{one, two}}, "4"},
		{"file that was read before", Options{VarFiles: []string{one, "/elsewhere"}, VarTexts: map[string][]byte{"/elsewhere": []byte("size = 6")}}, "6"},
		{"option", Options{Environ: env, VarFiles: []string{one, two}, Vars: map[string]string{"size": "5"}}, "5"},
		{"expression", Options{Vars: map[string]string{"size": "5", "tags": `["a", "b"]`}}, "5"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, diags := Load(site, test.opts)
			if diags.HasErrors() {
				t.Fatalf("Load() = %s", render(s, diags))
			}
			if got := Text(s.Outputs[0].Value); got != test.want {
				t.Errorf("var.size = %s; want %s", got, test.want)
			}
			if got := Text(s.Outputs[2].Value); got != "22" {
				t.Errorf("var.node.port = %s; want the optional default 22", got)
			}
		})
	}
	_, diags := Load(site, Options{Vars: map[string]string{"sise": "1"}})
	if len(diags) != 1 || !strings.Contains(diags[0].Detail, `Did you mean "size"?`) {
		t.Errorf("Load(-var sise=1) = %v; want a suggestion", diags)
	}
	_, diags = Load(site, Options{VarFiles: []string{write("three.vars", "sise = 4\n")}})
	if len(diags) != 1 || diags[0].Severity != hcl.DiagWarning {
		t.Errorf("Load(-var-file with sise) = %v; want one warning", diags)
	}
}

func TestDirectoryIsOneSite(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"10-site.hcl":    `site "dir" {}` + "\n",
		"20-network.hcl": "network \"edge\" {\n  interface = \"eth1\"\n  cidr = local.cidr\n}\n",
		"30-locals.hcl":  "locals {\n  cidr = \"172.22.0.0/24\"\n}\n",
		"notes.txt":      "not HCL at all {{{",
		".hidden.hcl":    "also not {{{",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, diags := Load(dir, Options{})
	if diags.HasErrors() {
		t.Fatalf("Load() = %s", render(s, diags))
	}
	if got := s.Networks[0].CIDR.String(); got != "172.22.0.0/24" || s.Dir != dir {
		t.Errorf("CIDR, Dir = %s, %s; want 172.22.0.0/24, %s", got, s.Dir, dir)
	}
	if _, diags := Load(t.TempDir(), Options{}); len(diags) != 1 || diags[0].Summary != "Empty site" {
		t.Errorf("Load(empty directory) = %v; want Empty site", diags)
	}
	if _, diags := Load(filepath.Join(dir, "none.hcl"), Options{}); len(diags) != 1 || diags[0].Summary != "Unreadable site" {
		t.Errorf("Load(no file) = %v; want Unreadable site", diags)
	}
}

func TestFilesAndEnvironmentOnlyWhereAllowed(t *testing.T) {
	dir := t.TempDir()
	inside := filepath.Join(dir, "site")
	if err := os.Mkdir(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"secret": "outside", "site/key": "inside", "site/t": "%{ for n in names }<${n}>%{ endfor }"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "secret"), filepath.Join(inside, "link")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		expr string
		opts Options
		want string // empty: an error
	}{
		{`file("key")`, Options{AllowFile: true}, `"inside"`},
		{`filebase64("key")`, Options{AllowFile: true}, `"aW5zaWRl"`},
		{`templatefile("t", { names = ["a", "b"] })`, Options{AllowFile: true}, `"<a><b>"`},
		{`file("key")`, Options{}, ""},
		{`templatefile("t", { names = [] })`, Options{}, ""},
		{`file("../secret")`, Options{AllowFile: true}, ""},
		{`file("link")`, Options{AllowFile: true}, ""},
		{fmt.Sprintf("file(%q)", filepath.Join(dir, "secret")), Options{AllowFile: true}, ""},
		{`file(".")`, Options{AllowFile: true}, ""},
		{`env("HERE")`, Options{AllowEnv: true, Environ: []string{"HERE=there"}}, `"there"`},
		{`env("HERE")`, Options{Environ: []string{"HERE=there"}}, ""},
		{`env("NOT")`, Options{AllowEnv: true, Environ: []string{"HERE=there"}}, ""},
	}
	for _, test := range tests {
		path := filepath.Join(inside, "site.hcl")
		text := fmt.Sprintf("site \"f\" {}\noutput \"o\" {\n  value = %s\n}\n", test.expr)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, diags := Load(path, test.opts)
		switch {
		case test.want == "" && !diags.HasErrors():
			t.Errorf("%s = %s; want an error", test.expr, Text(s.Outputs[0].Value))
		case test.want != "" && diags.HasErrors():
			t.Errorf("%s = %v; want %s", test.expr, diags, test.want)
		case test.want != "" && Text(s.Outputs[0].Value) != test.want:
			t.Errorf("%s = %s; want %s", test.expr, Text(s.Outputs[0].Value), test.want)
		}
	}
}

// quickly is far more than the 3 s that the slowest takes on a busy machine under the
// race detector, and far less than what is not bounded.
const quickly = time.Minute

// TestHostileSourcesAreRefusedQuickly feeds what would overflow the stack of
// the parser or the memory of the evaluator.
func TestHostileSourcesAreRefusedQuickly(t *testing.T) {
	doubling := "site \"x\" {}\nlocals {\n  a0 = \"0123456789abcdef\"\n"
	numbers := "site \"x\" {}\nlocals {\n  a0 = 1e300\n"
	var chain strings.Builder
	chain.WriteString("site \"x\" {}\nlocals {\n")
	for i := 1; i < 60; i++ {
		doubling += fmt.Sprintf("  a%d = \"${local.a%d}${local.a%d}\"\n", i, i-1, i-1)
		numbers += fmt.Sprintf("  a%d = local.a%d * local.a%d\n", i, i-1, i-1)
	}
	for i := range 20000 {
		fmt.Fprintf(&chain, "  a%d = local.a%d\n", i, i+1)
	}
	value := func(expr string) string { return "site \"x\" {}\noutput \"o\" {\n  value = " + expr + "\n}\n" }
	nest := func(open, inside, closing string, times int) string {
		return value(strings.Repeat(open, times) + inside + strings.Repeat(closing, times))
	}
	tests := []struct{ name, text, want string }{
		{"format inside format", nest(`format("%[1]s%[1]s", `, `"0123456789"`, ")", 45), "Error in function call"},
		{"jsonencode inside jsonencode", nest("jsonencode(", `"\""`, ")", 45), "Error in function call"},
		{"base64 inside base64", nest("base64encode(", `"0123456789"`, ")", 90), "Error in function call"},
		{"join by a long text", value(`join(join("", [for a in range(1000) : "0123456789"]), range(1000))`), "Error in function call"},
		{"10 MB of nesting", "a = " + strings.Repeat("[", 10<<20), "Site too large"},
		{"brackets", "a = " + strings.Repeat("[", 100_000), "Site nested too deeply"},
		{"parentheses", "a = " + strings.Repeat("(", 100_000), "Site nested too deeply"},
		{"blocks", strings.Repeat("a {\n", 100_000), "Site nested too deeply"},
		{"templates", "a = " + strings.Repeat(`"${`, 100_000), "Site nested too deeply"},
		{"objects", "a = " + strings.Repeat("{a=", 100_000), "Site nested too deeply"},
		{"negations", "a = " + strings.Repeat("!", 100_000) + "true", "Site nested too deeply"},
		{"minuses", "a = " + strings.Repeat("-", 100_000) + "1", "Site nested too deeply"},
		{"conditionals", "a = " + strings.Repeat("true?1:", 50_000) + "1", "Site nested too deeply"},
		{"sum", "a = 1" + strings.Repeat("+1", 100_000), "Site nested too deeply"},
		{"sum over lines", "a = (1" + strings.Repeat("+\n1", 100_000) + ")", "Site nested too deeply"},
		{"indexes", "a = b" + strings.Repeat("[c]", 100_000), "Site nested too deeply"},
		{"directives", "a = <<E\n" + strings.Repeat("%{if true}\n", 50_000) + "E\n", "Site nested too deeply"},
		{"calls", "a = " + strings.Repeat("f(", 100_000), "Site nested too deeply"},
		{"doubling", doubling + "}\n", "Value too large"},
		{"numbers", numbers + "}\n", "Value too large"},
		{"exponent", "site \"x\" {}\noutput \"o\" {\n  value = \"${1e999999999}\"\n}\n", "Number too long"},
		{"chain", chain.String() + "  a20000 = 1\n}\n", "Reference chain too long"},
		{"bytes", "site \"x\" {}\n# \xff\n", "Invalid UTF-8"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "site.hcl")
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, diags := Load(path, Options{})
			if took := time.Since(start); took > quickly {
				t.Errorf("Load() took %s; want less than %s", took, quickly)
			}
			found := test.want == "" && !diags.HasErrors()
			for _, d := range diags {
				found = found || d.Summary == test.want
			}
			if !found {
				t.Errorf("Load() = %v; want %q", diags, test.want)
			}
		})
	}
}

func TestRequiredVersionIsCheckedFirst(t *testing.T) {
	tests := []struct {
		version, constraint string
		want                bool
	}{
		{"1.2.3", ">= 1.2", true},
		{"v1.2.3", ">= 1.3", false},
		{"1.2.3", "~> 1.2", true},
		{"2.0.0", "~> 1.2", false},
		{"1.2.9", "~> 1.2.3", true},
		{"1.3.0", "~> 1.2.3", false},
		{"1.2.3", ">= 1, < 2", true},
		{"2.0", ">= 1, < 2", false},
		{"1.2.3", "1.2.3", true},
		{"1.2.3", "!= 1.2.3", false},
		{"dev", ">= 9", true},
		{"0.0.0-dev", ">= 9", true},
		{"", "= 3", true},
		{"1.2.3-rc.1", "= 1.2.3", true},
	}
	for _, test := range tests {
		if got, err := satisfies(test.version, test.constraint); got != test.want || err != nil {
			t.Errorf("satisfies(%q, %q) = %v, %v; want %v", test.version, test.constraint, got, err, test.want)
		}
	}
	for _, bad := range []string{"", ">", ">= x", "=> 1", ">= 1.2.3.4", "dev"} {
		for _, version := range []string{"1.0", "dev"} {
			if _, err := satisfies(version, bad); err == nil {
				t.Errorf("satisfies(%q, %q) = nil error; want one", version, bad)
			}
		}
	}
}

func FuzzLoad(f *testing.F) {
	for _, path := range glob(f, append([]string{"testdata/error-files/*.hcl"}, exampleSites...)...) {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(runtimeSite))
	opts := testOptions()
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64<<10 {
			return
		}
		watchdog := time.AfterFunc(20*time.Second, func() { panic(fmt.Sprintf("Load(%q) takes more than 20s", b)) })
		defer watchdog.Stop()
		s, diags := load([]source{{name: "site.hcl", bytes: b}}, t.TempDir(), opts)
		var out bytes.Buffer
		if err := WriteDiagnostics(&out, s.Files, tidy(diags), false, 80); err != nil {
			t.Fatal(err)
		}
		if diags.HasErrors() {
			return
		}
		if err := s.Print(&out); err != nil {
			t.Fatal(err)
		}
		s.Graph()
		for _, w := range s.Workflows {
			for _, step := range w.Steps {
				s.StepInputs(step, Known{})
				s.StepWhen(step, Known{})
			}
		}
		s.OutputValues(Known{})
		formatted, diags := Format("site.hcl", b)
		if diags.HasErrors() {
			t.Fatalf("Format() = %v; want no error of what Load accepts", diags)
		}
		if again, _ := Format("site.hcl", formatted); !bytes.Equal(again, formatted) {
			t.Fatalf("Format(Format(%q)) = %q; want %q", b, again, formatted)
		}
	})
}

// bigSite has a thousand machines and two thousand steps.
func bigSite() string {
	var b strings.Builder
	b.WriteString(`site "big" {}
network "edge" {
  interface = "eth1"
  cidr      = "10.0.0.0/16"
}
machine "node" {
  for_each = { for i in range(1000) : format("n%04d", i) => i }
  mac      = format("52:54:00:00:%02x:%02x", floor(each.value / 256), each.value % 256)
  network  = network.edge
  address  = cidrhost(network.edge.cidr, each.value + 10)
  bmc {
    driver   = "ipmi"
    address  = cidrhost("10.1.0.0/16", each.value + 10)
    username = "admin"
    password = "x"
  }
}
workflow "w" {
`)
	for i := range 2000 {
		fmt.Fprintf(&b, "  step \"ssh\" \"s%d\" {\n    hosts   = machine.node[\"n%04d\"]\n    command = \"echo %d\"\n  }\n", i, i%1000, i)
	}
	b.WriteString("}\n")
	return b.String()
}

func BenchmarkLoadBigSite(b *testing.B) {
	src := []source{{name: "site.hcl", bytes: []byte(bigSite())}}
	for b.Loop() {
		if _, diags := load(src, b.TempDir(), testOptions()); diags.HasErrors() {
			b.Fatal(diags)
		}
	}
}

func BenchmarkStepInputsOfBigSite(b *testing.B) {
	s, diags := load([]source{{name: "site.hcl", bytes: []byte(bigSite())}}, b.TempDir(), testOptions())
	if diags.HasErrors() {
		b.Fatal(diags)
	}
	for b.Loop() {
		if _, diags := s.StepInputs(s.Workflows[0].Steps[7], Known{}); diags.HasErrors() {
			b.Fatal(diags)
		}
	}
}

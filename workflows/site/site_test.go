package site

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// shapes are step types for tests, in the form of those of workflows/steps,
// which imports this package.
func shapes() map[string]StepType {
	attr := func(name string, t cty.Type, required bool) hcldec.Spec {
		return &hcldec.AttrSpec{Name: name, Type: t, Required: required}
	}
	triggers := attr("triggers", cty.Map(cty.String), false)
	return map[string]StepType{
		"ssh": {
			Spec: hcldec.ObjectSpec{
				"hosts": attr("hosts", cty.DynamicPseudoType, true), "command": attr("command", cty.String, true),
				"check": attr("check", cty.String, false), "creates": attr("creates", cty.String, false),
				"environment": attr("environment", cty.Map(cty.String), false), "triggers": triggers,
			},
			Outputs: map[string]cty.Type{"stdout": cty.Map(cty.String)},
		},
		"file": {
			Spec: hcldec.ObjectSpec{
				"hosts": attr("hosts", cty.DynamicPseudoType, true), "path": attr("path", cty.String, true),
				"content": attr("content", cty.String, true), "mode": attr("mode", cty.String, false),
			},
			Outputs: map[string]cty.Type{"sha256": cty.String},
			CanUndo: true,
			Check: func(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
				v, _ := inputs.GetAttr("path").Unmark()
				if v.IsKnown() && !strings.HasPrefix(v.AsString(), "/") {
					rng := ranges["path"]
					return failure("Invalid path", &rng, "%q is not absolute.", v.AsString())
				}
				return nil
			},
		},
		"wait":   {Spec: hcldec.ObjectSpec{"hosts": attr("hosts", cty.DynamicPseudoType, false), "tcp": attr("tcp", cty.String, false)}},
		"reboot": {Spec: hcldec.ObjectSpec{"hosts": attr("hosts", cty.DynamicPseudoType, true), "triggers": triggers}},
		"k3s": {
			Spec: hcldec.ObjectSpec{
				"servers": attr("servers", cty.DynamicPseudoType, true), "agents": attr("agents", cty.DynamicPseudoType, false),
				"version": attr("version", cty.String, false), "profile": attr("profile", cty.String, false),
				"tls_san": attr("tls_san", cty.List(cty.String), false), "disable": attr("disable", cty.List(cty.String), false),
				"start_timeout": attr("start_timeout", cty.String, false),
				"binary":        &hcldec.BlockSpec{TypeName: "binary", Nested: hcldec.ObjectSpec{"source": attr("source", cty.String, true), "sha256": attr("sha256", cty.String, true)}},
				"images":        &hcldec.BlockListSpec{TypeName: "images", Nested: hcldec.ObjectSpec{"source": attr("source", cty.String, true), "sha256": attr("sha256", cty.String, true)}},
				"node": &hcldec.BlockListSpec{TypeName: "node", Nested: hcldec.ObjectSpec{
					"machine": attr("machine", cty.DynamicPseudoType, true), "labels": attr("labels", cty.Map(cty.String), false), "taints": attr("taints", cty.List(cty.String), false),
				}},
				"snapshots": &hcldec.BlockSpec{TypeName: "snapshots", Nested: hcldec.ObjectSpec{
					"schedule": attr("schedule", cty.String, false), "retention": attr("retention", cty.Number, false), "named": attr("named", cty.List(cty.String), false),
				}},
			},
			Outputs:   map[string]cty.Type{"kubeconfig": cty.String, "endpoint": cty.String},
			Sensitive: []string{"kubeconfig"},
		},
		"prometheus": {
			Spec: hcldec.ObjectSpec{
				"cluster": attr("cluster", cty.DynamicPseudoType, true), "image": attr("image", cty.String, true),
				"node_exporter_image": attr("node_exporter_image", cty.String, true), "kube_state_metrics_image": attr("kube_state_metrics_image", cty.String, true),
				"preloaded": attr("preloaded", cty.Bool, false), "ephemeral": attr("ephemeral", cty.Bool, false),
			},
			Outputs: map[string]cty.Type{"namespace": cty.String},
		},
		"rules": {Spec: hcldec.ObjectSpec{
			"rule": &hcldec.BlockListSpec{TypeName: "rule", Nested: hcldec.ObjectSpec{"port": attr("port", cty.Number, true)}},
		}},
	}
}

func testOptions() Options {
	return Options{
		StepTypes: shapes(), Version: "0.3.0",
		Environ: []string{"EDGE_VAR_bmc_password=correct horse"},
	}
}

// loadText loads one source that is no file.
func loadText(t *testing.T, text string, opts Options) (*Site, hcl.Diagnostics) {
	t.Helper()
	s, diags := load([]source{{name: "site.hcl", bytes: []byte(text)}}, t.TempDir(), opts)
	return s, tidy(diags)
}

// mustLoad loads one source without errors.
func mustLoad(t *testing.T, text string, opts Options) *Site {
	t.Helper()
	s, diags := loadText(t, text, opts)
	if diags.HasErrors() {
		t.Fatalf("Load() = %s; want no error", render(s, diags))
	}
	return s
}

// render gives diagnostics as a person sees them.
func render(s *Site, diags hcl.Diagnostics) string {
	var files map[string]*hcl.File
	if s != nil {
		files = s.Files
	}
	var b bytes.Buffer
	if err := WriteDiagnostics(&b, files, diags, false, 120); err != nil {
		return err.Error()
	}
	return b.String()
}

// complaint is a comment that announces a diagnostic on its line.
var complaint = regexp.MustCompile(`# (ERROR|WARNING): (.*)$`)

// TestErrorFiles loads every file of testdata/error-files and compares the
// diagnostics with the comments "# ERROR: summary" on their lines; behind
// " | " stands a part of the detail. A comment in the first line may announce
// a diagnostic without a line.
func TestErrorFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/error-files/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatalf("Glob() = %d files, %v; want some", len(files), err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".hcl"), func(t *testing.T) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			type expected struct {
				line                      int
				severity, summary, detail string
			}
			var want []expected
			for i, line := range strings.Split(string(b), "\n") {
				for _, m := range complaint.FindAllStringSubmatch(line, -1) {
					for _, one := range strings.Split(m[2], " && ") {
						summary, detail, _ := strings.Cut(one, " | ")
						want = append(want, expected{i + 1, m[1], summary, detail})
					}
				}
			}
			s, diags := Load(path, testOptions())
			for _, d := range diags {
				line := 1
				if d.Subject != nil {
					line = d.Subject.Start.Line
				}
				severity := map[hcl.DiagnosticSeverity]string{hcl.DiagError: "ERROR", hcl.DiagWarning: "WARNING"}[d.Severity]
				found := -1
				for i, w := range want {
					if w.line == line && w.severity == severity && w.summary == d.Summary && strings.Contains(d.Detail, w.detail) {
						found = i
						break
					}
				}
				if found < 0 {
					t.Errorf("Load(%s) = unexpected %s on line %d: %s | %s", path, severity, line, d.Summary, d.Detail)
					continue
				}
				want = append(want[:found], want[found+1:]...)
			}
			for _, w := range want {
				t.Errorf("Load(%s) = no %s %q | %q on line %d; got:\n%s", path, w.severity, w.summary, w.detail, w.line, render(s, diags))
			}
		})
	}
}

// exampleSites are the examples that are sites; what lies deeper is a module.
var exampleSites = []string{"../../hcl-examples/*.hcl", "../../hcl-examples/*/*.hcl"}

// glob lists the files of each pattern, which must have some.
func glob(t testing.TB, patterns ...string) []string {
	t.Helper()
	var out []string
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("Glob(%s) = %d files, %v; want some", pattern, len(files), err)
		}
		out = append(out, files...)
	}
	return out
}

// TestGolden prints every file of testdata/golden and of the examples and
// compares with the text beside it. An example has no warning either.
func TestGolden(t *testing.T) {
	examples := glob(t, exampleSites...)
	own, err := filepath.Glob("testdata/golden/*.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(examples, own...) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			s, diags := Load(path, testOptions())
			if len(diags) > 0 {
				t.Fatalf("Load(%s) =\n%s; want no diagnostic", path, render(s, diags))
			}
			var got bytes.Buffer
			if err := s.Print(&got); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&got, "---\n%s", s.Graph())
			golden := filepath.Join("testdata/golden", strings.TrimSuffix(filepath.Base(path), ".hcl")+".txt")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("Print(%s) differs (-want +got), rewrite with -update:\n%s", path, diff)
			}
		})
	}
}

// TestExamplesAreFormatted also says that formatting is stable.
func TestExamplesAreFormatted(t *testing.T) {
	for _, path := range glob(t, append([]string{"../../hcl-examples/*/*/*.hcl"}, exampleSites...)...) {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, diags := Format(path, src)
		if diags.HasErrors() {
			t.Fatalf("Format(%s) = %v", path, diags)
		}
		if !bytes.Equal(got, src) {
			t.Errorf("Format(%s) changes the file:\n%s", path, cmp.Diff(string(src), string(got)))
		}
	}
}

// TestDocumentationIsASite joins the HCL blocks of the page about site.hcl.
func TestDocumentationIsASite(t *testing.T) {
	page, err := os.ReadFile("../../docs/site-hcl.md")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, m := range regexp.MustCompile("(?s)```hcl\n(.*?)```").FindAllSubmatch(page, -1) {
		text.Write(m[1])
	}
	// Its module is that of the examples.
	s, diags := load([]source{{name: "site-hcl.md", bytes: []byte(text.String())}}, "../../hcl-examples/fleet", testOptions())
	if len(diags) > 0 {
		t.Fatalf("Load() =\n%s; want no diagnostic", render(s, tidy(diags)))
	}
	if len(s.Machines) != 9 || len(s.Workflows) != 5 {
		t.Errorf("Load() = %d machines, %d workflows; want 9 and 5", len(s.Machines), len(s.Workflows))
	}
	functions := functions(&module{})
	for name := range functions {
		if !regexp.MustCompile("[` \n]" + name + "[` \n]").Match(page) {
			t.Errorf("the function %s is not on the page", name)
		}
	}
}

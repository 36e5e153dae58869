package site

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zclconf/go-cty/cty"
)

// TestFunctions evaluates each expression in a site of its own. An empty want
// is an error.
func TestFunctions(t *testing.T) {
	tests := []struct{ expr, want string }{
		{`cidrhost("172.22.0.0/24", 11)`, `"172.22.0.11"`},
		{`cidrhost("172.22.0.0/24", -2)`, `"172.22.0.254"`},
		{`cidrhost("172.22.0.0/24", 256)`, ""},
		{`cidrhost("172.22.0.0/24", -257)`, ""},
		{`cidrhost("172.22.0.0/24", 1.5)`, ""},
		{`cidrhost("0.0.0.0/0", 4294967295)`, `"255.255.255.255"`},
		{`cidrhost("fd00::/64", 1)`, ""},
		{`cidrnetmask("172.22.0.0/20")`, `"255.255.240.0"`},
		{`cidrnetmask("0.0.0.0/0")`, `"0.0.0.0"`},
		{`cidrsubnet("10.0.0.0/8", 8, 2)`, `"10.2.0.0/16"`},
		{`cidrsubnet("10.0.0.0/8", 8, 256)`, ""},
		{`cidrsubnet("10.0.0.0/8", 25, 0)`, ""},
		{`cidrsubnet("10.0.0.0/31", 1, 1)`, `"10.0.0.1/32"`},
		{`cidrsubnets("10.1.0.0/16", 4, 4, 8, 4)`, `["10.1.0.0/20", "10.1.16.0/20", "10.1.32.0/24", "10.1.48.0/20"]`},
		{`cidrsubnets("10.1.0.0/16", 1, 1, 1)`, ""},
		{`GiB(8)`, `8589934592`},
		{`TiB(1) + KiB(1)`, `1099511628800`},
		{`GHz(2)`, `2000`},
		{`Gbps(10)`, `10000`},
		{`length("grün")`, `4`},
		{`length([1, 2])`, `2`},
		{`length({ a = 1 })`, `1`},
		{`length(3)`, ""},
		{`index(["a", "b"], "b")`, `1`},
		{`index(["a"], "b")`, ""},
		{`one([])`, `null`},
		{`one(["x"])`, `"x"`},
		{`one(["x", "y"])`, ""},
		{`alltrue([])`, `true`},
		{`anytrue([])`, `false`},
		{`alltrue([true, null])`, `false`},
		{`anytrue([false, true])`, `true`},
		{`sum([1, 2.5])`, `3.5`},
		{`sum([])`, ""},
		{`replace("a-b-c", "-", "+")`, `"a+b+c"`},
		{`replace("a1b22", "/[0-9]+/", "#")`, `"a#b#"`},
		{`replace("x", "/(/", "")`, ""},
		{`startswith("edge-os", "edge")`, `true`},
		{`endswith("edge-os", "edge")`, `false`},
		{`strcontains("edge-os", "ge-")`, `true`},
		{`base64decode(base64encode("hé"))`, `"hé"`},
		{`base64decode("/w==")`, ""},
		{`sha256("")`, `"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"`},
		{`md5("")`, `"d41d8cd98f00b204e9800998ecf8427e"`},
		{`sha1("")`, `"da39a3ee5e6b4b0d3255bfef95601890afd80709"`},
		{`uuidv5("dns", "example.com")`, `"cfbff0d1-9375-5685-968c-48ce8b15ae17"`},
		{`uuidv5("nonsense", "x")`, ""},
		{`urlencode("a b&c")`, `"a+b%26c"`},
		{`jsonencode({ a = [1, true] })`, `"{\"a\":[1,true]}"`},
		{`jsondecode("{\"a\":1}").a`, `1`},
		{`formatdate("YYYY-MM-DD", "2026-11-21T10:00:00Z")`, `"2026-11-21"`},
		{`timeadd("2026-11-21T10:00:00Z", "36h")`, `"2026-11-22T22:00:00Z"`},
		{`format("%03d-%s", 7, "x")`, `"007-x"`},
		{`format("%99999s", "x")`, ""},
		{`indent(2, "a\nb")`, `"a\n  b"`},
		{`indent(100000, "a\nb")`, ""},
		{`try(local.none.x, "fallback")`, `"fallback"`},
		{`can(tonumber("x"))`, `false`},
		{`setproduct(["a"], [1, 2])`, `[["a", 1], ["a", 2]]`},
		{`setproduct(range(1000), range(1000))`, ""},
		{`merge({ a = 1 }, { b = 2 })`, `{ a = 1, b = 2 }`},
		{`basename("/a/b.img")`, `"b.img"`},
		{`dirname("/a/b.img")`, `"/a"`},
		{`sensitive("x")`, redacted},
		{`nonsensitive(sensitive("x"))`, `"x"`},
		{`[for k in sort(keys({ b = 1, a = 2 })) : upper(k) if k != "b"]`, `["A"]`},
		{`timestamp()`, ""},
		{`uuid()`, ""},
	}
	for _, test := range tests {
		s, diags := loadText(t, "site \"f\" {}\nlocals {\n  none = {}\n}\noutput \"o\" {\n  sensitive = "+
			fmt.Sprint(test.want == redacted)+"\n  value = "+test.expr+"\n}\n", Options{})
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

func TestParseDuration(t *testing.T) {
	tests := []struct {
		in   string
		want time.Duration // negative: an error
	}{
		{"90s", 90 * time.Second},
		{"1h30m", 90 * time.Minute},
		{"7d", 7 * 24 * time.Hour},
		{"1d12h", 36 * time.Hour},
		{"0s", 0},
		{"", -1},
		{"5", -1},
		{"-5s", -1},
		{"d", -1},
		{"1d-2h", -1},
		{"99999999d", -1},
		{"1.5d", -1},
		{"9999999h", -1},
		{"1d1d", -1},
	}
	for _, test := range tests {
		got, err := ParseDuration(test.in)
		if (err != nil) != (test.want < 0) || err == nil && got != test.want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", test.in, got, err, test.want)
		}
	}
}

func TestRedactKeepsTheShape(t *testing.T) {
	v := cty.ObjectVal(map[string]cty.Value{
		"plain":   cty.StringVal("x"),
		"secret":  cty.StringVal("s3cr3t").Mark(Sensitive),
		"later":   unknownAfter(cty.String, "inspection"),
		"null":    cty.NullVal(cty.String),
		"list":    cty.ListVal([]cty.Value{cty.StringVal("a"), cty.StringVal("b").Mark(Sensitive)}),
		"nothing": cty.ListValEmpty(cty.String),
	})
	got := Redact(v)
	want := cty.ObjectVal(map[string]cty.Value{
		"plain": cty.StringVal("x"), "secret": cty.StringVal(redacted), "later": cty.StringVal("(known after inspection)"),
		"null": cty.NullVal(cty.String), "nothing": cty.EmptyTupleVal,
		"list": cty.TupleVal([]cty.Value{cty.StringVal("a"), cty.StringVal(redacted)}),
	})
	if !got.RawEquals(want) {
		t.Errorf("Redact() = %#v; want %#v", got, want)
	}
	if got, want := Secrets(v), []string{"b", "s3cr3t"}; !cmp.Equal(got, want) {
		t.Errorf("Secrets() = %v; want %v", got, want)
	}
}

const graphSite = `
site "graph" {}
network "edge" {
  for_each  = { a = "172.22.0.0/24", b = "172.23.0.0/24" }
  interface = "eth-${each.key}"
  cidr      = each.value
}
machine "node" {
  for_each = { x = 1, y = 2 }
  mac      = "52:54:00:00:00:0${each.value}"
  network  = network.edge[each.key == "x" ? "a" : "b"]
  address  = cidrhost(network.edge[each.key == "x" ? "a" : "b"].cidr, 2)
}
locals {
  first = machine.node["x"]
}
workflow "w" {
  step "ssh" "each" {
    for_each = machine.node
    hosts    = each.value
    command  = "true"
  }
  step "ssh" "key" {
    for_each   = toset(["x", "y"])
    hosts      = machine.node[each.key]
    command    = "true"
    depends_on = [step.ssh.each["y"]]
  }
  step "ssh" "local" {
    hosts   = local.first
    command = "true"
  }
  step "ssh" "all" {
    hosts   = values(machine.node)
    command = join(",", [for s in step.ssh.key : s.stdout["x"]])
  }
}
`

func TestGraphHasTheEdgesOfInstances(t *testing.T) {
	s := mustLoad(t, graphSite, testOptions())
	want := `machine.node["x"] -> network.edge["a"]
machine.node["y"] -> network.edge["b"]
workflow.w.step.ssh.all -> machine.node["x"]
workflow.w.step.ssh.all -> machine.node["y"]
workflow.w.step.ssh.all -> workflow.w.step.ssh.key["x"]
workflow.w.step.ssh.all -> workflow.w.step.ssh.key["y"]
workflow.w.step.ssh.each["x"] -> machine.node["x"]
workflow.w.step.ssh.each["y"] -> machine.node["y"]
workflow.w.step.ssh.key["x"] -> machine.node["x"]
workflow.w.step.ssh.key["x"] -> workflow.w.step.ssh.each["y"]
workflow.w.step.ssh.key["y"] -> machine.node["y"]
workflow.w.step.ssh.key["y"] -> workflow.w.step.ssh.each["y"]
workflow.w.step.ssh.local -> machine.node["x"]
`
	if diff := cmp.Diff(want, s.Graph().String()); diff != "" {
		t.Errorf("Graph() differs (-want +got):\n%s", diff)
	}
	step := s.StepByAddress(`workflow.w.step.ssh.key["x"]`)
	if got, want := step.DependsOn, []string{`machine.node["x"]`, `workflow.w.step.ssh.each["y"]`}; !cmp.Equal(got, want) {
		t.Errorf("DependsOn = %v; want %v", got, want)
	}
	if got, want := step.Range("hosts").Start.Line, 25; got != want {
		t.Errorf("Range(hosts) = line %d; want %d", got, want)
	}
}

func TestDynamicBlocksExpand(t *testing.T) {
	s := mustLoad(t, `
site "dynamic" {}
network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
}
machine "m" {
  mac     = "52:54:00:00:00:01"
  network = network.edge
  address = "172.22.0.2"
  dynamic "user" {
    for_each = { ops = true, dev = false }
    iterator = person
    labels   = [person.key]
    content {
      sudo = person.value
    }
  }
  rack {
    dynamic "disk" {
      for_each = [GiB(1), GiB(2)]
      content {
        size = disk.value
      }
    }
  }
}
workflow "w" {
  step "rules" "r" {
    dynamic "rule" {
      for_each = toset([80, 443])
      content {
        port = rule.value
      }
    }
  }
}
`, testOptions())
	m := s.Machines[0]
	if len(m.Users) != 2 || len(m.Rack.Disks) != 2 || m.Rack.Disks[1].SizeBytes != 2<<30 {
		t.Errorf("users, disks = %d, %d; want 2, 2 of 1 and 2 GiB", len(m.Users), len(m.Rack.Disks))
	}
	if got, want := Text(s.Workflows[0].Steps[0].Inputs), `{ rule = [{ port = 80 }, { port = 443 }] }`; got != want {
		t.Errorf("Inputs = %s; want %s", got, want)
	}
}

func TestAuthorizedKeys(t *testing.T) {
	const blob = "AAAAC3NzaC1lZDI1NTE5AAAAIEDGVQ/HsZEtQ5k1sMbJJKVJ7KTwoJpXXCtWNzMmhwkW"
	tests := []struct {
		key string
		ok  bool
	}{
		{"ssh-ed25519 " + blob, true},
		{"ssh-ed25519 " + blob + " a comment", true},
		{`from="10.0.0.0/8",no-pty ssh-ed25519 ` + blob, true},
		{"ssh-rsa " + blob, false},
		{blob, false},
		{"", false},
		{"ssh-ed25519 " + blob + "\nssh-ed25519 " + blob, false},
		{"-----BEGIN OPENSSH PRIVATE KEY-----", false},
	}
	for _, test := range tests {
		if why := checkAuthorizedKey(test.key); (why == "") != test.ok {
			t.Errorf("checkAuthorizedKey(%q) = %q; want ok %v", test.key, why, test.ok)
		}
	}
}

func TestFormatKeepsComments(t *testing.T) {
	src := "# head\nsite   \"x\"   {\n# inside\nlabels={a=1}   # behind\n}\n"
	want := "# head\nsite \"x\" {\n  # inside\n  labels = { a = 1 } # behind\n}\n"
	got, diags := Format("x.hcl", []byte(src))
	if diags.HasErrors() || string(got) != want {
		t.Errorf("Format() = %q, %v; want %q", got, diags, want)
	}
	if got, diags := Format("x.hcl", []byte("site {")); !diags.HasErrors() || got != nil {
		t.Errorf("Format(broken) = %q, %v; want an error and nothing", got, diags)
	}
	if _, diags := Format("x.hcl", []byte("a = "+strings.Repeat("[", 1000))); !diags.HasErrors() {
		t.Error("Format(nest) = no error; want one")
	}
}

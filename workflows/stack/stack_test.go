package stack

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func set(t *testing.T, name string) Set {
	t.Helper()
	s, err := Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSetsAreWhole holds the data of every set: a chain from the oldest on,
// ranges for all components, a source for each pair that is said to be known.
func TestSetsAreWhole(t *testing.T) {
	sets, err := Sets()
	if err != nil || len(sets) < 2 {
		t.Fatalf("Sets() = %d sets, %v; want two or more", len(sets), err)
	}
	before := ""
	for _, s := range sets {
		if s.After != before {
			t.Errorf("set %s comes after %q; want %q", s.Name, s.After, before)
		}
		before = s.Name
		if got := slices.Sorted(maps.Keys(s.Components)); !slices.Equal(got, Components) {
			t.Errorf("set %s has components %v; want %v", s.Name, got, Components)
		}
		for _, key := range Pairs {
			p, ok := s.Pairs[key]
			if !ok {
				t.Errorf("set %s says nothing of %s", s.Name, key)
			}
			if u, err := url.Parse(p.Source); p.Status != "" && (err != nil || u.Host == "" || p.Says == "") {
				t.Errorf("set %s: %s is %s by %q (%q); want the address of a page, and what it says", s.Name, key, p.Status, p.Source, p.Says)
			}
			if p.Status == "" && p.Advice == "" {
				t.Errorf("set %s: %s is unknown and has no advice", s.Name, key)
			}
		}
		if again, err := Parse(s.Text(), s.Name); err != nil || again.Name != s.Name {
			t.Errorf("Parse(Text()) of %s = %q, %v", s.Name, again.Name, err)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name     string
		set      string
		versions Versions
		allowed  []string
		want     []string // parts of the findings, in order; nothing: no finding
	}{
		{"what the set recommends", "2026.11", Versions{"k3s": "v1.36.3+k3s1", "calico": "v3.32.1", "fluentd": "1.19.3", "prometheus": "v3.14.0", "kernel": "6.1.0-40-amd64"}, nil, nil},
		{"another patch of the same minor", "2026.11", Versions{"k3s": "v1.36.0+k3s1", "calico": "3.32.9"}, nil, nil},
		{"K3s too new for Calico", "2026.11", Versions{"k3s": "v1.37.1+k3s1", "calico": "v3.32.1"}, nil, []string{`[calico/k3s] Nobody is known to say that k3s v1.37.1+k3s1 works with calico v3.32.1: k3s v1.37.1+k3s1 is not in set 2026.11, which holds 1.36.0 up to below 1.37.0; it recommends v1.36.3+k3s1`}},
		{"Calico too old for K3s", "2026.11", Versions{"k3s": "v1.36.3+k3s1", "calico": "v3.31.3"}, nil, []string{"[calico/k3s] Nobody is known to say that calico v3.31.3 works with k3s v1.36.3+k3s1"}},
		{"the same, allowed", "2026.11", Versions{"k3s": "v1.36.3+k3s1", "calico": "v3.31.3"}, []string{"calico/k3s"}, nil},
		{"an allowed pair excuses no other", "2026.11", Versions{"k3s": "v1.37.1+k3s1", "calico": "v3.32.1", "fluentd": "1.19.3"}, []string{"calico/k3s"}, []string{"[fluentd/k3s] "}},
		{"a pair that nobody documents", "2026.11", Versions{"portworx": "3.6.1", "kernel": "6.1.0"}, nil, []string{`[kernel/portworx] Set 2026.11 does not know whether kernel 6.1.0 works with portworx 3.6.1: look the kernel up`}},
		{"a component by itself", "2026.11", Versions{"k3s": "v1.35.1+k3s1"}, nil, []string{"[] k3s v1.35.1+k3s1 is not in set 2026.11"}},
		{"an old kernel", "2026.11", Versions{"kernel": "5.4.0", "calico": "v3.32.1"}, nil, []string{"[calico/kernel] Nobody is known to say that kernel 5.4.0 works with calico v3.32.1: kernel 5.4.0 is not in set 2026.11, which holds 5.10.0 and newer"}},
		{"not a version", "2026.11", Versions{"k3s": "latest"}, nil, []string{`[] k3s: "latest" is not a version`}},
		{"a pre-release", "2026.11", Versions{"k3s": "v1.36.3-rc1+k3s1"}, nil, []string{"[] k3s: \"v1.36.3-rc1+k3s1\" is a pre-release"}},
		{"what no set is about", "2026.11", Versions{"ssh": "1"}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Check(set(t, c.set), c.versions, c.allowed)
			var texts []string
			for _, f := range got {
				texts = append(texts, "["+f.Pair+"] "+f.Text)
			}
			if len(texts) != len(c.want) {
				t.Fatalf("Check() = %q; want %d findings", texts, len(c.want))
			}
			for i := range texts {
				if !strings.HasPrefix(texts[i], c.want[i]) {
					t.Errorf("Check()[%d] = %q; want it to begin with %q", i, texts[i], c.want[i])
				}
			}
		})
	}
}

func TestUpgrade(t *testing.T) {
	sets, err := Sets()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		from, to Versions
		want     string // of the only finding; empty: none
	}{
		{"nothing changes", Versions{"k3s": "v1.36.3+k3s1"}, Versions{"k3s": "v1.36.3+k3s1"}, ""},
		{"a patch", Versions{"k3s": "v1.36.1+k3s1"}, Versions{"k3s": "v1.36.3+k3s1"}, ""},
		{"a K3s build", Versions{"k3s": "v1.36.3+k3s1"}, Versions{"k3s": "v1.36.3+k3s2"}, ""},
		{"the next minor", Versions{"k3s": "v1.35.9+k3s1"}, Versions{"k3s": "v1.36.3+k3s1"}, ""},
		{"a minor is skipped", Versions{"k3s": "v1.34.4+k3s1"}, Versions{"k3s": "v1.36.3+k3s1"}, "apply set 2026.07 first"},
		{"a minor is skipped that no set holds", Versions{"k3s": "v1.30.4+k3s1"}, Versions{"k3s": "v1.36.3+k3s1"}, "apply a version 1.31 first; no set of this program holds one"},
		{"a patch back", Versions{"k3s": "v1.36.3+k3s1"}, Versions{"k3s": "v1.36.2+k3s1"}, "Going back is not supported"},
		{"a K3s build back", Versions{"k3s": "v1.36.3+k3s2"}, Versions{"k3s": "v1.36.3+k3s1"}, "Going back"},
		{"a minor back", Versions{"calico": "v3.32.1"}, Versions{"calico": "v3.31.3"}, "Going back"},
		{"nobody forbids to skip", Versions{"portworx": "3.4.0"}, Versions{"portworx": "3.6.1"}, ""},
		{"new and gone", Versions{"calico": "v3.32.1"}, Versions{"k3s": "v1.36.3+k3s1"}, ""},
		{"another kernel", Versions{"kernel": "6.12.0"}, Versions{"kernel": "6.1.0"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Upgrade(sets, c.from, c.to)
			switch {
			case c.want == "" && len(got) > 0:
				t.Errorf("Upgrade() = %+v; want nothing", got)
			case c.want != "" && (len(got) != 1 || !strings.Contains(got[0].Text, c.want)):
				t.Errorf("Upgrade() = %+v; want one finding with %q", got, c.want)
			}
		})
	}
}

func TestBadSetsAreRefused(t *testing.T) {
	good := string(set(t, "2026.11").Text())
	for name, text := range map[string]string{
		"no source":             strings.Replace(good, `source = "https://kubernetes.io/docs/concepts/architecture/cgroups/"`, `source = ""`, 1),
		"an unknown status":     strings.Replace(good, `status = "documented"`, `status = "hoped"`, 1),
		"an unknown pair":       strings.Replace(good, `pair "calico" "k3s"`, `pair "k3s" "calico"`, 1),
		"an unknown component":  strings.Replace(good, `component "fluentd"`, `component "vector"`, 1),
		"a recommendation out":  strings.Replace(good, `recommended = "3.14.0"`, `recommended = "3.15.0"`, 1),
		"a range of words":      strings.Replace(good, `from  = "1.36.0"`, `from  = "new"`, 1),
		"two sets":              good + good,
		"nothing":               "",
		"a nest":                "x = " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"an unknown attribute":  strings.Replace(good, `after = "2026.07"`, `before = "2026.07"`, 1),
		"a component unbounded": strings.Replace(good, "    range {\n      from  = \"1.36.0\"\n      below = \"1.37.0\"\n    }\n", "", 1),
	} {
		if _, err := Parse([]byte(text), "bad.hcl"); err == nil {
			t.Errorf("Parse(%s) = nil; want an error", name)
		}
	}
	if _, err := Find("1999.01"); err == nil || !strings.Contains(err.Error(), "2026.11") {
		t.Errorf("Find(1999.01) = %v; want the names of the sets that there are", err)
	}
}

func FuzzParse(f *testing.F) {
	sets, err := Sets()
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range sets {
		f.Add(s.Text())
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(text, "fuzz.hcl")
		if err != nil {
			return
		}
		Check(s, Versions{"k3s": "v1.36.3+k3s1", "calico": "3.32.1"}, nil)
		Upgrade([]Set{s}, Versions{"k3s": "v1.30.0"}, Versions{"k3s": "v1.36.3+k3s1"})
	})
}

func FuzzParseVersion(f *testing.F) {
	for _, s := range []string{"v1.36.3+k3s1", "3.32.1", "6.1.0-40-amd64", "1.2", "v1.36.3-rc1+k3s1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := ParseVersion(text)
		if err != nil {
			return
		}
		if again, err := ParseVersion(v.String()); err != nil || again != v {
			t.Errorf("ParseVersion(%q) = %v, %v; want %v", v.String(), again, err, v)
		}
	})
}

// TestThePageOfVersionsIsTrue compares docs/versions.md with the sets.
func TestThePageOfVersionsIsTrue(t *testing.T) {
	page, err := os.ReadFile("../../docs/versions.md")
	if err != nil {
		t.Fatal(err)
	}
	sets, err := Sets()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sets {
		row := "| `" + s.Name + "` |"
		for _, name := range []string{"k3s", "calico", "portworx", "fluentd", "prometheus", "kernel"} {
			r := s.Components[name].Ranges[0]
			row += fmt.Sprintf(" %d.%d", r.From.Major, r.From.Minor)
			if r.Below == (Version{}) {
				row += " and newer"
			}
			row += " |"
		}
		if !strings.Contains(string(page), row) {
			t.Errorf("docs/versions.md has no row %q", row)
		}
		for _, key := range Pairs {
			p := s.Pairs[key]
			status := string(p.Status)
			if status == "" {
				status = "not known"
			}
			if !regexp.MustCompile(`(?m)^\| .*` + "`" + key + "`" + `.* \| ` + status + ` \|`).Match(page) {
				t.Errorf("docs/versions.md does not say that %s is %s", key, status)
			}
		}
	}
}

package k3s

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestConfigurationMergesAsK3sDoes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	for name, text := range map[string]string{
		"config.yaml":          "token: first\ntls-san: [a, b]\ncluster-init: true\nnode-label: [x=1]\nfrobnicate: 3\n",
		"config.yaml.d/1.yaml": "token: second\ntls-san+: [c]\nnode-label: [y=2]\n",
		"config.yaml.d/2.yaml": "agent-token: third\ndisable: traefik,servicelb\n",
		"config.yaml.d/3.yml":  "token: never read\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"K3S_TOKEN": "environment", "K3S_NODE_NAME": "named"}
	var warned bytes.Buffer
	s, err := load([]string{"--config", path, "--tls-san=d", "--debug"}, func(name string) string { return env[name] }, &warned)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"token": "second", "agent-token": "third", "node-name": "named", "cluster-init": "true", "debug": "true"} {
		if got := s.get(key, ""); got != want {
			t.Errorf("%s = %q; want %q", key, got, want)
		}
	}
	for key, want := range map[string][]string{"tls-san": {"a", "b", "c", "d"}, "node-label": {"y=2"}, "disable": {"traefik", "servicelb"}} {
		if got := s.values(key); !reflect.DeepEqual(got, want) {
			t.Errorf("%s = %q; want %q", key, got, want)
		}
	}
	if want := "Unknown flag --frobnicate found in config.yaml, skipping\n"; warned.String() != want {
		t.Errorf("warning = %q; want %q", warned.String(), want)
	}
}

func TestConfigurationRefusesWhatItCannotRead(t *testing.T) {
	for _, args := range [][]string{{"--frobnicate"}, {"stray"}} {
		if _, err := load(append(args, "--config=/nonexistent"), func(string) string { return "" }, &bytes.Buffer{}); err == nil {
			t.Errorf("load(%q) = nil; want an error", args)
		}
	}
	s := settings{}
	for _, text := range []string{"token: {a: b}", "- a", "token: ["} {
		if err := s.merge([]byte(text), "config.yaml", &bytes.Buffer{}); err == nil {
			t.Errorf("merge(%q) = nil; want an error", text)
		}
	}
}

func TestTokensAreReadInBothForms(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	for text, want := range map[string]credential{
		"swordfish":                         {password: "swordfish"},
		"K10" + hash + "::server:swordfish": {hash: hash, user: "server", password: "swordfish"},
		"K10" + hash + "::node:a:b":         {hash: hash, user: "node", password: "a:b"},
		"K10 looks like one":                {password: "K10 looks like one"},
	} {
		if got, err := parseToken(text); err != nil || got != want {
			t.Errorf("parseToken(%q) = %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "K10abc::server:x", "K10" + hash + "::server", "K10" + hash + "::server:"} {
		if got, err := parseToken(text); err == nil {
			t.Errorf("parseToken(%q) = %+v; want an error", text, got)
		}
	}
}

func TestTokensAreKeptWhereK3sKeepsThem(t *testing.T) {
	dir := t.TempDir()
	ca := []byte("certificate")
	for _, agent := range []string{"sardine", "swordfish", "sardine"} {
		if err := writeTokens(dir, ca, "swordfish", agent); err != nil {
			t.Fatal(err)
		}
		user := "node"
		if agent == "swordfish" {
			user = "server"
		}
		for name, want := range map[string]string{
			"token": formatToken(ca, "server", "swordfish"), "node-token": formatToken(ca, "server", "swordfish"), "agent-token": formatToken(ca, user, agent),
		} {
			got, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || string(got) != want {
				t.Errorf("%s = %q, %v; want %q", name, got, err, want)
			}
		}
	}
}

func FuzzConfiguration(f *testing.F) {
	f.Add([]byte("token: a\ntls-san+: [b]\n"))
	f.Add([]byte("- a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := settings{}
		if err := s.merge(b, "config.yaml", &bytes.Buffer{}); err == nil {
			for key := range s {
				if _, ok := keys[key]; !ok {
					t.Errorf("merge(%q) set the unknown key %q", b, key)
				}
			}
		}
	})
}

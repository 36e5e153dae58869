package imagebuilder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMachineSourcesKeepOnlyTheRelease(t *testing.T) {
	etc := t.TempDir()
	for name, text := range map[string]string{
		"sources.list":                  "# old\ndeb-src http://one.example/debian bookworm main\ndeb [arch=amd64,i386 signed-by=/k.gpg] http://one.example/debian bookworm-backports main contrib # note\n",
		"sources.list.d/vendor.list":    "deb https://vendor.example/apt tool-bookworm main\n",
		"sources.list.d/debian.sources": "Types: deb deb-src\n# snapshot\nURIs: http://user:secret@two.example/debian\nSuites: bookworm trixie bookworm-updates\nComponents: main\nSigned-By:\n -----BEGIN\n .\n -----END\n\nTypes: deb\nURIs: http://off.example\nSuites: bookworm\nEnabled: no\n",
		"sources.list.d/ignored.bak":    "deb http://bak.example bookworm main\n",
	} {
		path := filepath.Join(etc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := machineSources(etc, "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	want := `Types: deb
URIs: http://one.example/debian
Suites: bookworm-backports
Components: main contrib
Architectures: amd64 i386
Signed-By: /k.gpg

Types: deb
URIs: http://user:secret@two.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: 
 -----BEGIN
 .
 -----END
`
	if got != want {
		t.Errorf("machineSources = %s\nwant: %s", got, want)
	}
	if clean := withoutCredentials(got); strings.Contains(clean, "secret") || !strings.Contains(clean, "http://two.example/debian\n") {
		t.Errorf("withoutCredentials = %s", clean)
	}
	if _, err := machineSources(etc, "sid"); err == nil || !strings.Contains(err.Error(), "debian sid") {
		t.Errorf("machineSources for a release that nobody offers = %v", err)
	}
}

func TestGivenSources(t *testing.T) {
	got, err := givenSources([]string{"deb [trusted=yes] file:/mirror bookworm main", "Types: deb\nURIs: http://a.example\nSuites: bookworm\nComponents: main"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "Types: deb\nURIs: file:/mirror\nSuites: bookworm\nComponents: main\nTrusted: yes\n\nTypes: deb\nURIs: http://a.example\nSuites: bookworm\nComponents: main\n"; got != want {
		t.Errorf("givenSources = %q; want %q", got, want)
	}
	for _, bad := range []string{"", "deb", "http://a.example bookworm", "Types: deb\nSuites: x"} {
		if _, err := givenSources([]string{bad}); err == nil {
			t.Errorf("givenSources(%q) succeeded", bad)
		}
	}
}

func FuzzSources(f *testing.F) {
	f.Add("deb [a=b] http://x y z")
	f.Add("Types: deb\nURIs: http://u:p@x/\nSuites: bookworm\n continued\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, p := range append(paragraphsOf(text), lineParagraphs(text)...) {
			p.forRelease("bookworm")
			withoutCredentials(p.String())
		}
	})
}

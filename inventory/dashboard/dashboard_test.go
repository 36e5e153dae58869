package dashboard_test

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory/dashboard"
	"github.com/edge-provision/edge-provision/inventory/query"
)

func get(t *testing.T, method, path string, header http.Header) *http.Response {
	t.Helper()
	h, err := dashboard.Handler()
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(method, path, nil)
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestEveryFileIsServedUnderAStrictPolicy(t *testing.T) {
	files := map[string]string{
		"/": "text/html; charset=utf-8", dashboard.Prefix + "main.js": "text/javascript; charset=utf-8",
		dashboard.Prefix + "style.css": "text/css; charset=utf-8", dashboard.Prefix + "icon.svg": "image/svg+xml",
		dashboard.Prefix + "language.json": "application/json",
	}
	for path, mediaType := range files {
		r := get(t, http.MethodGet, path, nil)
		if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != mediaType {
			t.Errorf("GET %s = %d %s; want 200 %s", path, r.StatusCode, r.Header.Get("Content-Type"), mediaType)
		}
		policy := r.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("GET %s: the policy %q lacks %s", path, policy, want)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
			t.Errorf("GET %s: the policy %q is not strict", path, policy)
		}
		tag := r.Header.Get("ETag")
		if again := get(t, http.MethodGet, path, http.Header{"If-None-Match": {tag}}); again.StatusCode != http.StatusNotModified {
			t.Errorf("GET %s with its ETag = %d; want 304", path, again.StatusCode)
		}
	}
}

func TestNothingElseIsServed(t *testing.T) {
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, dashboard.Prefix, http.StatusNotFound},
		{http.MethodGet, dashboard.Prefix + "nothing.js", http.StatusNotFound},
		{http.MethodGet, dashboard.Prefix + "..%2fdashboard.go", http.StatusNotFound},
		{http.MethodPost, "/", http.StatusMethodNotAllowed},
		{http.MethodHead, "/", http.StatusOK},
	} {
		if got := get(t, c.method, c.path, nil).StatusCode; got != c.want {
			t.Errorf("%s %s = %d; want %d", c.method, c.path, got, c.want)
		}
	}
}

// TestFilesNeedNothingFromElsewhere keeps out what the policy would refuse in the
// browser, and what would need another server.
func TestFilesNeedNothingFromElsewhere(t *testing.T) {
	files := os.DirFS("static")
	names, err := fs.Glob(files, "*")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 10 {
		t.Fatalf("static holds %v; want the whole dashboard", names)
	}
	forbidden := []*regexp.Regexp{
		regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|\beval\(|new Function`),
		regexp.MustCompile(`\sstyle="|<script>|<style|\son[a-z]+="|javascript:`),
		regexp.MustCompile(`(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}`),
		regexp.MustCompile(`@import|@font-face|url\(`),
	}
	imports := regexp.MustCompile(`from "(\./[a-z]+\.js)"`)
	for _, name := range names {
		raw, err := fs.ReadFile(files, name)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(raw), "http://www.w3.org/2000/svg", "")
		for _, f := range forbidden {
			if found := f.FindString(text); found != "" {
				t.Errorf("static/%s holds %q", name, found)
			}
		}
		for _, m := range imports.FindAllStringSubmatch(text, -1) {
			if _, err := fs.Stat(files, strings.TrimPrefix(m[1], "./")); err != nil {
				t.Errorf("static/%s imports %s: %v", name, m[1], err)
			}
		}
	}
}

func TestTheSearchBoxLearnsTheWholeLanguage(t *testing.T) {
	r := get(t, http.MethodGet, dashboard.Prefix+"language.json", nil)
	defer r.Body.Close()
	var got query.Language
	if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := query.Describe(query.Machine)
	if len(got.Variables) != len(want.Variables) || len(got.Functions) != len(want.Functions) || len(got.Variables) < 50 {
		t.Errorf("language.json lists %d variables and %d functions; want %d and %d", len(got.Variables), len(got.Functions), len(want.Variables), len(want.Functions))
	}
}

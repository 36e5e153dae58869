// Package dashboard is the page that shows the fleet in a browser. It is files
// and nothing else: what it shows it reads through the HTTP API (inventory/api)
// of the server that serves it, with the rights of whoever looks.
//
// There is no framework and no build step. The files are what the browser runs:
// static/main.js chooses a view by the address, each view is a module of its own,
// and dom.js is the only place where elements are made. A string becomes a text
// node there; the policy below forbids the browser anything else, so that a
// machine's serial number cannot become HTML.
package dashboard

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"time"

	"github.com/edge-provision/edge-provision/inventory/query"
)

//go:embed static
var static embed.FS

// Prefix is the path below which the dashboard's files are served; the page
// itself is at /.
const Prefix = "/dashboard/"

// languageFile tells the search box what an expression can be made of.
const languageFile = "language.json"

// policy is the Content-Security-Policy of everything that is served: scripts,
// styles and data of this server alone, nothing inline, no frame around it, and
// no string that becomes markup (Trusted Types).
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// types are the media types of the files, by their extension: the host's own
// table of types must not decide whether a browser runs a module.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
	".json": "application/json",
}

// file is one thing that is served.
type file struct {
	content   []byte
	mediaType string
	tag       string
}

func newFile(name string, content []byte) (file, error) {
	mediaType, ok := types[path.Ext(name)]
	if !ok {
		return file{}, fmt.Errorf("the dashboard's file %s has no media type", name)
	}
	sum := sha256.Sum256(content)
	return file{content: content, mediaType: mediaType, tag: `"` + hex.EncodeToString(sum[:16]) + `"`}, nil
}

// Handler serves the page at / and its files below Prefix. It answers GET and
// HEAD; whoever mounts it sees to the rest (Host, TLS).
func Handler() (http.Handler, error) {
	files := map[string]file{}
	entries, err := fs.ReadDir(static, "static")
	if err != nil {
		return nil, fmt.Errorf("reading the dashboard's files: %w", err)
	}
	for _, e := range entries {
		content, err := fs.ReadFile(static, path.Join("static", e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the dashboard's files: %w", err)
		}
		if files[Prefix+e.Name()], err = newFile(e.Name(), content); err != nil {
			return nil, err
		}
	}
	language, err := json.Marshal(query.Describe(query.Machine))
	if err != nil {
		return nil, fmt.Errorf("describing the expression language: %w", err)
	}
	if files[Prefix+languageFile], err = newFile(languageFile, language); err != nil {
		return nil, err
	}
	files["/"] = files[Prefix+"index.html"]
	delete(files, Prefix+"index.html")
	return handler(files), nil
}

type handler map[string]file

// ServeHTTP implements http.Handler.
func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, ok := h[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are answered here", http.StatusMethodNotAllowed)
		return
	}
	header := w.Header()
	header.Set("Content-Type", f.mediaType)
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("ETag", f.tag)
	// A newer program serves newer files under the same names.
	header.Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
}

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTruncatedDownloadSaysWhatToDo imports an image of which the server has, or
// sends, only a part.
func TestTruncatedDownloadSaysWhatToDo(t *testing.T) {
	t.Parallel()
	whole := bytes.Repeat([]byte("disk"), 5000)
	tests := []struct {
		name  string
		serve http.HandlerFunc
		want  []string
	}{
		{
			"cut off at the server", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(whole[:12000]) },
			[]string{"12000 bytes", "cut off", "compare its size with the publisher's"},
		},
		{
			"gone from the server", http.NotFound,
			[]string{"404"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(tt.serve)
			t.Cleanup(server.Close)
			dir := t.TempDir()
			path := filepath.Join(dir, "site.hcl")
			text := fmt.Sprintf("site \"shop\" {}\nimage \"cloud\" {\n  source   = \"%s/disk.raw\"\n  digest   = \"sha256:%x\"\n  format   = \"raw\"\n  firmware = [\"uefi\"]\n}\n",
				server.URL, sha256.Sum256(whole))
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			code := run(t.Context(), make(chan struct{}), []string{
				"image", "build", "--data-dir", filepath.Join(dir, "data"), "--cache-dir", filepath.Join(dir, "cache"), path,
			}, strings.NewReader(""), &out, &out)
			if code != exitError {
				t.Errorf("image build = %d; want %d", code, exitError)
			}
			for _, want := range append(tt.want, "image.cloud", "site.hcl:2", server.URL) {
				if !strings.Contains(out.String(), want) {
					t.Errorf("image build says %q; want %q in it", out.String(), want)
				}
			}
		})
	}
}

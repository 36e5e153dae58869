package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/bundle"
)

// doors counts who knocks at a machine.
func doors(t *testing.T) (port string, knocks *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	knocks = new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			knocks.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, knocks
}

// TestABundleThatLacksAnImageIsRefused: no machine is asked before all container
// images of the site are found in the bundle, those among them that only a text in
// the site names.
func TestABundleThatLacksAnImageIsRefused(t *testing.T) {
	o := newOffline(t)
	port, knocks := doors(t)
	file := o.build(t)
	text, err := os.ReadFile(o.site)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.ReplaceAll(text, []byte(`host = "192.0.2.11"`), []byte("host = \"127.0.0.1\"\n    port = "+port))
	more := `
  step "manifest" "scale" {
    cluster = step.k3s.cluster
    content = "apiVersion: v1\nkind: Pod\nmetadata: {name: scale, namespace: d}\nspec: {containers: [{name: s, image: 'registry.example/shop/scale:1'}]}\n"
  }
  step "local_path" "disks" {
    cluster     = step.k3s.cluster
    probe_image = "shop/probe:1"
  }
}
`
	text = append(bytes.TrimSuffix(bytes.TrimSpace(text), []byte("}")), more...)
	if err := os.WriteFile(o.site, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"plan"}, {"apply", "-auto-approve"}} {
		stdout, stderr := o.run(t, exitError, append(args, "-bundle", file, o.site)...)
		for _, want := range []string{
			"lacks what this site needs", "workflow.platform.step.local_path.disks: container image docker.io/shop/probe:1",
		} {
			if !strings.Contains(stderr, want) {
				t.Errorf("%s says %q; want %q in it", args[0], stderr, want)
			}
		}
		if stdout != "" {
			t.Errorf("%s prints %q; want nothing planned", args[0], stdout)
		}
	}
	// What shows only when texts are rendered is missed all the same.
	text = bytes.Replace(text, []byte("shop/probe:1"), []byte("registry.example/shop/till:2026.11"), 1)
	if err := os.WriteFile(o.site, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr := o.run(t, exitError, "apply", "-auto-approve", "-bundle", file, o.site); !strings.Contains(stderr, "workflow.platform.step.manifest.scale: container image registry.example/shop/scale:1") {
		t.Errorf("apply says %q; want the image of the pod in it", stderr)
	}
	if n := knocks.Load(); n != 0 {
		t.Errorf("the machine was asked %d times; want it left alone", n)
	}
}

// packedChart is a chart of one object.
func packedChart(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, f := range []struct{ name, text string }{
		{"shelf/Chart.yaml", "apiVersion: v2\nname: shelf\nversion: 1.0.0\n"},
		{"shelf/templates/shelf.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shelf}\ndata: {rows: {{ .Values.rows | quote }}}\n"},
	} {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.text))})
		if err == nil {
			_, err = io.WriteString(w, f.text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestAChartThatComesToSomethingElseOnSiteIsRefused: what was looked at where the
// bundle was built is what is applied, unless the site was changed since.
func TestAChartThatComesToSomethingElseOnSiteIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	o := &offline{dir: dir, site: path("site.hcl")}
	t.Setenv("XDG_DATA_HOME", path("data"))
	t.Setenv("XDG_CACHE_HOME", path("cache"))
	public, _ := o.run(t, exitOK, "bundle", "key", "-o", path("bundle.key"))
	files := map[string][]byte{"k3s": []byte("not really k3s"), "shelf.tgz": packedChart(t)}
	for name, text := range files {
		if err := os.WriteFile(path(name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	declare := func(rows int) {
		t.Helper()
		text := fmt.Sprintf(`site "shop" {
  trusted_keys = [%q]
}
machine "node" {
  ssh {
    host     = "127.0.0.1"
    port     = 1
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFm2rCkTJPw5Mq2mC9yhp6LgmnzAVo7NTd1sP3B6stKu"
  }
}
workflow "apps" {
  step "k3s" "cluster" {
    version = "v1.36.3+k3s1"
    servers = machine.node
    binary {
      source = "k3s"
      sha256 = "%x"
    }
  }
  step "helm" "shelf" {
    cluster   = step.k3s.cluster
    namespace = "shop"
    values    = { rows = %d }
    chart {
      source = "shelf.tgz"
      sha256 = "%x"
    }
  }
}
`, strings.TrimSpace(public), sha256.Sum256(files["k3s"]), rows, sha256.Sum256(files["shelf.tgz"]))
		if err := os.WriteFile(o.site, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	declare(3)
	file := path("site.bundle")
	o.run(t, exitOK, "bundle", "build", o.site, "-o", file, "--key", path("bundle.key"))
	o.run(t, exitDifferent, "plan", "-bundle", file, o.site)

	// Another edge-provision, whose engine puts something else into the text.
	b, err := bundle.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	item, ok := b.Contents().Find(bundle.KindDocument, "workflow.apps.step.helm.shelf/manifest.yaml")
	if !ok || item.Spec == "" {
		t.Fatalf("the bundle's document is %+v; want it with the digest of what it was rendered from", item)
	}
	document, err := b.Document(item)
	if err != nil || !bytes.Contains(document, []byte(`rows: "3"`)) {
		t.Fatalf("the document is %q, %v; want the chart with the site's values", document, err)
	}
	text, err := os.ReadFile(path("bundle.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := bundle.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	store, err := artifact.New(artifact.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(path("other.bundle"))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = bundle.Build(t.Context(), store, bundle.Spec{Site: "shop", Key: key, Files: []bundle.File{
		{Kind: bundle.KindFile, Name: "k3s", Content: files["k3s"]},
		{Kind: bundle.KindFile, Name: "shelf.tgz", Content: files["shelf.tgz"]},
		{Kind: bundle.KindDocument, Name: item.Name, Spec: item.Spec, Content: bytes.Replace(document, []byte(`"3"`), []byte(`"4"`), 1)},
	}}, out)
	if err = errors.Join(err, out.Close(), os.Remove(path("site.lock.hcl"))); err != nil {
		t.Fatal(err)
	}
	if _, stderr := o.run(t, exitError, "plan", "-bundle", path("other.bundle"), o.site); !strings.Contains(stderr, "workflow.apps.step.helm.shelf: the chart renders differently here") {
		t.Errorf("plan says %q; want the chart refused", stderr)
	}
	// With other values it has to come to something else.
	declare(5)
	o.run(t, exitDifferent, "plan", "-bundle", path("other.bundle"), o.site)
}

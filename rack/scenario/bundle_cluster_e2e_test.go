//go:build e2e

package scenario

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/edge-provision/edge-provision/rack/host"
	"github.com/edge-provision/edge-provision/workflows/bundle"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// factory is where a site's bundle is built: a place with a registry and with the
// files that the site names, neither of which the site has.
type factory struct {
	c *cluster
	// dir holds the files under the names by which the site knows them, and what
	// the build keeps.
	dir string
	// mirror is the registry, which stands for all others.
	mirror string
	close  func()
}

func newFactory(c *cluster) *factory {
	c.t.Helper()
	f := &factory{c: c, dir: filepath.Join(c.dir, "factory")}
	if err := os.MkdirAll(filepath.Join(f.dir, "files"), 0o755); err != nil {
		c.t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	f.mirror, f.close = strings.TrimPrefix(server.URL, "http://"), server.Close
	c.t.Cleanup(server.Close)
	c.needsImages()
	key := strings.TrimSpace(f.run("bundle", "key", "--output", filepath.Join(f.dir, "bundle.key")))
	c.trust = []string{"--trust-key", key, "--stack-set", filepath.Join("testdata", "standin.stack.hcl")}
	return f
}

// file gives a file a name in the factory, which ends with it.
func (f *factory) file(path string) string {
	f.c.t.Helper()
	here := filepath.Join(f.dir, "files", filepath.Base(path))
	if err := os.Symlink(path, here); err != nil {
		f.c.t.Fatal(err)
	}
	return here
}

// put pushes what an image is, an image or an index, to the registry.
func (f *factory) put(image string, write func(ref name.Reference) error) {
	f.c.t.Helper()
	host, rest, _ := strings.Cut(image, "/")
	host, _, _ = strings.Cut(host, ":")
	ref, err := name.ParseReference(f.mirror + "/" + host + "/" + rest)
	if err == nil {
		err = write(ref)
	}
	if err != nil {
		f.c.t.Fatalf("pushing %s = %v", image, err)
	}
}

// archived is an image of an archive.
func (f *factory) archived(path, image string) v1.Image {
	f.c.t.Helper()
	tag, err := name.NewTag(image)
	if err != nil {
		f.c.t.Fatal(err)
	}
	i, err := tarball.ImageFromPath(path, &tag)
	if err != nil {
		f.c.t.Fatal(err)
	}
	return i
}

// stock puts every image of an archive into the registry.
func (f *factory) stock(path string) {
	f.c.t.Helper()
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(path) })
	if err != nil {
		f.c.t.Fatal(err)
	}
	for _, d := range manifest {
		for _, image := range d.RepoTags {
			f.put(image, func(ref name.Reference) error { return remote.Write(ref, f.archived(path, image)) })
		}
	}
}

// stub puts an image into the registry that says of itself that it is not what
// its name says: one that the site names and no pod of these tests runs.
func (f *factory) stub(image string) {
	f.c.t.Helper()
	text := "This stands in for " + image + ", which cannot be had here. Nothing runs it.\n"
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(pack(f.c.t, map[string]string{"README": text}))), nil
	})
	if err != nil {
		f.c.t.Fatal(err)
	}
	i, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	if err == nil {
		i, err = mutate.AppendLayers(i, layer)
	}
	if err != nil {
		f.c.t.Fatal(err)
	}
	f.rename(image, i)
}

// rename puts an image into the registry under another name.
func (f *factory) rename(image string, i v1.Image) {
	f.c.t.Helper()
	f.put(image, func(ref name.Reference) error { return remote.Write(ref, i) })
}

// manyPlatforms puts an index into the registry, of which a bundle holds one part
// only.
func (f *factory) manyPlatforms(image string, ours v1.Image) {
	f.c.t.Helper()
	other, err := random.Image(1<<10, 1)
	if err != nil {
		f.c.t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: ours, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
	f.put(image, func(ref name.Reference) error { return remote.WriteIndex(ref, index) })
}

// standinSet is the set of versions of testdata/standin.stack.hcl.
const standinSet = "standin-1.34"

// pack is a tar file.
func pack(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	var names []string
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: n, Mode: 0o644, Size: int64(len(files[n]))})
		if err == nil {
			_, err = io.WriteString(w, files[n])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// chart writes a Helm chart into the factory.
func (f *factory) chart(name string, files map[string]string) string {
	f.c.t.Helper()
	path := filepath.Join(f.dir, "files", name+".tgz")
	inside := map[string]string{}
	for n, text := range files {
		inside[name+"/"+n] = text
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(pack(f.c.t, inside))
	if err = errors.Join(err, w.Close()); err == nil {
		err = os.WriteFile(path, b.Bytes(), 0o644)
	}
	if err != nil {
		f.c.t.Fatal(err)
	}
	return path
}

// run runs edge-provision where the bundle is built.
func (f *factory) run(args ...string) string {
	f.c.t.Helper()
	ctx, cancel := context.WithTimeout(f.c.t.Context(), buildLimit)
	defer cancel()
	began := time.Now()
	args = append([]string{"--data-dir", filepath.Join(f.dir, "data"), "--cache-dir", filepath.Join(f.dir, "cache")}, args...)
	cmd := exec.CommandContext(ctx, f.c.bin, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		f.c.t.Fatalf("edge-provision %q = %v\n%s%s", args, err, stdout, stderr.String())
	}
	f.c.t.Logf("edge-provision %q took %.1f s\n%s%s", args, time.Since(began).Seconds(), stdout, stderr.String())
	return string(stdout)
}

// pack builds the bundle of the site as it is now.
func (f *factory) pack(flags ...string) string {
	f.c.t.Helper()
	out := filepath.Join(f.c.dir, "site.bundle")
	args := []string{"bundle", "build", f.c.site, "--output", out, "--key", filepath.Join(f.dir, "bundle.key"), "--registry-mirror", f.mirror}
	f.run(slices.Concat(args, []string{"--stack-set", filepath.Join("testdata", "standin.stack.hcl")}, flags)...)
	return out
}

// build builds the bundle and has it verified. Then the factory, its registry and
// the files that the site names are no more.
func (f *factory) build() string {
	c := f.c
	c.t.Helper()
	out := f.pack()
	f.close()
	if err := os.RemoveAll(f.dir); err != nil {
		c.t.Fatal(err)
	}
	c.want(0, c.run(commandLimit, append([]string{"bundle", "verify", "--site", c.site, out}, c.trust...)...))
	return out
}

// island is a cluster that is applied from a bundle in a lab whose only way out
// leads to a sink.
type island struct {
	*cluster
	bundle string
	sink   *host.Sink
}

// newIsland cuts the lab off, and proves that what leaves it is seen.
func newIsland(c *cluster, bundle string) *island {
	c.t.Helper()
	sink, err := c.lab.AddSink(c.t.Context(), netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16"))
	if err != nil {
		c.t.Fatal(err)
	}
	i := &island{cluster: c, bundle: bundle, sink: sink}
	i.quiet("before anything was asked")
	// What nobody answers fails; that is not the point.
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	_ = c.lab.Command(ctx, "getent", "ahostsv4", "quay.io").Run()
	_, _ = c.lab.Exec(ctx, 0, "getent", "ahostsv4", "registry-1.docker.io")
	_, _ = c.lab.Exec(ctx, len(c.lab.Hosts)-1, "bash", "-c", "echo hello >/dev/udp/198.51.100.7/4711")
	seen, err := sink.Take()
	if err != nil {
		c.t.Fatal(err)
	}
	text := strings.Join(seen.Lines, "\n")
	for _, want := range []string{"quay.io", "registry-1.docker.io", "198.51.100.7:4711"} {
		if !strings.Contains(text, want) {
			c.t.Fatalf("the sink saw %d packets and %d questions:\n%s\nwant %s among them: what leaves the lab is not seen", seen.Packets, seen.Queries, text, want)
		}
	}
	if seen.Packets < 3 || seen.Queries < 2 {
		c.t.Fatalf("the sink counted %d packets and %d questions; want 3 and 2 at least", seen.Packets, seen.Queries)
	}
	return i
}

// quiet demands that nothing has left the lab since the last time. A pod may ask
// for a service before its node has the rules for it: that is told, and asks
// nobody else.
func (i *island) quiet(when string) {
	i.t.Helper()
	seen, err := i.sink.Take()
	if err != nil {
		i.t.Fatal(err)
	}
	if seen.Strays != 0 {
		i.t.Logf("%s %d packets for the cluster's own networks strayed:\n%s", when, seen.Strays, strings.Join(seen.Lines, "\n"))
	}
	if seen.Packets != 0 || seen.Queries != 0 {
		i.t.Errorf("%s %d packets left the site, %d of them questions to a name server; want none:\n%s", when, seen.Packets, seen.Queries, strings.Join(seen.Lines, "\n"))
	}
}

// asked demands that what left the lab since the last look was at most questions for
// the address of a host.
func (i *island) asked(when, name string) {
	i.t.Helper()
	seen, err := i.sink.Take()
	if err != nil {
		i.t.Fatal(err)
	}
	i.t.Logf("%s %d packets left the site", when, seen.Packets)
	other := slices.ContainsFunc(seen.Lines, func(line string) bool {
		return strings.Contains(line, "which asks for ") && !strings.Contains(line, "which asks for "+name+".")
	})
	if seen.Packets != seen.Queries || other {
		i.t.Errorf("%s %d packets left the site, %d of them questions to a name server; want at most questions for %s:\n%s",
			when, seen.Packets, seen.Queries, name, strings.Join(seen.Lines, "\n"))
	}
}

// command runs plan or apply from the bundle.
func (i *island) command(code int, limit time.Duration, args ...string) result {
	i.t.Helper()
	return i.want(code, i.run(limit, slices.Concat(args, i.trust, []string{"--bundle", i.bundle, i.site})...))
}

func (i *island) apply() result {
	i.t.Helper()
	return i.command(0, clusterLimit, "apply", "--auto-approve")
}

// destroy takes the site away, with the data of these steps.
func (i *island) destroy(steps ...string) {
	i.t.Helper()
	args := []string{"destroy", "--auto-approve"}
	for _, s := range steps {
		args = append(args, "--destroy-data", "workflow.platform.step."+s)
	}
	i.command(0, clusterLimit, args...)
}

func (i *island) same() {
	i.t.Helper()
	i.command(0, commandLimit, "plan", "--detailed-exitcode")
}

// differs demands that plan says all of these.
func (i *island) differs(lines ...string) {
	i.t.Helper()
	r := i.command(2, commandLimit, "plan", "--detailed-exitcode")
	for _, line := range lines {
		if !strings.Contains(r.stdout, line) {
			i.t.Errorf("plan = %s\nwant %q in it", r.stdout, line)
		}
	}
}

// onNodes demands that container images are on every node by the digest of the
// bundle, imported from K3s's images directory. They are none of those that K3s's
// own archives bring, too.
func (i *island) onNodes(images []string) {
	i.t.Helper()
	b, err := bundle.Open(i.bundle)
	if err != nil {
		i.t.Fatal(err)
	}
	defer b.Close()
	archives := len(b.Contents().Of(bundle.KindImage))
	for n, h := range i.lab.Hosts {
		if files := strings.Count(i.on(n, "ls /var/lib/rancher/k3s/agent/images/"), ".tar"); files < archives {
			i.t.Errorf("%s has %d archives in K3s's images directory; want one for each of %d images", h.Name, files, archives)
		}
		there := map[string]string{}
		for line := range strings.Lines(i.on(n, "k3s ctr images ls")) {
			if fields := strings.Fields(line); len(fields) > 2 {
				there[fields[0]] = fields[2]
			}
		}
		for _, image := range images {
			item, _ := b.Contents().Find(bundle.KindImage, image)
			if item.Digest == "" || there[image] != item.Digest {
				i.t.Errorf("on %s containerd has %s as %q; want %q, as the bundle has it", h.Name, image, there[image], item.Digest)
			}
		}
	}
}

// inPods demands that each of the images runs in a pod, and that no pod asks a
// registry for what is on its node.
func (i *island) inPods(images []string) {
	i.t.Helper()
	var pods struct {
		Items []struct {
			Metadata struct{ Namespace, Name string }
			Spec     struct {
				InitContainers, Containers []struct{ Image, ImagePullPolicy string }
			}
		}
	}
	if err := json.Unmarshal([]byte(i.on(0, "k3s kubectl get pods -A -o json")), &pods); err != nil {
		i.t.Fatal(err)
	}
	running := map[string]bool{}
	for _, p := range pods.Items {
		for _, c := range append(p.Spec.Containers, p.Spec.InitContainers...) {
			running[c.Image] = true
			if c.ImagePullPolicy == "Always" {
				i.t.Errorf("pod %s/%s pulls %s always; want one that is on the node", p.Metadata.Namespace, p.Metadata.Name, c.Image)
			}
		}
	}
	for _, image := range images {
		if !running[image] {
			i.t.Errorf("no pod runs %s, which only the bundle brings; pods run %v", image, running)
		}
	}
}

// withoutSecret demands that what leaves the factory does not hold a text.
func (i *island) withoutSecret(secret string) {
	i.t.Helper()
	for _, path := range []string{i.bundle, site.LockPath(i.site)} {
		text, err := os.ReadFile(path)
		if err != nil {
			i.t.Fatal(err)
		}
		if bytes.Contains(text, []byte(secret)) {
			i.t.Errorf("%s holds the value of a sensitive variable", path)
		}
	}
}

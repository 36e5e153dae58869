//go:build e2e

package scenario

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/rack/host"
)

// watched applies and tells see each line of progress, with the process, so that
// it can do something at a moment of the run.
func (c *cluster) watched(see func(line, *os.Process)) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), clusterLimit)
	defer cancel()
	cmd := c.lab.Command(ctx, c.bin, "--data-dir", filepath.Join(c.dir, "data"), "--cache-dir", filepath.Join(c.dir, "cache"), "apply", "--auto-approve", "--json", c.site)
	var stderr bytes.Buffer
	cmd.Stderr, cmd.WaitDelay = &stderr, 10*time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	var last []string
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var now line
		if err := json.Unmarshal(lines.Bytes(), &now); err != nil {
			c.t.Errorf("apply --json printed %q: %v", lines.Text(), err)
		}
		if now.Type == "progress" && now.Phase == "run" {
			last = append(last, now.Address+" "+now.Message)
		}
		see(now, cmd.Process)
	}
	_, _ = io.Copy(io.Discard, out)
	err = cmd.Wait()
	c.t.Logf("apply --json ended: %v\n%s\n%s", err, strings.Join(last[max(0, len(last)-40):], "\n"), stderr.String())
	if ctx.Err() != nil {
		c.t.Fatalf("apply did not end in %s", clusterLimit)
	}
	return result{code: cmd.ProcessState.ExitCode(), stdout: strings.Join(last, "\n"), stderr: stderr.String()}
}

// ask tries a command inside host i, which need not succeed.
func (c *cluster) ask(i int, line string) error {
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	_, err := c.lab.Exec(ctx, i, "sh", "-c", line)
	return err
}

// eventually asks every second until ask says yes.
func (c *cluster) eventually(what string, limit time.Duration, ask func() error) {
	c.t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-deadline.C:
			c.confess()
			c.t.Fatalf("not in %s: %s: %v", limit, what, err)
		}
	}
}

// identity tells one cluster from another.
const identity = "sha256sum </var/lib/rancher/k3s/server/tls/server-ca.crt"

// powerCuts makes the cluster and cuts the power of the second server while it
// joins, with the controller's run, and applies again when it is back; and that
// of the third, while the run goes on and waits for it.
func (c *cluster) powerCuts() {
	c.t.Helper()
	joins := func(n int) string {
		return fmt.Sprintf("%s: waiting: https://%s:6443/", c.machines[n], c.lab.Hosts[n].Address)
	}

	cut := false
	r := c.watched(func(l line, p *os.Process) {
		if cut || !strings.HasPrefix(l.Message, joins(1)) {
			return
		}
		cut = true
		if err := c.lab.Kill(c.t.Context(), 1); err != nil {
			c.t.Error(err)
		}
		// The first signal asks, the second orders.
		for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
			if err := p.Signal(s); err != nil {
				c.t.Errorf("signalling the controller = %v", err)
			}
		}
	})
	if !cut || r.code != 1 {
		c.t.Fatalf("apply exits with %d, the power was cut: %v; want it cut in the join of the second server, and 1", r.code, cut)
	}
	ca := c.on(0, identity)
	// While it is off, nothing is planned: it may have data of the cluster.
	if r := c.want(2, c.run(commandLimit, "plan", c.site)); strings.Contains(r.stdout, " will ") {
		c.t.Errorf("plan while a server is off = %s; want nothing that will be done", r.stdout)
	}
	if err := c.lab.Boot(c.t.Context(), 1); err != nil {
		c.t.Fatal(err)
	}

	cut = false
	r = c.watched(func(l line, _ *os.Process) {
		if cut || !strings.HasPrefix(l.Message, joins(2)) {
			return
		}
		cut = true
		if err := c.lab.Kill(c.t.Context(), 2); err != nil {
			c.t.Error(err)
		}
		// Two servers are a majority of three, whether it votes already or not.
		c.eventually("the API answers while a third server is off", 2*time.Minute, func() error {
			return c.ask(0, "k3s kubectl --request-timeout=10s get --raw /readyz")
		})
		if err := c.lab.Boot(c.t.Context(), 2); err != nil {
			c.t.Error(err)
		}
	})
	if !cut || r.code != 0 {
		c.confess()
		c.t.Fatalf("apply exits with %d, the power was cut: %v; want it cut in the join of the third server, and waited for", r.code, cut)
	}
	for i, h := range c.ofServers() {
		if got := c.on(i, identity); got != ca {
			c.t.Errorf("%s has another CA than the first server had; want one cluster", h.Name)
		}
	}
}

// TestOfflineStore applies hcl-examples/offline from a bundle to a machine whose
// disk has room for an archive of images and not for what is in it; and when room
// is made from another bundle, without that archive. Then nothing leaves the site.
func TestOfflineStore(t *testing.T) {
	c := newHosts(t, "store-0815", host.Config{Names: []string{"node"}})
	c.findReleases()
	f := newFactory(c)
	// The till's program only has to stay.
	f.rename("registry.example/shop/till:2026.11", f.archived(c.images[0], "docker.io/rancher/mirrored-pause:3.6"))
	const tillKey = "the-till's-own-key"
	c.given(map[string]any{"stack": standinSet, "k3s_version": c.versions[0].version, "k3s": c.fileOf(f.file(c.versions[0].path)), "till_key": tillKey})
	c.site = c.example("offline/site", map[string]int{"": 0})

	c.given(map[string]any{"k3s_images": c.fileOf(f.file(largeImage(c)))})
	i := newIsland(c, f.pack())
	i.withoutSecret(tillKey)
	// 800 MiB are left as df counts them, for K3s.
	c.on(0, `fallocate -l "$(( $(df -Pk /var/lib | awk 'NR==2 {print $4}') - 800 * 1024 ))K" /var/lib/filler`)
	r := i.command(1, clusterLimit, "apply", "--auto-approve")
	if out := r.stdout + r.stderr; !strings.Contains(out, "its disk is full, K3s says") || !strings.Contains(out, "make room and apply again") {
		t.Errorf("apply = %s; want the full disk said, and what to do", out)
	}
	c.on(0, "rm /var/lib/filler")
	c.given(map[string]any{"k3s_images": c.fileOf(f.file(c.packed(c.versions[0])))})
	i.bundle = f.build()
	i.apply()
	c.whole()
	if got := c.on(0, "cat /etc/till.key"); got != tillKey {
		t.Errorf("the till has the key %q; want %q, which is in no bundle", got, tillKey)
	}
	if got := c.on(0, "k3s kubectl get deployment till -o jsonpath='{.status.readyReplicas}'"); got != "1" {
		t.Errorf("the till has %q ready replicas; want 1", got)
	}
	i.same()
	// Until then the node lacked K3s's own images, and what it was to run asked for
	// the one of every pod's sandbox, if its turn came in that time.
	i.asked("while the node's images were incomplete", "registry-1.docker.io")
	for pods, of := range map[string]string{"kube-dns": "kube-system -l k8s-app=kube-dns", "till": "default --all"} {
		c.on(0, "k3s kubectl delete pod --now -n "+of) // and waits until they are gone
		c.eventually("another pod of "+pods, 2*time.Minute, func() error {
			return c.ask(0, "k3s kubectl wait --for=condition=Ready --timeout=15s pod -n "+of)
		})
	}
	i.same()
	i.quiet("with all images on the node")
}

// largeImageBytes is what the layer of largeImage unpacks to.
const largeImageBytes = 3 << 30

// largeImage writes an archive with a container image (OCI image layout, v1.1)
// that is small until it is unpacked, and returns its path.
func largeImage(c *cluster) string {
	c.t.Helper()
	unpacked := sha256.New()
	var layer bytes.Buffer
	z, err := gzip.NewWriterLevel(&layer, gzip.BestSpeed)
	if err != nil {
		c.t.Fatal(err)
	}
	w := tar.NewWriter(io.MultiWriter(unpacked, z))
	err = w.WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: largeImageBytes})
	zeros := make([]byte, 1<<20)
	for n := 0; n < largeImageBytes && err == nil; n += len(zeros) {
		_, err = w.Write(zeros)
	}
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		c.t.Fatal(err)
	}
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	blob := func(content []byte, kind string) string {
		sum := sha256.Sum256(content)
		digest := hex.EncodeToString(sum[:])
		files["blobs/sha256/"+digest] = content
		return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%d`, kind, digest, len(content))
	}
	config := blob(fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, unpacked.Sum(nil)), "config.v1+json") + "}"
	manifest := blob(fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s}]}`,
		config, blob(layer.Bytes(), "layer.v1.tar+gzip")), "manifest.v1+json")
	files["index.json"] = fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[%s,"annotations":{"org.opencontainers.image.ref.name":"1","io.containerd.image.name":"docker.io/edge-provision/large:1"}}]}`, manifest)
	path := filepath.Join(c.dir, "large.tar")
	if err := os.WriteFile(path, archive(c, files), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

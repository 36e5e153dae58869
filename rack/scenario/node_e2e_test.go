//go:build e2e

package scenario

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/rack/host"
)

// Bounds of an emulated node, which on two cores without KVM is some ten times
// slower than a real one: the apply took 263 s there while nothing else ran, and
// the whole scenario 288 s; beside other work the scenario took 534 s.
const (
	nodeLimit     = 40 * time.Minute
	nodePlanLimit = 5 * time.Minute
)

// tillAddress is the machine's, in hcl-examples/shop.hcl.
const tillAddress = "192.168.60.10"

// TestMachineBecomesMonitoredNode takes the shop of hcl-examples, which
// `make demo CLUSTER=1` shows, from powered off to a Ready node whose Prometheus
// scrapes it, by one apply; a plan after that finds nothing to do.
func TestMachineBecomesMonitoredNode(t *testing.T) {
	l := emptyLab(t)
	l.example("shop")
	l.shopVariables()
	l.image("image.debian")
	l.raise(l.site)
	if m := l.machine("machine.till"); m.On || m.Boots != 0 {
		t.Fatalf("before apply the machine is on: %t, after %s; want it off, never switched on", m.On, power(m))
	}

	began := time.Now()
	r := l.run(nodeLimit, "", l.inside("apply", "--auto-approve", l.site))
	t.Logf("from power-off to a monitored node: %.0f s", time.Since(began).Seconds())
	if r.code != 0 {
		l.confessNode()
	}
	l.want(0, r)
	for _, want := range []string{"node-exporter " + tillAddress + `:9100 = "1"`, "till   Ready"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("the outputs of apply are without %q:\n%s", want, r.stdout)
		}
	}
	if m := l.machine("machine.till"); m.PowerOns != 1 {
		t.Errorf("the machine had %s; want it switched on once", power(m))
	}

	l.want(0, l.run(nodePlanLimit, "", l.inside("plan", "--detailed-exitcode", l.site)))
	l.tillIsReady()
	l.tillIsScraped()
}

// example takes a site of hcl-examples, under this lab's name.
func (l *lab) example(name string) {
	l.t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "hcl-examples", name+".hcl"))
	if err != nil {
		l.t.Fatal(err)
	}
	text := strings.Replace(string(b), fmt.Sprintf("site %q {", name), fmt.Sprintf("site %q {", l.name), 1)
	if !strings.Contains(text, l.name) {
		l.t.Fatalf("hcl-examples/%s.hcl declares no site %q", name, name)
	}
	l.site = filepath.Join(l.dir, name+".hcl")
	if err := os.WriteFile(l.site, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// shopVariables gives the shop what rack/demo.sh gives it: the K3s of
// EDGE_E2E_K3S or its stand-in, real monitoring, and an image in which the
// stand-in finds what the real one brings with it.
func (l *lab) shopVariables() {
	l.t.Helper()
	c := &cluster{t: l.t}
	c.findReleases()
	built := filepath.Join(l.cache, "workload")
	images, monitoring := filepath.Join(built, "standin.tar"), filepath.Join(built, "monitoring.tar")
	if os.Getenv("EDGE_E2E_K3S") != "" {
		if len(c.images) != 1 {
			l.t.Fatalf("beside K3s there are the image archives %q; want one", c.images)
		}
		images = c.images[0]
	}
	for _, path := range []string{images, monitoring} {
		if _, err := os.Stat(path); err != nil {
			l.t.Skipf("%v: run make workload", err)
		}
	}
	files := map[string]map[string]string{}
	for name, path := range map[string]string{"k3s": c.versions[0].path, "images": images, "monitoring": monitoring} {
		files[name] = map[string]string{"source": path, "sha256": c.digest(path)}
	}
	for name, value := range map[string]any{
		"bmc_password": "emulated-only", "k3s_version": c.versions[0].version, "kernel": "cloud", "packages": host.Packages(), "files": files,
		// The disk of a machine that may be thrown away waits for nobody else's.
		"k3s_settings": "etcd-arg+: [unsafe-no-fsync]",
	} {
		text, ok := value.(string)
		if !ok {
			b, err := json.Marshal(value) // which HCL reads, too
			if err != nil {
				l.t.Fatal(err)
			}
			text = string(b)
		}
		l.t.Setenv("EDGE_VAR_"+name, text)
	}
}

// confessNode logs what the node's services said last.
func (l *lab) confessNode() {
	l.ssh(tillAddress+":22", "journalctl -u k3s --no-pager -o short-monotonic | grep -E 'exited|lost|panic|Main process|Running |Imported' | tail -40; journalctl -u k3s -n 30 --no-pager -o cat; k3s kubectl get pods -A -o wide; k3s kubectl get events -A --sort-by=.lastTimestamp | tail -30; free -m; df -h /; cat /proc/loadavg")
}

// onNode runs a command on the machine and returns what it printed.
func (l *lab) onNode(command string) string {
	l.t.Helper()
	return strings.TrimSpace(l.want(0, l.ssh(tillAddress+":22", command)).stdout)
}

// tillIsReady asks the API server.
func (l *lab) tillIsReady() {
	l.t.Helper()
	var list struct{ Items []clusterNode }
	if err := json.Unmarshal([]byte(l.onNode("k3s kubectl get nodes -o json")), &list); err != nil {
		l.t.Fatal(err)
	}
	if len(list.Items) != 1 {
		l.t.Fatalf("the cluster has %d nodes; want 1", len(list.Items))
	}
	n := list.Items[0]
	ready := slices.ContainsFunc(n.Status.Conditions, func(c struct{ Type, Status string }) bool { return c.Type == "Ready" && c.Status == "True" })
	if n.Metadata.Name != "till" || !ready {
		l.t.Errorf("the node is %+v; want till, Ready", n)
	}
}

// tillIsScraped asks Prometheus, past edge-provision, for its node exporter: it
// is up, and what it tells is of this machine and not of the one that emulates
// it.
func (l *lab) tillIsScraped() {
	l.t.Helper()
	const path = "/api/v1/namespaces/edge-monitoring/services/prometheus:9090/proxy/api/v1/query?query="
	query := func(encoded string) map[string]string {
		var answer struct {
			Data struct {
				Result []struct {
					Metric map[string]string
					Value  [2]any
				}
			}
		}
		text := l.onNode("k3s kubectl get --raw '" + path + encoded + "'")
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			l.t.Fatalf("%s is no answer of Prometheus: %v", text, err)
		}
		if len(answer.Data.Result) != 1 {
			l.t.Fatalf("%s has %d series; want 1: %s", encoded, len(answer.Data.Result), text)
		}
		series := answer.Data.Result[0]
		series.Metric["value"] = fmt.Sprint(series.Value[1])
		return series.Metric
	}
	up := query("up%7Bjob%3D%22node-exporter%22%7D")
	if up["value"] != "1" || up["node"] != "till" || up["instance"] != tillAddress+":9100" {
		l.t.Errorf("up of the node exporter is %v; want 1 for till at %s:9100", up, tillAddress)
	}
	uname := query("node_uname_info")
	if got, want := uname["nodename"]+" "+uname["release"], l.onNode("uname -nr"); got != want {
		l.t.Errorf("the node exporter tells of %q; want %q", got, want)
	}
}

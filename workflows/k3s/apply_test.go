package k3s

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"

	"github.com/edge-provision/edge-provision/workflows/artifact"
)

const (
	oldVersion = "v1.34.4+k3s1"
	newVersion = "v1.35.1+k3s1"
)

func apply(t *testing.T, c Config) (Outputs, error) {
	t.Helper()
	cluster, err := New(c)
	if err != nil {
		return Outputs{}, err
	}
	return cluster.Apply(t.Context())
}

func mustApply(t *testing.T, c Config) Outputs {
	t.Helper()
	out, err := apply(t, c)
	if err != nil {
		t.Fatalf("Apply() = %v; want success", err)
	}
	return out
}

func inspect(t *testing.T, c Config) (Report, error) {
	t.Helper()
	cluster, err := New(c)
	if err != nil {
		return Report{}, err
	}
	return cluster.Inspect(t.Context())
}

// ha is a cluster of three servers and an agent.
func ha(t *testing.T) (*world, Config) {
	t.Helper()
	t.Parallel()
	w := newWorld(t, "a", "b", "c", "d")
	c := w.config(oldVersion, []string{"a", "b", "c"}, []string{"d"})
	c.Recorded = true
	template.Do(func() { install(t) })
	for machine, h := range w.hosts {
		w.copy(filepath.Join(template.dir, machine), h.root)
	}
	w.copy(filepath.Join(template.dir, "world"), w.dir)
	w.sync()
	for _, n := range c.all() {
		m := memberOf(w.node(n.Name))
		change, err := memberPatch(c.Owner, n, &m)
		if err != nil {
			t.Fatal(err)
		}
		if err := (&client{kube: w.kube}).patch(t.Context(), n.Name, change); err != nil {
			t.Fatal(err)
		}
	}
	w.took()
	return w, c
}

// template is what ha copies: the machines of a cluster that was installed once,
// by Apply itself.
var template struct {
	sync.Once
	dir string
}

func TestMain(m *testing.M) {
	var err error
	if template.dir, err = os.MkdirTemp("", "k3s"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(template.dir)
	os.Exit(code)
}

func install(t *testing.T) {
	t.Helper()
	w := newWorld(t, "a", "b", "c", "d")
	mustApply(t, w.config(oldVersion, []string{"a", "b", "c"}, []string{"d"}))
	for machine, h := range w.hosts {
		w.copy(h.root, filepath.Join(template.dir, machine))
	}
	w.put(filepath.Join(template.dir, "world/ca"), w.read("machine.a", serverCA), 0o644)
}

// copy copies a tree, modes and links included.
func (w *world) copy(from, to string) {
	w.t.Helper()
	if out, err := exec.Command("cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
		w.t.Fatalf("cp: %v\n%s", err, out)
	}
}

func TestServersJoinOneByOneAndAgentsAfterThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b", "c", "d", "e")
	c := w.config(oldVersion, []string{"a", "b", "c"}, []string{"d", "e"})
	c.Images = []artifact.Ref{w.offer("images.tar.zst", "images")}
	report, err := inspect(t, c)
	if err != nil || !report.Absent || len(report.Changes) != 5 {
		t.Fatalf("Inspect() of untouched machines = %+v, %v; want absent, a line each", report, err)
	}
	out := mustApply(t, c)
	log := w.took()
	starts := []string{}
	for _, l := range log {
		if strings.Contains(l, ": start ") {
			starts = append(starts, l)
		}
	}
	if want := []string{"a: start k3s.service", "b: start k3s.service", "c: start k3s.service"}; !cmp.Equal(starts[:3], want) || len(starts) != 5 {
		t.Errorf("starts = %q; want the servers in order, then two agents", starts)
	}
	if want := map[string]string{"machine.a": "a", "machine.b": "b", "machine.c": "c", "machine.d": "d", "machine.e": "e"}; !cmp.Equal(out.Nodes, want) {
		t.Errorf("Nodes = %v; want %v", out.Nodes, want)
	}
	if out.Endpoint != "https://192.0.2.11:6443" || !strings.Contains(out.Kubeconfig, out.Endpoint) || len(out.Endpoints) != 3 {
		t.Errorf("Endpoint = %s, Endpoints = %v; want the first server's, also in the kubeconfig", out.Endpoint, out.Endpoints)
	}
	if !strings.HasPrefix(out.ServerToken, "K10") || !strings.Contains(out.AgentToken, "::node:") || shortToken(out.ServerToken) == shortToken(out.AgentToken) {
		t.Error("the tokens are not two different ones in the full form")
	}
	env := func(name, unit string) string {
		return w.read("machine."+name, "/etc/systemd/system/"+unit+".service.env")
	}
	if a := env("a", "k3s"); strings.Contains(a, "K10") || !strings.Contains(a, "K3S_AGENT_TOKEN="+shortToken(out.AgentToken)) {
		t.Error("the first server was not given the short form of its token")
	}
	if b, d := env("b", "k3s"), env("d", "k3s-agent"); !strings.Contains(b, "K3S_TOKEN="+out.ServerToken) || d != "K3S_TOKEN="+out.AgentToken+"\n" {
		t.Error("who joined was not given the full form, or an agent knows more than its own token")
	}
	for _, s := range w.says {
		if strings.Contains(s, shortToken(out.ServerToken)) || strings.Contains(s, shortToken(out.AgentToken)) {
			t.Errorf("%q tells a token", s)
		}
	}
	if got := w.read("machine.d", imagePath(c.Images[0])); got != "images" {
		t.Errorf("the images on an agent = %q; want the offered", got)
	}

	// Once more: nothing.
	c.Recorded = true
	report, err = inspect(t, c)
	if err != nil || report.Absent || len(report.Changes) > 0 || report.Unreachable != "" {
		t.Errorf("Inspect() after Apply() = %+v, %v; want no changes", report, err)
	}
	again := mustApply(t, c)
	if log := w.took(); !cmp.Equal(log, []string{""}) {
		t.Errorf("a second Apply() did %q; want nothing", log)
	}
	if !reflect.DeepEqual(again, out) {
		t.Error("a second Apply() has other outputs")
	}
}

func TestDriftIsSeenAndJustThatIsRepaired(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(w *world)
		want  string
		log   []string
	}{
		{
			"K3s stopped by hand", func(w *world) { w.set("machine.b", "k3s.service.active", "inactive\n") },
			"machine.b: k3s.service is stopped",
			[]string{"b: start k3s.service"},
		},
		{"a file edited", func(w *world) {
			w.put(filepath.Join(w.hosts["machine.c"].root, configPath), "node-name: z\n", 0o600)
		}, "machine.c: " + configPath + " has other content", []string{"c: start k3s.service"}},
		{"a secret made readable", func(w *world) {
			if err := os.Chmod(filepath.Join(w.hosts["machine.d"].root, agent.envPath()), 0o644); err != nil {
				w.t.Fatal(err)
			}
		}, "machine.d: " + agent.envPath() + " has mode 0644 instead of 0600", []string{"d: start k3s-agent.service"}},
		{
			"not started with the machine", func(w *world) { w.set("machine.a", "k3s.service.enabled", "disabled\n") },
			"machine.a: k3s.service does not start with the machine",
			[]string{""},
		},
		{"a restart that was not seen to succeed", func(w *world) {
			if err := os.Remove(filepath.Join(w.hosts["machine.a"].root, startedPath)); err != nil {
				w.t.Fatal(err)
			}
		}, "machine.a: was not restarted, or not seen to get ready, since its files were changed", []string{"a: start k3s.service"}},
		{"a binary damaged, and K3s dead of it", func(w *world) {
			w.put(filepath.Join(w.hosts["machine.d"].root, binaryPath), "#!/bin/false\n", 0o755)
			w.set("machine.d", "k3s-agent.service.active", "failed\n")
		}, "machine.d: /usr/local/bin/k3s is missing or damaged, and k3s-agent.service is failed", []string{"d: start k3s-agent.service"}},
		{"a link removed", func(w *world) {
			if err := os.Remove(filepath.Join(w.hosts["machine.a"].root, "/usr/local/bin/crictl")); err != nil {
				w.t.Fatal(err)
			}
		}, "machine.a: /usr/local/bin/crictl is missing", []string{""}},
	}
	w, c := ha(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := exec.LookPath("crictl"); err == nil && test.name == "a link removed" {
				t.Skip("this machine has a crictl, which the link would hide")
			}
			w.took()
			test.spoil(w)
			report, err := inspect(t, c)
			if err != nil || !cmp.Equal(report.Changes, []string{test.want}) {
				t.Fatalf("Inspect() = %q, %v; want %q", report.Changes, err, test.want)
			}
			mustApply(t, c)
			if log := w.took(); !cmp.Equal(log, test.log) {
				t.Errorf("Apply() did %q; want %q", log, test.log)
			}
			if report, err := inspect(t, c); err != nil || len(report.Changes) > 0 {
				t.Errorf("Inspect() after the repair = %q, %v; want no changes", report.Changes, err)
			}
		})
	}
}

func TestAllServersStoppedAreStartedTogether(t *testing.T) {
	w, c := ha(t)
	w.took()
	for _, n := range []string{"a", "b", "c"} {
		w.set("machine."+n, "k3s.service.active", "inactive\n")
	}
	mustApply(t, c)
	log := w.took()
	slices.Sort(log)
	if want := []string{"a: start k3s.service", "b: start k3s.service", "c: start k3s.service"}; !cmp.Equal(log, want) {
		t.Errorf("Apply() did %q; want %q", log, want)
	}
}

func TestReplacedFirstServerJoinsWhatIsThere(t *testing.T) {
	w, c := ha(t)
	before := c
	ca := w.read("machine.b", serverCA)
	w.took()
	w.addHost("a", w.hosts["machine.a"].ip)
	report, err := inspect(t, c)
	if err != nil || len(report.Changes) != 2 || !strings.Contains(strings.Join(report.Changes, "\n"), "takes the place of the node a") {
		t.Fatalf("Inspect() = %q, %v; want the replacement announced", report.Changes, err)
	}
	mustApply(t, c)
	if want := []string{"api: delete nodes a", "api: delete secrets a.node-password.k3s", "api: delete secrets a.node-password.k3s", "a: start k3s.service"}; !cmp.Equal(w.took(), want) {
		t.Errorf("Apply() did not do %q", want)
	}
	if config := w.read("machine.a", configPath); strings.Contains(config, "cluster-init") || !strings.Contains(config, "server: https://192.0.2.12:6443") {
		t.Errorf("config.yaml of the new first server is\n%s\nwant it to join the second", config)
	}
	if got := w.read("machine.a", serverCA); got != ca {
		t.Error("the new first server is in a cluster of its own")
	}
	if report, err := inspect(t, before); err != nil || len(report.Changes) > 0 {
		t.Errorf("Inspect() = %q, %v; want no changes, on the other servers neither", report.Changes, err)
	}
}

func TestNewHardwareWaitsForTheOldToBeOff(t *testing.T) {
	w, c := ha(t)
	w.addHost("b", w.hosts["machine.b"].ip)
	w.hosts["machine.b"].ghost = true
	w.took()
	_, err := apply(t, c)
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), `replace = ["b"]`) {
		t.Fatalf("Apply() = %v; want a refusal that says what to type", err)
	}
	if log := w.took(); !cmp.Equal(log, []string{""}) {
		t.Errorf("Apply() did %q; want nothing", log)
	}
	c.Replace = []string{"b"}
	mustApply(t, c)
	if log := w.took(); !slices.Contains(log, "api: delete nodes b") {
		t.Errorf("Apply() with the name typed did %q; want the old node removed", log)
	}
}

func TestNetworksOfAClusterAreForLife(t *testing.T) {
	_, c := ha(t)
	c.ClusterCIDR = netip.MustParsePrefix("10.44.0.0/16")
	if _, err := apply(t, c); err == nil || !strings.Contains(err.Error(), "K3s cannot change that later") {
		t.Errorf("Apply() = %v; want a refusal", err)
	}
}

func TestServerIsNotStoppedWithoutAMajorityOfOthers(t *testing.T) {
	w, c := ha(t)
	w.set("machine.b", "k3s.service.active", "inactive\n")
	w.set("machine.b", "broken", "")
	w.put(filepath.Join(w.hosts["machine.c"].root, configPath), "node-name: z\n", 0o600)
	w.took()
	_, err := apply(t, c)
	if err == nil || !strings.Contains(err.Error(), "k3s.service has failed") {
		t.Fatalf("Apply() = %v; want the failed unit told", err)
	}
	if log := w.took(); !cmp.Equal(log, []string{"b: start k3s.service"}) {
		t.Errorf("Apply() did %q; want no other server touched", log)
	}
}

func TestRemovedMemberMustLeaveAMajority(t *testing.T) {
	w, _ := ha(t)
	c := w.config(oldVersion, []string{"a"}, nil)
	c.Recorded = true
	// The addresses of those that leave stay in the certificate: no restart.
	c.TLSSAN = []string{"192.0.2.12", "192.0.2.13"}
	// All are up: one after the other may leave.
	report, err := inspect(t, c)
	if err != nil || len(report.Changes) < 3 {
		t.Fatalf("Inspect() = %q, %v; want three nodes leaving", report.Changes, err)
	}
	w.hosts["machine.b"].gone = true
	w.set("machine.c", "k3s.service.active", "inactive\n")
	lost := w.node("c").DeepCopy()
	lost.Status.Conditions[0].Status = core.ConditionUnknown
	if err := w.kube.Tracker().Update(core.SchemeGroupVersion.WithResource("nodes"), lost, ""); err != nil {
		t.Fatal(err)
	}
	w.took()
	_, err = apply(t, c)
	if err == nil || !strings.Contains(err.Error(), "is not removed") {
		t.Fatalf("Apply() = %v; want the removal refused", err)
	}
	if log := w.took(); strings.Contains(strings.Join(log, "\n"), "delete") {
		t.Errorf("Apply() did %q; want nothing deleted", log)
	}
}

// From three servers to one: each leaves while the others answer.
func TestThreeServersBecomeOne(t *testing.T) {
	w, _ := ha(t)
	w.took()
	c := w.config(oldVersion, []string{"a"}, []string{"d"})
	c.Recorded = true
	c.TLSSAN = []string{"192.0.2.12", "192.0.2.13"}
	mustApply(t, c)
	if log := w.took(); !slices.Contains(log, "api: delete nodes b") || !slices.Contains(log, "api: delete nodes c") {
		t.Errorf("Apply() did %q; want b and c removed", log)
	}
	if r, err := inspect(t, c); err != nil || len(r.Changes) > 0 {
		t.Errorf("Inspect() = %q, %v; want nothing to do", r.Changes, err)
	}
}

func TestUndeclaredNodesLeave(t *testing.T) {
	w, _ := ha(t)
	w.took()
	c := w.config(oldVersion, []string{"a", "b", "c"}, nil)
	c.Recorded = true
	mustApply(t, c)
	log := w.took()
	if !slices.Contains(log, "api: delete nodes d") || !slices.Contains(log, "d: stop k3s-agent.service") {
		t.Errorf("Apply() did %q; want d removed and stopped", log)
	}
	if _, err := os.Stat(filepath.Join(w.hosts["machine.d"].root, binaryPath)); !os.IsNotExist(err) {
		t.Errorf("Stat(k3s) on the machine that left = %v; want it gone", err)
	}
}

func TestMachinesThatCannotBeAskedStopEverything(t *testing.T) {
	w, c := ha(t)
	w.hosts["machine.a"].gone = true
	report, err := inspect(t, c)
	if err != nil || !strings.Contains(report.Unreachable, "machine.a: no SSH at") || len(report.Changes) > 0 {
		t.Errorf("Inspect() = %+v, %v; want unreachable and nothing else", report, err)
	}
	w.took()
	if _, err := apply(t, c); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("Apply() = %v; want nothing changed", err)
	}
	if log := w.took(); !cmp.Equal(log, []string{""}) {
		t.Errorf("Apply() did %q; want nothing", log)
	}
}

func TestPowerLossInAJoinIsCompletedByTheNextApply(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b", "c")
	c := w.config(oldVersion, []string{"a", "b", "c"}, nil)
	w.set("machine.b", "broken", "")
	if _, err := apply(t, c); err == nil {
		t.Fatal("Apply() = nil; want the second server to fail")
	}
	token := w.read("machine.a", server.envPath())
	// It comes back with what was on its disk: prepared, and not joined.
	if err := os.Remove(filepath.Join(w.hosts["machine.b"].root, "fake/broken")); err != nil {
		t.Fatal(err)
	}
	report, err := inspect(t, c)
	if err != nil || !strings.Contains(strings.Join(report.Changes, "\n"), "machine.b: K3s "+oldVersion+" was prepared and never got ready") {
		t.Errorf("Inspect() = %q, %v; want it to say how far b came", report.Changes, err)
	}
	out := mustApply(t, c)
	if got := w.read("machine.a", server.envPath()); got != token || !strings.Contains(got, shortToken(out.ServerToken)) {
		t.Error("the tokens were made anew")
	}
}

func TestWhatCannotWorkIsSaidBeforeAnythingIsDone(t *testing.T) {
	tests := []struct {
		name   string
		spoil  func(w *world, c *Config)
		wanted string
	}{
		{"a clock that is off by days", func(w *world, _ *Config) { w.set("machine.b", "skew", strconv.Itoa(-3*86400)) }, "machine.b: its clock is 72h0m"},
		{"two servers", func(_ *world, c *Config) { c.Servers = c.Servers[:2] }, "a cluster with two servers stops when either of them does"},
		{
			"a site network inside the cluster's", func(w *world, _ *Config) { w.set("machine.c", "addresses", "2: eth0    inet 10.42.7.3/24 brd x\n") },
			"machine.c is on network 10.42.7.0/24, which overlaps with the cluster_cidr 10.42.0.0/16",
		},
		{"a machine with an address of a service", func(_ *world, c *Config) { c.Servers[0].IP = DefaultServiceCIDR.Addr().Next() }, "lies in the service_cidr"},
		{"two nodes of one name", func(_ *world, c *Config) { c.Servers[1].Name = c.Servers[0].Name }, "have the same host name"},
		{"a cluster that is on record and nowhere else", func(_ *world, c *Config) { c.Recorded = true }, "no declared server has its data"},
		{"a full disk", func(w *world, _ *Config) { w.set("machine.a", "free", "70000") }, "machine.a: its disk is full"},
		{"a binary of another version", func(w *world, c *Config) { c.Binary = w.binary(newVersion) }, "and version " + oldVersion + " is declared"},
		{"a binary that is not there", func(_ *world, c *Config) { c.Binary.SHA256 = strings.Repeat("0", 64) }, "no file with digest"},
		{"a machine that is an agent already", func(w *world, _ *Config) {
			w.put(filepath.Join(w.hosts["machine.b"].root, agent.unitPath()), "x", 0o644)
		}, "a node does not change what it is"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "a", "b", "c")
			c := w.config(oldVersion, []string{"a", "b", "c"}, nil)
			if test.name == "a full disk" {
				c.Images = []artifact.Ref{w.offer("images.tar", strings.Repeat("x", 8<<20))}
			}
			test.spoil(w, &c)
			_, err := apply(t, c)
			if err == nil || !strings.Contains(err.Error(), test.wanted) {
				t.Errorf("Apply() = %v; want %q", err, test.wanted)
			}
			if log := w.took(); !cmp.Equal(log, []string{""}) {
				t.Errorf("Apply() did %q; want nothing started", log)
			}
		})
	}
}

// TestFullDiskDuringTheImportIsSaid has the first start meet a full disk, and the
// second one begin on one with room while the first still stops.
func TestFullDiskDuringTheImportIsSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a")
	c := w.config(oldVersion, []string{"a"}, nil)
	w.set("machine.a", "journal.1", "level=error msg=\"Failed to import /var/lib/rancher/k3s/agent/images/x.tar: write /var/lib/x: no space left on device\"\n")
	_, err := apply(t, c)
	if err == nil || !strings.Contains(err.Error(), "machine.a: its disk is full, K3s says:") {
		t.Fatalf("Apply() = %v; want the full disk", err)
	}
	w.set("machine.a", "lingers", "")
	mustApply(t, c)
	if want := "machine.a: waiting: k3s.service is to start again, and is deactivating"; !slices.Contains(w.says, want) {
		t.Errorf("Apply() says %q; want %s", w.says, want)
	}
}

func TestLabelsAndTaintsAreKept(t *testing.T) {
	w, c := ha(t)
	c.Servers[0].Labels = map[string]string{"zone": "x"}
	c.Servers[0].Taints = []string{"key=value:NoSchedule"}
	mustApply(t, c)
	node := w.node("a")
	if node.Labels["zone"] != "x" || len(node.Spec.Taints) != 1 || node.Annotations[machineAnnotation] != "machine.a" {
		t.Fatalf("node a has labels %v, taints %v; want those declared", node.Labels, node.Spec.Taints)
	}
	c.Servers[0].Labels, c.Servers[0].Taints = nil, nil
	mustApply(t, c)
	if node = w.node("a"); node.Labels["zone"] != "" || len(node.Spec.Taints) != 0 {
		t.Errorf("node a has labels %v, taints %v; want what is no longer declared taken off", node.Labels, node.Spec.Taints)
	}
}

// TestTaintsThatTheClusterTakesAwayStayAway marks a node that had a taint of the
// cluster's own when it was looked at.
func TestTaintsThatTheClusterTakesAwayStayAway(t *testing.T) {
	m := member{Taints: []core.Taint{{Key: core.TaintNodeNotReady, Effect: core.TaintEffectNoSchedule}, {Key: "key", Value: "value", Effect: core.TaintEffectNoSchedule}}}
	change, err := memberPatch("owner", Node{Machine: "machine.a", Name: "a", Taints: []string{"key=value:NoSchedule"}}, &m)
	if err != nil {
		t.Fatal(err)
	}
	if spec, has := change["spec"]; has {
		t.Errorf("memberPatch() changes the node's %v, whose taints are as declared; want its marks alone changed", spec)
	}
}

func TestNamedSnapshotsAreTakenOnce(t *testing.T) {
	w, c := ha(t)
	c.Snapshots.Named = []string{"before-stocktaking"}
	w.took()
	for _, want := range [][]string{{"a: etcd-snapshot save before-stocktaking"}, {""}} {
		mustApply(t, c)
		if log := w.took(); !cmp.Equal(log, want) {
			t.Errorf("Apply() did %q; want %q", log, want)
		}
	}
}

//go:build e2e

package host

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const unit = `[Unit]
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStartPre=-/sbin/modprobe overlay
ExecStart=/usr/local/bin/k3s %s

[Install]
WantedBy=multi-user.target
`

// put writes a file on host i, as a person with a USB stick would.
func (l *Lab) put(t *testing.T, i int, path string, content []byte, mode os.FileMode) {
	t.Helper()
	pid, err := l.Hosts[i].first()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(fmt.Sprintf("/proc/%d/root", pid), path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, mode); err != nil {
		t.Fatal(err)
	}
}

func (l *Lab) install(t *testing.T, i int, k Kubernetes, role, config string) {
	t.Helper()
	for path, source := range map[string]string{"/usr/local/bin/k3s": k.K3s, "/var/lib/rancher/k3s/agent/images/standin.tar": k.Images} {
		b, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		l.put(t, i, path, b, 0o755)
	}
	l.put(t, i, "/etc/rancher/k3s/config.yaml", []byte(config), 0o600)
	l.put(t, i, "/etc/systemd/system/k3s.service", fmt.Appendf(nil, unit, role), 0o644)
	l.start(t, i)
}

// start starts K3s and waits until it says that it is ready.
func (l *Lab) start(t *testing.T, i int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if _, err := l.Exec(ctx, i, "sh", "-c", "systemctl daemon-reload && systemctl enable -q k3s && systemctl restart k3s"); err != nil {
		log, _ := l.Exec(context.WithoutCancel(ctx), i, "journalctl", "-u", "k3s", "--no-pager", "-n", "80")
		t.Fatalf("starting k3s on %s = %v\n%s", l.Hosts[i].Name, err, log)
	}
}

func (l *Lab) kubectl(t *testing.T, i int, args ...string) string {
	t.Helper()
	return l.must(t, i, append([]string{"/usr/local/bin/k3s", "kubectl"}, args...)...)
}

// eventually repeats until done says yes; it fails the test after limit.
func (l *Lab) eventually(t *testing.T, what string, limit time.Duration, done func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		ok, state := done()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			for i := range l.Hosts {
				if log, err := l.Exec(t.Context(), i, "journalctl", "-u", "k3s", "--no-pager", "-n", "40"); err == nil {
					t.Logf("%s:\n%s", l.Hosts[i].Name, log)
				}
			}
			t.Fatalf("%s: not within %s; at the end: %s", what, limit, state)
		}
		<-time.After(250 * time.Millisecond)
	}
}

// nodesReady says whether so many nodes are Ready.
func (l *Lab) nodesReady(i, want int) (bool, string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := l.Exec(ctx, i, "/usr/local/bin/k3s", "kubectl", "get", "nodes", "--no-headers")
	if err != nil {
		return false, err.Error()
	}
	return strings.Count(string(out), " Ready ") == want && strings.Count(string(out), "\n") == want, string(out)
}

const probes = `apiVersion: apps/v1
kind: DaemonSet
metadata: {name: probe}
spec:
  selector: {matchLabels: {app: probe}}
  template:
    metadata: {labels: {app: probe}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: probe
        image: docker.io/edge-provision/toolbox:1
        imagePullPolicy: Never
        args: [serve, ":8080"]
        command: [/toolbox]
`

// podIPs are the addresses of the running probes by node.
func (l *Lab) podIPs(t *testing.T, i int) map[string][2]string {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ NodeName string }
			Status   struct{ Phase, PodIP string }
		}
	}
	if err := json.Unmarshal([]byte(l.kubectl(t, i, "get", "pods", "-l", "app=probe", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	ips := map[string][2]string{}
	for _, p := range list.Items {
		if p.Status.Phase == "Running" && p.Status.PodIP != "" {
			ips[p.Spec.NodeName] = [2]string{p.Metadata.Name, p.Status.PodIP}
		}
	}
	return ips
}

func kubernetes(t *testing.T) Kubernetes {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	k, err := FindKubernetes(filepath.Join(cache, "edge-provision"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestThreeServersBecomeOneClusterWhosePodsReachEachOther(t *testing.T) {
	k := kubernetes(t)
	lab := start(t, Config{Hosts: 3, Console: os.Getenv("EDGE_LAB_CONSOLE")})
	began := time.Now()
	step := func(what string) { t.Logf("%6.1f s  %s", time.Since(began).Seconds(), what) }
	common := "token: swordfish\nagent-token: sardine\nwrite-kubeconfig-mode: \"0644\"\ndisable: [traefik, servicelb]\n"
	first := "https://" + lab.Hosts[0].Address.String() + ":6443"
	lab.install(t, 0, k, "server", common+"cluster-init: true\n")
	step("the first server is ready")
	for i := 1; i < 3; i++ {
		lab.install(t, i, k, "server", common+"server: "+first+"\n")
		step("server " + lab.Hosts[i].Name + " has joined")
	}
	lab.eventually(t, "three nodes are Ready", 2*time.Minute, func() (bool, string) { return lab.nodesReady(0, 3) })
	step("three nodes are Ready")
	lab.put(t, 0, "/root/probe.yaml", []byte(probes), 0o644)
	lab.kubectl(t, 0, "apply", "-f", "/root/probe.yaml")
	var ips map[string][2]string
	lab.eventually(t, "a probe runs on each node", 2*time.Minute, func() (bool, string) {
		ips = lab.podIPs(t, 0)
		return len(ips) == 3, fmt.Sprint(ips) + lab.kubectl(t, 0, "get", "pods", "-o", "wide")
	})
	step("a probe runs on each node")
	lab.reach(t, 0, ips, 9)
	step("9/9 pods reach each other")

	lab.must(t, 0, "/usr/local/bin/k3s", "etcd-snapshot", "save", "--name", "before")
	if got := lab.must(t, 0, "/usr/local/bin/k3s", "etcd-snapshot", "ls"); !strings.Contains(got, "before-node-1-") {
		t.Errorf("etcd-snapshot ls = %q; want the snapshot before-node-1-…", got)
	}
	step("a snapshot of etcd is saved")

	// The first server dies for good: its node goes, then other hardware joins
	// under the same name through a server that lives.
	if err := lab.Replace(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	lab.eventually(t, "the API answers without the first server", 2*time.Minute, func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		out, err := lab.Exec(ctx, 1, "/usr/local/bin/k3s", "kubectl", "delete", "node", "node-1", "--ignore-not-found", "--timeout=25s")
		return err == nil, string(out)
	})
	lab.kubectl(t, 1, "-n", "kube-system", "delete", "secret", "node-1.node-password.k3s")
	if err := lab.Boot(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	lab.install(t, 0, k, "server", common+"server: https://"+lab.Hosts[1].Address.String()+":6443\n")
	lab.eventually(t, "the replaced server's node is Ready", 2*time.Minute, func() (bool, string) { return lab.nodesReady(0, 3) })
	step("the first server was replaced by other hardware")

	for i := range lab.Hosts {
		b, err := os.ReadFile(k.Next)
		if err != nil {
			t.Fatal(err)
		}
		lab.put(t, i, "/usr/local/bin/k3s.new", b, 0o755)
		lab.must(t, i, "mv", "/usr/local/bin/k3s.new", "/usr/local/bin/k3s")
		lab.start(t, i)
		lab.eventually(t, "the upgraded node is Ready", time.Minute, func() (bool, string) { return lab.nodesReady(i, 3) })
		step(lab.Hosts[i].Name + " runs " + k.NextVersion)
	}
	if got := lab.kubectl(t, 0, "get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.kubeletVersion}"); strings.Count(got, k.NextVersion) != 3 {
		t.Errorf("versions = %q; want three times %s", got, k.NextVersion)
	}
	if err := lab.Close(); err != nil {
		t.Fatal(err)
	}
	lab.gone(t)
}

// gone checks that a closed lab has left nothing.
func (l *Lab) gone(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{namespacePath(l.Namespace), filepath.Join(cgroupRoot, "*", l.Namespace+"*"), l.config.Dir} {
		left, err := filepath.Glob(pattern)
		if err != nil || len(left) > 0 {
			t.Errorf("the lab has left %q, %v", left, err)
		}
	}
	for _, path := range []string{"/proc/self/mountinfo", "/proc/mounts"} {
		b, err := os.ReadFile(path)
		if err != nil || strings.Contains(string(b), l.config.Dir) {
			t.Errorf("%s names %s, %v", path, l.config.Dir, err)
		}
	}
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range backing {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), l.config.Dir) {
			t.Errorf("loop device %s is still over %s", path, b)
		}
	}
}

// reach asks every probe from every probe.
func (l *Lab) reach(t *testing.T, i int, ips map[string][2]string, want int) {
	t.Helper()
	got := 0
	for from, a := range ips {
		for to, b := range ips {
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			out, err := l.Exec(ctx, i, "/usr/local/bin/k3s", "kubectl", "exec", a[0], "--", "/toolbox", "get", "http://"+b[1]+":8080/", "5s")
			cancel()
			if err != nil || strings.TrimSpace(string(out)) != b[0] {
				t.Logf("from %s to %s = %q, %v", from, to, out, err)
				continue
			}
			got++
		}
	}
	if got != want {
		t.Errorf("%d of %d pairs of pods reach each other", got, want)
	}
}

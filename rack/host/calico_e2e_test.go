//go:build e2e

package host

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// upstream is a file of upstream's objects, which lie beside the repository.
func upstream(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "testdata", "manifests", name))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("%s is not here: ../shared/testdata/manifests has the upstream manifests that this test applies", name)
	} else if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(name, ".gz") {
		return b
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if b, err = io.ReadAll(z); err != nil {
		t.Fatal(err)
	}
	return b
}

const tenantObjects = `
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s, labels: {edge-provision.io/tenant: %[1]s}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: own, namespace: %[1]s}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {}}]}]
  egress:
  - to: [{podSelector: {}}]
---
`

const denyObjects = `
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: default.tenants}
spec:
  tier: default
  order: 2000
  namespaceSelector: has(edge-provision.io/tenant)
  types: [Ingress, Egress]
  egress:
  - {action: Allow, protocol: UDP, destination: {namespaceSelector: kubernetes.io/metadata.name == 'kube-system', selector: k8s-app == 'kube-dns', ports: [53]}}
`

func TestCalicoStandInJoinsPodsAndKeepsTenantsApart(t *testing.T) {
	operator, crds := upstream(t, "tigera-operator-v3.32.1.yaml"), upstream(t, "calico-crds-v3.32.1.yaml.gz")
	// The hook that uninstalls is for removal alone.
	operator, _, _ = bytes.Cut(operator, []byte("---\napiVersion: batch/v1\nkind: Job"))
	k := kubernetes(t)
	lab := start(t, Config{Hosts: 2, Console: os.Getenv("EDGE_LAB_CONSOLE")})
	began := time.Now()
	step := func(what string) { t.Logf("%6.1f s  %s", time.Since(began).Seconds(), what) }
	lab.install(t, 0, k, "server", "token: swordfish\ncluster-init: true\nflannel-backend: none\ndisable-network-policy: true\n")
	lab.install(t, 1, k, "agent", "token: swordfish\nserver: https://"+lab.Hosts[0].Address.String()+":6443\n")
	step("a server and an agent are ready")

	apply := func(name string, content []byte) {
		t.Helper()
		lab.put(t, 0, "/root/"+name, content, 0o644)
		lab.kubectl(t, 0, "apply", "--server-side", "-f", "/root/"+name)
	}
	apply("namespace.yaml", []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: tigera-operator}\n"))
	apply("crds.yaml", crds)
	lab.kubectl(t, 0, "wait", "--for=condition=Established", "--timeout=25s", "crd/installations.operator.tigera.io", "crd/globalnetworkpolicies.crd.projectcalico.org")
	apply("operator.yaml", operator)
	status := func(want string) func() (bool, string) {
		return func() (bool, string) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			out, err := lab.Exec(ctx, 0, "/usr/local/bin/k3s", "kubectl", "get", "tigerastatus", "calico", "-o", `jsonpath={range .status.conditions[?(@.status=="True")]}{.type}{end}`)
			return err == nil && string(out) == want, string(out)
		}
	}
	lab.eventually(t, "Calico's stand-in is available", 2*time.Minute, status("Available"))
	lab.eventually(t, "two nodes are Ready", time.Minute, func() (bool, string) { return lab.nodesReady(0, 2) })
	step("TigeraStatus is Available and two nodes are Ready")

	var objects strings.Builder
	for _, tenant := range []string{"red", "blue"} {
		fmt.Fprintf(&objects, tenantObjects, tenant)
		objects.WriteString(strings.Replace(probes, "name: probe}", "name: probe, namespace: "+tenant+"}", 1) + "---\n")
	}
	apply("tenants.yaml", []byte(objects.String()))
	apply("deny.yaml", []byte(denyObjects))
	pods := map[string][]string{}
	lab.eventually(t, "probes run on both nodes", 2*time.Minute, func() (bool, string) {
		out := lab.kubectl(t, 0, "get", "pods", "-A", "-l", "app=probe", "--field-selector=status.phase=Running", "-o", `jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name} {.status.podIP}{"\n"}{end}`)
		clear(pods)
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) == 3 {
				pods[f[0]] = append(pods[f[0]], f[1]+" "+f[2])
			}
		}
		return len(pods["red"]) == 2 && len(pods["blue"]) == 2, out
	})
	step("probes of two tenants run on both nodes")

	reaches := func(namespace string, from, to int, other string) bool {
		pod, _, _ := strings.Cut(pods[namespace][from], " ")
		_, address, _ := strings.Cut(pods[other][to], " ")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := lab.Exec(ctx, 0, "/usr/local/bin/k3s", "kubectl", "-n", namespace, "exec", pod, "--", "/toolbox", "get", "http://"+address+":8080/", "2s")
		return err == nil
	}
	for from := range 2 {
		for to := range 2 {
			if !reaches("red", from, to, "red") {
				t.Errorf("red %d does not reach red %d; a tenant reaches itself", from, to)
			}
			lab.eventually(t, "red is kept from blue", 30*time.Second, func() (bool, string) { return !reaches("red", from, to, "blue"), "it reaches it" })
		}
	}
	step("a tenant reaches itself and not the other")
	pod, _, _ := strings.Cut(pods["red"][0], " ")
	lab.eventually(t, "a tenant asks the DNS", 30*time.Second, func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		// The name resolves, and the answer is that connecting is not allowed.
		out, err := lab.Exec(ctx, 0, "/usr/local/bin/k3s", "kubectl", "-n", "red", "exec", pod, "--", "/toolbox", "dial", "kubernetes.default.svc.cluster.local:443", "2s")
		return err != nil && strings.Contains(string(out), "10.43.0.1:443: i/o timeout"), string(out)
	})
	step("a tenant asks the DNS")

	lab.kubectl(t, 0, "delete", "globalnetworkpolicies.crd.projectcalico.org", "default.tenants")
	lab.kubectl(t, 0, "delete", "networkpolicy", "own", "-n", "red")
	lab.kubectl(t, 0, "delete", "networkpolicy", "own", "-n", "blue")
	lab.eventually(t, "without policies red reaches blue", 30*time.Second, func() (bool, string) { return reaches("red", 0, 1, "blue"), "it does not" })
	step("without policies a tenant reaches the other")

	lab.kubectl(t, 0, "annotate", "installation", "default", "standin.edge-provision.io/fail=degraded")
	lab.eventually(t, "the operator reports the failure that it was told", 30*time.Second, status("Degraded"))
	lab.kubectl(t, 0, "delete", "installation", "default", "--timeout=25s")
	lab.eventually(t, "the rules are gone with the installation", 30*time.Second, func() (bool, string) {
		out := lab.must(t, 1, "nft", "list", "tables")
		return !strings.Contains(out, "cali-"), out
	})
	step("the installation is removed")
}

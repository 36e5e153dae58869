package steps

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"
	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/workflows/addon/addontest"
	"github.com/edge-provision/edge-provision/workflows/addon/fluentd"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/remote/remotetest"
)

// nodes are machines behind SSH servers of the test; another one cannot be reached.
type nodes struct {
	servers map[string]*remotetest.Server
	signer  ssh.Signer
}

func (n nodes) Host(ctx context.Context, machine string) (*remote.Host, error) {
	s, ok := n.servers[machine]
	if !ok {
		return nil, errors.New(machine + ": no route to host")
	}
	return remote.Dial(ctx, remote.Config{Name: machine, Address: s.Address, HostKey: s.HostKey, Signer: n.signer})
}

// add starts a machine on which a directory is one of the test's.
func (n nodes) add(t *testing.T, machine, path, here string) {
	t.Helper()
	n.servers[machine] = remotetest.Start(t, n.signer.PublicKey(), &remotetest.Server{Rewrite: func(line string) string { return strings.ReplaceAll(line, path, here) }})
}

// fluentdOn is a step whose cluster has these machines, behind an API server that has
// none of its objects, and at each look the next number of its pods.
func fluentdOn(t *testing.T, n nodes, machines []string, pods *[]int) *fluentdStep {
	t.Helper()
	kubeconfig := pretendedObjects(t, func(path string) any {
		switch path {
		case "/api/v1":
			return resources("v1", map[string]any{"name": "pods", "namespaced": true, "kind": "Pod"}, map[string]any{"name": "configmaps", "namespaced": true, "kind": "ConfigMap"})
		case "/api/v1/namespaces/edge-logging/pods":
			items := []any{}
			for range (*pods)[0] {
				items = append(items, map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "fluentd-x", "namespace": "edge-logging"}, "spec": map[string]any{"nodeName": "a"}})
			}
			*pods = append((*pods)[1:], (*pods)[len(*pods)-1])
			return map[string]any{"apiVersion": "v1", "kind": "PodList", "metadata": map[string]any{}, "items": items}
		}
		return nil
	})
	names := map[string]cty.Value{}
	for _, m := range machines {
		names[m] = cty.StringVal("node")
	}
	null := func(of cty.Type) cty.Value { return cty.NullVal(of) }
	made, err := newFluentd(cty.ObjectVal(map[string]cty.Value{
		"cluster": cty.ObjectVal(map[string]cty.Value{"kubeconfig": cty.StringVal(string(kubeconfig)), "nodes": cty.MapVal(names)}),
		"image":   cty.StringVal("fluentd:1"), "preloaded": null(cty.Bool), "namespace": null(cty.String), "verify_url": null(cty.String),
		"forward":         null(cty.DynamicPseudoType),
		"http":            cty.ObjectVal(map[string]cty.Value{"url": cty.StringVal("http://sink"), "ca": null(cty.String), "authorization": null(cty.String)}),
		"buffer":          null(cty.DynamicPseudoType),
		"force_conflicts": null(cty.Bool), "ignore_fields": null(cty.List(cty.String)), "prune_data": null(cty.List(cty.String)),
	}), Env{Address: "step.fluentd.logs", Catalog: "catalog", Hosts: n, Clock: &addontest.Clock{}, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	s := made.(*fluentdStep)
	t.Cleanup(s.cluster.Close)
	return s
}

// A machine that is given away must not carry the clinic's log lines with it.
func TestFluentdTakesWhatItKeptOnTheNodesAlong(t *testing.T) {
	n := nodes{servers: map[string]*remotetest.Server{}, signer: remotetest.NewSigner(t)}
	full, empty := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "state")
	for path, content := range map[string]string{
		filepath.Join(full, "buffer", "buffer.b1.log"): "a line", filepath.Join(full, "containers.pos"): "7", filepath.Join(empty, "containers.pos"): "7",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.add(t, "machine.full", fluentd.StateDir, full)
	n.add(t, "machine.empty", fluentd.StateDir, empty)
	there := func(path string) bool { _, err := os.Stat(path); return err == nil }

	pods := []int{1, 1, 0}
	s := fluentdOn(t, n, []string{"machine.empty", "machine.full"}, &pods)
	loss, err := s.Loss(t.Context())
	const lines = ": log lines that the sink has not acknowledged, if there are any in " + fluentd.StateDir
	if want := []string{"machine.empty" + lines, "machine.full" + lines}; err != nil || !slices.Equal(loss, want) {
		t.Errorf("Loss() = %q, %v; want %q", loss, err, want)
	}
	if err := s.Remove(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if len(pods) != 3 || pods[0] != 0 {
		t.Errorf("the nodes were cleared while there were pods; the looks left are %v", pods)
	}
	if there(empty) || !there(filepath.Join(full, "buffer", "buffer.b1.log")) || !there(filepath.Join(full, "containers.pos")) {
		t.Errorf("without consent to a loss: %s is there: %t; of the node where lines wait, all is there: %t; want false and true", empty, there(empty), there(filepath.Join(full, "containers.pos")))
	}
	if err := s.Remove(t.Context(), true); err != nil || there(full) {
		t.Errorf("Remove with data = %v, and %s is there: %t; want it gone", err, full, there(full))
	}
	if err := s.Remove(t.Context(), true); err != nil {
		t.Errorf("Remove once more = %v", err)
	}
	if loss, err := s.Loss(t.Context()); err != nil || len(loss) > 0 {
		t.Errorf("Loss() after all = %q, %v; want nothing", loss, err)
	}
}

func TestFluentdSaysWhereItCouldNotLookOrClear(t *testing.T) {
	n := nodes{servers: map[string]*remotetest.Server{}, signer: remotetest.NewSigner(t)}
	here := filepath.Join(t.TempDir(), "state")
	if err := os.MkdirAll(here, 0o755); err != nil {
		t.Fatal(err)
	}
	n.add(t, "machine.there", fluentd.StateDir, here)
	pods := []int{0}
	s := fluentdOn(t, n, []string{"machine.gone", "machine.there"}, &pods)
	loss, err := s.Loss(t.Context())
	if err != nil || len(loss) != 2 || !strings.HasPrefix(loss[0], "machine.gone, which could not be asked: ") {
		t.Errorf("Loss() = %q, %v; want the machine that could not be asked", loss, err)
	}
	if err := s.Remove(t.Context(), true); err == nil || !strings.Contains(err.Error(), "machine.gone: no route") {
		t.Errorf("Remove() = %v; want that machine.gone could not be reached", err)
	}
	if _, err := os.Stat(here); err == nil {
		t.Errorf("%s is still there: one machine kept the others from being cleared", here)
	}
	// A pod that does not end keeps the machines as they are.
	if err := os.MkdirAll(here, 0o755); err != nil {
		t.Fatal(err)
	}
	pods = []int{1}
	if err := s.Remove(t.Context(), true); err == nil || !strings.Contains(err.Error(), "pod fluentd-x on node a has not ended") {
		t.Errorf("Remove() beside a pod that does not end = %v; want that said", err)
	}
	if _, err := os.Stat(here); err != nil {
		t.Errorf("%s was removed under a pod: %v", here, err)
	}
}

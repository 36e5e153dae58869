package calico

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// Calico's status says that its parts run. Whether packets go where they may and
// nowhere else only packets tell: the probe puts a small HTTP server on every
// node into every tenant and into one namespace that is no tenant, and then asks
// each of them from each. It leaves nothing behind.

const (
	// strangerNamespace is outside all tenants.
	strangerNamespace = "edge-provision-probe"
	serverName        = "edge-provision-probe"
	probePort         = 18080
	probeLabel        = "edge-provision.io/probe"
	// roundBound is how long one round of questions may take: pods start, and
	// each denied question times out after 5 s.
	roundBound = 3 * time.Minute
	// settleBound is how long rules may take to reach every node.
	settleBound = 4 * time.Minute
)

// Cluster is what the probe needs of a cluster; *kube.Cluster implements it.
type Cluster interface {
	Apply(ctx context.Context, set kube.Set, opts kube.Options) error
	Remove(ctx context.Context, set kube.Set, opts kube.Options, data bool) error
	List(ctx context.Context, apiVersion, kind, namespace, selector string) ([]kube.Object, error)
	WaitFor(ctx context.Context, apiVersion, kind, namespace, name string, bound time.Duration, done func(kube.Object) (kube.Status, error)) (kube.Object, error)
}

// Probe asks who reaches whom.
type Probe struct {
	Cluster Cluster
	Tenants []string
	// Image has a shell, httpd, wget and timeout; K3s brings one with busybox.
	Image string
	// Domain is the cluster's; cluster.local when empty.
	Domain string
	// Owner is the step's; the probe's objects are owned below it.
	Owner kube.Owner
	// Now is the time by which settleBound is measured.
	Now func() time.Time
	// Say reports progress.
	Say func(format string, args ...any)
}

// endpoint is one probe server.
type endpoint struct{ namespace, node, ip string }

// Question is one attempt to reach a server.
type Question struct {
	FromNamespace, FromNode string
	ToNamespace, ToNode     string
	// Wanted is whether it should be answered; Got whether it was.
	Wanted, Got bool
}

func (q Question) String() string {
	verb := "does not reach"
	if q.Got {
		verb = "reaches"
	}
	why := "which it must not: it is another tenant"
	if q.Wanted {
		why = "which it should"
	}
	return fmt.Sprintf("a pod of %s on %s %s a pod of %s on %s, %s", q.FromNamespace, q.FromNode, verb, q.ToNamespace, q.ToNode, why)
}

// allowed reports whether a namespace may reach another: a tenant only itself,
// and nobody else a tenant.
func (p Probe) allowed(from, to string) bool {
	return from == to || !slices.Contains(p.Tenants, from) && !slices.Contains(p.Tenants, to)
}

// Run returns nil when every question was answered as it should be. It repeats
// the questions until they are, because rules take a moment to reach all nodes.
func (p Probe) Run(ctx context.Context) (err error) {
	// A probe that was cut off has left its pods.
	if err := p.clean(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.clean(context.WithoutCancel(ctx))) }()
	servers, err := p.serve(ctx)
	if err != nil {
		return err
	}
	deadline := p.Now().Add(settleBound)
	for round := 1; ; round++ {
		questions, err := p.ask(ctx, servers, round)
		if err != nil {
			return err
		}
		wrong := slices.DeleteFunc(questions, func(q Question) bool { return q.Got == q.Wanted })
		if len(wrong) == 0 {
			return nil
		}
		if !p.Now().Before(deadline) {
			return report(wrong)
		}
		p.Say("%d connections are not as they should be yet", len(wrong))
	}
}

// report words what is wrong, a few lines of it.
func report(wrong []Question) error {
	lines := []string{fmt.Sprintf("%d connections between pods are not as they should be:", len(wrong))}
	for i, q := range wrong {
		if i == 8 {
			lines = append(lines, fmt.Sprintf("  and %d more", len(wrong)-i))
			break
		}
		lines = append(lines, "  "+q.String())
	}
	return errors.New(strings.Join(lines, "\n"))
}

func (p Probe) namespaces() []string { return append(slices.Clone(p.Tenants), strangerNamespace) }

func (p Probe) options(part string) kube.Options {
	return kube.Options{Owner: kube.Owner{Catalog: p.Owner.Catalog, Address: p.Owner.Address + "/" + part}, Wait: roundBound}
}

func (p Probe) clean(ctx context.Context) error {
	// The probe's objects hold no data of anybody; its namespace goes with it.
	return errors.Join(
		p.Cluster.Remove(ctx, kube.Set{}, p.options("probe-clients"), true),
		p.Cluster.Remove(ctx, kube.Set{}, p.options("probe-servers"), true))
}

// serve starts the servers and returns where they are.
func (p Probe) serve(ctx context.Context) ([]endpoint, error) {
	objects := []kube.Object{kube.Make("v1", "Namespace", "", strangerNamespace, map[string]any{})}
	for _, ns := range p.namespaces() {
		objects = append(objects, p.server(ns))
	}
	set, err := kube.NewSet(objects...)
	if err != nil {
		return nil, err
	}
	p.Say("asking pods on every node who reaches whom")
	if err := p.Cluster.Apply(ctx, set, p.options("probe-servers")); err != nil {
		return nil, fmt.Errorf("starting the probe's servers: %w", err)
	}
	var out []endpoint
	for _, ns := range p.namespaces() {
		sets, err := p.Cluster.List(ctx, "apps/v1", "DaemonSet", ns, "")
		if err != nil {
			return nil, err
		}
		pods, err := p.Cluster.List(ctx, "v1", "Pod", ns, probeLabel+"=server")
		if err != nil {
			return nil, err
		}
		for _, pod := range pods {
			// The pods of a probe before this one are there for a while after it.
			if pod.GetDeletionTimestamp() != nil || !slices.ContainsFunc(sets, func(s kube.Object) bool { return metav1.IsControlledBy(pod, s) }) {
				continue
			}
			e := endpoint{namespace: ns}
			e.node, _, _ = unstructured.NestedString(pod.Object, "spec", "nodeName")
			e.ip, _, _ = unstructured.NestedString(pod.Object, "status", "podIP")
			if e.ip == "" {
				return nil, fmt.Errorf("the probe's pod %s/%s has no address yet", ns, pod.GetName())
			}
			out = append(out, e)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the probe's servers are ready and have no pods")
	}
	return out, nil
}

// targetsPerClient keeps a client's answers within the 4096 bytes of a
// termination message.
const targetsPerClient = 150

// client is one pod that asks, and whom.
type client struct {
	name    string
	from    endpoint
	targets []endpoint
}

// ask runs clients on the node and in the namespace of each server.
func (p Probe) ask(ctx context.Context, servers []endpoint, round int) ([]Question, error) {
	dns, err := p.dns(ctx)
	if err != nil {
		return nil, err
	}
	var clients []client
	var pods []kube.Object
	for _, from := range servers {
		for targets := range slices.Chunk(servers, targetsPerClient) {
			c := client{name: fmt.Sprintf("%s-%d-%d", serverName, round, len(clients)), from: from, targets: targets}
			clients = append(clients, c)
			pods = append(pods, p.client(c, dns))
		}
	}
	set, err := kube.NewSet(pods...)
	if err != nil {
		return nil, err
	}
	opts := p.options("probe-clients")
	opts.NoWait = true
	if err := p.Cluster.Apply(ctx, set, opts); err != nil {
		return nil, fmt.Errorf("starting the probe's clients: %w", err)
	}
	var out []Question
	for _, c := range clients {
		pod, err := p.Cluster.WaitFor(ctx, "v1", "Pod", c.from.namespace, c.name, roundBound, ended)
		if err != nil {
			return nil, fmt.Errorf("the probe's client on %s: %w", c.from.node, err)
		}
		answers, err := read(pod)
		if err != nil {
			return nil, fmt.Errorf("the probe's client on %s: %w", c.from.node, err)
		}
		for _, to := range c.targets {
			out = append(out, Question{
				FromNamespace: c.from.namespace, FromNode: c.from.node, ToNamespace: to.namespace, ToNode: to.node,
				Wanted: p.allowed(c.from.namespace, to.namespace), Got: answers[to.ip],
			})
		}
		if dns != "" {
			out = append(out, Question{
				FromNamespace: c.from.namespace, FromNode: c.from.node, ToNamespace: "kube-system", ToNode: "the cluster's DNS",
				Wanted: true, Got: answers[dnsAnswer],
			})
		}
	}
	return out, nil
}

// dns is the address of the cluster's DNS, and empty when it has no pod that
// answers: a name then resolves for nobody, whatever the policies say.
func (p Probe) dns(ctx context.Context) (string, error) {
	slicesOf, err := p.Cluster.List(ctx, "discovery.k8s.io/v1", "EndpointSlice", "kube-system", "kubernetes.io/service-name=kube-dns")
	if err != nil {
		return "", err
	}
	ready := slices.ContainsFunc(slicesOf, func(s kube.Object) bool {
		endpoints, _, _ := unstructured.NestedSlice(s.Object, "endpoints")
		return len(endpoints) > 0
	})
	services, err := p.Cluster.List(ctx, "v1", "Service", "kube-system", "k8s-app=kube-dns")
	if err != nil || !ready || len(services) == 0 {
		return "", err
	}
	ip, _, _ := unstructured.NestedString(services[0].Object, "spec", "clusterIP")
	return ip, nil
}

// ended tells whether a client has asked all its questions.
func ended(pod kube.Object) (kube.Status, error) {
	phase, _, _ := unstructured.NestedString(pod.Object, "status", "phase")
	return kube.Status{Done: phase == "Succeeded", Failed: phase == "Failed", Reason: "its phase is " + phase}, nil
}

// read takes the answers out of a client's termination message: one line for
// each address, with yes or no behind it.
func read(pod kube.Object) (map[string]bool, error) {
	statuses, _, _ := unstructured.NestedSlice(pod.Object, "status", "containerStatuses")
	for _, s := range statuses {
		m, _ := s.(map[string]any)
		message, found, _ := unstructured.NestedString(m, "state", "terminated", "message")
		if !found {
			continue
		}
		answers := map[string]bool{}
		for _, line := range strings.Split(strings.TrimSpace(message), "\n") {
			ip, answer, _ := strings.Cut(line, " ")
			if answer != "yes" && answer != "no" {
				return nil, fmt.Errorf("it answered %q, which is not understood", line)
			}
			answers[ip] = answer == "yes"
		}
		return answers, nil
	}
	return nil, errors.New("it ended without a message")
}

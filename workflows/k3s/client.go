package k3s

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// access is what it takes to speak to one server as its administrator.
type access struct {
	// endpoint is the URL of the server.
	endpoint string
	// kubeconfig is the administrator's, with the address of endpoint.
	kubeconfig []byte
	agentToken string
}

// client speaks to one server: to its API, and to its supervisor.
type client struct {
	endpoint   string
	kube       kubernetes.Interface
	readyz     func(ctx context.Context) ([]byte, error) // /readyz?verbose
	supervisor *http.Client
	agentToken string
}

// requestTimeout bounds one question to a server; one that is busy with
// joining members answers in a few seconds.
const requestTimeout = 15 * time.Second

// connect makes a client; nothing is asked yet.
func connect(_ context.Context, a access) (*client, error) {
	config, err := clientcmd.RESTConfigFromKubeConfig(a.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig of %s: %w", a.endpoint, err)
	}
	config.Timeout = requestTimeout
	// A site's API server is no proxy's business.
	config.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	config.QPS, config.Burst = 50, 100
	config.WarningHandler = rest.NoWarnings{}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig of %s: %w", a.endpoint, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(config.CAData) {
		return nil, fmt.Errorf("the kubeconfig of %s has no CA", a.endpoint)
	}
	return &client{
		endpoint: a.endpoint, kube: kube, agentToken: a.agentToken,
		readyz: func(ctx context.Context) ([]byte, error) {
			return kube.Discovery().RESTClient().Get().AbsPath("/readyz").Param("verbose", "").DoRaw(ctx)
		},
		supervisor: &http.Client{Timeout: requestTimeout, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true,
		}},
	}, nil
}

// ready asks the supervisor and the API server. It does not look at nodes:
// without a network for pods they stay NotReady.
func (c *client) ready(ctx context.Context) error {
	if err := c.supervisorReady(ctx); err != nil {
		return err
	}
	b, err := c.readyz(ctx)
	if err == nil {
		return nil
	}
	if failed := failedChecks(string(b)); failed != "" {
		return fmt.Errorf("%s/readyz: %s", c.endpoint, failed)
	}
	return fmt.Errorf("%s/readyz: %w", c.endpoint, err)
}

// supervisorReady asks K3s's own part, as a node would that wants to join.
func (c *client) supervisorReady(ctx context.Context) error {
	url := c.endpoint + "/v1-k3s/readyz"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r.SetBasicAuth("node", c.agentToken)
	answer, err := c.supervisor.Do(r)
	if err != nil {
		return fmt.Errorf("%s: %w", url, errors.Unwrap(err))
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s: %s", url, answer.Status, strings.TrimSpace(string(b)))
	}
	return nil
}

// failedChecks are the lines of /readyz?verbose that begin with [-].
func failedChecks(verbose string) string {
	var out []string
	for line := range strings.Lines(verbose) {
		if strings.HasPrefix(line, "[-]") {
			out = append(out, strings.TrimSpace(strings.TrimPrefix(line, "[-]")))
		}
	}
	return strings.Join(out, "; ")
}

// Annotations on nodes that came into the cluster by us.
const (
	ownerAnnotation    = "edge-provision/owner"
	machineAnnotation  = "edge-provision/machine"
	cordonedAnnotation = "edge-provision/cordoned"
	// appliedAnnotation holds the labels and taints that we have set.
	appliedAnnotation = "edge-provision/applied"
)

// member is a node as the cluster sees it.
type member struct {
	Name                  string
	Owner, Machine        string
	Applied               string
	Version               string
	MachineID, SystemUUID string
	Address               string
	Ready, Unschedulable  bool
	// Cordoned says that the cordon is ours.
	Cordoned bool
	// Etcd says that it holds data of the cluster.
	Etcd   bool
	Labels map[string]string
	Taints []core.Taint
	// Renewed is when it last said that it is alive, by its own clock; zero
	// when it never did.
	Renewed time.Time
}

// role is what the node came as.
func (m member) role() role {
	if m.Etcd {
		return server
	}
	return agent
}

// members lists the nodes.
func (c *client) members(ctx context.Context) (map[string]member, error) {
	list, err := c.kube.CoreV1().Nodes().List(ctx, meta.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("%s: listing nodes: %w", c.endpoint, err)
	}
	leases, err := c.kube.CoordinationV1().Leases(core.NamespaceNodeLease).List(ctx, meta.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("%s: listing the nodes' leases: %w", c.endpoint, err)
	}
	renewed := map[string]time.Time{}
	for _, l := range leases.Items {
		if l.Spec.RenewTime != nil {
			renewed[l.Name] = l.Spec.RenewTime.Time
		}
	}
	out := map[string]member{}
	for i := range list.Items {
		m := memberOf(&list.Items[i])
		m.Renewed = renewed[m.Name]
		out[m.Name] = m
	}
	return out, nil
}

func memberOf(n *core.Node) member {
	_, etcd := n.Labels["node-role.kubernetes.io/etcd"]
	m := member{
		Name: n.Name, Owner: n.Annotations[ownerAnnotation], Machine: n.Annotations[machineAnnotation], Applied: n.Annotations[appliedAnnotation],
		Version: n.Status.NodeInfo.KubeletVersion, MachineID: n.Status.NodeInfo.MachineID,
		SystemUUID: strings.ToLower(n.Status.NodeInfo.SystemUUID), Unschedulable: n.Spec.Unschedulable,
		Cordoned: n.Annotations[cordonedAnnotation] != "", Etcd: etcd, Labels: n.Labels, Taints: n.Spec.Taints,
	}
	for _, a := range n.Status.Addresses {
		if a.Type == core.NodeInternalIP && m.Address == "" {
			m.Address = a.Address
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == core.NodeReady {
			m.Ready = c.Status == core.ConditionTrue
		}
	}
	return m
}

// patch merges changes into a node. Null deletes.
func (c *client) patch(ctx context.Context, name string, change map[string]any) error {
	b, err := json.Marshal(change)
	if err != nil {
		return err
	}
	_, err = c.kube.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, b, meta.PatchOptions{FieldManager: fieldManager})
	if err != nil {
		return fmt.Errorf("%s: changing node %s: %w", c.endpoint, name, err)
	}
	return nil
}

const fieldManager = "edge-provision"

// cordon keeps new pods off a node, and says that it was us.
func (c *client) cordon(ctx context.Context, name string) error {
	return c.patch(ctx, name, map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{cordonedAnnotation: "upgrade"}},
		"spec":     map[string]any{"unschedulable": true},
	})
}

func (c *client) uncordon(ctx context.Context, name string) error {
	return c.patch(ctx, name, map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{cordonedAnnotation: nil}},
		"spec":     map[string]any{"unschedulable": nil},
	})
}

// evictable are the pods that a drain moves away: not those of DaemonSets,
// which come back at once, not static ones, not those that have ended, and not
// those that nothing would start again: they run on while K3s is restarted.
func (c *client) evictable(ctx context.Context, node string) ([]core.Pod, error) {
	list, err := c.kube.CoreV1().Pods(core.NamespaceAll).List(ctx, meta.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return nil, fmt.Errorf("%s: listing the pods of %s: %w", c.endpoint, node, err)
	}
	var out []core.Pod
	for _, p := range list.Items {
		owner := meta.GetControllerOf(&p)
		_, static := p.Annotations[core.MirrorPodAnnotationKey]
		ended := p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed
		if p.Spec.NodeName != node || static || ended || owner == nil || owner.Kind == "DaemonSet" {
			continue
		}
		out = append(out, p)
	}
	return out, nil
}

// evict asks for one pod to go. Whether it may is for the cluster to say: it
// answers 429 while a PodDisruptionBudget needs the pod
// (kubernetes.io/docs/concepts/scheduling-eviction/api-eviction).
func (c *client) evict(ctx context.Context, p core.Pod) error {
	return c.askToGo(ctx, p, nil)
}

// mayEvict asks as evict does, and changes nothing.
func (c *client) mayEvict(ctx context.Context, p core.Pod) error {
	return c.askToGo(ctx, p, []string{meta.DryRunAll})
}

func (c *client) askToGo(ctx context.Context, p core.Pod, dryRun []string) error {
	err := c.kube.PolicyV1().Evictions(p.Namespace).Evict(ctx, &policy.Eviction{
		ObjectMeta:    meta.ObjectMeta{Name: p.Name, Namespace: p.Namespace},
		DeleteOptions: &meta.DeleteOptions{Preconditions: meta.NewUIDPreconditions(string(p.UID)), DryRun: dryRun},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// deleteNode takes a node out, and waits for what the cluster does about it:
// K3s removes the etcd member of a server before the node is gone.
func (c *client) deleteNode(ctx context.Context, name string) error {
	err := c.kube.CoreV1().Nodes().Delete(ctx, name, meta.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("%s: deleting node %s: %w", c.endpoint, name, err)
	}
	return nil
}

// hasNode reports whether a node is still there.
func (c *client) hasNode(ctx context.Context, name string) (bool, error) {
	_, err := c.kube.CoreV1().Nodes().Get(ctx, name, meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: asking for node %s: %w", c.endpoint, name, err)
	}
	return true, nil
}

// deletePassword forgets the password of a node's name, without which no other
// machine may take the name (docs.k3s.io/architecture, "Agent Node
// Registration").
func (c *client) deletePassword(ctx context.Context, name string) error {
	err := c.kube.CoreV1().Secrets(meta.NamespaceSystem).Delete(ctx, name+".node-password.k3s", meta.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("%s: deleting the node password of %s: %w", c.endpoint, name, err)
	}
	return nil
}

// volumes lists the persistent volumes: a removal destroys their data.
func (c *client) volumes(ctx context.Context) ([]string, error) {
	list, err := c.kube.CoreV1().PersistentVolumes().List(ctx, meta.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("%s: listing persistent volumes: %w", c.endpoint, err)
	}
	var out []string
	for _, v := range list.Items {
		size := v.Spec.Capacity[core.ResourceStorage]
		claim := "unclaimed"
		if v.Spec.ClaimRef != nil {
			claim = "claimed by " + v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name
		}
		out = append(out, fmt.Sprintf("persistent volume %s (%s, %s)", v.Name, size.String(), claim))
	}
	return out, nil
}

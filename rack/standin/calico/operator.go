// Package calico stands in for Calico where its images cannot be had: an operator
// that sets the statuses which an installation waits for, and a data plane of
// VXLAN and nftables for the policies that edge-provision generates. It is not
// Calico and shares no code with it; docs/standin.md says what it does not prove.
package calico

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

const (
	namespace = "calico-system"
	nodeName  = "calico-node"
	finalizer = "operator.tigera.io/installation-controller"
	// FailAnnotation on Installation/default makes the operator report a
	// failing state: "degraded" or "progressing".
	FailAnnotation = "standin.edge-provision.io/fail"
)

var (
	installations = schema.GroupVersionResource{Group: "operator.tigera.io", Version: "v1", Resource: "installations"}
	apiServers    = schema.GroupVersionResource{Group: "operator.tigera.io", Version: "v1", Resource: "apiservers"}
	statuses      = schema.GroupVersionResource{Group: "operator.tigera.io", Version: "v1", Resource: "tigerastatuses"}
)

// Operator does what the operator's users see of tigera-operator.
type Operator struct {
	Kubernetes kubernetes.Interface
	Dynamic    dynamic.Interface
	Image      string // that the node's DaemonSet runs: the operator's own
	Log        *slog.Logger
}

// interval is how often the cluster is looked at.
const interval = time.Second

// Run reconciles until ctx ends.
func (o *Operator) Run(ctx context.Context) error {
	for {
		if err := o.reconcile(ctx); err != nil && ctx.Err() == nil {
			o.Log.Warn("reconciling", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
	}
}

func (o *Operator) reconcile(ctx context.Context) error {
	installation, err := o.Dynamic.Resource(installations).Get(ctx, "default", meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		return o.removeStatuses(ctx)
	} else if err != nil {
		return fmt.Errorf("reading the Installation: %w", err)
	}
	if installation.GetDeletionTimestamp() != nil {
		return o.remove(ctx, installation)
	}
	if !slices.Contains(installation.GetFinalizers(), finalizer) {
		installation.SetFinalizers(append(installation.GetFinalizers(), finalizer))
		if _, err := o.Dynamic.Resource(installations).Update(ctx, installation, meta.UpdateOptions{}); err != nil {
			return fmt.Errorf("holding the Installation: %w", err)
		}
		return nil
	}
	pool, err := poolOf(installation)
	if err != nil {
		return errors.Join(err, o.report(ctx, "calico", installation.GetGeneration(), state{degraded: true, reason: "InvalidConfigurationError", message: err.Error()}))
	}
	daemonSet, err := o.ensureNode(ctx, pool)
	if err != nil {
		return err
	}
	var s state
	switch fail := installation.GetAnnotations()[FailAnnotation]; {
	case fail == "degraded":
		s = state{degraded: true, reason: "ResourceUpdateError", message: "calico-standin was told to fail by annotation " + FailAnnotation}
	case fail == "progressing":
		s = state{progressing: true, reason: "ResourceNotReady", message: "calico-standin was told to wait by annotation " + FailAnnotation}
	case daemonSet.Status.DesiredNumberScheduled == 0 || daemonSet.Status.NumberReady < daemonSet.Status.DesiredNumberScheduled || daemonSet.Status.ObservedGeneration < daemonSet.Generation:
		s = state{progressing: true, reason: "ResourceNotReady", message: fmt.Sprintf("DaemonSet %s/%s is not available (awaiting %d nodes)", namespace, nodeName, daemonSet.Status.DesiredNumberScheduled-daemonSet.Status.NumberReady)}
	default:
		s = state{available: true, reason: "AllObjectsAvailable", message: "All objects available"}
	}
	if err := o.report(ctx, "calico", installation.GetGeneration(), s); err != nil {
		return err
	}
	api, err := o.Dynamic.Resource(apiServers).Get(ctx, "default", meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("reading the APIServer: %w", err)
	}
	return o.report(ctx, "apiserver", api.GetGeneration(), s)
}

// poolOf is the pods' network that the Installation asks for.
func poolOf(installation *unstructured.Unstructured) (string, error) {
	pools, _, err := unstructured.NestedSlice(installation.Object, "spec", "calicoNetwork", "ipPools")
	if err != nil || len(pools) != 1 {
		return "", fmt.Errorf("calico-standin wants one ipPool, not %d", len(pools))
	}
	pool, _ := pools[0].(map[string]any)
	cidr, _ := pool["cidr"].(string)
	if encapsulation, _ := pool["encapsulation"].(string); encapsulation != "VXLAN" {
		return "", fmt.Errorf("calico-standin has encapsulation VXLAN, not %q", encapsulation)
	}
	return cidr, nil
}

// ensureNode makes what runs on every node, and returns its DaemonSet.
func (o *Operator) ensureNode(ctx context.Context, pool string) (*apps.DaemonSet, error) {
	ignore := func(err error) error {
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}
	_, err := o.Kubernetes.CoreV1().Namespaces().Create(ctx, &core.Namespace{ObjectMeta: meta.ObjectMeta{
		Name: namespace, Labels: map[string]string{"name": namespace, "pod-security.kubernetes.io/enforce": "privileged"},
	}}, meta.CreateOptions{})
	if ignore(err) != nil {
		return nil, err
	}
	_, err = o.Kubernetes.CoreV1().ServiceAccounts(namespace).Create(ctx, &core.ServiceAccount{ObjectMeta: meta.ObjectMeta{Name: nodeName}}, meta.CreateOptions{})
	if ignore(err) != nil {
		return nil, err
	}
	read := []string{"get", "list", "watch"}
	_, err = o.Kubernetes.RbacV1().ClusterRoles().Create(ctx, &rbac.ClusterRole{ObjectMeta: meta.ObjectMeta{Name: nodeName}, Rules: []rbac.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes", "pods", "namespaces"}, Verbs: read},
		{APIGroups: []string{"apps"}, Resources: []string{"daemonsets"}, Verbs: read},
		{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"networkpolicies"}, Verbs: read},
		{APIGroups: []string{"crd.projectcalico.org"}, Resources: []string{"globalnetworkpolicies"}, Verbs: read},
	}}, meta.CreateOptions{})
	if ignore(err) != nil {
		return nil, err
	}
	_, err = o.Kubernetes.RbacV1().ClusterRoleBindings().Create(ctx, &rbac.ClusterRoleBinding{
		ObjectMeta: meta.ObjectMeta{Name: nodeName}, RoleRef: rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: nodeName},
		Subjects: []rbac.Subject{{Kind: "ServiceAccount", Name: nodeName, Namespace: namespace}},
	}, meta.CreateOptions{})
	if ignore(err) != nil {
		return nil, err
	}
	sets := o.Kubernetes.AppsV1().DaemonSets(namespace)
	have, err := sets.Get(ctx, nodeName, meta.GetOptions{})
	want := o.daemonSet(pool)
	if apierrors.IsNotFound(err) {
		return sets.Create(ctx, want, meta.CreateOptions{})
	} else if err != nil {
		return nil, err
	}
	container := have.Spec.Template.Spec.Containers[0]
	if container.Image == o.Image && slices.Equal(container.Args, want.Spec.Template.Spec.Containers[0].Args) {
		return have, nil
	}
	have.Spec = want.Spec
	return sets.Update(ctx, have, meta.UpdateOptions{})
}

func (o *Operator) daemonSet(pool string) *apps.DaemonSet {
	labels := map[string]string{"k8s-app": nodeName}
	privileged, seconds := true, int64(2)
	return &apps.DaemonSet{
		ObjectMeta: meta.ObjectMeta{Name: nodeName, Labels: labels},
		Spec: apps.DaemonSetSpec{
			Selector: &meta.LabelSelector{MatchLabels: labels},
			Template: core.PodTemplateSpec{ObjectMeta: meta.ObjectMeta{Labels: labels}, Spec: core.PodSpec{
				ServiceAccountName: nodeName, HostNetwork: true, TerminationGracePeriodSeconds: &seconds, PriorityClassName: "system-node-critical",
				Tolerations: []core.Toleration{{Operator: core.TolerationOpExists}},
				Containers: []core.Container{{
					Name: nodeName, Image: o.Image, ImagePullPolicy: core.PullIfNotPresent,
					// The operator's image is named for the operator.
					Command: []string{"/calico-standin"}, Args: []string{"node", pool},
					Env: []core.EnvVar{
						{Name: "NODENAME", ValueFrom: &core.EnvVarSource{FieldRef: &core.ObjectFieldSelector{FieldPath: "spec.nodeName"}}},
						{Name: "NODEIP", ValueFrom: &core.EnvVarSource{FieldRef: &core.ObjectFieldSelector{FieldPath: "status.hostIP"}}},
					},
					SecurityContext: &core.SecurityContext{Privileged: &privileged},
					VolumeMounts:    []core.VolumeMount{{Name: "host", MountPath: hostRoot}},
					ReadinessProbe: &core.Probe{PeriodSeconds: 1, ProbeHandler: core.ProbeHandler{HTTPGet: &core.HTTPGetAction{
						Host: "127.0.0.1", Path: "/readiness", Port: intOrString(healthPort),
					}}},
				}},
				Volumes: []core.Volume{{Name: "host", VolumeSource: core.VolumeSource{HostPath: &core.HostPathVolumeSource{Path: "/"}}}},
			}},
		},
	}
}

// remove takes everything away and lets the Installation go.
func (o *Operator) remove(ctx context.Context, installation *unstructured.Unstructured) error {
	gone := func(err error) error {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	foreground := meta.DeletePropagationForeground
	if err := gone(o.Kubernetes.AppsV1().DaemonSets(namespace).Delete(ctx, nodeName, meta.DeleteOptions{PropagationPolicy: &foreground})); err != nil {
		return err
	}
	pods, err := o.Kubernetes.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{LabelSelector: "k8s-app=" + nodeName})
	if err != nil {
		return err
	}
	if len(pods.Items) > 0 {
		return nil // the next look decides
	}
	if err := errors.Join(
		gone(o.Kubernetes.RbacV1().ClusterRoleBindings().Delete(ctx, nodeName, meta.DeleteOptions{})),
		gone(o.Kubernetes.RbacV1().ClusterRoles().Delete(ctx, nodeName, meta.DeleteOptions{})),
		gone(o.Kubernetes.CoreV1().Namespaces().Delete(ctx, namespace, meta.DeleteOptions{})),
		o.removeStatuses(ctx),
	); err != nil {
		return err
	}
	installation.SetFinalizers(slices.DeleteFunc(installation.GetFinalizers(), func(f string) bool { return f == finalizer }))
	_, err = o.Dynamic.Resource(installations).Update(ctx, installation, meta.UpdateOptions{})
	return gone(err)
}

func (o *Operator) removeStatuses(ctx context.Context) error {
	for _, name := range []string{"calico", "apiserver"} {
		if err := o.Dynamic.Resource(statuses).Delete(ctx, name, meta.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// state is one of the three that a TigeraStatus reports.
type state struct {
	available, progressing, degraded bool
	reason, message                  string
}

// report writes TigeraStatus NAME when it says something else.
func (o *Operator) report(ctx context.Context, name string, generation int64, s state) error {
	resource := o.Dynamic.Resource(statuses)
	have, err := resource.Get(ctx, name, meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		have, err = resource.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "operator.tigera.io/v1", "kind": "TigeraStatus", "metadata": map[string]any{"name": name}, "spec": map[string]any{},
		}}, meta.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("reporting status %s: %w", name, err)
	}
	before, _, err := unstructured.NestedSlice(have.Object, "status", "conditions")
	if err != nil {
		before = nil
	}
	var conditions []any
	changed := false
	for _, c := range []struct {
		name string
		is   bool
	}{{"Available", s.available}, {"Progressing", s.progressing}, {"Degraded", s.degraded}} {
		status := "False"
		reason, message := "NotApplicable", "Not Applicable"
		if c.is {
			status, reason, message = "True", s.reason, s.message
		}
		condition := map[string]any{
			"type": c.name, "status": status, "reason": reason, "message": message, "observedGeneration": generation,
			"lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
		}
		same := slices.ContainsFunc(before, func(b any) bool {
			m, ok := b.(map[string]any)
			return ok && m["type"] == c.name && m["status"] == status && m["reason"] == reason && m["message"] == message && m["observedGeneration"] == generation
		})
		changed = changed || !same
		conditions = append(conditions, condition)
	}
	if !changed {
		return nil
	}
	if err := unstructured.SetNestedSlice(have.Object, conditions, "status", "conditions"); err != nil {
		return err
	}
	if _, err := resource.UpdateStatus(ctx, have, meta.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("reporting status %s: %w", name, err)
	}
	return nil
}

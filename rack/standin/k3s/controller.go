package k3s

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	// What K3s writes on nodes that have an etcd member.
	memberFinalizer   = "wrangler.cattle.io/managed-etcd-controller"
	memberName        = "etcd.k3s.cattle.io/node-name"
	memberAddress     = "etcd.k3s.cattle.io/node-address"
	controlPlaneLabel = "node-role.kubernetes.io/control-plane"
	etcdLabel         = "node-role.kubernetes.io/etcd"

	// controllerUser is whom the agents' own parts are to the API server.
	controllerUser = "system:k3s-controller"
)

// nodeInterval is how often servers look at the nodes.
const nodeInterval = time.Second

// controlNodes labels this server's node and removes the etcd member of a node
// that is being deleted, until ctx ends. Every server does the latter: whoever
// comes first.
func (s *server) controlNodes(ctx context.Context) {
	client := s.ready.Load()
	for ctx.Err() == nil {
		if err := s.etcd.promote(ctx); err != nil {
			s.log.Warn("looking at etcd's members", "error", err)
		}
		if err := s.grantController(ctx, client); err != nil {
			s.log.Warn("granting agents what they watch", "error", err)
		} else if err := s.lookAtNodes(ctx, client); err != nil {
			s.log.Warn("looking at the nodes", "error", err)
		} else if err := s.deployManifests(ctx); err != nil {
			s.log.Warn("deploying manifests", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(nodeInterval):
		}
	}
}

func (s *server) lookAtNodes(ctx context.Context, client *kubernetes.Clientset) error {
	nodes, err := client.CoreV1().Nodes().List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	for _, n := range nodes.Items {
		switch {
		case n.DeletionTimestamp != nil && slices.Contains(n.Finalizers, memberFinalizer):
			err = s.removeMember(ctx, client, n)
		case n.DeletionTimestamp == nil && n.Name == s.name:
			err = s.markNode(ctx, client, n)
		default:
			continue
		}
		if err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	return nil
}

// markNode says on the node what this server is.
func (s *server) markNode(ctx context.Context, client *kubernetes.Clientset, n core.Node) error {
	labels := map[string]string{controlPlaneLabel: "true"}
	annotations := map[string]string{"k3s.io/hostname": s.name, "k3s.io/internal-ip": s.ip.String()}
	finalizers := n.Finalizers
	if s.embedded() {
		labels[etcdLabel] = "true"
		annotations[memberName], annotations[memberAddress] = s.etcd.name, s.ip.String()
		if !slices.Contains(finalizers, memberFinalizer) {
			finalizers = append(finalizers, memberFinalizer)
		}
	}
	has := func(have, want map[string]string) bool {
		for key, value := range want {
			if have[key] != value {
				return false
			}
		}
		return true
	}
	if has(n.Labels, labels) && has(n.Annotations, annotations) && len(finalizers) == len(n.Finalizers) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels, "annotations": annotations, "finalizers": finalizers}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, patch, meta.PatchOptions{})
	return err
}

// removeMember removes the etcd member that the node names and lets the node go.
func (s *server) removeMember(ctx context.Context, client *kubernetes.Clientset, n core.Node) error {
	limited, cancel := context.WithTimeout(ctx, etcdLimit)
	defer cancel()
	list, err := s.etcd.client.MemberList(limited)
	if err != nil {
		return fmt.Errorf("listing etcd members: %w", err)
	}
	for _, m := range list.Members {
		if m.Name == n.Annotations[memberName] && m.Name != "" {
			if _, err := s.etcd.client.MemberRemove(limited, m.ID); err != nil {
				return fmt.Errorf("removing etcd member %s: %w", m.Name, err)
			}
			s.log.Info("Removed etcd member", "member", m.Name, "node", n.Name)
		}
	}
	n.Finalizers = slices.DeleteFunc(n.Finalizers, func(f string) bool { return f == memberFinalizer })
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": n.ResourceVersion, "finalizers": n.Finalizers}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, patch, meta.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// grantController lets agents list nodes, which their kubelet may not.
func (s *server) grantController(ctx context.Context, client *kubernetes.Clientset) error {
	if s.granted {
		return nil
	}
	role := &rbac.ClusterRole{
		ObjectMeta: meta.ObjectMeta{Name: controllerUser},
		Rules:      []rbac.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch"}}},
	}
	binding := &rbac.ClusterRoleBinding{
		ObjectMeta: meta.ObjectMeta{Name: controllerUser},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: controllerUser},
		Subjects:   []rbac.Subject{{APIGroup: rbac.GroupName, Kind: "User", Name: controllerUser}},
	}
	if _, err := client.RbacV1().ClusterRoles().Create(ctx, role, meta.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	if _, err := client.RbacV1().ClusterRoleBindings().Create(ctx, binding, meta.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	s.granted = true
	return nil
}

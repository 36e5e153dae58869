package k3s

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The upgrade of one node: stage, cordon, drain, rename, restart, wait for
// version and Ready, uncordon. Pods go by eviction, so that PodDisruptionBudgets
// are kept. K3s's own order: servers first, one at a time, then agents
// (docs.k3s.io/upgrades/manual).

// beforeUpgrade saves etcd and brings the new binary and images to every node
// before the first is changed, so that a slow link or a full disk stops an
// upgrade where it costs nothing.
func (w *work) beforeUpgrade(ctx context.Context) error {
	name := "edge-before-" + strings.NewReplacer("+", "-", ".", "-").Replace(w.Version.String())
	taken := slices.ContainsFunc(w.seen, func(o *observation) bool {
		return slices.ContainsFunc(o.snapshots, func(s string) bool { return strings.HasPrefix(s, name+"-") })
	})
	if !taken {
		if err := w.snapshot(ctx, name); err != nil {
			return err
		}
	}
	var due []*target
	for _, t := range w.decision.targets {
		if t.need == upgrade {
			due = append(due, t)
		}
	}
	return each(due, func(t *target) error {
		h, err := w.host(ctx, t.node.Machine)
		if err != nil {
			return err
		}
		defer h.Close()
		return w.stage(ctx, h, t)
	})
}

// upgrade changes the program of one node.
func (w *work) upgrade(ctx context.Context, t *target) (err error) {
	if err := w.mayStop(t); err != nil {
		return err
	}
	api, err := w.api(t.node.Machine)
	if err != nil {
		return err
	}
	h, err := w.host(ctx, t.node.Machine)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := w.stage(ctx, h, t); err != nil {
		return err
	}
	// A cordon that somebody else has set stays.
	ours := t.member != nil && (!t.member.Unschedulable || t.member.Cordoned)
	if t.member != nil && w.others(t.node.Name) {
		if ours {
			if err := api.cordon(ctx, t.node.Name); err != nil {
				return err
			}
			t.member.Cordoned = true
		}
		w.say("%s: draining node %s", t.node.Machine, t.node.Name)
		if err := w.drain(ctx, api, t.node.Name); err != nil {
			if ours {
				err = errors.Join(err, w.back(ctx, api, t.node.Name))
			}
			return err
		}
	} else {
		w.say("%s: no other node can take the pods of %s; they stop while it is upgraded", t.node.Machine, t.node.Name)
	}
	if err := w.write(ctx, h, t); err != nil {
		return err
	}
	if err := w.swap(ctx, h); err != nil {
		return err
	}
	w.say("%s: starting K3s %s", t.node.Machine, w.Version)
	return w.launch(ctx, h, t)
}

// back lifts the cordon of a node that is not upgraded after all, also when the
// run is being cut off.
func (w *work) back(ctx context.Context, api *client, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	return api.uncordon(ctx, name)
}

// others reports whether another node could take pods.
func (w *work) others(name string) bool {
	for _, m := range w.members {
		if m.Name != name && !m.Unschedulable {
			return true
		}
	}
	return false
}

// drain evicts the pods of a node and waits until they are gone. One that may
// not go yet is asked for again, until the time is over.
func (w *work) drain(ctx context.Context, api *client, node string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, w.DrainTimeout, fmt.Errorf("node %s was not drained in %s, its drain_timeout", node, w.DrainTimeout))
	defer cancel()
	return w.wait(ctx, 2*time.Second, func(ctx context.Context) error {
		pods, err := api.evictable(ctx, node)
		if err != nil {
			return err
		}
		var stay []string
		for _, p := range pods {
			reason := "is ending"
			if p.DeletionTimestamp == nil {
				if reason, err = w.evict(ctx, api, p); err != nil {
					return err
				}
			}
			stay = append(stay, fmt.Sprintf("pod %s/%s %s", p.Namespace, p.Name, reason))
		}
		if len(stay) > 0 {
			return errors.New(strings.Join(stay, "; "))
		}
		return nil
	})
}

// evict asks for one pod to go, and says what came of it.
func (w *work) evict(ctx context.Context, api *client, p core.Pod) (string, error) {
	err := api.evict(ctx, p)
	switch {
	case err == nil:
		return "is ending", nil
	case apierrors.IsTooManyRequests(err):
		return "may not go yet: " + err.Error(), nil
	}
	return "", fmt.Errorf("evicting pod %s/%s: %w", p.Namespace, p.Name, err)
}

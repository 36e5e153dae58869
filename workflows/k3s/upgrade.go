package k3s

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The upgrade of one node: stage, settle, cordon, drain, rename, restart, wait
// for version and Ready, uncordon. Pods go by eviction, so that PodDisruptionBudgets
// are kept. K3s's own order: servers first, one at a time, then agents
// (docs.k3s.io/upgrades/manual).

// beforeUpgrade saves etcd and brings the new binary and images to every node
// before the first is changed, so that a slow link or a full disk stops an
// upgrade where it costs nothing.
func (w *work) beforeUpgrade(ctx context.Context) error {
	name := "edge-before-" + strings.NewReplacer("+", "-", ".", "-").Replace(w.Version.String())
	if !taken(name, w.seen) {
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
	if t.member != nil && w.others(t.node.Name) {
		if err := w.vacate(ctx, api, t.member, t.node.Machine); err != nil {
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

// vacate moves the pods of a node away. Without success no cordon of ours is
// left on it.
func (w *work) vacate(ctx context.Context, api *client, m *member, machine string) error {
	err := w.away(ctx, api, m, machine)
	if err != nil && m.Cordoned {
		err = errors.Join(err, w.back(ctx, api, m.Name))
	}
	return err
}

func (w *work) away(ctx context.Context, api *client, m *member, machine string) error {
	if err := w.settle(ctx, api, m.Name, machine); err != nil {
		return err
	}
	// A cordon that somebody else has set stays.
	if !m.Unschedulable || m.Cordoned {
		if err := api.cordon(ctx, m.Name); err != nil {
			return err
		}
		m.Cordoned = true
	}
	w.say("%s: draining node %s", machine, m.Name)
	return w.drain(ctx, api, m.Name, machine)
}

// back lifts the cordon of a node that keeps its pods after all, also when the
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

// settle waits until the cluster would act on a drain, and every pod of the node
// may go, before anything is asked to: after the node before this one, pods are
// still starting elsewhere, and a drain that begins now would leave this node
// cordoned and half empty meanwhile.
func (w *work) settle(ctx context.Context, api *client, node, machine string) error {
	if err := w.led(ctx, api, node, machine); err != nil {
		return err
	}
	said := false
	return w.empty(ctx, api, node, func(ctx context.Context, p core.Pod) (string, error) {
		reason, err := mayGo(p, api.mayEvict(ctx, p))
		if reason != "" && !said {
			w.say("%s: not drained yet: pod %s/%s %s", machine, p.Namespace, p.Name, reason)
			said = true
		}
		return reason, err
	})
}

// drain evicts the pods of a node and waits until they are gone. One that may
// not go yet is asked for again, until the time is over.
func (w *work) drain(ctx context.Context, api *client, node, machine string) error {
	return w.empty(ctx, api, node, func(ctx context.Context, p core.Pod) (string, error) {
		reason, err := mayGo(p, api.evict(ctx, p))
		if reason == "" && err == nil {
			w.say("%s: evicting pod %s/%s", machine, p.Namespace, p.Name)
			reason = ending
		}
		return reason, err
	})
}

// ending is what is said of a pod that was evicted and is not gone.
const ending = "is ending"

// empty looks at the pods of a node until none of them is in the way; ask says
// why one is, or nothing.
func (w *work) empty(ctx context.Context, api *client, node string, ask func(context.Context, core.Pod) (string, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, w.DrainTimeout, fmt.Errorf("node %s was not drained in %s, its drain_timeout", node, w.DrainTimeout))
	defer cancel()
	return w.wait(ctx, 2*time.Second, func(ctx context.Context) error {
		pods, err := api.evictable(ctx, node)
		if err != nil {
			return err
		}
		var stay []string
		for _, p := range pods {
			reason := ending
			if p.DeletionTimestamp == nil {
				if reason, err = ask(ctx, p); err != nil {
					return err
				}
			}
			if reason != "" {
				stay = append(stay, fmt.Sprintf("pod %s/%s %s", p.Namespace, p.Name, reason))
			}
		}
		if len(stay) > 0 {
			return errors.New(strings.Join(stay, "; "))
		}
		return nil
	})
}

// mayGo reads the answer to an eviction: why the pod has to stay for now, or
// nothing.
func mayGo(p core.Pod, answer error) (string, error) {
	switch {
	case answer == nil:
		return "", nil
	case apierrors.IsTooManyRequests(answer):
		return "may not go yet: " + answer.Error(), nil
	}
	return "", fmt.Errorf("evicting pod %s/%s: %w", p.Namespace, p.Name, answer)
}

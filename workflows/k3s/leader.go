package k3s

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// electing are the parts of a cluster that run on all servers and work on one,
// their leader. An evicted pod needs both: the first takes it out of its services
// and asks for another, the second finds a node for that one.
var electing = []string{"kube-controller-manager", "kube-scheduler"}

const (
	// inOffice is how long a leader has to lead before it is counted on: it begins
	// with listing all that it looks after.
	inOffice = 5 * time.Second
	// electionLimit bounds the wait for leaders. The lease of one that is gone runs
	// out after 15 s, and who leads renews it every 2 s
	// (kubernetes.io/docs/reference/command-line-tools-reference/kube-controller-manager,
	// --leader-elect-lease-duration and --leader-elect-retry-period); a server that
	// is busy with starting takes several times as long.
	electionLimit = 2 * time.Minute
)

// office is the lease of a leader. Both times are by the leader's clock.
type office struct {
	Holder         string
	Since, Renewed time.Time
}

// office reads who leads; ok is false where nobody ever did, as in a cluster that
// does not elect.
func (c *client) office(ctx context.Context, name string) (o office, ok bool, err error) {
	l, err := c.kube.CoordinationV1().Leases(meta.NamespaceSystem).Get(ctx, name, meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		return office{}, false, nil
	}
	if err != nil {
		return office{}, false, fmt.Errorf("%s: reading the lease %s/%s: %w", c.endpoint, meta.NamespaceSystem, name, err)
	}
	if l.Spec.HolderIdentity != nil {
		o.Holder = *l.Spec.HolderIdentity
	}
	if l.Spec.AcquireTime != nil {
		o.Since = l.Spec.AcquireTime.Time
	}
	if l.Spec.RenewTime != nil {
		o.Renewed = l.Spec.RenewTime.Time
	}
	return o, true, nil
}

// led waits until somebody leads. Where the node before this one led, nobody does
// until its lease has run out: a pod that is evicted meanwhile ends while its
// services still send to it.
func (w *work) led(ctx context.Context, api *client, node, machine string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	seen, began, said := map[string]time.Time{}, w.Clock.Now(), false
	return w.wait(ctx, time.Second, func(ctx context.Context) error {
		err := api.leads(ctx, seen)
		waited := w.Clock.Now().Sub(began)
		if err != nil && waited > inOffice && !said {
			w.say("%s: not drained yet: %s", machine, err)
			said = true
		}
		if err != nil && waited > electionLimit {
			cancel(fmt.Errorf("node %s was not drained: in %s the cluster had no controllers that would act on it. "+
				"Look at the journal of k3s.service on its servers, and apply again", node, electionLimit))
		}
		return err
	})
}

// leads says which part of the cluster nobody leads for certain, or nothing. Clocks
// are not compared: who renews its lease under our eyes is alive, and seen keeps
// what was seen first.
func (c *client) leads(ctx context.Context, seen map[string]time.Time) error {
	for _, name := range electing {
		o, ok, err := c.office(ctx, name)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		first, asked := seen[name]
		if !asked {
			first, seen[name] = o.Renewed, o.Renewed
		}
		if o.Renewed.Equal(first) {
			return fmt.Errorf("the leader of %s, %s, does not renew its lease", name, o.Holder)
		}
		if o.Renewed.Sub(o.Since) < inOffice {
			return fmt.Errorf("the leader of %s, %s, has only begun", name, o.Holder)
		}
	}
	return nil
}

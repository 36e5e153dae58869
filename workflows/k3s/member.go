package k3s

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// memberPatch is what makes a node ours and as declared.
func memberPatch(owner string, n Node, m *member) (map[string]any, error) {
	var before applied
	_ = json.Unmarshal([]byte(m.Applied), &before)
	labels := map[string]any{}
	for _, k := range before.Labels {
		labels[k] = nil
	}
	for k, v := range n.Labels {
		labels[k] = v
	}
	taints, changed := taintsOf(n, m, before)
	now, err := json.Marshal(appliedOf(n))
	if err != nil {
		return nil, err
	}
	change := map[string]any{"metadata": map[string]any{
		"labels":      labels,
		"annotations": map[string]any{ownerAnnotation: owner, machineAnnotation: n.Machine, appliedAnnotation: string(now)},
	}}
	// The whole list is replaced: taints that the cluster itself has taken away since
	// would come back with it, so that it is left alone where it is right.
	if changed {
		change["spec"] = map[string]any{"taints": taints}
	}
	return change, nil
}

// voters counts the servers that hold data of the cluster, and those of them
// that answer, one of them left out. One that is no longer declared is not asked:
// it is taken to answer as long as the cluster calls its node ready, or it could
// neither leave nor be replaced. etcd itself refuses to remove a member when too few
// others are connected (strict-reconfig-check).
func (w *work) voters(without string) (all, up int) {
	for _, m := range w.members {
		if !m.Etcd {
			continue
		}
		all++
		if m.Name != without && w.answers(m) {
			up++
		}
	}
	return all, up
}

// answers reports whether a server is taken to answer.
func (w *work) answers(m member) bool {
	if !slices.ContainsFunc(w.Servers, func(n Node) bool { return n.Name == m.Name }) {
		return m.Ready
	}
	return slices.ContainsFunc(w.clients, func(l *live) bool { return l.node.Name == m.Name })
}

// mayStop refuses to stop a server when the others could not go on without it.
// Where there are fewer than three there is no going on anyway.
func (w *work) mayStop(t *target) error {
	if t.role != server {
		return nil
	}
	all, up := w.voters(t.node.Name)
	if all < 3 || up >= all/2+1 {
		return nil
	}
	return refuse("it is not restarted: of the %d servers of the cluster only %d others answer, and without a majority the cluster would stop. Repair the other servers first", all, up)
}

// mayRemove refuses to remove a server when the rest would not be a majority of
// the rest.
func (w *work) mayRemove(m member) error {
	if !m.Etcd {
		return nil
	}
	all, up := w.voters(m.Name)
	if rest := all - 1; rest > 0 && up >= rest/2+1 {
		return nil
	}
	return refuse("the server %s is not removed: of the %d others only %d answer, and without a majority of them the cluster would stop. Repair the other servers first", m.Name, all-1, up)
}

// leaseDuration is how long a node may be silent before the cluster takes it
// for dead (kubelet's nodeLeaseDurationSeconds); it is renewed four times as
// often.
const leaseDuration = 40 * time.Second

// makeRoom removes the node that had a machine's name, once its old hardware is
// seen to be off: two machines with one name would overwrite each other's state.
func (w *work) makeRoom(ctx context.Context, t *target) error {
	m := *t.member
	if err := w.mayRemove(m); err != nil {
		return err
	}
	// The same hardware with a new system is no other machine.
	same := m.MachineID != "" && m.MachineID == t.machineID
	if !same && !slices.Contains(w.Replace, t.node.Name) {
		w.say("%s: making sure that the machine that was %s is off", t.node.Machine, m.Name)
		if err := w.silent(ctx, m); err != nil {
			return err
		}
	}
	w.say("%s: removing the old node %s from the cluster", t.node.Machine, m.Name)
	return w.forget(ctx, m, t.node.Machine)
}

// silent watches a node's lease for as long as the cluster itself would: who
// renews it is alive. Clocks are not compared.
func (w *work) silent(ctx context.Context, m member) error {
	api, err := w.api("")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 4*leaseDuration, fmt.Errorf("whether the machine that was %s is off could not be found out", m.Name))
	defer cancel()
	since := w.Clock.Now()
	return w.wait(ctx, 2*time.Second, func(ctx context.Context) error {
		now, err := api.members(ctx)
		if err != nil {
			return err
		}
		if seen, ok := now[m.Name]; ok && seen.Renewed.After(m.Renewed) {
			return refuse("the machine that was %s is still running and says so to the cluster. Switch it off before another takes its name; "+
				"or, when you are sure, say replace = [%q] in the step", m.Name, m.Name)
		}
		if w.Clock.Now().Sub(since) < leaseDuration {
			return fmt.Errorf("node %s has been silent for %s", m.Name, w.Clock.Now().Sub(since).Round(time.Second))
		}
		return nil
	})
}

// forget removes a node and its password from the cluster, and waits until K3s
// has removed its etcd member.
func (w *work) forget(ctx context.Context, m member, machine string) error {
	api, err := w.api(machine)
	if err != nil {
		return err
	}
	if err := api.deleteNode(ctx, m.Name); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("node %s was deleted and is still there after %s: K3s has not removed its etcd member", m.Name, patience))
	defer cancel()
	err = w.wait(ctx, time.Second, func(ctx context.Context) error {
		still, err := api.hasNode(ctx, m.Name)
		if err == nil && still {
			err = fmt.Errorf("node %s is still there", m.Name)
		}
		return err
	})
	if err != nil {
		return err
	}
	return api.deletePassword(ctx, m.Name)
}

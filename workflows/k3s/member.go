package k3s

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/workflows/remote"
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
	var taints []map[string]any
	have, changed := map[string]bool{}, false
	for _, t := range m.Taints {
		text := taintText(t)
		if slices.Contains(before.Taints, text) && !slices.Contains(n.Taints, text) {
			changed = true
			continue
		}
		have[text] = true
		taints = append(taints, taint(text))
	}
	for _, t := range n.Taints {
		if !have[t] {
			taints, changed = append(taints, taint(t)), true
		}
	}
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

// taint splits key=value:effect.
func taint(text string) map[string]any {
	key, effect := text, ""
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		key, effect = text[:i], text[i+1:]
	}
	key, value, _ := strings.Cut(key, "=")
	out := map[string]any{"key": key, "effect": effect}
	if value != "" {
		out["value"] = value
	}
	return out
}

// voters counts the servers that hold data of the cluster, and those of them
// that answer, one of them left out.
func (w *work) voters(without string) (all, up int) {
	for _, m := range w.members {
		if !m.Etcd {
			continue
		}
		all++
		for _, l := range w.clients {
			if l.node.Name == m.Name && m.Name != without {
				up++
			}
		}
	}
	return all, up
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

// leave takes a node out that is no longer declared.
func (w *work) leave(ctx context.Context, m member) error {
	if err := w.mayRemove(m); err != nil {
		return err
	}
	api, err := w.api(m.Machine)
	if err != nil {
		return err
	}
	h, reach := w.host(ctx, m.Machine)
	if reach != nil && !slices.Contains(w.Replace, m.Name) {
		// What cannot be uninstalled has to be off, or it would go on.
		if err := w.silent(ctx, m); err != nil {
			return fmt.Errorf("%w (%w)", err, reach)
		}
	}
	if reach == nil {
		defer h.Close()
		w.say("%s: node %s is no longer declared", m.Machine, m.Name)
		if err := w.vacate(ctx, api, &m, m.Machine); err != nil {
			return err
		}
	}
	if err := w.forget(ctx, m, m.Machine); err != nil {
		return err
	}
	if reach == nil {
		w.say("%s: removing K3s", m.Machine)
		return w.uninstall(ctx, h, keepVolumes)
	}
	return nil
}

// snapshotLimit bounds a snapshot: etcd holds 8 GiB at most, on disks of an edge
// machine.
const snapshotLimit = 5 * time.Minute

// snapshot saves etcd under a name.
func (w *work) snapshot(ctx context.Context, name string) error {
	if len(w.clients) == 0 {
		return fmt.Errorf("no server answers that could take the snapshot %q", name)
	}
	machine := w.clients[0].machine
	h, err := w.host(ctx, machine)
	if err != nil {
		return err
	}
	defer h.Close()
	w.say("%s: saving etcd as %s", machine, name)
	ctx, cancel := context.WithTimeoutCause(ctx, snapshotLimit, fmt.Errorf("saving etcd took longer than %s", snapshotLimit))
	defer cancel()
	if _, err := h.Run(ctx, remote.Command{Line: h.path(binaryPath) + " etcd-snapshot save --name " + remote.Quote(name)}); err != nil {
		return fmt.Errorf("saving etcd: %w", err)
	}
	return nil
}

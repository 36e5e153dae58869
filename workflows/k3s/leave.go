package k3s

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"
)

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
	if reach != nil {
		if !slices.Contains(w.Replace, m.Name) {
			// What cannot be uninstalled has to be off, or it would go on.
			if err := w.silent(ctx, m); err != nil {
				return fmt.Errorf("%w (%w)", err, reach)
			}
		}
		return w.forget(ctx, m, m.Machine)
	}
	defer h.Close()
	w.say("%s: node %s is no longer declared", m.Machine, m.Name)
	if err := w.vacate(ctx, api, &m, m.Machine); err != nil {
		return err
	}
	if err := h.run(ctx, h.staysDown(m.role())); err != nil {
		return err
	}
	if err := w.forget(ctx, m, m.Machine); err != nil {
		return errors.Join(err, w.stay(ctx, h, m.role()))
	}
	w.say("%s: removing K3s", m.Machine)
	return w.uninstall(ctx, h, keepVolumes)
}

// staysDown keeps K3s from coming back to a cluster that is told to forget its node. An
// agent is stopped. A server goes on, because without it two others may be no majority,
// and ends when it is no member of etcd any more; systemd would start it again, and it
// would join again (k3s issue 13498), or, where it began the cluster, begin another one
// (k3s issue 13623). Nor does it start with the machine.
func (h *host) staysDown(r role) string {
	unit := r.unit() + ".service"
	if r == agent {
		return fmt.Sprintf("systemctl disable --quiet %[1]s && systemctl stop %[1]s", unit)
	}
	return fmt.Sprintf(`mkdir -p %s && printf '[Service]\nRestart=no\n' >%s && systemctl disable --quiet %s && systemctl daemon-reload`,
		h.path(path.Dir(r.leavingPath())), h.path(r.leavingPath()), unit)
}

// stayLimit bounds the undoing of staysDown, also when the run is being cut off.
const stayLimit = time.Minute

// stay has a node go on that could not be forgotten.
func (w *work) stay(ctx context.Context, h *host, r role) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), stayLimit, fmt.Errorf("it did not take its place again in %s", stayLimit))
	defer cancel()
	unit := r.unit() + ".service"
	return h.run(ctx, fmt.Sprintf("rm -f %s; systemctl daemon-reload && systemctl enable --quiet %[2]s && systemctl start --no-block %[2]s", h.path(r.leavingPath()), unit))
}

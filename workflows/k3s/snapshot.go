package k3s

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/workflows/remote"
)

// snapshotLimit bounds a snapshot: etcd holds 8 GiB at most, on disks of an edge
// machine.
const snapshotLimit = 5 * time.Minute

// snapshotOf is how the names of a node's snapshots under a name begin; the time in
// seconds follows (k3s pkg/etcd/snapshot.go).
func snapshotOf(name, node string) string { return name + "-" + node + "-" }

// taken reports whether one of the servers has a snapshot under a name.
func taken(name string, seen []*observation) bool {
	return slices.ContainsFunc(seen, func(o *observation) bool {
		return slices.ContainsFunc(o.snapshots, func(f string) bool {
			at, ok := strings.CutPrefix(f, snapshotOf(name, o.node.Name))
			return ok && at != "" && at[0] >= '0' && at[0] <= '9'
		})
	})
}

// snapshot saves etcd under a name. What K3s's program says of it is not enough: where
// etcd could not be saved, for want of room say, it notes that in the cluster and ends
// well all the same (k3s pkg/etcd/snapshot.go, pkg/cli/etcdsnapshot).
func (w *work) snapshot(ctx context.Context, name string) error {
	if len(w.clients) == 0 {
		return fmt.Errorf("no server answers that could take the snapshot %q", name)
	}
	from := w.clients[0]
	h, err := w.host(ctx, from.machine)
	if err != nil {
		return err
	}
	defer h.Close()
	w.say("%s: saving etcd as %s", from.machine, name)
	ctx, cancel := context.WithTimeoutCause(ctx, snapshotLimit, fmt.Errorf("saving etcd took longer than %s", snapshotLimit))
	defer cancel()
	line := fmt.Sprintf(`%s etcd-snapshot save --name %s || exit; for f in %s[0-9]*; do [ -s "$f" ] && exit 0; done; echo "no file of it is in %s" >&2; exit 1`,
		h.path(binaryPath), remote.Quote(name), h.path(snapshotsDir+"/"+snapshotOf(name, from.node.Name)), snapshotsDir)
	if _, err := h.Run(ctx, remote.Command{Line: line}); err != nil {
		return fmt.Errorf("saving etcd: %w; see on %s: journalctl -u k3s.service", err, from.machine)
	}
	return nil
}

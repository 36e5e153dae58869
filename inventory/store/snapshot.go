package store

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/machine"
	"github.com/edge-provision/edge-provision/ent/snapshot"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/drift"
)

// Errors of AcceptDrift.
var (
	// ErrNoDrift says that there is nothing to accept.
	ErrNoDrift = errors.New("its hardware is as in its snapshot")
	// ErrDriftMoved says that the difference is not the one that was shown.
	ErrDriftMoved = errors.New("its hardware differs in another way than was shown; look again")
	// ErrNoSnapshotKey says that this program has no key for snapshots.
	ErrNoSnapshotKey = errors.New("the catalog's key for snapshots is not at hand here")
	// ErrNeverLooked says that nothing was observed of the machine yet.
	ErrNeverLooked = errors.New("no facts were gathered from it yet")
)

// UseSnapshotKey gives the key that signs snapshots of hardware and proves them.
// Without it facts are kept as ever, but are compared with no snapshot until
// ReviewDrift is called by a program that has it.
func (s *Store) UseSnapshotKey(key ed25519.PrivateKey) { s.snapshots.Store(&key) }

func (s *Store) snapshotKey() (ed25519.PrivateKey, error) {
	if key := s.snapshots.Load(); key != nil {
		return *key, nil
	}
	return nil, ErrNoSnapshotKey
}

// Commission freezes the hardware of a machine as its facts show it now, unless
// that was done before: then frozen is false. run is the run that brought the
// machine into service; empty for none.
func (s *Store) Commission(ctx context.Context, id uuid.UUID, run string) (frozen bool, err error) {
	op := "freezing the hardware of machine " + id.String()
	key, err := s.snapshotKey()
	if err != nil {
		return false, fmt.Errorf("%s: %w", op, err)
	}
	err = s.write(ctx, op, func(tx *ent.Tx) error {
		frozen = false
		m, err := s.locked(ctx, tx, id)
		if err != nil {
			return err
		}
		if known, err := newestSnapshot(ctx, tx.Client(), id); err != nil || known != nil {
			return err
		}
		if err := s.freeze(ctx, tx, key, m, drift.Snapshot{Number: 1, Run: run}); err != nil {
			return err
		}
		frozen = true
		return s.changed(ctx, tx, "drift", id)
	})
	return frozen, err
}

// AcceptDrift makes the hardware as it is now the machine's new snapshot. seen is
// the Digest of the report that was accepted: when the machine differs in another
// way by now, nothing is changed and ErrDriftMoved returned, and ErrNoDrift when it
// does not differ. Where there is no snapshot, or a forged one, seen is empty.
func (s *Store) AcceptDrift(ctx context.Context, id uuid.UUID, seen, by string) (drift.Report, error) {
	op := "accepting the hardware of machine " + id.String()
	key, err := s.snapshotKey()
	if err != nil {
		return drift.Report{}, fmt.Errorf("%s: %w", op, err)
	}
	err = s.write(ctx, op, func(tx *ent.Tx) error {
		m, err := s.locked(ctx, tx, id)
		if err != nil {
			return err
		}
		docs, err := factsAt(ctx, tx.Client(), id, time.Time{})
		if err != nil {
			return err
		}
		r, err := compare(ctx, tx.Client(), key, s.catalog, m, docs)
		switch {
		case err != nil:
			return err
		case r.State == inventory.DriftNone:
			return ErrNoDrift
		case r.Digest != seen:
			return ErrDriftMoved
		}
		next := drift.Snapshot{Number: 1, AcceptedBy: clean(by)}
		if r.Snapshot != nil {
			next.Number = r.Snapshot.Number + 1
		}
		if err := s.freeze(ctx, tx, key, m, next); err != nil {
			return err
		}
		if err := s.changed(ctx, tx, "drift", id); err != nil || r.Snapshot == nil {
			return err
		}
		return s.driftEnded(ctx, tx, m, map[string]string{"how": "accepted", "by": clean(by)})
	})
	if err != nil {
		return drift.Report{}, err
	}
	return s.Drift(ctx, id)
}

// freeze writes the next snapshot of a machine.
func (s *Store) freeze(ctx context.Context, tx *ent.Tx, key ed25519.PrivateKey, m inventory.Machine, next drift.Snapshot) error {
	docs, err := factsAt(ctx, tx.Client(), m.ID, time.Time{})
	if err != nil {
		return err
	}
	docs = observed(docs)
	if len(docs) == 0 {
		return ErrNeverLooked
	}
	next.TakenAt = s.now()
	if err := s.keepSnapshot(ctx, tx, key, m, next, merge(docs)); err != nil {
		return err
	}
	return tx.Machine.UpdateOneID(m.ID).SetDrift(string(inventory.DriftNone)).ClearDriftDigest().ClearDriftSince().Exec(ctx)
}

// keepSnapshot signs a snapshot of facts and writes it.
func (s *Store) keepSnapshot(ctx context.Context, tx *ent.Tx, key ed25519.PrivateKey, m inventory.Machine, next drift.Snapshot, facts inventory.Facts) error {
	content, digest, err := facts.Canonical()
	if err != nil {
		return err
	}
	next.Catalog, next.Machine, next.Digest = s.catalog, m.ID, digest
	signature, err := next.Sign(key)
	if err != nil {
		return err
	}
	return tx.Snapshot.Create().SetMachineID(m.ID).SetNumber(next.Number).SetDigest(digest).SetContent(content).
		SetTakenAt(next.TakenAt).SetSignature(signature).SetNillableRun(some(next.Run)).SetNillableAcceptedBy(some(next.AcceptedBy)).Exec(ctx)
}

// learn adds to a machine's newest snapshot what one of its ports is connected to,
// when that was not heard before: there was nothing that could have changed. It is a
// snapshot of its own, with the time and origin of the one that it completes.
func (s *Store) learn(ctx context.Context, tx *ent.Tx, key ed25519.PrivateKey, m inventory.Machine, r drift.Report, docs map[inventory.Source]inventory.Document) error {
	if r.Snapshot == nil || r.State == inventory.DriftForged {
		return nil
	}
	facts, more := drift.Learn(r.Snapshot.Facts, merge(observed(docs)))
	if !more {
		return nil
	}
	next := *r.Snapshot
	next.Number++
	return s.keepSnapshot(ctx, tx, key, m, next, facts)
}

// observed are the documents of programs that looked at the machine itself. What
// people write changes no hardware, and must not hide that it changed. What a BMC
// says is worded otherwise, is as of the last start, and may come at any time.
func observed(docs map[inventory.Source]inventory.Document) map[inventory.Source]inventory.Document {
	looks := maps.Clone(docs)
	for _, source := range []inventory.Source{inventory.SourceManual, inventory.SourceRedfish, inventory.SourceIPMI} {
		delete(looks, source)
	}
	return looks
}

func newestSnapshot(ctx context.Context, c *ent.Client, id uuid.UUID) (*ent.Snapshot, error) {
	row, err := c.Snapshot.Query().Where(snapshot.MachineID(id)).Order(ent.Desc(snapshot.FieldNumber)).First(ctx)
	if ent.IsNotFound(err) {
		return nil, nil
	}
	return row, err
}

func snapshotOf(r *ent.Snapshot, catalog uuid.UUID) drift.Snapshot {
	out := drift.Snapshot{Catalog: catalog, Machine: r.MachineID, Number: r.Number, Digest: r.Digest, TakenAt: r.TakenAt.UTC()}
	setString(&out.Run, r.Run)
	setString(&out.AcceptedBy, r.AcceptedBy)
	return out
}

// compare tells how the facts of a machine stand against its newest snapshot.
func compare(ctx context.Context, c *ent.Client, key ed25519.PrivateKey, catalog uuid.UUID, m inventory.Machine, docs map[inventory.Source]inventory.Document) (drift.Report, error) {
	r := drift.Report{LookedAt: m.LookedAt}
	row, err := newestSnapshot(ctx, c, m.ID)
	if err != nil || row == nil {
		return r, err
	}
	frozen := snapshotOf(row, catalog)
	r.Snapshot = &frozen
	opened, err := frozen.Open(publicOf(key), row.Signature, row.Content)
	switch {
	case errors.Is(err, drift.ErrForged):
		r.State = inventory.DriftForged
	case err != nil:
		return r, err
	default:
		r.State, frozen.Facts = inventory.DriftNone, opened.Facts
		if r.Changes = drift.Compare(opened.Facts, merge(observed(docs))); len(r.Changes) > 0 {
			r.State, r.Digest = inventory.DriftChanged, drift.Digest(r.Changes)
		}
	}
	if m.Drift == r.State {
		r.Since = m.DriftSince
	}
	return r, nil
}

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey {
	return ed25519.PublicKey(key[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
}

// Drift tells how a machine's hardware stands against its snapshot. Its State is
// empty while there is none. It returns ErrNoSnapshotKey where nothing can be
// proved.
func (s *Store) Drift(ctx context.Context, id uuid.UUID) (drift.Report, error) {
	op := "comparing the hardware of machine " + id.String()
	key, err := s.snapshotKey()
	if err != nil {
		return drift.Report{}, fmt.Errorf("%s: %w", op, err)
	}
	m, err := s.Machine(ctx, id)
	if err != nil {
		return drift.Report{}, err
	}
	docs, err := s.Facts(ctx, id)
	if err != nil {
		return drift.Report{}, err
	}
	r, err := compare(ctx, s.main.client, key, s.catalog, m, docs)
	return r, s.explain(op, err)
}

// Snapshot is one of a machine's snapshots, in its history.
type Snapshot struct {
	drift.Snapshot
	// Forged says that it is not one that this catalog signed.
	Forged bool
}

// Snapshots returns the snapshots of a machine, the newest first, with their
// facts unless they are forged.
func (s *Store) Snapshots(ctx context.Context, id uuid.UUID) ([]Snapshot, error) {
	op := "reading the snapshots of machine " + id.String()
	key, err := s.snapshotKey()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	rows, err := s.main.client.Snapshot.Query().Where(snapshot.MachineID(id)).Order(ent.Desc(snapshot.FieldNumber)).All(ctx)
	if err != nil {
		return nil, s.explain(op, err)
	}
	out := make([]Snapshot, len(rows))
	for i, r := range rows {
		opened, err := snapshotOf(r, s.catalog).Open(publicOf(key), r.Signature, r.Content)
		out[i] = Snapshot{Snapshot: opened, Forged: errors.Is(err, drift.ErrForged)}
		if err != nil && !out[i].Forged {
			return nil, s.explain(op, err)
		}
	}
	return out, nil
}

// ReviewDrift compares the machines of a site that have a snapshot with it, and
// tells what was not told yet. It finds what was written by programs without the
// key, and what was changed past all programs.
func (s *Store) ReviewDrift(ctx context.Context, site string) error {
	const op = "comparing the hardware of a site's machines"
	if _, err := s.snapshotKey(); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	ids, err := s.main.client.Machine.Query().Where(machine.Site(site), machine.HasSnapshots()).Order(ent.Asc(machine.FieldID)).IDs(ctx)
	if err != nil {
		return s.explain(op, err)
	}
	for _, id := range ids { // one transaction each: leases must not wait for all
		err := s.write(ctx, op, func(tx *ent.Tx) error {
			if err := s.lockMachines(ctx, tx, id); err != nil { // before what is judged is read
				return err
			}
			docs, err := factsAt(ctx, tx.Client(), id, time.Time{})
			if err != nil {
				return err
			}
			moved, err := s.judge(ctx, tx, id, docs)
			if err != nil || !moved {
				return err
			}
			return s.changed(ctx, tx, "drift", id)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// judge compares a machine, whose documents are docs, with its snapshot, keeps the
// answer and tells of it once. moved says that the answer is another than before.
func (s *Store) judge(ctx context.Context, tx *ent.Tx, id uuid.UUID, docs map[inventory.Source]inventory.Document) (moved bool, err error) {
	key, err := s.snapshotKey()
	if err != nil {
		return false, nil // ReviewDrift does it where there is a key
	}
	m, err := s.locked(ctx, tx, id)
	if err != nil {
		return false, err
	}
	r, err := compare(ctx, tx.Client(), key, s.catalog, m, docs)
	if err != nil {
		return false, err
	}
	if err := s.learn(ctx, tx, key, m, r, docs); err != nil {
		return false, err
	}
	if m.Drift == r.State && m.DriftDigest == r.Digest {
		return false, nil
	}
	up := tx.Machine.UpdateOneID(id)
	if r.State == "" { // its snapshots are gone
		return true, up.ClearDrift().ClearDriftDigest().ClearDriftSince().Exec(ctx)
	}
	if r.State == inventory.DriftNone {
		if err := up.SetDrift(string(r.State)).ClearDriftDigest().ClearDriftSince().Exec(ctx); err != nil {
			return false, err
		}
		return true, s.driftEnded(ctx, tx, m, map[string]string{"how": "repaired"})
	}
	up.SetDrift(string(r.State)).SetDriftSince(s.now())
	if up.SetDriftDigest(r.Digest); r.Digest == "" {
		up.ClearDriftDigest()
	}
	if err := up.Exec(ctx); err != nil {
		return false, err
	}
	return true, s.drifted(ctx, tx, m, r)
}

// looked keeps when edge-agent, which sees all of a machine, last looked at it.
func looked(ctx context.Context, tx *ent.Tx, id uuid.UUID, source inventory.Source, at time.Time) error {
	if source != inventory.SourceAgent {
		return nil
	}
	_, err := tx.Machine.Update().Where(machine.ID(id), machine.Or(machine.LookedAtIsNil(), machine.LookedAtLT(at))).SetLookedAt(at).Save(ctx)
	return err
}

// CountDrift counts the machines by site and state of drift; those without a
// snapshot have the empty state.
func (s *Store) CountDrift(ctx context.Context) ([]DriftCount, error) {
	var rows []struct {
		Site  string  `json:"site"`
		Drift *string `json:"drift"`
		Count int     `json:"count"`
	}
	err := s.main.client.Machine.Query().GroupBy(machine.FieldSite, machine.FieldDrift).Aggregate(ent.Count()).Scan(ctx, &rows)
	if err != nil {
		return nil, s.explain("counting drift", err)
	}
	out := make([]DriftCount, len(rows))
	for i, r := range rows {
		out[i] = DriftCount{Site: r.Site, Machines: r.Count}
		if r.Drift != nil {
			out[i].State = inventory.DriftState(*r.Drift)
		}
	}
	return out, nil
}

// DriftCount is how many machines of a site are in a state of drift.
type DriftCount struct {
	Site     string
	State    inventory.DriftState
	Machines int
}

// OldestLooks returns, for each site with machines that have a snapshot, when the
// one of them that was not looked at for longest was looked at.
func (s *Store) OldestLooks(ctx context.Context) (map[string]time.Time, error) {
	rows, err := s.main.client.Machine.Query().Where(machine.DriftNotNil(), machine.LookedAtNotNil()).
		Order(ent.Asc(machine.FieldSite, machine.FieldLookedAt)).Select(machine.FieldSite, machine.FieldLookedAt).All(ctx)
	if err != nil {
		return nil, s.explain("reading when machines were looked at", err)
	}
	out := map[string]time.Time{}
	for _, r := range rows {
		if _, known := out[r.Site]; !known {
			out[r.Site] = r.LookedAt.UTC()
		}
	}
	return out, nil
}

// toldChanges bounds what one event says.
const toldChanges = 8

func (s *Store) drifted(ctx context.Context, tx *ent.Tx, m inventory.Machine, r drift.Report) error {
	if err := s.orderEvents(ctx, tx); err != nil {
		return err
	}
	attrs := map[string]string{"state": string(r.State), "count": strconv.Itoa(len(r.Changes))}
	message := "its snapshot is not one that this catalog signed"
	if r.State == inventory.DriftChanged {
		var lines []string
		for _, c := range r.Changes[:min(toldChanges, len(r.Changes))] {
			lines = append(lines, drift.Describe(c))
		}
		attrs["digest"], attrs["changes"] = r.Digest, clean(strings.Join(lines, "; "))
		message = "the hardware is not what it was: " + attrs["changes"]
		if more := len(r.Changes) - len(lines); more > 0 {
			message += fmt.Sprintf("; and %d more", more)
		}
	}
	return tx.Event.Create().SetTime(s.now()).SetKind(string(inventory.EventMachineDrift)).SetSite(m.Site).SetMachineID(m.ID).
		SetMessage(message).SetAttrs(attrs).Exec(ctx)
}

func (s *Store) driftEnded(ctx context.Context, tx *ent.Tx, m inventory.Machine, attrs map[string]string) error {
	if err := s.orderEvents(ctx, tx); err != nil {
		return err
	}
	return tx.Event.Create().SetTime(s.now()).SetKind(string(inventory.EventMachineDriftEnd)).SetSite(m.Site).SetMachineID(m.ID).
		SetMessage("the hardware is as in its snapshot").SetAttrs(attrs).Exec(ctx)
}

// timeOf is a time of the catalog; zero for none.
func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

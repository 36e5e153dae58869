package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"entgo.io/ent/dialect"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/machine"
	"github.com/edge-provision/edge-provision/ent/machinefacts"
	"github.com/edge-provision/edge-provision/ent/predicate"
	"github.com/edge-provision/edge-provision/ent/setting"
	"github.com/edge-provision/edge-provision/inventory"
)

// projectionVersion counts the changes of what the projection holds. A catalog
// whose projection is of an older version is brought up to date when it is
// opened.
const projectionVersion = 5

// projectionKey is the setting that says how far the projection is. Its value is a
// projectionMark.
const projectionKey = "projection.version"

// projectionMark says which version the projection has. While it is being made anew,
// only the machines up to one, in the order of their ids, have it. A program of
// another version takes a mark that it does not know for another version.
type projectionMark struct {
	version int
	partial bool
	after   uuid.UUID
	done    int // machines up to after
}

// Marks of this program's version: nothing has it yet, everything has it.
var (
	unprojected = projectionMark{version: projectionVersion, partial: true}
	projected   = projectionMark{version: projectionVersion}
)

func (m projectionMark) String() string {
	if m.partial {
		return fmt.Sprintf("%d after %d machines to %s", m.version, m.done, m.after)
	}
	return strconv.Itoa(m.version)
}

// parseProjectionMark reads a mark; what is none is version 0.
func parseProjectionMark(text string) projectionMark {
	version, rest, partial := strings.Cut(text, " after ")
	m := projectionMark{partial: partial}
	var err error
	if m.version, err = strconv.Atoi(version); err != nil {
		return projectionMark{}
	}
	if !partial {
		return m
	}
	count, id, _ := strings.Cut(rest, " machines to ")
	if m.done, err = strconv.Atoi(count); err != nil {
		return projectionMark{}
	}
	if m.after, err = uuid.Parse(id); err != nil {
		return projectionMark{}
	}
	return m
}

// upgrade makes the projection of all machines anew, some in a transaction: whatever
// ends the program leaves each machine projected as before or anew, and the next one
// goes on behind the last of them.
type upgrade struct {
	s *Store
	// machines and bytes bound a transaction: how many machines, and how much of
	// their documents, of which those of one machine are always read.
	machines, bytes int
	// told hears after each transaction how many of all machines are done.
	told func(done, total int)
}

// Bounds of one transaction. Other writers, of leases above all, wait for as long as it
// takes, which is less than a second.
const (
	upgradeMachines = 500
	upgradeBytes    = 16 << 20
	// upgradeBegins is how many machines the first transaction reads, of which nobody
	// knows how long their histories are.
	upgradeBegins = 32
)

// upgradeProjection makes the projection what this program expects of it.
func (s *Store) upgradeProjection(ctx context.Context) error {
	mark, err := s.projectionMark(ctx)
	if err != nil {
		return err
	}
	if mark == projected {
		return s.mendProjections(ctx)
	}
	return s.newUpgrade().run(ctx)
}

func (s *Store) projectionMark(ctx context.Context) (mark projectionMark, err error) {
	have, err := s.Settings().Get(ctx, projectionKey)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return parseProjectionMark(string(have)), err
}

// markIn is projectionMark in a transaction.
func markIn(ctx context.Context, tx *ent.Tx) (projectionMark, error) {
	row, err := tx.Setting.Get(ctx, projectionKey)
	if ent.IsNotFound(err) {
		return projectionMark{}, nil
	}
	if err != nil {
		return projectionMark{}, err
	}
	return parseProjectionMark(string(row.Value)), nil
}

func (s *Store) mark(ctx context.Context, tx *ent.Tx, m projectionMark) error {
	return tx.Setting.Create().SetID(projectionKey).SetValue([]byte(m.String())).SetUpdatedAt(s.now()).
		OnConflictColumns(setting.FieldID).UpdateNewValues().Exec(ctx)
}

// progressPause is the least time between two words about progress.
const progressPause = 2 * time.Second

func (s *Store) newUpgrade() upgrade {
	last := s.cfg.Now()
	return upgrade{s: s, machines: upgradeMachines, bytes: upgradeBytes, told: func(done, total int) {
		if now := s.cfg.Now(); s.cfg.Progress != nil && now.Sub(last) >= progressPause {
			last = now
			s.cfg.Progress(done, total)
		}
	}}
}

func (u upgrade) run(ctx context.Context) error {
	const op = "projecting facts"
	mark, err := u.begin(ctx, op)
	if err != nil {
		return err
	}
	total, err := u.s.main.client.Machine.Query().Count(ctx)
	if err != nil {
		return u.s.explain(op, err)
	}
	for limit := min(u.machines, upgradeBegins); ; {
		b, err := u.next(ctx, op, limit)
		if err == nil && !b.ended {
			mark = b.mark
			u.told(mark.done, max(mark.done, total))
			err = u.pause(ctx)
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("%w; %d of %d machines are done, and the next program that opens the catalog goes on there", err, mark.done, total)
		case err != nil || b.ended:
			return err
		}
		// What is read beyond the bytes of a batch is read again in the next one:
		// machines with a long history are asked for one by one.
		limit = max(1, min(u.machines, 2*b.machines))
	}
}

// upgradePause is the time between two transactions for other programs, which look
// whether SQLite's one write lock is free once in 100 ms and give up after BusyTimeout:
// where a transaction takes 300 ms, one in 3,000 finds it taken at each of a hundred
// looks. PostgreSQL keeps a queue.
const upgradePause = 25 * time.Millisecond

func (u upgrade) pause(ctx context.Context) error {
	if u.s.dialect == dialect.Postgres {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(upgradePause):
		return nil
	}
}

// begin says where to go on, and that it is begun where it was not.
func (u upgrade) begin(ctx context.Context, op string) (mark projectionMark, err error) {
	err = u.s.write(ctx, op, func(tx *ent.Tx) error {
		if err := u.s.lockIdentities(ctx, tx); err != nil {
			return err
		}
		if mark, err = markIn(ctx, tx); err != nil || mark.version == projectionVersion {
			return err
		}
		mark = unprojected
		return u.s.mark(ctx, tx, mark)
	})
	return mark, err
}

// batch is what one transaction did.
type batch struct {
	machines int
	mark     projectionMark // behind them
	// ended says that there was nothing to do: no machine is left, or a program of a
	// later version has begun the same, and it is left to that.
	ended bool
}

// next projects the next machines, at most limit, in one transaction.
func (u upgrade) next(ctx context.Context, op string, limit int) (b batch, err error) {
	s := u.s
	err = s.write(ctx, op, func(tx *ent.Tx) error {
		b = batch{}
		// Programs that do this at once take the next machines in turn.
		if err := s.lockIdentities(ctx, tx); err != nil {
			return err
		}
		mark, err := markIn(ctx, tx)
		if err != nil {
			return err
		}
		if b.ended = mark.version > projectionVersion || mark == projected; b.ended {
			return nil
		}
		if mark.version < projectionVersion {
			// A program of an earlier version has begun the same in between, and
			// leaves it to this one.
			mark = unprojected
		}
		ids, err := tx.Machine.Query().Where(machine.IDGT(mark.after)).Order(ent.Asc(machine.FieldID)).Limit(limit).IDs(ctx)
		if err != nil {
			return err
		}
		if b.ended = len(ids) == 0; b.ended {
			return s.mark(ctx, tx, projected)
		}
		if err := s.lockMachines(ctx, tx, ids...); err != nil {
			return err
		}
		if err := s.byIndex(ctx, tx); err != nil {
			return err
		}
		ids, docs, changes, err := s.replay(ctx, tx, ids, u.bytes)
		if err == nil {
			err = s.replace(ctx, tx, changeTable, ids, changes)
		}
		if err == nil {
			err = s.project(ctx, tx, ids, docs)
		}
		if err != nil {
			return err
		}
		mark.done, mark.after = mark.done+len(ids), ids[len(ids)-1]
		b.machines, b.mark = len(ids), mark
		return s.mark(ctx, tx, mark)
	})
	return b, err
}

// byIndex keeps PostgreSQL in the rest of a transaction from reading whole tables for
// some hundred machines, which it plans where nobody has analyzed them.
func (s *Store) byIndex(ctx context.Context, tx *ent.Tx) error {
	if s.dialect != dialect.Postgres {
		return nil
	}
	_, err := tx.ExecContext(ctx, "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off")
	return err
}

// listless selects projections that tell of no list that it was looked for. An older
// program makes such ones of every machine, when it goes on running after this one
// has given the tables their columns.
func listless() predicate.MachineFacts {
	return machinefacts.And(machinefacts.DisksObserved(false), machinefacts.NicsObserved(false), machinefacts.NeighborsObserved(false),
		machinefacts.MemoryModulesObserved(false), machinefacts.PciFunctionsObserved(false))
}

// hasList reports whether some list was looked for.
func hasList(f inventory.Facts) bool {
	return f.Disks != nil || f.NICs != nil || f.Neighbors != nil || f.PCI != nil || f.Memory != nil && f.Memory.Modules != nil
}

// mendProjections projects anew what an older program projected into the tables of
// this one.
func (s *Store) mendProjections(ctx context.Context) error {
	const op = "looking for projections of an older program"
	var found []uuid.UUID
	err := s.main.client.MachineFacts.Query().Where(listless()).Order(ent.Asc(machinefacts.FieldMachineID)).
		Select(machinefacts.FieldMachineID).Scan(ctx, &found)
	if err != nil {
		return s.explain(op, err)
	}
	return inBatches(found, func(part []uuid.UUID) error {
		known, err := s.FactsOf(ctx, part...)
		if err != nil {
			return err
		}
		ids := slices.DeleteFunc(slices.Clone(part), func(id uuid.UUID) bool { return !hasList(known[id]) })
		if len(ids) == 0 {
			return nil
		}
		return s.write(ctx, op, func(tx *ent.Tx) error {
			if err := s.lockIdentities(ctx, tx); err != nil {
				return err
			}
			if err := s.lockMachines(ctx, tx, ids...); err != nil {
				return err
			}
			docs, err := documentsOf(ctx, tx.Client(), ids)
			if err != nil {
				return err
			}
			return s.project(ctx, tx, ids, docs)
		})
	})
}

// mendProjection is mendProjections for one machine, which reports f again.
func (s *Store) mendProjection(ctx context.Context, tx *ent.Tx, id uuid.UUID, f inventory.Facts) error {
	if !hasList(f) {
		return nil
	}
	old, err := tx.MachineFacts.Query().Where(machinefacts.MachineID(id), listless()).Exist(ctx)
	if err != nil || !old {
		return err
	}
	if err := s.lockMachines(ctx, tx, id); err != nil {
		return err
	}
	of, err := documentsOf(ctx, tx.Client(), []uuid.UUID{id})
	if err != nil {
		return err
	}
	return s.project(ctx, tx, []uuid.UUID{id}, of)
}

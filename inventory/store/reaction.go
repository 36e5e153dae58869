package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"entgo.io/ent/dialect/sql"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/machine"
	"github.com/edge-provision/edge-provision/ent/predicate"
	"github.com/edge-provision/edge-provision/ent/reaction"
	"github.com/edge-provision/edge-provision/inventory"
)

// ReactionFilter selects reactions; zero fields select everything.
type ReactionFilter struct {
	Site    string
	Machine uuid.UUID
	Class   string
	State   inventory.ReactionState
}

func (f ReactionFilter) where() []predicate.Reaction {
	var where []predicate.Reaction
	if f.Site != "" {
		where = append(where, reaction.Site(f.Site))
	}
	if f.Machine != uuid.Nil {
		where = append(where, reaction.MachineID(f.Machine))
	}
	if f.Class != "" {
		where = append(where, reaction.Class(f.Class))
	}
	if f.State != "" {
		where = append(where, reaction.State(string(f.State)))
	}
	return where
}

// Reactions returns the reactions that f selects, in the order of arrival.
func (s *Store) Reactions(ctx context.Context, f ReactionFilter) ([]inventory.Reaction, error) {
	rows, err := s.main.client.Reaction.Query().Where(f.where()...).Order(ent.Asc(reaction.FieldID)).All(ctx)
	if err != nil {
		return nil, s.explain("reading reactions", err)
	}
	return reactionsOf(rows), nil
}

// ReactionPage returns at most limit reactions that f selects, the newest first,
// that are older than the one with the id before; zero begins with the newest.
func (s *Store) ReactionPage(ctx context.Context, f ReactionFilter, before int64, limit int) ([]inventory.Reaction, error) {
	where := f.where()
	if before > 0 {
		where = append(where, reaction.IDLT(before))
	}
	rows, err := s.main.client.Reaction.Query().Where(where...).Order(ent.Desc(reaction.FieldID)).Limit(limit).All(ctx)
	if err != nil {
		return nil, s.explain("listing reactions", err)
	}
	return reactionsOf(rows), nil
}

// Reaction returns one reaction, or ErrNotFound.
func (s *Store) Reaction(ctx context.Context, id int64) (inventory.Reaction, error) {
	row, err := s.main.client.Reaction.Get(ctx, id)
	if err != nil {
		return inventory.Reaction{}, s.explain(fmt.Sprintf("reading reaction %d", id), err)
	}
	return reactionOf(row), nil
}

func reactionsOf(rows []*ent.Reaction) []inventory.Reaction {
	out := make([]inventory.Reaction, len(rows))
	for i, r := range rows {
		out[i] = reactionOf(r)
	}
	return out
}

// QueueReaction keeps that a machine in a class is due for what the class
// starts. A second time for the same machine, class and digest changes nothing,
// and queued is false. r's State is queued, or a final one when there is nothing
// to start.
func (s *Store) QueueReaction(ctx context.Context, r inventory.Reaction) (queued bool, err error) {
	err = s.write(ctx, fmt.Sprintf("queuing class %s for machine %s", r.Class, r.Machine), func(tx *ent.Tx) error {
		// The machine is locked, so that two programs queue one after the other.
		if _, err := s.locked(ctx, tx, r.Machine); err != nil {
			return err
		}
		known, err := tx.Reaction.Query().
			Where(reaction.MachineID(r.Machine), reaction.Class(r.Class), reaction.Digest(r.Digest)).Exist(ctx)
		if queued = !known && err == nil; !queued {
			return err
		}
		row := tx.Reaction.Create().SetMachineID(r.Machine).SetSite(r.Site).SetClass(r.Class).SetDigest(r.Digest).
			SetState(string(r.State)).SetAddress(r.Address).SetReason(clean(r.Reason)).SetQueuedAt(s.now())
		if r.State.Final() {
			row.SetFinishedAt(s.now())
		}
		made, err := row.Save(ctx)
		if err != nil {
			return err
		}
		return s.reacted(ctx, tx, reactionOf(made))
	})
	return queued, err
}

// RenewReactions gives the reactions of a class that are kept under a former digest
// of its definition another one. A machine that has one under the new digest
// already keeps both as they are. It changes nothing about what was reacted to, so
// that no event tells of it.
func (s *Store) RenewReactions(ctx context.Context, site, class, former, digest string) error {
	return s.write(ctx, "renewing the reactions of class "+class, func(tx *ent.Tx) error {
		return tx.Reaction.Update().
			Where(reaction.Site(site), reaction.Class(class), reaction.Digest(former), func(rows *sql.Selector) {
				known := sql.Table(reaction.Table)
				rows.Where(sql.NotIn(rows.C(reaction.FieldMachineID), sql.Select(known.C(reaction.FieldMachineID)).From(known).
					Where(sql.And(sql.EQ(known.C(reaction.FieldClass), class), sql.EQ(known.C(reaction.FieldDigest), digest)))))
			}).SetDigest(digest).Exec(ctx)
	})
}

// ErrReactionMoved says that a reaction is not in the state that a change of it
// starts from: another program was there first.
var ErrReactionMoved = errors.New("the reaction has moved on")

// StartReaction keeps, before its work starts, that a reaction is under way for
// the machine as address. It may be queued, or started when it was cut off; else
// the error is ErrReactionMoved. That it waits is no attempt yet: see
// CountReaction.
func (s *Store) StartReaction(ctx context.Context, id int64, address string) (inventory.Reaction, error) {
	return s.moveReaction(ctx, id, []inventory.ReactionState{inventory.ReactionQueued, inventory.ReactionStarted}, func(up *ent.ReactionUpdateOne) {
		up.SetState(string(inventory.ReactionStarted)).SetAddress(address).SetReason("").SetStartedAt(s.now())
	})
}

// CountReaction keeps, before anything is done, that the work of a started
// reaction begins once more; ErrReactionMoved when it is not started.
func (s *Store) CountReaction(ctx context.Context, id int64) (inventory.Reaction, error) {
	return s.moveReaction(ctx, id, []inventory.ReactionState{inventory.ReactionStarted}, func(up *ent.ReactionUpdateOne) {
		up.AddAttempts(1)
	})
}

// HoldReaction keeps why a queued reaction cannot start yet; ErrReactionMoved
// when it is not queued any more. The same reason again changes nothing.
func (s *Store) HoldReaction(ctx context.Context, id int64, reason string) (inventory.Reaction, error) {
	return s.moveReaction(ctx, id, []inventory.ReactionState{inventory.ReactionQueued}, func(up *ent.ReactionUpdateOne) {
		up.SetReason(clean(reason))
	})
}

// DelayReaction keeps what a started reaction waits for, other than for its turn;
// empty: for nothing any more. ErrReactionMoved when it is not started. The same
// reason again changes nothing.
func (s *Store) DelayReaction(ctx context.Context, id int64, reason string) (inventory.Reaction, error) {
	return s.moveReaction(ctx, id, []inventory.ReactionState{inventory.ReactionStarted}, func(up *ent.ReactionUpdateOne) {
		up.SetReason(clean(reason))
	})
}

// FinishReaction keeps how a reaction ended; ErrReactionMoved when it had ended
// before.
func (s *Store) FinishReaction(ctx context.Context, id int64, state inventory.ReactionState, reason string) (inventory.Reaction, error) {
	if !state.Final() {
		return inventory.Reaction{}, fmt.Errorf("finishing reaction %d: %q is no end", id, state)
	}
	return s.moveReaction(ctx, id, []inventory.ReactionState{inventory.ReactionQueued, inventory.ReactionStarted}, func(up *ent.ReactionUpdateOne) {
		up.SetState(string(state)).SetReason(clean(reason)).SetFinishedAt(s.now())
	})
}

func (s *Store) moveReaction(ctx context.Context, id int64, from []inventory.ReactionState, change func(*ent.ReactionUpdateOne)) (inventory.Reaction, error) {
	var out inventory.Reaction
	err := s.write(ctx, fmt.Sprintf("keeping reaction %d", id), func(tx *ent.Tx) error {
		before, err := tx.Reaction.Get(ctx, id)
		if err != nil {
			return err
		}
		if _, err := s.locked(ctx, tx, before.MachineID); err != nil {
			return err
		}
		// Read again: whoever held the machine may have changed it.
		if before, err = tx.Reaction.Get(ctx, id); err != nil {
			return err
		}
		if !slices.Contains(from, inventory.ReactionState(before.State)) {
			return ErrReactionMoved
		}
		up := tx.Reaction.UpdateOneID(id)
		change(up)
		row, err := up.Save(ctx)
		if err != nil {
			return err
		}
		was := reactionOf(before)
		out = reactionOf(row)
		// One attempt more is no news: that it started was told.
		if was.Attempts = out.Attempts; out == was {
			return nil
		}
		return s.reacted(ctx, tx, out)
	})
	return out, err
}

// reacted tells a reaction's new state, in the transaction that makes it.
func (s *Store) reacted(ctx context.Context, tx *ent.Tx, r inventory.Reaction) error {
	m, err := tx.Machine.Query().Where(machine.ID(r.Machine)).WithMacs().Only(ctx)
	if err != nil {
		return err
	}
	if err := s.orderEvents(ctx, tx); err != nil {
		return err
	}
	attrs := map[string]string{"reaction": strconv.FormatInt(r.ID, 10), "class": r.Class, "state": string(r.State)}
	for name, value := range map[string]string{"address": r.Address, "reason": r.Reason} {
		if value != "" {
			attrs[name] = value
		}
	}
	row := tx.Event.Create().SetTime(s.now()).SetKind(string(inventory.EventMachineReaction)).SetSite(m.Site).SetMachineID(m.ID).SetAttrs(attrs)
	if len(m.Edges.Macs) > 0 {
		row.SetMAC(m.Edges.Macs[0].MAC)
	}
	return row.Exec(ctx)
}

func reactionOf(r *ent.Reaction) inventory.Reaction {
	out := inventory.Reaction{
		ID: r.ID, Site: r.Site, Machine: r.MachineID, Class: r.Class, Digest: r.Digest, State: inventory.ReactionState(r.State),
		Address: r.Address, Reason: r.Reason, Attempts: r.Attempts, QueuedAt: r.QueuedAt.UTC(),
	}
	if r.StartedAt != nil {
		out.StartedAt = r.StartedAt.UTC()
	}
	if r.FinishedAt != nil {
		out.FinishedAt = r.FinishedAt.UTC()
	}
	return out
}

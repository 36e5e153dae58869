package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/operation"
)

// Operation is work that was asked for and that outlives the request.
type Operation struct {
	ID    uuid.UUID // UUIDv7; given by BeginOperation
	Actor string
	// Key is the actor's Idempotency-Key, Digest is over what was asked with it.
	Key, Digest string
	Kind        string
	Machine     uuid.UUID // zero: of none
	Site        string
	State       string
	Result      string
	Error       string
	CreatedAt   time.Time
	FinishedAt  time.Time // zero while it runs
}

// ErrKeyReused says that an Idempotency-Key came again with another request.
var ErrKeyReused = errors.New("the key was used for another request")

// BeginOperation writes that an operation starts, and returns it. When the actor
// used the key before, it returns that operation and started false, or
// ErrKeyReused when it was for something else.
func (s *Store) BeginOperation(ctx context.Context, o Operation) (begun Operation, started bool, err error) {
	err = s.write(ctx, "beginning operation "+o.Kind, func(tx *ent.Tx) error {
		started = false
		r, err := tx.Operation.Query().Where(operation.Actor(o.Actor), operation.IdempotencyKey(o.Key)).Only(ctx)
		switch {
		case err == nil && r.RequestDigest != o.Digest:
			return ErrKeyReused
		case err == nil:
			begun = operationOf(r)
			return nil
		case !ent.IsNotFound(err):
			return err
		}
		row := tx.Operation.Create().SetID(uuid.Must(uuid.NewV7())).SetActor(o.Actor).SetIdempotencyKey(o.Key).SetRequestDigest(o.Digest).
			SetKind(o.Kind).SetSite(o.Site).SetState(operationRunning).SetCreatedAt(s.now())
		if o.Machine != uuid.Nil {
			row.SetMachineID(o.Machine)
		}
		if r, err = row.Save(ctx); err == nil {
			begun, started = operationOf(r), true
		}
		return err
	})
	return begun, started, err
}

// operationRunning is the state of an operation that has not ended.
const operationRunning = "running"

// FinishOperation writes how an operation ended.
func (s *Store) FinishOperation(ctx context.Context, id uuid.UUID, state, result, failure string) error {
	return s.write(ctx, "ending operation "+id.String(), func(tx *ent.Tx) error {
		return tx.Operation.UpdateOneID(id).SetState(state).SetResult(clean(result)).SetError(clean(failure)).SetFinishedAt(s.now()).Exec(ctx)
	})
}

// InterruptOperations closes the operations of a site that its controller left
// unfinished when it ended, with a state and a reason, and returns how many.
func (s *Store) InterruptOperations(ctx context.Context, site, state, reason string) (int, error) {
	n := 0
	err := s.write(ctx, "closing the operations of site "+site, func(tx *ent.Tx) error {
		var err error
		n, err = tx.Operation.Update().Where(operation.Site(site), operation.State(operationRunning)).
			SetState(state).SetError(reason).SetFinishedAt(s.now()).Save(ctx)
		return err
	})
	return n, err
}

// Operation returns an operation, or ErrNotFound.
func (s *Store) Operation(ctx context.Context, id uuid.UUID) (Operation, error) {
	r, err := s.main.client.Operation.Get(ctx, id)
	if err != nil {
		return Operation{}, s.explain(fmt.Sprintf("reading operation %s", id), err)
	}
	return operationOf(r), nil
}

// OperationByKey returns the operation that an actor's key began, or ErrNotFound.
func (s *Store) OperationByKey(ctx context.Context, actor, key string) (Operation, error) {
	r, err := s.main.client.Operation.Query().Where(operation.Actor(actor), operation.IdempotencyKey(key)).Only(ctx)
	if err != nil {
		return Operation{}, s.explain("looking for an operation by its key", err)
	}
	return operationOf(r), nil
}

// Operations returns at most limit operations, the newest first, that began
// before the one with the id before (uuid.Nil: all), of one machine or of all.
func (s *Store) Operations(ctx context.Context, machine, before uuid.UUID, limit int) ([]Operation, error) {
	q := s.main.client.Operation.Query().Order(ent.Desc(operation.FieldID)).Limit(limit)
	if machine != uuid.Nil {
		q.Where(operation.MachineID(machine))
	}
	if before != uuid.Nil {
		q.Where(operation.IDLT(before))
	}
	rows, err := q.All(ctx)
	if err != nil {
		return nil, s.explain("listing operations", err)
	}
	out := make([]Operation, len(rows))
	for i, r := range rows {
		out[i] = operationOf(r)
	}
	return out, nil
}

func operationOf(r *ent.Operation) Operation {
	o := Operation{
		ID: r.ID, Actor: r.Actor, Key: r.IdempotencyKey, Digest: r.RequestDigest, Kind: r.Kind, Site: r.Site,
		State: r.State, Result: r.Result, Error: r.Error, CreatedAt: r.CreatedAt.UTC(),
	}
	if r.MachineID != nil {
		o.Machine = *r.MachineID
	}
	setTime(&o.FinishedAt, r.FinishedAt)
	return o
}

func (s *Store) pruneOperations(ctx context.Context, tx *ent.Tx) (int, error) {
	old, err := tx.Operation.Query().Where(operation.FinishedAtLT(s.now().Add(-operationsKept))).Limit(pruneBatch).IDs(ctx)
	if err != nil || len(old) == 0 {
		return 0, err
	}
	return tx.Operation.Delete().Where(operation.IDIn(old...)).Exec(ctx)
}

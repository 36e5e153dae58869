// Package journal keeps the journal of runs in the catalog: what a run means to
// do is written before it is done, and what came of it after. A controller that
// was killed reads here what was in flight; it inspects that anew and assumes
// nothing.
//
// What each interruption leaves behind:
//
//	before Begin        nothing: the plan is made again
//	Begin, no Started   a run without steps; it may be superseded
//	Started, no end     a step in flight: inspect, then do or take as done
//	note without end    a sub-phase in flight, such as a disk half written
//	Finished, no Finish a run whose remaining steps were not reached
package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/note"
	"github.com/edge-provision/edge-provision/ent/predicate"
	"github.com/edge-provision/edge-provision/ent/run"
	"github.com/edge-provision/edge-provision/ent/step"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// State is where a run or a step stands. A step that ended has the outcome that
// the engine gave it (ok, failed, blocked, …) as its state; so has a run.
type State = string

// StateRunning is the state of a run or step that did not end, or whose end
// was never written.
const StateRunning State = "running"

// OutcomeSuperseded is the state of a run that another one replaced because
// site.hcl had changed.
const OutcomeSuperseded State = "superseded"

// ErrNotFound says that the journal has no such run or step.
var ErrNotFound = store.ErrNotFound

// Run is one execution of a plan.
type Run struct {
	ID         uuid.UUID // UUIDv7; made by Begin when zero
	Site       string
	PlanDigest string
	// Actions are the plan's actions, as the engine wants to read them back.
	Actions json.RawMessage
	State   State
	Error   string // why it failed, empty otherwise
	Started time.Time
	// Finished and CancelRequested are zero until they happen.
	Finished        time.Time
	CancelRequested time.Time
	// Steps are filled by List, Show and Unfinished, Notes not by List.
	Steps []Step
	Notes []Note
}

// InFlight returns the steps whose end was never written.
func (r Run) InFlight() []Step {
	var out []Step
	for _, s := range r.Steps {
		if s.State == StateRunning {
			out = append(out, s)
		}
	}
	return out
}

// Step is one attempt at one address.
type Step struct {
	Address      string
	Attempt      int // counts from 1; 0 for taking the others back
	State        State
	InputsDigest string
	Outputs      []byte // sealed by the engine
	Error        string
	Started      time.Time
	Finished     time.Time // zero while running
}

// Note is what a restart must know about an address's progress.
type Note struct {
	Run     uuid.UUID
	Address string
	Key     string
	Value   string
	Time    time.Time
}

// Journal is the journal of the runs of a catalog. Each method that returns nil
// has made its entry durable.
type Journal struct {
	store *store.Store
	now   func() time.Time
}

// New returns the journal in a catalog. now is the clock; time.Now when nil.
func New(s *store.Store, now func() time.Time) *Journal {
	if now == nil {
		now = time.Now
	}
	return &Journal{store: s, now: func() time.Time { return now().UTC().Truncate(time.Microsecond) }}
}

// Begin writes that a run starts, and returns it with its id and start time.
func (j *Journal) Begin(ctx context.Context, r Run) (Run, error) {
	if r.ID == uuid.Nil {
		r.ID = uuid.Must(uuid.NewV7())
	}
	r.State, r.Started = StateRunning, j.now()
	err := j.store.Write(ctx, "beginning run "+r.ID.String(), func(tx *ent.Tx) error {
		return tx.Run.Create().SetID(r.ID).SetSite(r.Site).SetPlanDigest(r.PlanDigest).SetActions(r.Actions).
			SetState(r.State).SetStartedAt(r.Started).Exec(ctx)
	})
	return r, err
}

// Started writes the intent to work on an address. The same attempt is never
// started twice: that is an error, because two workers would do it.
func (j *Journal) Started(ctx context.Context, runID uuid.UUID, address string, attempt int, inputs string) error {
	return j.store.Write(ctx, fmt.Sprintf("journaling the start of %s", address), func(tx *ent.Tx) error {
		twice, err := tx.Step.Query().Where(one(runID, address, attempt)...).Exist(ctx)
		if err != nil {
			return err
		}
		if twice {
			return fmt.Errorf("attempt %d was started before", attempt)
		}
		return tx.Step.Create().SetRunID(runID).SetAddress(address).SetAttempt(attempt).SetInputsDigest(inputs).
			SetState(StateRunning).SetStartedAt(j.now()).Exec(ctx)
	})
}

// Finished writes what came of an attempt: outcome is the engine's word for it,
// failure says why it failed. An attempt ends once: repeating the same end is no
// error, another one is.
func (j *Journal) Finished(ctx context.Context, runID uuid.UUID, address string, attempt int, outcome, failure string, outputs []byte) error {
	return j.store.Write(ctx, fmt.Sprintf("journaling the end of %s", address), func(tx *ent.Tx) error {
		row, err := tx.Step.Query().Where(one(runID, address, attempt)...).Only(ctx)
		if err != nil {
			return err
		}
		if row.State != StateRunning {
			if row.State == outcome {
				return nil
			}
			return fmt.Errorf("attempt %d ended before as %q, and cannot end as %q", attempt, row.State, outcome)
		}
		return tx.Step.UpdateOne(row).SetState(outcome).SetError(failure).SetOutputs(outputs).SetFinishedAt(j.now()).Exec(ctx)
	})
}

func one(runID uuid.UUID, address string, attempt int) []predicate.Step {
	return []predicate.Step{step.RunID(runID), step.Address(address), step.Attempt(attempt)}
}

// Note writes what a restart must know about the progress at an address, such
// as key "image.write" with the disk's wwn and the image's digest. A later note
// with the same key replaces it.
func (j *Journal) Note(ctx context.Context, runID uuid.UUID, address, key, value string) error {
	return j.store.Write(ctx, fmt.Sprintf("journaling %s of %s", key, address), func(tx *ent.Tx) error {
		return tx.Note.Create().SetRunID(runID).SetAddress(address).SetKey(key).SetValue(value).SetTime(j.now()).
			OnConflictColumns(note.FieldRunID, note.FieldAddress, note.FieldKey).UpdateNewValues().Exec(ctx)
	})
}

// LatestNote returns the newest note with a key at an address of a site, of
// whatever run, or ErrNotFound. Runs that retention removed took theirs along.
func (j *Journal) LatestNote(ctx context.Context, site, address, key string) (Note, error) {
	row, err := j.store.Client().Note.Query().
		Where(note.Address(address), note.Key(key), note.HasRunWith(run.Site(site))).
		Order(ent.Desc(note.FieldTime, note.FieldID)).First(ctx)
	if err != nil {
		return Note{}, j.explain("reading note "+key+" of "+address, err)
	}
	return noteOf(row), nil
}

// Finish writes how a run ended. Steps still in flight stay so: their end is
// not known.
func (j *Journal) Finish(ctx context.Context, runID uuid.UUID, outcome, failure string) error {
	return j.store.Write(ctx, "ending run "+runID.String(), func(tx *ent.Tx) error {
		return tx.Run.UpdateOneID(runID).SetState(outcome).SetError(failure).SetFinishedAt(j.now()).Exec(ctx)
	})
}

// Close is Finish for a run that nobody carries out any more: one that has come to
// its end all the same keeps it, and that is an error.
func (j *Journal) Close(ctx context.Context, runID uuid.UUID, outcome, failure string) error {
	return j.store.Write(ctx, "closing run "+runID.String(), func(tx *ent.Tx) error {
		n, err := tx.Run.Update().Where(run.ID(runID), run.FinishedAtIsNil()).
			SetState(outcome).SetError(failure).SetFinishedAt(j.now()).Save(ctx)
		if err == nil && n == 0 {
			_, err = unended(ctx, tx, runID)
		}
		return err
	})
}

// unended reads a run that has not ended.
func unended(ctx context.Context, tx *ent.Tx, runID uuid.UUID) (*ent.Run, error) {
	row, err := tx.Run.Get(ctx, runID)
	if err == nil && row.FinishedAt != nil {
		err = fmt.Errorf("it ended as %q at %s", row.State, row.FinishedAt.UTC().Format(time.RFC3339))
	}
	return row, err
}

// Cancel asks the controller that carries a run out to stop it gracefully.
// Asking again changes nothing; a run that ended cannot be cancelled.
func (j *Journal) Cancel(ctx context.Context, runID uuid.UUID) error {
	return j.store.Write(ctx, "cancelling run "+runID.String(), func(tx *ent.Tx) error {
		row, err := unended(ctx, tx, runID)
		if err != nil || row.CancelRequestedAt != nil {
			return err
		}
		return tx.Run.UpdateOne(row).SetCancelRequestedAt(j.now()).Exec(ctx)
	})
}

// CancelRequested reports whether somebody asked for the run to stop.
func (j *Journal) CancelRequested(ctx context.Context, runID uuid.UUID) (bool, error) {
	row, err := j.store.Client().Run.Get(ctx, runID)
	if err != nil {
		return false, j.explain("reading run "+runID.String(), err)
	}
	return row.CancelRequestedAt != nil, nil
}

// Unfinished returns the runs of a site whose end was never written, the oldest
// first, with their steps and notes.
func (j *Journal) Unfinished(ctx context.Context, site string) ([]Run, error) {
	rows, err := j.full().Where(run.Site(site), run.FinishedAtIsNil()).Order(ent.Asc(run.FieldStartedAt, run.FieldID)).All(ctx)
	return runsOf(rows), j.explain("reading the unfinished runs of site "+site, err)
}

// List returns the newest runs of a site, or of every site when site is empty,
// without their notes, the newest first, at most limit; all of them when limit
// is zero.
func (j *Journal) List(ctx context.Context, site string, limit int) ([]Run, error) {
	q := j.store.Client().Run.Query().WithSteps().Order(ent.Desc(run.FieldStartedAt, run.FieldID))
	if site != "" {
		q.Where(run.Site(site))
	}
	if limit > 0 {
		q.Limit(limit)
	}
	rows, err := q.All(ctx)
	return runsOf(rows), j.explain("listing runs", err)
}

// Page returns at most limit runs of a site, or of every site when site is empty,
// the newest first, without their steps and notes, that began before a run;
// uuid.Nil begins with the newest.
func (j *Journal) Page(ctx context.Context, site string, before uuid.UUID, limit int) ([]Run, error) {
	q := j.store.Client().Run.Query().Order(ent.Desc(run.FieldID)).Limit(limit) // a version 7 id begins with the time
	if site != "" {
		q.Where(run.Site(site))
	}
	if before != uuid.Nil {
		q.Where(run.IDLT(before))
	}
	rows, err := q.All(ctx)
	return runsOf(rows), j.explain("listing runs", err)
}

// Show returns a run with its steps, in the order they were started, and its
// notes; or ErrNotFound.
func (j *Journal) Show(ctx context.Context, runID uuid.UUID) (Run, error) {
	row, err := j.full().Where(run.ID(runID)).Only(ctx)
	if err != nil {
		return Run{}, j.explain("reading run "+runID.String(), err)
	}
	return runOf(row), nil
}

func (j *Journal) full() *ent.RunQuery {
	return j.store.Client().Run.Query().
		WithSteps(func(q *ent.StepQuery) { q.Order(ent.Asc(step.FieldStartedAt, step.FieldID)) }).
		WithNotes(func(q *ent.NoteQuery) { q.Order(ent.Asc(note.FieldTime, note.FieldID)) })
}

func (j *Journal) explain(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case ent.IsNotFound(err):
		err = ErrNotFound
	}
	return fmt.Errorf("%s: %w", op, err)
}

func runsOf(rows []*ent.Run) []Run {
	out := make([]Run, len(rows))
	for i, r := range rows {
		out[i] = runOf(r)
	}
	return out
}

func runOf(r *ent.Run) Run {
	out := Run{
		ID: r.ID, Site: r.Site, PlanDigest: r.PlanDigest, Actions: r.Actions, State: r.State, Error: r.Error,
		Started: r.StartedAt.UTC(), Finished: timeOf(r.FinishedAt), CancelRequested: timeOf(r.CancelRequestedAt),
	}
	for _, s := range r.Edges.Steps {
		out.Steps = append(out.Steps, Step{
			Address: s.Address, Attempt: s.Attempt, State: s.State, InputsDigest: s.InputsDigest,
			Outputs: s.Outputs, Error: s.Error, Started: s.StartedAt.UTC(), Finished: timeOf(s.FinishedAt),
		})
	}
	for _, n := range r.Edges.Notes {
		out.Notes = append(out.Notes, noteOf(n))
	}
	return out
}

func noteOf(n *ent.Note) Note {
	return Note{Run: n.RunID, Address: n.Address, Key: n.Key, Value: n.Value, Time: n.Time.UTC()}
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

package store

import (
	"context"
	"fmt"
	"time"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/applied"
)

// Applied is what was last applied at an address. Retention never removes it.
type Applied struct {
	Site    string
	Address string
	// Digest is over the inputs, in the caller's form; keyed where an input
	// is sensitive.
	Digest string
	// Outputs are sealed by the caller.
	Outputs []byte
	// Kind is the step's type, or "machine"; empty in a record that a program
	// wrote which did not keep inputs yet.
	Kind string
	// Inputs are those of the last success, and Attempt those of work that
	// began and did not end well; nil where there are none. Both are sealed by
	// the caller. With an empty Digest there was no success yet.
	Inputs, Attempt []byte
	// DependsOn are the addresses that the work needed.
	DependsOn []string
	// SchemaVersion is that of the step's outputs.
	SchemaVersion int
	// Run is the id of the run that applied it.
	Run  string
	Time time.Time
}

// Applied returns what was last applied at an address, or ErrNotFound.
func (s *Store) Applied(ctx context.Context, site, address string) (Applied, error) {
	r, err := s.main.client.Applied.Query().Where(applied.Site(site), applied.Address(address)).Only(ctx)
	if err != nil {
		return Applied{}, s.explain("reading what was applied at "+address, err)
	}
	return appliedOf(r), nil
}

// AppliedAll returns what was last applied at every address of a site, by
// address.
func (s *Store) AppliedAll(ctx context.Context, site string) ([]Applied, error) {
	rows, err := s.main.client.Applied.Query().Where(applied.Site(site)).Order(ent.Asc(applied.FieldAddress)).All(ctx)
	if err != nil {
		return nil, s.explain("reading what was applied at site "+site, err)
	}
	out := make([]Applied, len(rows))
	for i, r := range rows {
		out[i] = appliedOf(r)
	}
	return out, nil
}

// PutApplied replaces what was last applied at a.Address. A zero Time is now.
func (s *Store) PutApplied(ctx context.Context, a Applied) error {
	if a.Time.IsZero() {
		a.Time = s.now()
	}
	return s.write(ctx, "recording what was applied at "+a.Address, func(tx *ent.Tx) error {
		return tx.Applied.Create().SetSite(a.Site).SetAddress(a.Address).SetDigest(a.Digest).SetOutputs(a.Outputs).
			SetKind(a.Kind).SetInputs(a.Inputs).SetAttempt(a.Attempt).SetDependsOn(a.DependsOn).
			SetSchemaVersion(a.SchemaVersion).SetRun(a.Run).SetTime(stamp(a.Time)).
			OnConflictColumns(applied.FieldSite, applied.FieldAddress).UpdateNewValues().Exec(ctx)
	})
}

// BeginApplied records that work with a.Attempt begins at a.Address, before it
// does. What a success before it left in the record stays.
func (s *Store) BeginApplied(ctx context.Context, a Applied) error {
	return s.write(ctx, "recording what begins at "+a.Address, func(tx *ent.Tx) error {
		return tx.Applied.Create().SetSite(a.Site).SetAddress(a.Address).SetDigest("").SetSchemaVersion(a.SchemaVersion).
			SetKind(a.Kind).SetAttempt(a.Attempt).SetDependsOn(a.DependsOn).SetRun(a.Run).SetTime(stamp(s.now())).
			OnConflictColumns(applied.FieldSite, applied.FieldAddress).
			Update(func(u *ent.AppliedUpsert) { u.UpdateKind().UpdateAttempt().UpdateDependsOn() }).Exec(ctx)
	})
}

// MoveApplied gives the record of one address to another, as moved blocks ask.
// ErrNotFound when there is no record of from; it is an error when to has one.
func (s *Store) MoveApplied(ctx context.Context, site, from, to string) error {
	return s.write(ctx, fmt.Sprintf("moving the applied record of %s to %s", from, to), func(tx *ent.Tx) error {
		taken, err := tx.Applied.Query().Where(applied.Site(site), applied.Address(to)).Exist(ctx)
		if err != nil {
			return err
		}
		if taken {
			return fmt.Errorf("%s has a record of its own", to)
		}
		n, err := tx.Applied.Update().Where(applied.Site(site), applied.Address(from)).SetAddress(to).Save(ctx)
		if err == nil && n == 0 {
			return ErrNotFound
		}
		return err
	})
}

// DeleteApplied forgets what was applied at an address; it is no error when
// nothing was.
func (s *Store) DeleteApplied(ctx context.Context, site, address string) error {
	return s.write(ctx, "forgetting what was applied at "+address, func(tx *ent.Tx) error {
		_, err := tx.Applied.Delete().Where(applied.Site(site), applied.Address(address)).Exec(ctx)
		return err
	})
}

func appliedOf(r *ent.Applied) Applied {
	return Applied{
		Site: r.Site, Address: r.Address, Digest: r.Digest, Outputs: r.Outputs,
		Kind: r.Kind, Inputs: r.Inputs, Attempt: r.Attempt, DependsOn: r.DependsOn,
		SchemaVersion: r.SchemaVersion, Run: r.Run, Time: r.Time.UTC(),
	}
}

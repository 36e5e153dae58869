package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/inventory"
)

// EditFacts changes what people wrote of a machine, the facts of
// inventory.SourceManual, and returns all of that. edit gets what was written so
// far and may be called again with the same; its error leaves everything as it
// was. changed is false when nothing is different afterwards.
//
// A serial number that somebody writes for a machine whose firmware has none
// becomes the machine's own, by which it is found. When another machine of the
// site has it, the error is a *ConflictError.
//
// check sees what was written so far as it is in the transaction, nil where that is
// nothing, and its error leaves everything as it was; nil always agrees.
func (s *Store) EditFacts(ctx context.Context, id uuid.UUID, edit func(*inventory.Facts) error, check func(*inventory.Document) error) (now inventory.Facts, changed bool, err error) {
	err = s.write(ctx, fmt.Sprintf("writing facts of machine %s", id), func(tx *ent.Tx) error {
		now, changed = inventory.Facts{}, false
		// In the order of Observe, so that neither waits for the other.
		if err := s.lockIdentities(ctx, tx); err != nil {
			return err
		}
		m, err := s.locked(ctx, tx, id)
		if err != nil {
			return err
		}
		var before inventory.Facts
		written, err := documentAt(ctx, tx.Client(), id, inventory.SourceManual, time.Time{})
		if err == nil && check != nil {
			err = check(written)
		}
		if err != nil {
			return err
		}
		if written != nil {
			before = written.Facts
			// Another copy: edit writes into what its pointers lead to.
			if written, err = documentAt(ctx, tx.Client(), id, inventory.SourceManual, time.Time{}); err != nil {
				return err
			}
			now = written.Facts
		}
		if err := edit(&now); err != nil {
			return err
		}
		if len(inventory.Diff(before, now)) == 0 {
			return nil
		}
		changed = true
		if _, _, err := s.putFacts(ctx, tx, id, keeping{source: inventory.SourceManual, facts: now, at: s.now(), project: s.projectNow(ctx, tx)}); err != nil {
			return err
		}
		what, err := adoptSerial(ctx, tx, m, serialOf(before))
		if err != nil {
			return err
		}
		return s.changed(ctx, tx, what, id)
	})
	return now, changed && err == nil, err
}

// adoptSerial gives a machine that has no serial number, or had the one that was
// written before, the one that its sources say now, but for its BMC. It names what
// changed.
func adoptSerial(ctx context.Context, tx *ent.Tx, m inventory.Machine, written string) (what string, err error) {
	const facts = "facts"
	if m.Serial != "" && m.Serial != written {
		return facts, nil // of its firmware
	}
	docs, err := factsAt(ctx, tx.Client(), m.ID, time.Time{})
	if err != nil {
		return "", err
	}
	own, _ := inventory.OwnFacts(docs)
	serial := serialOf(own)
	if serial == m.Serial {
		return facts, nil
	}
	other, err := serials(ctx, tx, m.Site, serial)
	if err != nil {
		return "", err
	}
	if other != nil && other.ID != m.ID {
		return "", &ConflictError{A: m.ID, B: other.ID, By: "serial", Seen: serial}
	}
	up := tx.Machine.UpdateOneID(m.ID)
	if up.SetSerial(serial); serial == "" {
		up.ClearSerial()
	}
	return "identity," + facts, up.Exec(ctx)
}

// serialOf is the serial number that identifies a machine; empty for junk.
func serialOf(f inventory.Facts) string {
	if f.System == nil || inventory.JunkSerial(f.System.Serial) {
		return ""
	}
	return clean(f.System.Serial)
}

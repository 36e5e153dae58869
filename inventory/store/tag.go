package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/tag"
	"github.com/edge-provision/edge-provision/inventory"
)

// TagError says that a tag cannot be kept as it is.
type TagError struct{ Err error }

// Error implements error.
func (e *TagError) Error() string { return e.Err.Error() }

// Unwrap gives what inventory.CheckTag says.
func (e *TagError) Unwrap() error { return e.Err }

// SetTags writes tags on a machine and removes others; a key in both is set.
// Removing a tag that is not there is no error. *TagError is for what
// inventory.CheckTag refuses, and for more than inventory.MaxTags. When anything
// changed, an event of kind machine.tags tells what.
//
// check sees the machine as it is in the transaction, and its error leaves
// everything as it was; nil always agrees.
func (s *Store) SetTags(ctx context.Context, id uuid.UUID, set map[string]string, remove []string, check func(inventory.Machine) error) (inventory.Machine, error) {
	op := "tagging machine " + id.String()
	for _, key := range slices.Sorted(maps.Keys(set)) {
		if err := inventory.CheckTag(key, set[key]); err != nil {
			return inventory.Machine{}, fmt.Errorf("%s: %w", op, &TagError{Err: err})
		}
	}
	err := s.write(ctx, op, func(tx *ent.Tx) error {
		m, err := s.locked(ctx, tx, id)
		if err == nil && check != nil {
			err = check(m)
		}
		if err != nil {
			return err
		}
		return s.setTags(ctx, tx, m, set, remove)
	})
	if err != nil {
		return inventory.Machine{}, err
	}
	return s.Machine(ctx, id)
}

func (s *Store) setTags(ctx context.Context, tx *ent.Tx, m inventory.Machine, set map[string]string, remove []string) error {
	attrs := map[string]string{}
	var removed []string
	for _, key := range remove {
		if _, has := m.Tags[key]; !has {
			continue
		}
		if _, again := set[key]; again || slices.Contains(removed, key) {
			continue
		}
		removed = append(removed, key)
	}
	if len(removed) > 0 {
		if _, err := tx.Tag.Delete().Where(tag.MachineID(m.ID), tag.KeyIn(removed...)).Exec(ctx); err != nil {
			return err
		}
		attrs["removed"] = strings.Join(removed, ", ")
	}
	count := len(m.Tags) - len(removed)
	for _, key := range slices.Sorted(maps.Keys(set)) {
		old, has := m.Tags[key]
		if has && old == set[key] {
			continue
		}
		var err error
		if has {
			err = tx.Tag.Update().Where(tag.MachineID(m.ID), tag.Key(key)).SetValue(set[key]).SetSetAt(s.now()).Exec(ctx)
		} else {
			count++
			err = tx.Tag.Create().SetMachineID(m.ID).SetKey(key).SetValue(set[key]).SetSetAt(s.now()).Exec(ctx)
		}
		if err != nil {
			return err
		}
		attrs["set."+key] = set[key]
	}
	if count > inventory.MaxTags {
		return &TagError{Err: fmt.Errorf("the machine would have %d tags; it can have %d", count, inventory.MaxTags)}
	}
	if len(attrs) == 0 {
		return nil
	}
	if err := s.changed(ctx, tx, "tags", m.ID); err != nil {
		return err
	}
	return tx.Event.Create().SetTime(s.now()).SetKind(string(inventory.EventMachineTags)).
		SetSite(m.Site).SetMachineID(m.ID).SetAttrs(attrs).Exec(ctx)
}

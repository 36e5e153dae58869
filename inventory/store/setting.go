package store

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/refusal"
	"github.com/edge-provision/edge-provision/ent/setting"
)

// Settings is the part of the catalog that keeps values by key for workflows'
// keyring and dispatch. Secrets among them are sealed by the caller.
type Settings struct{ s *Store }

// Settings returns the catalog's settings.
func (s *Store) Settings() Settings { return Settings{s} }

// Get returns the value last put under key, or ErrNotFound, which satisfies
// errors.Is(err, fs.ErrNotExist).
func (v Settings) Get(ctx context.Context, key string) ([]byte, error) {
	r, err := v.s.main.client.Setting.Get(ctx, key)
	if err != nil {
		return nil, v.s.explain("reading setting "+key, err)
	}
	return r.Value, nil
}

// Put replaces the value of key. When it returns nil the value survives a power
// cut.
func (v Settings) Put(ctx context.Context, key string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	return v.s.write(ctx, "writing setting "+key, func(tx *ent.Tx) error {
		return tx.Setting.Create().SetID(key).SetValue(value).SetUpdatedAt(v.s.now()).
			OnConflictColumns(setting.FieldID).UpdateNewValues().Exec(ctx)
	})
}

// PutNew writes the value of a key that has none, and returns the one that is kept:
// of several at once, all get the same. What it returns survives a power cut.
func (v Settings) PutNew(ctx context.Context, key string, value []byte) (kept []byte, err error) {
	if value == nil {
		value = []byte{}
	}
	err = v.s.write(ctx, "writing setting "+key, func(tx *ent.Tx) error {
		r, err := tx.Setting.Get(ctx, key)
		if ent.IsNotFound(err) { // one that is written at the same time makes this begin anew
			r, err = tx.Setting.Create().SetID(key).SetValue(value).SetUpdatedAt(v.s.now()).Save(ctx)
		}
		if err == nil {
			kept = r.Value
		}
		return err
	})
	return kept, err
}

// Delete forgets key; it is no error when there is none.
func (v Settings) Delete(ctx context.Context, key string) error {
	return v.s.write(ctx, "deleting setting "+key, func(tx *ent.Tx) error {
		_, err := tx.Setting.Delete().Where(setting.ID(key)).Exec(ctx)
		return err
	})
}

// Keys returns the keys that begin with prefix, sorted.
func (v Settings) Keys(ctx context.Context, prefix string) ([]string, error) {
	keys, err := v.s.main.client.Setting.Query().IDs(ctx)
	keys = slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, prefix) })
	slices.Sort(keys)
	return keys, v.s.explain("listing settings", err)
}

// RefuseCredential remembers that target refused the credential with the keyed
// digest key, so that it is not tried again and locks nobody out.
func (s *Store) RefuseCredential(ctx context.Context, key, target string) error {
	return s.write(ctx, "remembering the credential that "+target+" refused", func(tx *ent.Tx) error {
		return tx.Refusal.Create().SetID(key).SetTarget(target).SetTime(s.now()).
			OnConflictColumns(refusal.FieldID).UpdateNewValues().Exec(ctx)
	})
}

// CredentialRefused returns when the credential was refused; refused is false
// when it never was.
func (s *Store) CredentialRefused(ctx context.Context, key string) (at time.Time, refused bool, err error) {
	r, err := s.main.client.Refusal.Get(ctx, key)
	switch {
	case ent.IsNotFound(err):
		return time.Time{}, false, nil
	case err != nil:
		return time.Time{}, false, s.explain("reading refused credentials", err)
	}
	return r.Time.UTC(), true, nil
}

// AllowCredential forgets that a credential was refused, after a person said
// that it is right now.
func (s *Store) AllowCredential(ctx context.Context, key string) error {
	return s.write(ctx, "forgetting a refused credential", func(tx *ent.Tx) error {
		_, err := tx.Refusal.Delete().Where(refusal.ID(key)).Exec(ctx)
		return err
	})
}

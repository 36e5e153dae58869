package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/setting"
	"github.com/edge-provision/edge-provision/ent/webhook"
	"github.com/edge-provision/edge-provision/inventory"
)

// Webhook is somebody who is told of events. The events after Cursor are its
// outbox: they are in the catalog already, in the order of their commits.
type Webhook struct {
	ID uuid.UUID // UUIDv7; given by PutWebhook when zero
	// URL is as much of where it leads as may be kept in clear.
	URL string
	// Secret signs deliveries and says where they go; sealed by the caller.
	Secret []byte
	// Kinds are the kinds of events it is told of; none: all.
	Kinds     []inventory.EventKind
	CreatedBy string
	CreatedAt time.Time
	// Cursor is the id of the last event that was delivered or passed over.
	Cursor int64
	// Attempts counts the failures since the last delivery.
	Attempts  int
	NextTry   time.Time // zero: at once
	LastError string
}

// Batch is what a webhook's target is being sent: those of the events of its kinds that
// are from First to Last.
type Batch struct {
	First int64 `json:"first"`
	Last  int64 `json:"last"`
}

// PutWebhook keeps a new webhook, which is told of what happens from now on.
func (s *Store) PutWebhook(ctx context.Context, w Webhook) (Webhook, error) {
	span, err := s.EventSpan(ctx)
	if err != nil {
		return w, err
	}
	if w.ID == uuid.Nil {
		w.ID = uuid.Must(uuid.NewV7())
	}
	w.CreatedAt, w.Cursor = s.now(), span.Newest
	kinds := make([]string, len(w.Kinds))
	for i, k := range w.Kinds {
		kinds[i] = string(k)
	}
	return w, s.write(ctx, "keeping a webhook", func(tx *ent.Tx) error {
		return tx.Webhook.Create().SetID(w.ID).SetURL(w.URL).SetSecret(w.Secret).SetKinds(kinds).SetCreatedBy(w.CreatedBy).
			SetCreatedAt(w.CreatedAt).SetCursor(w.Cursor).Exec(ctx)
	})
}

// Webhooks returns all webhooks, the oldest first.
func (s *Store) Webhooks(ctx context.Context) ([]Webhook, error) {
	rows, err := s.main.client.Webhook.Query().Order(ent.Asc(webhook.FieldID)).All(ctx)
	if err != nil {
		return nil, s.explain("listing webhooks", err)
	}
	out := make([]Webhook, len(rows))
	for i, r := range rows {
		out[i] = Webhook{
			ID: r.ID, URL: r.URL, Secret: r.Secret, CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt.UTC(),
			Cursor: r.Cursor, Attempts: r.Attempts, LastError: r.LastError,
		}
		for _, k := range r.Kinds {
			out[i].Kinds = append(out[i].Kinds, inventory.EventKind(k))
		}
		setTime(&out[i].NextTry, r.NextTryAt)
	}
	return out, nil
}

// DeleteWebhook forgets a webhook, or returns ErrNotFound.
func (s *Store) DeleteWebhook(ctx context.Context, id uuid.UUID) error {
	return s.write(ctx, "forgetting webhook "+id.String(), func(tx *ent.Tx) error {
		if _, err := tx.Setting.Delete().Where(setting.ID(batchKey(id))).Exec(ctx); err != nil {
			return err
		}
		return tx.Webhook.DeleteOneID(id).Exec(ctx)
	})
}

// batchKey is the setting that holds the Batch of a webhook.
func batchKey(id uuid.UUID) string { return "webhook/" + id.String() + "/batch" }

// PutBatch keeps what a webhook's target is being sent, so that it is sent again as it
// was, whoever does; ErrNotFound when the webhook was forgotten.
func (s *Store) PutBatch(ctx context.Context, id uuid.UUID, b Batch) error {
	value, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return s.write(ctx, "keeping what is sent to webhook "+id.String(), func(tx *ent.Tx) error {
		if _, err := tx.Webhook.Get(ctx, id); err != nil {
			return err
		}
		return tx.Setting.Create().SetID(batchKey(id)).SetValue(value).SetUpdatedAt(s.now()).
			OnConflictColumns(setting.FieldID).UpdateNewValues().Exec(ctx)
	})
}

// Batch returns what was kept last of what a webhook's target is sent; the zero Batch
// when nothing was. It is over when the webhook's cursor has come to its Last.
func (s *Store) Batch(ctx context.Context, id uuid.UUID) (b Batch, err error) {
	value, err := s.Settings().Get(ctx, batchKey(id))
	if errors.Is(err, ErrNotFound) {
		return b, nil
	}
	if err == nil {
		err = json.Unmarshal(value, &b)
	}
	return b, err
}

// Delivered moves a webhook's cursor after its target has acknowledged the events
// up to it. It never moves it back: ErrNotFound when the webhook has come as far
// without the caller, or was forgotten.
func (s *Store) Delivered(ctx context.Context, id uuid.UUID, cursor int64) error {
	return s.write(ctx, "recording a delivery to webhook "+id.String(), func(tx *ent.Tx) error {
		return tx.Webhook.UpdateOneID(id).Where(webhook.CursorLT(cursor)).SetCursor(cursor).SetAttempts(0).ClearNextTryAt().ClearLastError().Exec(ctx)
	})
}

// PassedOver moves a webhook's cursor over events that it is not told of. It says
// nothing about its target.
func (s *Store) PassedOver(ctx context.Context, id uuid.UUID, cursor int64) error {
	return s.write(ctx, "moving webhook "+id.String(), func(tx *ent.Tx) error {
		return tx.Webhook.UpdateOneID(id).Where(webhook.CursorLT(cursor)).SetCursor(cursor).Exec(ctx)
	})
}

// Undelivered records that a delivery of what follows cursor failed, and when it is
// tried again; ErrNotFound as Delivered has it.
func (s *Store) Undelivered(ctx context.Context, id uuid.UUID, cursor int64, failure string, next time.Time) error {
	return s.write(ctx, "recording a failed delivery to webhook "+id.String(), func(tx *ent.Tx) error {
		return tx.Webhook.UpdateOneID(id).Where(webhook.Cursor(cursor)).AddAttempts(1).SetNextTryAt(stamp(next)).SetLastError(clean(failure)).Exec(ctx)
	})
}

package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// TestWebhookNeverGoesBack has a slow courier record what a faster one is past.
func TestWebhookNeverGoesBack(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		w := must[store.Webhook](t)(s.PutWebhook(ctx, store.Webhook{URL: "https://example.org/", Secret: []byte("sealed")}))
		ok(t, s.Delivered(ctx, w.ID, 20))
		for what, err := range map[string]error{
			"delivered again": s.Delivered(ctx, w.ID, 20), "delivered before": s.Delivered(ctx, w.ID, 7), "failed before": s.Undelivered(ctx, w.ID, 7, "no", time.Now()),
		} {
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s = %v; want ErrNotFound", what, err)
			}
		}
		ok(t, s.Undelivered(ctx, w.ID, 20, "no", time.Now()))
		if got := must[[]store.Webhook](t)(s.Webhooks(ctx)); got[0].Cursor != 20 || got[0].Attempts != 1 {
			t.Errorf("webhook = %+v; want it at 20, with one failure", got[0])
		}
	})
}

func TestLockIsTakenOverFromAnOwnerThatWasSilent(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		me := must[store.Owner](t)(store.Self("apply"))
		fence := must[int64](t)(s.Lock(ctx, site, nodeA, store.Owner{Host: "controller-2"}))
		seen := must[[]store.Held](t)(s.Locks(ctx, site))[0]
		ok(t, s.Heartbeat(ctx, site, nodeA, fence))
		var locked *store.LockedError
		if _, err := s.TakeOver(ctx, seen, me); !errors.As(err, &locked) {
			t.Errorf("TakeOver of an owner that said something since = %v; want a *LockedError", err)
		}
		if next := must[int64](t)(s.TakeOver(ctx, locked.Held, me)); next <= fence {
			t.Errorf("fencing token = %d; want more than the former owner's %d", next, fence)
		}
		if _, err := s.TakeOver(ctx, locked.Held, me); !errors.As(err, &locked) || locked.Held.Owner != me {
			t.Errorf("TakeOver of what another one has taken over = %v; want a *LockedError with who has it", err)
		}
	})
}

func TestBatchOfAWebhookGoesWithIt(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		w := must[store.Webhook](t)(s.PutWebhook(ctx, store.Webhook{URL: "https://example.org/", Secret: []byte("sealed")}))
		if b := must[store.Batch](t)(s.Batch(ctx, w.ID)); b != (store.Batch{}) {
			t.Errorf("batch of a new webhook = %+v; want none", b)
		}
		for _, want := range []store.Batch{{First: 3, Last: 9}, {First: 3, Last: 5}} {
			ok(t, s.PutBatch(ctx, w.ID, want))
			if b := must[store.Batch](t)(s.Batch(ctx, w.ID)); b != want {
				t.Errorf("batch = %+v; want %+v", b, want)
			}
		}
		ok(t, s.DeleteWebhook(ctx, w.ID))
		if keys := must[[]string](t)(s.Settings().Keys(ctx, "webhook")); len(keys) != 0 {
			t.Errorf("settings = %q; want none of a webhook that was forgotten", keys)
		}
		if err := s.PutBatch(ctx, w.ID, store.Batch{First: 1, Last: 2}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("PutBatch of a webhook that was forgotten = %v; want ErrNotFound", err)
		}
	})
}

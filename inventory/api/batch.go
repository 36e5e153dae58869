package api

import (
	"context"
	"fmt"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// deliveryEvents is how many events one delivery has at most.
const deliveryEvents = 100

// passInterval is how often it is recorded at most that a webhook is not told of what
// happened. Events are kept for longer.
const passInterval = time.Minute

// batch is one delivery. Which events it has is in the catalog before they are sent, so
// that they are sent again under the same id, whatever happens meanwhile, by whichever
// controller, until they are acknowledged; without those that retention removed.
type batch struct {
	store.Batch
	events []inventory.Event
	// reset says that some before it were removed undelivered.
	reset bool
	// more says that others wait.
	more bool
}

// id is the same for the same events.
func (b batch) id(w store.Webhook) string { return fmt.Sprintf("%s-%d-%d", w.ID, b.First, b.Last) }

// next is what a webhook's target is to be sent: what it has not acknowledged yet, or
// else the events that follow. It has none when nothing waits.
func (c *courier) next(ctx context.Context, w store.Webhook, p *progress) (batch, error) {
	events, err := c.cfg.Catalog.EventPage(ctx, store.EventFilter{Kinds: w.Kinds}, w.Cursor, deliveryEvents, false)
	if err != nil || len(events) == 0 {
		return batch{}, err
	}
	// After the events: what retention removed before they were read is missing.
	span, err := c.cfg.Catalog.EventSpan(ctx)
	if err != nil {
		return batch{}, err
	}
	begun, err := c.cfg.Catalog.Batch(ctx, w.ID)
	if err != nil {
		return batch{}, err
	}
	b := batch{Batch: begun, reset: w.Cursor < span.Pruned}
	for _, e := range events {
		if e.ID <= begun.Last {
			b.events = append(b.events, e)
		}
	}
	if len(b.events) == 0 { // all of it was acknowledged, or removed by retention
		b.events = events[:min(len(events), p.most)]
		b.Batch = store.Batch{First: b.events[0].ID, Last: b.events[len(b.events)-1].ID}
		err = c.cfg.Catalog.PutBatch(ctx, w.ID, b.Batch)
	}
	b.more = len(b.events) < len(events) || len(events) == deliveryEvents
	return b, err
}

// halve has the first half of a batch be sent next, because its target does not take as
// much at once. What was refused for its size was not handled, so that the halves may
// have ids of their own.
func (c *courier) halve(ctx context.Context, w store.Webhook, b batch, p *progress) error {
	p.most = len(b.events) / 2
	return c.cfg.Catalog.PutBatch(ctx, w.ID, store.Batch{First: b.First, Last: b.events[p.most-1].ID})
}

// pass records that a webhook is not told of what happened up to newest, because nothing
// of it waits for it: it would seem to have missed that, once retention has removed it.
func (c *courier) pass(ctx context.Context, w store.Webhook, newest int64, p *progress) error {
	now := c.cfg.Now()
	if newest <= w.Cursor || now.Sub(p.passed) < passInterval {
		return nil
	}
	span, err := c.cfg.Catalog.EventSpan(ctx)
	if err != nil || w.Cursor < span.Pruned { // some may have been for it; its next delivery says so
		return err
	}
	p.passed = now
	return c.cfg.Catalog.PassedOver(ctx, w.ID, newest)
}

package api

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// courier delivers events to webhooks. What is to be delivered is in the catalog,
// and so is how far each webhook has come: a courier that was killed goes on
// where it was, and may repeat the one delivery whose acknowledgement it had not
// recorded.
type courier struct {
	cfg  Config
	http *http.Client
	// busy are the webhooks that are being delivered to.
	mu   sync.Mutex
	busy map[uuid.UUID]bool
}

// Bounds of deliveries.
const (
	deliveryEvents  = 100 // in one delivery
	webhookInterval = time.Second
	longestRetry    = time.Hour
	webhookReply    = 64 << 10 // bytes of an answer that are read
)

func newCourier(cfg Config) *courier {
	return &courier{
		cfg: cfg, busy: map[uuid.UUID]bool{},
		http: &http.Client{
			Timeout:       cfg.WebhookTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the URL was chosen by an administrator
		},
	}
}

// run delivers until ctx ends, while no other controller does. A target that hangs
// holds up nobody but itself.
func (c *courier) run(ctx context.Context) {
	turn := duty{cfg: c.cfg}
	defer turn.leave(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	ticker := time.NewTicker(min(webhookInterval, c.cfg.WebhookRetry))
	defer ticker.Stop()
	for wanted := false; ; {
		// The right to deliver before the list, which may be from before another
		// controller's last delivery; nobody takes it where there are no webhooks.
		var held context.Context
		if wanted {
			held = turn.take(ctx)
		}
		// What is under way now may be recorded by the time that the list is read or
		// after it; how far such a webhook has come the list does not tell.
		busy := c.underway()
		hooks, err := c.cfg.Catalog.Webhooks(ctx)
		if err != nil && ctx.Err() == nil {
			c.cfg.Log.Warn("looking for webhooks", "error", err)
		}
		wanted = wanted || len(hooks) > 0
		for _, w := range hooks {
			if held == nil || busy[w.ID] || c.cfg.Now().Before(w.NextTry) {
				continue
			}
			c.take(w.ID)
			running.Go(func() {
				defer c.give(w.ID)
				c.serve(held, w)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (c *courier) underway() map[uuid.UUID]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.busy)
}

func (c *courier) take(id uuid.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy[id] = true
}

func (c *courier) give(id uuid.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.busy, id)
}

// serve delivers what waits for a webhook, until nothing does or a delivery fails.
func (c *courier) serve(ctx context.Context, w store.Webhook) {
	for ctx.Err() == nil {
		cursor, more, err := c.deliver(ctx, w)
		if ctx.Err() != nil {
			return
		}
		record, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.RequestTimeout)
		switch {
		case err != nil:
			err = c.cfg.Catalog.Undelivered(record, w.ID, w.Cursor, err.Error(), c.cfg.Now().Add(c.pause(w.Attempts)))
			more = false
		case cursor > w.Cursor:
			err = c.cfg.Catalog.Delivered(record, w.ID, cursor)
			w.Cursor, w.Attempts = cursor, 0
		}
		cancel()
		if err != nil { // also when it was deleted meanwhile, or another controller was faster
			c.cfg.Log.Debug("recording a delivery", "webhook", w.ID, "error", err)
			return
		}
		if !more {
			return
		}
	}
}

// pause is the wait before the next try: twice as long after each failure, up to an
// hour, and up to a quarter off, so that many do not come at once.
func (c *courier) pause(failures int) time.Duration {
	pause := longestRetry
	if failures < 20 {
		pause = min(pause, c.cfg.WebhookRetry<<failures)
	}
	return pause - rand.N(pause/4+1)
}

// deliver sends the next events to a webhook's target, and returns the id up to
// which it is served, and whether more may wait.
func (c *courier) deliver(ctx context.Context, w store.Webhook) (cursor int64, more bool, err error) {
	events, err := c.cfg.Catalog.EventsAfter(ctx, w.Cursor, deliveryEvents, w.Kinds...)
	if err != nil || len(events) == 0 {
		return w.Cursor, false, err
	}
	// After the events: what retention removed before they were read is missing.
	span, err := c.cfg.Catalog.EventSpan(ctx)
	if err != nil {
		return w.Cursor, false, err
	}
	d := resource.Delivery{Webhook: w.ID, Catalog: c.cfg.Catalog.CatalogID(), Reset: w.Cursor < span.Pruned}
	for _, e := range events {
		if told(w.Kinds, e) {
			d.Events = append(d.Events, e)
		}
	}
	cursor, more = events[len(events)-1].ID, len(events) == deliveryEvents
	if len(d.Events) == 0 {
		return cursor, more, nil // none that it is told of
	}
	body, err := encode(d)
	if err != nil {
		return w.Cursor, false, err
	}
	secret, err := c.cfg.Sealer.Unseal(sealName(w.ID), w.Secret)
	if err != nil {
		return w.Cursor, false, fmt.Errorf("opening the webhook's secret: %w", err)
	}
	if err := c.post(ctx, w, cursor, secret, body); err != nil {
		return w.Cursor, false, err
	}
	return cursor, more, nil
}

func (c *courier) post(ctx context.Context, w store.Webhook, cursor int64, secret, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	id := fmt.Sprintf("%s-%d", w.ID, cursor)
	at := strconv.FormatInt(c.cfg.Now().Unix(), 10)
	req.Header.Set("Content-Type", mediaJSON)
	req.Header.Set("User-Agent", "edge-provision/"+c.cfg.Version)
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", at)
	req.Header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(sign(secret, id, at, body)))
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, webhookReply)); err != nil {
		return fmt.Errorf("reading the target's answer: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("the target answered %s", resp.Status)
	}
	return nil
}

// sign is the signature of a delivery.
func sign(secret []byte, id, at string, body []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	return mac.Sum(nil)
}

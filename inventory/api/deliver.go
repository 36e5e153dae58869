package api

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// courier delivers events to webhooks. What is to be delivered is in the catalog,
// and so is how far each webhook has come, and what it is being sent: a courier that
// was killed goes on where it was, and may repeat the one delivery whose
// acknowledgement it had not recorded.
type courier struct {
	cfg  Config
	http *http.Client
	// busy are the webhooks that are being delivered to.
	mu   sync.Mutex
	busy map[uuid.UUID]bool
}

// progress is what a courier knows of a webhook beside the catalog.
type progress struct {
	most   int       // events that its target takes at once
	passed time.Time // when it was recorded last that it is not told of events
}

// Bounds of deliveries.
const (
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
	known := map[uuid.UUID]*progress{}
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
		hooks, newest, err := c.look(ctx)
		if err != nil && ctx.Err() == nil {
			c.cfg.Log.Warn("looking for webhooks", "error", err)
		}
		wanted = wanted || len(hooks) > 0
		for _, w := range hooks {
			if held == nil || busy[w.ID] || w.Cursor >= newest || c.cfg.Now().Before(w.NextTry) {
				continue
			}
			p := known[w.ID]
			if p == nil {
				p = &progress{most: deliveryEvents}
				known[w.ID] = p
			}
			c.take(w.ID)
			running.Go(func() {
				defer c.give(w.ID)
				c.serve(held, w, newest, p)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look returns the webhooks, and the id of the newest event where there are any.
func (c *courier) look(ctx context.Context) ([]store.Webhook, int64, error) {
	hooks, err := c.cfg.Catalog.Webhooks(ctx)
	if err != nil || len(hooks) == 0 {
		return nil, 0, err
	}
	span, err := c.cfg.Catalog.EventSpan(ctx)
	return hooks, span.Newest, err
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

// serve delivers what waits for a webhook, until nothing does or a delivery fails. The
// newest event is from before.
func (c *courier) serve(ctx context.Context, w store.Webhook, newest int64, p *progress) {
	for {
		b, err := c.next(ctx, w, p)
		if err == nil && len(b.events) == 0 {
			c.warn(ctx, w, c.pass(ctx, w, newest, p))
			return
		}
		if err != nil {
			c.warn(ctx, w, err)
			return
		}
		err = c.send(ctx, w, b)
		switch {
		case ctx.Err() != nil:
			return
		case tooLarge(err) && len(b.events) > 1:
			err = c.halve(ctx, w, b, p)
			b.more = true
		case err != nil:
			err = c.failed(ctx, w, err)
			b.more = false
		default:
			err = c.delivered(ctx, &w, b)
			p.most = min(2*p.most, deliveryEvents)
		}
		c.warn(ctx, w, err)
		if err != nil || !b.more {
			return
		}
	}
}

// warn tells of what went wrong in the catalog; it is no failure of the target.
func (c *courier) warn(ctx context.Context, w store.Webhook, err error) {
	// It was deleted meanwhile, or another controller was faster.
	if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrNotFound) {
		c.cfg.Log.Warn("delivering to a webhook", "webhook", w.ID, "error", err)
	}
}

// delivered records that a batch was acknowledged, and moves w behind it.
func (c *courier) delivered(ctx context.Context, w *store.Webhook, b batch) error {
	record, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.RequestTimeout)
	defer cancel()
	if err := c.cfg.Catalog.Delivered(record, w.ID, b.Last); err != nil {
		return err
	}
	if w.Attempts > 0 {
		c.cfg.Log.Info("a webhook's target accepts deliveries again", "webhook", w.ID, "target", hostOf(w.URL), "failures", w.Attempts)
	}
	w.Cursor, w.Attempts = b.Last, 0
	return nil
}

// failed records that a batch was not acknowledged.
func (c *courier) failed(ctx context.Context, w store.Webhook, failure error) error {
	record, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.RequestTimeout)
	defer cancel()
	err := c.cfg.Catalog.Undelivered(record, w.ID, w.Cursor, failure.Error(), c.cfg.Now().Add(c.pause(w.Attempts)))
	if err == nil && w.Attempts == 0 { // once, and not for each of the tries that follow
		c.cfg.Log.Warn("a webhook's target does not accept deliveries; they are tried again", "webhook", w.ID, "target", hostOf(w.URL), "error", failure)
	}
	return err
}

// hostOf is as much of a webhook's URL as a log may have: the rest can be a secret.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
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

// send sends a batch to a webhook's target, and returns nil when it was acknowledged.
func (c *courier) send(ctx context.Context, w store.Webhook, b batch) error {
	body, err := encode(resource.Delivery{Webhook: w.ID, Catalog: c.cfg.Catalog.CatalogID(), Reset: b.reset, Events: b.events})
	if err != nil {
		return err
	}
	key, address, err := unsealWebhook(c.cfg.Sealer, w)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	at := strconv.FormatInt(c.cfg.Now().Unix(), 10)
	req.Header.Set("Content-Type", mediaJSON)
	req.Header.Set("User-Agent", "edge-provision/"+c.cfg.Version)
	req.Header.Set("Webhook-Id", b.id(w))
	req.Header.Set("Webhook-Timestamp", at)
	req.Header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(sign(key, b.id(w), at, body)))
	resp, err := c.http.Do(req)
	if bare, ok := errors.AsType[*url.Error](err); ok {
		return bare.Err // it would name the URL, which can be a secret
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, webhookReply)); err != nil {
		return fmt.Errorf("reading the target's answer: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return &refusedError{code: resp.StatusCode, status: resp.Status}
	}
	return nil
}

// refusedError says that a target did not acknowledge a delivery.
type refusedError struct {
	code   int
	status string // its own words
}

// Error implements error.
func (e *refusedError) Error() string { return "the target answered " + e.status }

// tooLarge reports whether a target wants less at once.
func tooLarge(err error) bool {
	refused, ok := errors.AsType[*refusedError](err)
	return ok && refused.code == http.StatusRequestEntityTooLarge
}

// sign is the signature of a delivery.
func sign(key []byte, id, at string, body []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	return mac.Sum(nil)
}

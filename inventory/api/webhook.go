package api

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// Sealer keeps the secrets of webhooks, and their URLs, at rest. Unseal must refuse what was sealed
// under another name.
type Sealer interface {
	Seal(name string, value []byte) ([]byte, error)
	Unseal(name string, sealed []byte) ([]byte, error)
}

// Bounds of webhooks: each has a worker of its own.
const (
	maxWebhooks     = 32
	maxWebhookURL   = 2_000
	webhookKeyBytes = 32
)

// secretPrefix is that of Standard Webhooks
// (https://github.com/standard-webhooks/standard-webhooks).
const secretPrefix = "whsec_"

func sealName(id uuid.UUID) string { return "webhook/" + id.String() }

// shownURL is as much of a webhook's URL as is kept in clear, and shown: whom it leads
// to. Whoever knows the path, or the query, of many can send to them.
func shownURL(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	out := u.Scheme + "://" + u.Host
	if u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
		out += "/…"
	}
	return out
}

// unsealWebhook returns the key of a webhook's signatures, and its URL. What is sealed is
// both, in this order; earlier programs sealed the key alone.
func unsealWebhook(s Sealer, w store.Webhook) (key []byte, address string, err error) {
	sealed, err := s.Unseal(sealName(w.ID), w.Secret)
	if err != nil {
		return nil, "", fmt.Errorf("opening the webhook's secret: %w", err)
	}
	if len(sealed) < webhookKeyBytes {
		return nil, "", fmt.Errorf("the webhook's secret has %d bytes; want %d or more: delete the webhook and make it anew", len(sealed), webhookKeyBytes)
	}
	key, rest := sealed[:webhookKeyBytes], string(sealed[webhookKeyBytes:])
	if rest == "" {
		return key, w.URL, nil
	}
	return key, rest, nil
}

func (s *Server) webhookRoutes() []route {
	return []route{
		{
			method: http.MethodGet, path: "/v1/webhooks", id: "listWebhooks", tag: "webhooks", need: resource.RoleAdmin,
			summary: "List webhooks, and how their deliveries stand", reply: resource.Page[resource.Webhook]{}, serve: s.listWebhooks,
		},
		{
			method: http.MethodPost, path: "/v1/webhooks", id: "createWebhook", tag: "webhooks", need: resource.RoleAdmin,
			summary: "Have events sent to a URL, from now on",
			detail: "Each POST is a Delivery, signed as Standard Webhooks has it: `webhook-signature` is `v1,` and base64 of HMAC-SHA-256, keyed with the secret, over `webhook-id.webhook-timestamp.body`. " +
				"Events come in their order, each at least once; a delivery that is sent again has the same `webhook-id` and the same events, whatever has happened since, also after a restart. " +
				"What is not answered with 2xx in time is tried again, ever more seldom; one of several events that is answered with 413 is sent in halves, under ids of their own.",
			body: resource.NewWebhook{}, reply: resource.CreatedWebhook{}, status: http.StatusCreated,
			problems: []string{"invalid-body", "conflict", "unsupported-media-type", "too-large"}, serve: s.createWebhook,
		},
		{
			method: http.MethodDelete, path: "/v1/webhooks/{webhook}", id: "deleteWebhook", tag: "webhooks", need: resource.RoleAdmin,
			summary: "Send nothing more to a URL", params: []param{{name: "webhook", in: "path", summary: "the id of a webhook", example: "01968f3c-1111-7000-8000-000000000003"}},
			status: http.StatusNoContent, problems: []string{"not-found"}, serve: s.deleteWebhook,
		},
	}
}

func (s *Server) listWebhooks(x *exchange) error {
	all, err := s.cfg.Catalog.Webhooks(x.ctx())
	if err != nil {
		return err
	}
	page := resource.Page[resource.Webhook]{Items: make([]resource.Webhook, len(all))}
	for i, w := range all {
		page.Items[i] = webhookOf(w)
	}
	return x.send(page)
}

func webhookOf(w store.Webhook) resource.Webhook {
	return resource.Webhook{
		ID: w.ID, URL: shownURL(w.URL), Kinds: w.Kinds, CreatedAt: w.CreatedAt, CreatedBy: w.CreatedBy,
		Delivered: w.Cursor, Failures: w.Attempts, LastError: w.LastError, NextTryAt: timeOf(w.NextTry),
	}
}

var (
	failuresDesc = prometheus.NewDesc("edge_webhook_failures", "Deliveries that a webhook's target did not accept since the last one that it did, by the webhook's id; 0 where it does.",
		[]string{"webhook"}, nil)
	undeliveredDesc = prometheus.NewDesc("edge_webhook_oldest_undelivered_timestamp_seconds", "When the oldest event happened that waits for a webhook's target, by the webhook's id; none where none waits.",
		[]string{"webhook"}, nil)
)

// deliveries tell how webhooks stand, when they are asked. They are the same from every
// controller of a catalog, whichever delivers.
type deliveries struct {
	hooks []store.Webhook
	// oldest are the first events that wait, by their webhook.
	oldest map[uuid.UUID]time.Time
}

// deliveries reads how webhooks stand.
func (s *Server) deliveries(ctx context.Context) (deliveries, error) {
	out := deliveries{oldest: map[uuid.UUID]time.Time{}}
	var err error
	if out.hooks, err = s.cfg.Catalog.Webhooks(ctx); err != nil {
		return out, err
	}
	for _, w := range out.hooks {
		events, err := s.cfg.Catalog.EventPage(ctx, store.EventFilter{Kinds: w.Kinds}, w.Cursor, 1, false)
		if err != nil {
			return out, err
		}
		if len(events) > 0 {
			out.oldest[w.ID] = events[0].Time
		}
	}
	return out, nil
}

// Describe implements prometheus.Collector.
func (d deliveries) Describe(ch chan<- *prometheus.Desc) { ch <- failuresDesc; ch <- undeliveredDesc }

// Collect implements prometheus.Collector.
func (d deliveries) Collect(ch chan<- prometheus.Metric) {
	for _, w := range d.hooks {
		ch <- prometheus.MustNewConstMetric(failuresDesc, prometheus.GaugeValue, float64(w.Attempts), w.ID.String())
		if at, waits := d.oldest[w.ID]; waits {
			ch <- prometheus.MustNewConstMetric(undeliveredDesc, prometheus.GaugeValue, float64(at.Unix()), w.ID.String())
		}
	}
}

func (s *Server) createWebhook(x *exchange) error {
	var want resource.NewWebhook
	if err := x.read(&want); err != nil {
		return err
	}
	u, err := url.Parse(want.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.Fragment != "" || len(want.URL) > maxWebhookURL {
		return problem("invalid-body", "url: want an http or https URL of at most %d bytes with a host, without a user, password and fragment.", maxWebhookURL)
	}
	if complaint := misspelt(want.Kinds); complaint != "" {
		return problem("invalid-body", "kinds: %s", complaint)
	}
	all, err := s.cfg.Catalog.Webhooks(x.ctx())
	if err != nil {
		return err
	}
	switch {
	case s.cfg.Sealer == nil:
		return problem("conflict", "This controller has no key to seal the webhook's secret with.")
	case len(all) >= maxWebhooks:
		return problem("conflict", "There are %d webhooks, which is as many as there may be.", len(all))
	}
	secret := make([]byte, webhookKeyBytes)
	rand.Read(secret) // never fails: it ends the program where there is no randomness
	w := store.Webhook{ID: uuid.Must(uuid.NewV7()), URL: shownURL(want.URL), Kinds: want.Kinds, CreatedBy: x.who.id}
	if w.Secret, err = s.cfg.Sealer.Seal(sealName(w.ID), append(slices.Clone(secret), want.URL...)); err != nil {
		return err
	}
	if w, err = s.cfg.Catalog.PutWebhook(x.ctx(), w); err != nil {
		return err
	}
	x.target = w.ID.String()
	return x.send(resource.CreatedWebhook{Webhook: webhookOf(w), Secret: secretPrefix + base64.StdEncoding.EncodeToString(secret)})
}

func (s *Server) deleteWebhook(x *exchange) error {
	id, err := uuid.Parse(x.PathValue("webhook"))
	if err != nil {
		return problem("not-found", "%q is no id of a webhook.", clip(x.PathValue("webhook"))).at("webhook")
	}
	x.target = id.String()
	if err := s.cfg.Catalog.DeleteWebhook(x.ctx(), id); err != nil {
		return err
	}
	x.WriteHeader(http.StatusNoContent)
	return nil
}

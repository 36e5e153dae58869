package api_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// seal is a Sealer that shows what it sealed, so that a test can see that nothing
// is kept in clear.
type seal struct{}

func (seal) Seal(name string, value []byte) ([]byte, error) {
	return append([]byte(name+":"), reversed(value)...), nil
}

func (seal) Unseal(name string, sealed []byte) ([]byte, error) {
	value, ok := strings.CutPrefix(string(sealed), name+":")
	if !ok {
		return nil, errors.New("sealed under another name")
	}
	return reversed([]byte(value)), nil
}

func reversed(b []byte) []byte {
	b = slices.Clone(b)
	slices.Reverse(b)
	return b
}

// target is a webhook's target that checks signatures.
type target struct {
	*testing.T
	*httptest.Server
	mu     sync.Mutex
	secret []byte
	steps  []string
	ids    []string
	refuse int // answers of 503 before the first of 204
	reset  bool
}

func newTarget(t *testing.T, refuse int) *target {
	target := &target{T: t, refuse: refuse}
	target.Server = httptest.NewServer(target)
	t.Cleanup(target.Close)
	return target
}

func (h *target) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		h.Error(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	id, at := r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp")
	mac := hmac.New(sha256.New, h.secret)
	fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.Header.Get("Webhook-Signature") != want {
		h.Errorf("signature = %q; want %q", r.Header.Get("Webhook-Signature"), want)
	}
	if seconds, err := strconv.ParseInt(at, 10, 64); err != nil || time.Since(time.Unix(seconds, 0)) > time.Minute {
		h.Errorf("timestamp = %q; want now", at)
	}
	h.ids = append(h.ids, id)
	if h.refuse > 0 {
		h.refuse--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var d resource.Delivery
	if err := json.Unmarshal(body, &d); err != nil {
		h.Error(err)
	}
	h.reset = h.reset || d.Reset
	for _, e := range d.Events {
		h.steps = append(h.steps, e.Step)
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *target) got() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.steps)
}

// hook makes a webhook to a target and gives the target its secret.
func (s *shop) hook(h *target, kinds ...inventory.EventKind) resource.CreatedWebhook {
	s.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	w := read[resource.CreatedWebhook](s.T, s.do(call{
		method: http.MethodPost, path: "/v1/webhooks", role: resource.RoleAdmin, body: resource.NewWebhook{URL: h.URL, Kinds: kinds},
	}))
	secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(w.Secret, "whsec_"))
	if err != nil || len(secret) != 32 {
		s.Fatalf("secret %q: %v; want whsec_ and 32 bytes", w.Secret, err)
	}
	h.secret = secret
	return w
}

func withHooks(c *api.Config) {
	c.Sealer, c.WebhookRetry = seal{}, 5*time.Millisecond
}

func TestWebhookGetsEveryEventSignedAndInOrder(t *testing.T) {
	s := open(t, withHooks)
	s.record(1, 3) // before it was made
	h := newTarget(t, 2)
	w := s.hook(h)
	s.record(4, 250)
	var want []string
	for n := 4; n <= 250; n++ {
		want = append(want, strconv.Itoa(n))
	}
	s.until("all events are delivered", func() bool { return len(h.got()) >= len(want) })
	if got := h.got(); !slices.Equal(got, want) {
		t.Errorf("events = %q; want 4 to 250 in order", got)
	}
	h.mu.Lock()
	ids := slices.Clone(h.ids)
	h.mu.Unlock()
	if len(ids) < 5 || ids[0] != ids[1] || ids[1] != ids[2] || ids[2] == ids[3] {
		t.Errorf("deliveries have the ids %q; want the first, which was refused twice, under one id", ids)
	}
	s.until("the delivery is recorded", func() bool {
		list := read[resource.Page[resource.Webhook]](t, s.do(call{path: "/v1/webhooks", role: resource.RoleAdmin}))
		return len(list.Items) == 1 && list.Items[0].Failures == 0 && list.Items[0].Delivered >= 250
	})
	raw := s.do(call{path: "/v1/webhooks", role: resource.RoleAdmin})
	if strings.Contains(string(raw.body), strings.TrimPrefix(w.Secret, "whsec_")) {
		t.Error("the secret is shown again")
	}
	if r := s.do(call{method: http.MethodDelete, path: "/v1/webhooks/" + w.ID.String(), role: resource.RoleAdmin}); r.status != http.StatusNoContent {
		t.Errorf("deleting the webhook = %d; want 204", r.status)
	}
	refused(t, s.do(call{method: http.MethodDelete, path: "/v1/webhooks/" + w.ID.String(), role: resource.RoleAdmin}), "not-found")
}

func TestWebhookIsToldOfItsKindsOnly(t *testing.T) {
	s := open(t, withHooks)
	h := newTarget(t, 0)
	s.hook(h, inventory.EventSSHUp, inventory.EventMachineChanged)
	s.record(1, 2)
	s.machine(1)
	s.catalog.Record(inventory.Event{Site: "store-0421", Kind: inventory.EventSSHUp, Step: "up"})
	s.until("the events are delivered", func() bool { return slices.Contains(h.got(), "up") })
	if got := h.got(); !slices.Equal(got, []string{"", "", "up"}) {
		t.Errorf("events = %q; want the two changes of the machine, and that it is up", got)
	}
}

func TestTargetThatHangsHoldsUpNobodyElse(t *testing.T) {
	s := open(t, withHooks, func(c *api.Config) { c.WebhookTimeout = 300 * time.Millisecond })
	stop := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(hanging.Close)
	t.Cleanup(func() { close(stop) })
	bad := read[resource.CreatedWebhook](t, s.do(call{
		method: http.MethodPost, path: "/v1/webhooks", role: resource.RoleAdmin, body: resource.NewWebhook{URL: hanging.URL},
	}))
	good := newTarget(t, 0)
	s.hook(good)
	s.record(1, 5)
	s.until("the other target has its events", func() bool { return len(good.got()) == 5 })
	s.until("the failure is recorded", func() bool {
		for _, w := range read[resource.Page[resource.Webhook]](t, s.do(call{path: "/v1/webhooks", role: resource.RoleAdmin})).Items {
			if w.ID == bad.ID && w.Failures > 0 && strings.Contains(w.LastError, "Timeout") && w.NextTryAt != nil {
				return true
			}
		}
		return false
	})
}

func TestWebhookGoesOnAfterTheControllerWasGone(t *testing.T) {
	database := storetest.SQLite(t)
	database.EventLimit = 3
	s := openOn(t, database, withHooks)
	h := newTarget(t, 1<<30) // refuses all
	s.hook(h)
	s.record(1, 4)
	// Another controller takes over, after retention has removed the first event.
	s.stop()
	if _, err := s.catalog.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.refuse = 0
	h.mu.Unlock()
	cfg := api.Config{Catalog: s.catalog, Runs: &s.journal}
	withHooks(&cfg)
	next, err := api.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		next.Run(ctx)
	}()
	s.until("what is left is delivered", func() bool { return slices.Contains(h.got(), "4") })
	cancel()
	<-done
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.reset {
		t.Error("the target is not told that events were removed before they could be delivered")
	}
	for i, step := range []string{"2", "3", "4"} {
		if i >= len(h.steps) || h.steps[i] != step {
			t.Fatalf("events = %q; want 2, 3 and 4 first", h.steps)
		}
	}
}

func TestWebhooksThatCannotBe(t *testing.T) {
	s := open(t, withHooks)
	post := func(url string) reply {
		return s.do(call{method: http.MethodPost, path: "/v1/webhooks", role: resource.RoleAdmin, body: resource.NewWebhook{URL: url}})
	}
	for _, url := range []string{"", "controller", "ftp://x/", "file:///etc/passwd", "https://", "https://u:p@x/", "https://x/#y", "https://x/" + strings.Repeat("y", 3000), "javascript:alert(1)"} {
		refused(t, post(url), "invalid-body")
	}
	for range 32 {
		if r := post("http://127.0.0.1:1/"); r.status != http.StatusCreated {
			t.Fatalf("a webhook = %d, %s; want 201", r.status, r.body)
		}
	}
	refused(t, post("http://127.0.0.1:1/"), "conflict")
	without := open(t)
	refused(t, without.do(call{method: http.MethodPost, path: "/v1/webhooks", role: resource.RoleAdmin, body: resource.NewWebhook{URL: "https://x/"}}), "conflict")
}

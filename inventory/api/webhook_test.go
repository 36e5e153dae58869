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
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
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
	most   int // events that it takes at once; more are answered with 413; zero: any number
	reset  bool
	paths  []string
	// under are the events that came under each id, acknowledged or not.
	under map[string][]string
}

func newTarget(t *testing.T, refuse int) *target {
	target := &target{T: t, refuse: refuse, under: map[string][]string{}}
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
	var d resource.Delivery
	if err := json.Unmarshal(body, &d); err != nil {
		h.Error(err)
	}
	var steps []string
	for _, e := range d.Events {
		steps = append(steps, e.Step)
	}
	if before, again := h.under[id]; again && !slices.Equal(before, steps) {
		h.Errorf("events %q come under the id %s of %q", steps, id, before)
	}
	h.ids, h.paths, h.under[id] = append(h.ids, id), append(h.paths, r.URL.String()), steps
	switch {
	case h.refuse > 0:
		h.refuse--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case h.most > 0 && len(steps) > h.most:
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	h.reset = h.reset || d.Reset
	h.steps = append(h.steps, steps...)
	w.WriteHeader(http.StatusNoContent)
}

// tries is how often something was sent.
func (h *target) tries() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ids)
}

// at reports whether something was sent to a path.
func (h *target) at(path string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.paths, path)
}

func (h *target) got() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.steps)
}

// hook makes a webhook to a target and gives the target its secret.
func (s *shop) hook(h *target, kinds ...inventory.EventKind) resource.CreatedWebhook {
	s.Helper()
	return s.hookAt(h, h.URL, kinds...)
}

// hookAt is hook with another path of the target.
func (s *shop) hookAt(h *target, url string, kinds ...inventory.EventKind) resource.CreatedWebhook {
	s.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	w := read[resource.CreatedWebhook](s.T, s.do(call{
		method: http.MethodPost, path: "/v1/webhooks", role: resource.RoleAdmin, body: resource.NewWebhook{URL: url, Kinds: kinds},
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

// TestDeliveryIsSentAgainAsItWas has events come while the first ones are refused, and
// another controller take over from the one that began.
func TestDeliveryIsSentAgainAsItWas(t *testing.T) {
	database := storetest.SQLite(t)
	s := openOn(t, database, withHooks)
	h := newTarget(t, 1<<30) // refuses all
	s.hook(h)
	again := func(what string) {
		t.Helper()
		before := h.tries()
		s.until(what, func() bool { return h.tries() > before+1 })
	}
	s.record(1, 2)
	again("the first two are sent")
	s.record(3, 4)
	again("they are sent again")
	s.stop()
	s.record(5, 6)
	s.beside(database, withHooks)
	again("another controller sends")
	h.mu.Lock()
	if h.refuse = 0; len(slices.Compact(slices.Clone(h.ids))) != 1 || !slices.Equal(h.under[h.ids[0]], []string{"1", "2"}) {
		t.Errorf("deliveries = %q; want the first two events again and again, under one id", h.under)
	}
	h.mu.Unlock()
	s.until("all are delivered", func() bool { return len(h.got()) >= 6 })
	if got := h.got(); !slices.Equal(got, []string{"1", "2", "3", "4", "5", "6"}) {
		t.Errorf("events = %q; want each once, in order", got)
	}
}

func TestDeliveryThatIsTooLargeIsHalved(t *testing.T) {
	s := open(t, withHooks, func(c *api.Config) { c.WebhookRetry = time.Hour }) // no try that failed is made again here
	h := newTarget(t, 0)
	h.most = 7
	s.hook(h)
	s.record(1, 130)
	s.until("all events are delivered", func() bool { return len(h.got()) >= 130 })
	for n, step := range h.got() {
		if step != strconv.Itoa(n+1) {
			t.Fatalf("events = %q; want 1 to 130, each once, in order", h.got())
		}
	}
	if list := read[resource.Page[resource.Webhook]](t, s.do(call{path: "/v1/webhooks", role: resource.RoleAdmin})); list.Items[0].Failures != 0 {
		t.Errorf("webhook = %+v; want none of that to be a failure", list.Items[0])
	}
}

// TestWebhookOfARareKindMissesNothing has retention remove events of other kinds, which
// nobody missed.
func TestWebhookOfARareKindMissesNothing(t *testing.T) {
	database := storetest.SQLite(t)
	database.EventLimit = 3
	var ahead atomic.Int64
	s := openOn(t, database, withHooks, func(c *api.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	h := newTarget(t, 0)
	w := s.hook(h, inventory.EventSSHUp)
	for day := range 3 {
		s.record(10*day+1, 10*day+9)
		s.until("it has passed over the others", func() bool {
			ahead.Add(int64(time.Minute))
			hooks, err := s.catalog.Webhooks(t.Context())
			return err == nil && hooks[0].Cursor >= w.Delivered+9*int64(day+1)
		})
		if p, err := s.catalog.Prune(t.Context()); err != nil || p.Events == 0 {
			t.Fatalf("Prune = %+v, %v; want events to be removed", p, err)
		}
	}
	s.catalog.Record(inventory.Event{Site: "store-0421", Kind: inventory.EventSSHUp, Step: "up"})
	s.until("the event is delivered", func() bool { return slices.Contains(h.got(), "up") })
	if h.mu.Lock(); h.reset {
		t.Error("the target is told that events were lost, though none of its kind was")
	}
	h.mu.Unlock()
}

// TestURLOfAWebhookIsKeptAsASecret has targets whose path, or query, is the password.
func TestURLOfAWebhookIsKeptAsASecret(t *testing.T) {
	s := open(t, withHooks)
	h := newTarget(t, 0)
	for _, c := range []struct{ path, shown string }{
		{"/services/hunter2", "/…"}, {"?token=hunter2", "/…"}, {"/?token=hunter2", "/…"}, {"/", ""}, {"", ""},
	} {
		w := s.hookAt(h, h.URL+c.path)
		list := s.do(call{path: "/v1/webhooks", role: resource.RoleAdmin})
		for what, got := range map[string]string{"createWebhook": w.URL, "listWebhooks": read[resource.Page[resource.Webhook]](t, list).Items[0].URL} {
			if got != h.URL+c.shown {
				t.Errorf("%s with %s = %s; want %s%s", what, c.path, got, h.URL, c.shown)
			}
		}
		kept, err := s.catalog.Webhooks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(fmt.Sprintf("%+v %s", kept, kept[0].Secret), "hunter2") {
			t.Errorf("the catalog has %+v; want the URL sealed", kept)
		}
		path := c.path
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
		s.record(1, 1)
		s.until("the event comes to the path", func() bool { return h.at(path) })
		if r := s.do(call{method: http.MethodDelete, path: "/v1/webhooks/" + w.ID.String(), role: resource.RoleAdmin}); r.status != http.StatusNoContent {
			t.Fatalf("deleting the webhook = %d; want 204", r.status)
		}
	}
	if p := refused(t, s.do(call{
		method: http.MethodPost, path: "/v1/webhooks", role: resource.RoleAdmin, body: resource.NewWebhook{URL: "https://x/hunter2#y"},
	}), "invalid-body"); strings.Contains(p.Detail, "hunter2") {
		t.Errorf("detail = %q; want nothing of the URL", p.Detail)
	}
}

// TestWebhookOfAnEarlierProgramIsServed has one whose URL is not sealed with its key.
func TestWebhookOfAnEarlierProgramIsServed(t *testing.T) {
	s := open(t, withHooks)
	h := newTarget(t, 0)
	h.secret = []byte(strings.Repeat("k", 32))
	id := uuid.Must(uuid.NewV7())
	sealed, err := seal{}.Seal("webhook/"+id.String(), h.secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.catalog.PutWebhook(t.Context(), store.Webhook{ID: id, URL: h.URL + "/services/hunter2", Secret: sealed}); err != nil {
		t.Fatal(err)
	}
	s.record(1, 1)
	s.until("the event comes to the path", func() bool { return h.at("/services/hunter2") })
	if list := s.do(call{path: "/v1/webhooks", role: resource.RoleAdmin}); strings.Contains(string(list.body), "hunter2") {
		t.Errorf("webhooks = %s; want the path not shown", list.body)
	}
}

// logged is a log that a test reads while others write.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// about are the lines of a level that name something.
func (l *logged) about(level, what string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, "level="+level+" ") && strings.Contains(line, what) {
			out = append(out, line)
		}
	}
	return out
}

// TestFailingWebhookIsSeen has one target refuse deliveries for some time, and another
// one that is not there; their URLs are as secret as a password.
func TestFailingWebhookIsSeen(t *testing.T) {
	var log logged
	s := open(t, withHooks, func(c *api.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	h := newTarget(t, 1<<30)
	w := s.hookAt(h, h.URL+"/services/hunter2?token=hunter2")
	gone := read[resource.CreatedWebhook](t, s.do(call{
		method: http.MethodPost, path: "/v1/webhooks", role: resource.RoleAdmin, body: resource.NewWebhook{URL: "http://127.0.0.1:1/hunter2"},
	}))
	oldest := `edge_webhook_oldest_undelivered_timestamp_seconds{webhook="` + w.ID.String() + `"}`
	failures := `edge_webhook_failures{webhook="` + w.ID.String() + `"}`
	if n := s.metric(failures); n != 0 || strings.Contains(string(s.get("/metrics").body), oldest) {
		t.Errorf("failures before the first event = %v; want none, and nothing that waits", n)
	}
	before := time.Now().Unix()
	s.record(1, 1)
	s.until("it has failed some times", func() bool { return s.metric(failures) > 3 })
	if at := int64(s.metric(oldest)); at < before || at > time.Now().Unix() {
		t.Errorf("%s = %d; want when the event was, after %d", oldest, at, before)
	}
	s.until("the other is tried", func() bool { return s.metric(`edge_webhook_failures{webhook="`+gone.ID.String()+`"}`) > 3 })
	list := s.do(call{path: "/v1/webhooks", role: resource.RoleAdmin})
	for _, it := range read[resource.Page[resource.Webhook]](t, list).Items {
		if !strings.Contains(it.LastError, "503") && !strings.Contains(it.LastError, "refused") || strings.Contains(it.LastError, "hunter2") {
			t.Errorf("last error = %q; want what is wrong, without the URL", it.LastError)
		}
	}
	h.mu.Lock()
	h.refuse = 0
	h.mu.Unlock()
	s.until("it is delivered", func() bool { return s.metric(failures) == 0 })
	s.until("that is told", func() bool { return len(log.about("INFO", w.ID.String())) > 0 })
	host := strings.TrimPrefix(h.URL, "http://")
	for _, level := range []string{"WARN", "INFO"} {
		if lines := log.about(level, w.ID.String()); len(lines) != 1 || !strings.Contains(lines[0], host) {
			t.Errorf("log = %q; want one line of %s about the webhook, with the target's host", lines, level)
		}
	}
	if lines := log.about("WARN", gone.ID.String()); len(lines) != 1 {
		t.Errorf("log = %q; want one line about the webhook whose target is not there", lines)
	}
	for _, level := range []string{"WARN", "INFO"} {
		if lines := log.about(level, "hunter2"); len(lines) != 0 {
			t.Errorf("the log has the secret of a URL: %q", lines)
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
	r := s.do(call{method: http.MethodPost, path: "/v1/webhooks", role: resource.RoleAdmin, body: resource.NewWebhook{
		URL: "https://x/", Kinds: []inventory.EventKind{inventory.EventSSHUp, "machine.tagz"},
	}})
	if p := refused(t, r, "invalid-body"); p.Detail != `kinds: "machine.tagz" is no kind of events. Did you mean "machine.tags"?` {
		t.Errorf("detail = %q; want the kind that was meant", p.Detail)
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

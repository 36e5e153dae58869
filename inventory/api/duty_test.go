package api_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// beside runs another controller on the shop's database, and returns what ends it.
func (s *shop) beside(database store.Config, change ...func(*api.Config)) (stop func()) {
	s.Helper()
	cfg := api.Config{Log: slog.New(slog.NewTextHandler(s.Output(), nil)), Catalog: storetest.Open(s.T, database), Runs: &s.journal}
	for _, c := range change {
		c(&cfg)
	}
	server, err := api.New(cfg)
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	s.Cleanup(stop)
	return stop
}

// TestOneOfTwoControllersDelivers has both look for what is to be delivered as often
// as they can, and then the one that delivers end.
func TestOneOfTwoControllersDelivers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, database store.Config) {
		var ahead atomic.Int64
		clock := func(c *api.Config) { c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) } }
		s := openOn(t, database, withHooks, clock)
		s.beside(database, withHooks, clock)
		h := newTarget(t, 0)
		w := s.hook(h)
		var want []string
		for n := 1; n <= 40; n++ {
			s.record(n, n)
			want = append(want, strconv.Itoa(n))
			s.until("the event is delivered", func() bool { return slices.Contains(h.got(), strconv.Itoa(n)) })
		}
		s.until("the last delivery is recorded", func() bool {
			return read[resource.Page[resource.Webhook]](t, s.do(call{path: "/v1/webhooks", role: resource.RoleAdmin})).Items[0].Delivered > w.Delivered+39
		})
		s.stop()
		ahead.Add(int64(store.HeartbeatInterval)) // it has given its turn back: the other finds out when it looks
		s.record(41, 41)
		s.until("the other controller delivers", func() bool { return slices.Contains(h.got(), "41") })
		if got := h.got(); !slices.Equal(got, append(want, "41")) {
			t.Errorf("events = %q; want each once", got)
		}
	})
}

func TestControllerOfAHostThatIsGoneIsReplaced(t *testing.T) {
	storetest.Each(t, func(t *testing.T, database store.Config) {
		ctx, catalog, now := t.Context(), storetest.Open(t, database), time.Now()
		turn := api.NewDuty(api.Config{Catalog: catalog, Now: func() time.Time { return now }})
		elsewhere := store.Owner{Host: "controller-2", BootID: "other", PID: 1, Purpose: "webhooks"}
		fence, err := catalog.Lock(ctx, "", "webhooks", elsewhere)
		if err != nil {
			t.Fatal(err)
		}
		for range 12 { // it is alive
			if turn.Take(ctx) != nil {
				t.Fatal("the turn of a controller that is alive was taken")
			}
			if err := catalog.Heartbeat(ctx, "", "webhooks", fence); err != nil {
				t.Fatal(err)
			}
			now = now.Add(store.HeartbeatInterval)
		}
		heard, waited := now.Add(-store.HeartbeatInterval), time.Duration(0) // of its last word
		for turn.Take(ctx) == nil {
			if now = now.Add(time.Second); now.Sub(heard) > 2*time.Minute {
				t.Fatal("the turn of a host that is gone was never taken")
			}
			waited = now.Sub(heard)
		}
		if waited <= time.Minute || waited > 80*time.Second {
			t.Errorf("the turn was taken after %s; want more than a minute, which lets the other stop, and at most 80 s", waited)
		}
		var lost *store.LostLockError
		if err := catalog.Heartbeat(ctx, "", "webhooks", fence); !errors.As(err, &lost) {
			t.Errorf("the other's next word = %v; want a *LostLockError", err)
		}
	})
}

func TestControllerStopsDeliveringWhenItsTurnIsTaken(t *testing.T) {
	ctx, catalog, now := t.Context(), storetest.Open(t, storetest.SQLite(t)), time.Now()
	turn := api.NewDuty(api.Config{Catalog: catalog, Now: func() time.Time { return now }})
	held := turn.Take(ctx)
	if held == nil {
		t.Fatal("nobody has the turn, and it was not taken")
	}
	if again := turn.Take(ctx); again != held || held.Err() != nil {
		t.Error("a controller loses its own turn")
	}
	if err := catalog.BreakLock(ctx, "", "webhooks"); err != nil {
		t.Fatal(err)
	}
	now = now.Add(store.HeartbeatInterval)
	if turn.Take(ctx) != nil || held.Err() == nil {
		t.Error("a controller goes on delivering after its turn was taken")
	}
}

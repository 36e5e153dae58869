package store_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

func TestLockIsHeldOnceAndFenced(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		var now atomic.Int64
		ctx, s := t.Context(), storetest.Open(t, at(cfg, &now))
		me := must[store.Owner](t)(store.Self("apply"))
		first := must[int64](t)(s.Lock(ctx, site, nodeA, me))
		var locked *store.LockedError
		if _, err := s.Lock(ctx, site, nodeA, me); !errors.As(err, &locked) || !strings.Contains(err.Error(), "runs unlock") {
			t.Errorf("Lock while held = %v; want a *LockedError that says what to do", err)
		}
		for _, other := range [][2]string{{site, nodeB}, {"other", nodeA}} {
			must[int64](t)(s.Lock(ctx, other[0], other[1], me))
		}
		now.Add(int64(time.Minute))
		ok(t, s.Heartbeat(ctx, site, nodeA, first))
		held := must[[]store.Held](t)(s.Locks(ctx, site))
		if len(held) != 2 || held[0].Address != nodeA || held[0].Owner != me || held[0].Heartbeat.Sub(held[0].Since) != time.Minute {
			t.Errorf("Locks = %+v; want both of the site, the first with a heartbeat after a minute", held)
		}
		ok(t, s.Unlock(ctx, site, nodeA, first))
		second := must[int64](t)(s.Lock(ctx, site, nodeA, me))
		if second <= first {
			t.Errorf("fencing token after unlock = %d; want more than %d", second, first)
		}
		var lost *store.LostLockError
		if err := s.Heartbeat(ctx, site, nodeA, first); !errors.As(err, &lost) {
			t.Errorf("Heartbeat with an old token = %v; want a *LostLockError", err)
		}
		if err := s.Unlock(ctx, site, nodeA, first); !errors.As(err, &lost) {
			t.Errorf("Unlock with an old token = %v; want a *LostLockError", err)
		}
	})
}

func TestLockOfADeadOwnerIsTakenOver(t *testing.T) {
	me := must[store.Owner](t)(store.Self("apply"))
	dead := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	ok(t, dead.Run())
	with := func(change func(*store.Owner)) store.Owner { o := me; change(&o); return o }
	cases := map[string]struct {
		owner store.Owner
		taken bool
	}{
		"this process":              {me, false},
		"a living process":          {with(func(o *store.Owner) { o.PID = 1; o.PIDStart = startOf(t, 1) }), false},
		"a process that ended":      {with(func(o *store.Owner) { o.PID = dead.Process.Pid }), true},
		"a process id used again":   {with(func(o *store.Owner) { o.PIDStart-- }), true},
		"before this host's reboot": {with(func(o *store.Owner) { o.BootID = "3f0c8a8e-5d0f-4a39-8ad4-6f5f2f2d9c11" }), true},
		"a living process that sees another boot_id": {with(func(o *store.Owner) {
			o.PID, o.PIDStart, o.BootID = 1, startOf(t, 1), "3f0c8a8e-5d0f-4a39-8ad4-6f5f2f2d9c11"
		}), false},
		"a process that ended, of a program that wrote no namespace": {with(func(o *store.Owner) {
			o.PID = dead.Process.Pid
			o.BootID, _, _ = strings.Cut(o.BootID, "/")
		}), true},
		"another host": {with(func(o *store.Owner) { o.Host = "controller-2"; o.BootID = "other" }), false},
	}
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				address := "machine." + name
				before := must[int64](t)(s.Lock(t.Context(), site, address, c.owner))
				after, err := s.Lock(t.Context(), site, address, me)
				if got := err == nil; got != c.taken {
					t.Fatalf("Lock held by %s = %v; want taken over %v", name, err, c.taken)
				}
				if c.taken {
					var lost *store.LostLockError
					if err := s.Heartbeat(t.Context(), site, address, before); !errors.As(err, &lost) || after <= before {
						t.Errorf("the former owner's heartbeat = %v, token %d after %d; want it fenced off", err, after, before)
					}
					return
				}
				ok(t, s.BreakLock(t.Context(), site, address))
				if now := must[int64](t)(s.Lock(t.Context(), site, address, me)); now <= before+1 {
					t.Errorf("token after BreakLock = %d; want more than %d", now, before+1)
				}
			})
		}
		if err := s.BreakLock(t.Context(), site, "machine.unlocked"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("BreakLock(nobody) = %v; want ErrNotFound", err)
		}
	})
}

func TestLockOfAnotherContainerIsTakenWhenItIsSilent(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		var now atomic.Int64
		ctx, s := t.Context(), storetest.Open(t, at(cfg, &now))
		me := must[store.Owner](t)(store.Self("apply"))
		// In its own namespace it is alive; no process here has its id.
		other := me
		boot, _, _ := strings.Cut(me.BootID, "/")
		other.PID, other.BootID = 1<<30, boot+"/pid:[1]"
		fence := must[int64](t)(s.Lock(ctx, site, nodeA, other))
		var locked *store.LockedError
		for range 3 {
			now.Add(int64(50 * time.Second))
			ok(t, s.Heartbeat(ctx, site, nodeA, fence))
			if _, err := s.Lock(ctx, site, nodeA, me); !errors.As(err, &locked) {
				t.Fatalf("Lock of what is alive in another container = %v; want a *LockedError", err)
			}
		}
		now.Add(int64(61 * time.Second))
		must[int64](t)(s.Lock(ctx, site, nodeA, me))
		var lost *store.LostLockError
		if err := s.Heartbeat(ctx, site, nodeA, fence); !errors.As(err, &lost) {
			t.Errorf("Heartbeat of the silent one = %v; want a *LostLockError", err)
		}
	})
}

func startOf(t *testing.T, pid int) int64 {
	t.Helper()
	return must[int64](t)(store.PIDStart(pid))
}

func TestConcurrentLockersHaveOneWinner(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		stores := []*store.Store{storetest.Open(t, cfg), storetest.Open(t, cfg)}
		me := must[store.Owner](t)(store.Self("apply"))
		var won atomic.Int32
		var wg sync.WaitGroup
		for n := range 12 {
			wg.Go(func() {
				_, err := stores[n%2].Lock(t.Context(), site, nodeA, me)
				var locked *store.LockedError
				switch {
				case err == nil:
					won.Add(1)
				case !errors.As(err, &locked):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d of 12 got the lock; want 1", won.Load())
		}
	})
}

package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func leaseTo(n int, address string, state inventory.LeaseState) inventory.Lease {
	return inventory.Lease{
		Network: "edge", MAC: mac(n), Address: address, ClientID: "01:52:54", Hostname: "node-a",
		Starts: noon, Expires: noon.Add(time.Hour), State: state,
	}
}

// at is a Config whose clock is moved by the test.
func at(cfg store.Config, now *atomic.Int64) store.Config {
	now.Store(noon.UnixNano())
	cfg.Now = func() time.Time { return time.Unix(0, now.Load()) }
	return cfg
}

func TestCommitGivesAnAddressToOneMAC(t *testing.T) {
	const x, y = "172.22.0.100", "172.22.0.101"
	active, released, declined := inventory.LeaseActive, inventory.LeaseReleased, inventory.LeaseDeclined
	cases := map[string]struct {
		before []inventory.Lease
		later  time.Duration
		commit inventory.Lease
		taken  bool
		count  int // leases kept afterwards
	}{
		"first":                         {commit: leaseTo(1, x, active), count: 1},
		"renewal":                       {before: []inventory.Lease{leaseTo(1, x, active)}, commit: leaseTo(1, x, active), count: 1},
		"another address":               {before: []inventory.Lease{leaseTo(1, x, active)}, commit: leaseTo(1, y, active), count: 1},
		"held by another MAC":           {before: []inventory.Lease{leaseTo(1, x, active)}, commit: leaseTo(2, x, active), taken: true, count: 1},
		"held by an expired one":        {before: []inventory.Lease{leaseTo(1, x, active)}, later: 2 * time.Hour, commit: leaseTo(2, x, active), count: 2},
		"released by another MAC":       {before: []inventory.Lease{leaseTo(1, x, released)}, commit: leaseTo(2, x, active), count: 2},
		"declined":                      {before: []inventory.Lease{leaseTo(1, x, declined)}, commit: leaseTo(2, x, active), taken: true, count: 1},
		"declined by oneself":           {before: []inventory.Lease{leaseTo(1, x, declined)}, commit: leaseTo(1, x, active), taken: true, count: 1},
		"declined long ago":             {before: []inventory.Lease{leaseTo(1, x, declined)}, later: 2 * time.Hour, commit: leaseTo(2, x, active), count: 1},
		"decline of one's own":          {before: []inventory.Lease{leaseTo(1, x, active)}, commit: leaseTo(1, x, declined), count: 1},
		"decline twice":                 {before: []inventory.Lease{leaseTo(1, x, declined)}, commit: leaseTo(2, x, declined), count: 1},
		"decline of another's":          {before: []inventory.Lease{leaseTo(1, x, active)}, commit: leaseTo(2, x, declined), taken: true, count: 1},
		"new address after a decline":   {before: []inventory.Lease{leaseTo(1, x, active), leaseTo(1, x, declined)}, commit: leaseTo(1, y, active), count: 2},
		"release":                       {before: []inventory.Lease{leaseTo(1, x, active)}, commit: leaseTo(1, x, released), count: 1},
		"release of an address in use":  {before: []inventory.Lease{leaseTo(1, x, released), leaseTo(2, x, active)}, commit: leaseTo(1, x, released), count: 2},
		"same address, another network": {before: []inventory.Lease{leaseTo(1, x, active)}, commit: func() inventory.Lease { l := leaseTo(2, x, active); l.Network = "lab"; return l }(), count: 1},
	}
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		var now atomic.Int64
		s := storetest.Open(t, at(cfg, &now))
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				now.Store(noon.UnixNano())
				ok(t, s.Exec(t.Context(), "DELETE FROM leases"))
				for _, l := range c.before {
					ok(t, s.Commit(t.Context(), l))
				}
				now.Add(int64(c.later))
				c.commit.Starts, c.commit.Expires = c.commit.Starts.Add(c.later), c.commit.Expires.Add(c.later)
				err := s.Commit(t.Context(), c.commit)
				var taken *store.AddressTakenError
				if errors.As(err, &taken) != c.taken || !c.taken && err != nil {
					t.Fatalf("Commit = %v; want taken %v", err, c.taken)
				}
				if c.taken && taken.Holder != c.before[len(c.before)-1] {
					t.Errorf("Commit says the holder is %+v; want %+v", taken.Holder, c.before[len(c.before)-1])
				}
				kept := must[[]inventory.Lease](t)(s.Leases(t.Context(), "edge"))
				if len(kept) != c.count {
					t.Errorf("Leases = %+v; want %d", kept, c.count)
				}
				if c.taken || c.commit.Network != "edge" {
					return
				}
				found := false
				for _, l := range kept {
					found = found || l == c.commit
				}
				if !found {
					t.Errorf("Leases = %+v; want %+v among them", kept, c.commit)
				}
			})
		}
	})
}

func TestCommitRefusesWhatIsNoLease(t *testing.T) {
	s := storetest.Open(t, storetest.SQLite(t))
	for name, spoil := range map[string]func(*inventory.Lease){
		"no address":   func(l *inventory.Lease) { l.Address = "" },
		"IPv6":         func(l *inventory.Lease) { l.Address = "::1" },
		"no MAC":       func(l *inventory.Lease) { l.MAC = inventory.MAC{} },
		"no network":   func(l *inventory.Lease) { l.Network = "" },
		"no state":     func(l *inventory.Lease) { l.State = "" },
		"ends earlier": func(l *inventory.Lease) { l.Expires = l.Starts.Add(-time.Second) },
	} {
		l := leaseTo(1, "172.22.0.100", inventory.LeaseActive)
		spoil(&l)
		if err := s.Commit(t.Context(), l); err == nil {
			t.Errorf("Commit(%s) = nil; want an error", name)
		}
	}
}

func TestLeaseOf(t *testing.T) {
	s := storetest.Open(t, storetest.SQLite(t))
	if _, err := s.LeaseOf(t.Context(), "edge", mac(1)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("LeaseOf(unknown) = %v; want ErrNotFound", err)
	}
	want := leaseTo(1, "172.22.0.100", inventory.LeaseActive)
	want.Hostname = "bad\x00name\xff"
	ok(t, s.Commit(t.Context(), want))
	want.Hostname = "bad\uFFFDname\uFFFD"
	if got := must[inventory.Lease](t)(s.LeaseOf(t.Context(), "edge", mac(1))); got != want {
		t.Errorf("LeaseOf = %+v; want %+v", got, want)
	}
}

func TestConcurrentCommitsOfOneAddressHaveOneWinner(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		var now atomic.Int64
		cfg = at(cfg, &now)
		// Two stores on one catalog: the database must decide, not a mutex.
		stores := []*store.Store{storetest.Open(t, cfg), storetest.Open(t, cfg)}
		for round := range 5 {
			address := fmt.Sprintf("172.22.0.%d", 100+round)
			var won, lost atomic.Int32
			var wg sync.WaitGroup
			for n := range 12 {
				wg.Go(func() {
					err := stores[n%2].Commit(t.Context(), leaseTo(100*round+n, address, inventory.LeaseActive))
					var taken *store.AddressTakenError
					switch {
					case err == nil:
						won.Add(1)
					case errors.As(err, &taken):
						lost.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if won.Load() != 1 || lost.Load() != 11 {
				t.Errorf("%s went to %d of 12 MACs, %d were refused; want 1 and 11", address, won.Load(), lost.Load())
			}
		}
	})
}

func TestLeaseDoesNotWaitBehindEvents(t *testing.T) {
	s := storetest.Open(t, storetest.SQLite(t))
	// A batch of events is being written, and three more writers of events
	// stand in the queue before the lease comes.
	var leased []bool // before each of the three, in the order of their turns
	look := func() {
		_, err := s.LeaseOf(t.Context(), "edge", mac(1))
		leased = append(leased, err == nil)
	}
	held, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.HoldEvents(t.Context(), func() { close(held); <-release }); err != nil {
			t.Error(err)
		}
	})
	<-held
	for range 3 {
		wg.Go(func() {
			if err := s.HoldEvents(t.Context(), look); err != nil {
				t.Error(err)
			}
		})
	}
	s.AwaitWaiting(3)
	wg.Go(func() {
		if err := s.Commit(t.Context(), leaseTo(1, "172.22.0.100", inventory.LeaseActive)); err != nil {
			t.Error(err)
		}
	})
	s.AwaitWaiting(4)
	close(release)
	wg.Wait()
	if !slices.Equal(leased, []bool{true, true, true}) {
		t.Errorf("the waiting writers of events found the lease = %v; want it there before all three", leased)
	}
}

// crashEnv makes the test binary a controller that leases addresses until it is
// killed.
const crashEnv = "EDGE_TEST_CRASH_CATALOG"

func crash() {
	s, err := store.Open(context.Background(), store.Config{Path: os.Getenv(crashEnv)})
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	for n := 1; ; n++ {
		l := leaseTo(n, fmt.Sprintf("10.0.%d.%d", n/250, n%250+1), inventory.LeaseActive)
		if err := s.Commit(context.Background(), l); err != nil {
			fmt.Println("error:", err)
			return
		}
		fmt.Println(l.MAC) // the ACK
	}
}

func TestLeaseSurvivesKillAfterCommit(t *testing.T) {
	cfg := storetest.SQLite(t)
	for round := range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+cfg.Path)
		out := must[interface{ Read([]byte) (int, error) }](t)(cmd.StdoutPipe())
		ok(t, cmd.Start())
		var acked []string
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			acked = append(acked, lines.Text())
			if len(acked) == 10+7*round {
				ok(t, cmd.Process.Kill())
				break
			}
		}
		for lines.Scan() { // what it had still written before it died was acknowledged too
			acked = append(acked, lines.Text())
		}
		_ = cmd.Wait() // killed
		s := must[*store.Store](t)(store.Open(t.Context(), cfg))
		kept := map[string]bool{}
		for _, l := range must[[]inventory.Lease](t)(s.Leases(t.Context(), "edge")) {
			kept[l.MAC.String()] = true
		}
		for _, m := range acked {
			if !kept[m] {
				t.Errorf("round %d: lease of %q is gone after kill -9; want every acknowledged lease kept", round, m)
			}
		}
		if len(acked) < 10 {
			t.Fatalf("round %d: %d leases were acknowledged; want at least 10: %v", round, len(acked), acked)
		}
		ok(t, s.Close())
	}
}

package steps

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Refresher looks at the hardware of a site's running machines again and again,
// for as long as nobody runs plan. What it sees is compared with the snapshots as
// it is recorded.
type Refresher struct {
	// Site gives the site as it is declared now; it is asked at each round.
	Site    func() *site.Site
	Catalog *store.Store
	Hosts   func() Hosts
	Adopter func() *Adopter
	// BMCFacts asks BMCs, also those of machines that are off; nil: none is asked.
	BMCFacts func() *BMCFacts
	// Every is the time from one round's beginning to the next; 15 minutes when
	// zero.
	Every time.Duration
	// Parallelism is how many machines are asked at once; 4 when zero, because
	// nobody waits and the uplink may be thin.
	Parallelism int
	// Listen is how long each machine listens, once it was looked at, for what its
	// network ports are connected to; DefaultListen when zero, none when negative.
	Listen time.Duration
	// Tell is told of a machine that cannot be looked at, once until it can again.
	Tell func(Progress)

	failing map[string]bool
}

const (
	// DefaultRefresh is how often a Refresher looks.
	DefaultRefresh = 15 * time.Minute
	// DefaultListen is a little more than the half minute after which switches
	// repeat what they say by LLDP (IEEE 802.1AB-2016 section 9.2.5.7).
	DefaultListen = 35 * time.Second
	// maxListening bounds the machines that listen at once, each of which is a
	// connection that is silent most of the time.
	maxListening = 64
)

// Run works until ctx ends; the first round begins at once. BMCs are asked beside the
// looks, which slow ones do not hold up.
func (r *Refresher) Run(ctx context.Context) {
	every := r.Every
	if every == 0 {
		every = DefaultRefresh
	}
	var beside sync.WaitGroup
	defer beside.Wait()
	if r.BMCFacts != nil {
		beside.Go(func() { r.askBMCs(ctx, every) })
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if err := r.Once(ctx); err != nil && ctx.Err() == nil {
			r.Tell(Progress{Address: "hardware", Phase: "error", Message: err.Error()})
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// askBMCs asks the BMCs that are due until ctx ends.
func (r *Refresher) askBMCs(ctx context.Context, every time.Duration) {
	var mu sync.Mutex // guards failing
	failing := map[string]bool{}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		err := r.BMCFacts().Round(ctx, r.Site(), func(m *site.Machine, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil && !failing[m.Address] {
				r.Tell(Progress{Address: m.Address, Phase: "facts", Message: "its BMC does not tell of its hardware: " + err.Error()})
			}
			failing[m.Address] = err != nil
		})
		if err != nil && ctx.Err() == nil {
			r.Tell(Progress{Address: "hardware", Phase: "error", Message: err.Error()})
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Once looks at every machine that runs. The error is the catalog's; machines that
// do not answer are told of.
func (r *Refresher) Once(ctx context.Context) error {
	if r.failing == nil {
		r.failing = map[string]bool{}
	}
	limit := r.Parallelism
	if limit == 0 {
		limit = 4
	}
	listen := r.Listen
	if listen == 0 {
		listen = DefaultListen
	}
	s, hosts, adopter := r.Site(), r.Hosts(), r.Adopter()
	slots, listening := make(chan struct{}, limit), make(chan struct{}, maxListening)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // guards failing and errs
		errs []error
	)
	for _, m := range s.Machines {
		runs, err := r.runs(ctx, s.Name, m)
		if err != nil {
			errs = append(errs, err)
			break
		}
		if !runs {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			err := look(ctx, hosts, adopter, m, 0)
			<-slots
			if err == nil && listen > 0 {
				// After all else and apart from it, so that nobody waits for it but
				// those who listen. When it fails, this look has told nothing less.
				listening <- struct{}{}
				_ = look(ctx, hosts, adopter, m, listen)
				<-listening
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil && !r.failing[m.Address] && ctx.Err() == nil {
				r.Tell(Progress{Address: m.Address, Phase: "facts", Message: "its hardware cannot be looked at: " + err.Error()})
			}
			r.failing[m.Address] = err != nil
		})
	}
	wg.Wait()
	// Also what programs without the key recorded, and what was changed past them.
	return errors.Join(append(errs, r.Catalog.ReviewDrift(ctx, s.Name))...)
}

// runs reports whether a machine can be expected to answer over SSH: it is adopted,
// or installed and in no run's hands.
func (r *Refresher) runs(ctx context.Context, siteName string, m *site.Machine) (bool, error) {
	if m.Adopted() {
		return true, nil
	}
	row, err := r.Catalog.MachineByAddress(ctx, siteName, m.Address)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return row.State == inventory.StateInstalled, err
}

// look gathers the facts of one machine.
func look(ctx context.Context, hosts Hosts, adopter *Adopter, m *site.Machine, listen time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	h, err := hosts.Host(ctx, m.Address)
	if err != nil {
		return err
	}
	defer h.Close()
	_, _, err = adopter.Refresh(ctx, m, h, listen)
	return err
}

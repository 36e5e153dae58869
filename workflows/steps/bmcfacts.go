package steps

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// BMCFacts records what BMCs know of their machines, which may be switched off. What
// it records neither identifies a machine nor puts it into a class.
type BMCFacts struct {
	Catalog *store.Store
	Powers  Powers
	// Wanted are the machines that a run of this process works on, which Round leaves
	// alone; nil: none.
	Wanted *Wanted
	// Now is the clock; time.Now when nil.
	Now func() time.Time

	mu   sync.Mutex
	held map[string]bmc.Reading // by address: of machines that the catalog did not know
}

// BMCFactsAge is how old what a BMC said may be before it is asked again: its
// inventory changes when the machine is started, and when somebody works on it.
const BMCFactsAge = 6 * time.Hour

// bmcFactsParallelism is how many BMCs are asked at once where nobody waits.
const bmcFactsParallelism = 4

// Bounds of all readings together while somebody waits for a plan, from the first on,
// and of one while nobody does.
const (
	planBMCFacts  = 20 * time.Second
	quietBMCFacts = 2 * time.Minute
)

// patience is how long a plan waits for the inventories of BMCs, of all machines
// together: those that come later are left to the next plan, or to serve.
type patience struct {
	mu    sync.Mutex
	until time.Time
}

// left is how long may be waited yet; the first to ask starts the time.
func (p *patience) left(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until.IsZero() {
		p.until = now.Add(planBMCFacts)
	}
	return p.until.Sub(now)
}

// bmcSource is where the facts of a machine's BMC come from; empty for a machine
// without one.
func bmcSource(m *site.Machine) inventory.Source {
	switch m.BMC.Driver {
	case site.BMCRedfish:
		return inventory.SourceRedfish
	case site.BMCIPMI:
		return inventory.SourceIPMI
	}
	return ""
}

// attempt is what is remembered of a reading that failed.
type attempt struct {
	At time.Time `json:"at"`
	// Within is how long the BMC was given.
	Within time.Duration `json:"within_ns"`
}

func attemptKey(siteName, address string) string { return "bmc-facts/" + siteName + "/" + address }

// due reports whether the BMC of a machine, whose documents are known, is to be asked
// and given so long: it was not asked for long, nor failed to tell in as much time.
func (b *BMCFacts) due(ctx context.Context, siteName string, m *site.Machine, known map[inventory.Source]inventory.Document, within time.Duration) (bool, error) {
	source := bmcSource(m)
	if source == "" {
		return false, nil
	}
	if last, ok := known[source]; ok && b.now().Sub(last.LastSeen) < BMCFactsAge {
		return false, nil
	}
	raw, err := b.Catalog.Settings().Get(ctx, attemptKey(siteName, m.Address))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	var failed attempt
	if json.Unmarshal(raw, &failed) != nil {
		return true, nil // it is overwritten by the next
	}
	return b.now().Sub(failed.At) >= BMCFactsAge || within > failed.Within, nil
}

// try is Read within a bound. A failure is remembered, so that a BMC that is silent, or
// slower than somebody waits, is not asked again and again.
func (b *BMCFacts) try(ctx context.Context, siteName string, m *site.Machine, row *inventory.Machine, within time.Duration) (bmc.Reading, error) {
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	r, err := b.Read(bounded, m, row)
	if err == nil || ctx.Err() != nil || unasked(err) {
		return r, err
	}
	raw, failed := json.Marshal(attempt{At: b.now(), Within: within})
	if failed == nil {
		failed = b.Catalog.Settings().Put(ctx, attemptKey(siteName, m.Address), raw)
	}
	return r, errors.Join(err, failed)
}

// unasked reports whether an error says nothing about the BMC: something else came
// first, or an edited site took the place of the one that is being asked about.
func unasked(err error) bool { return errors.Is(err, bmc.ErrGaveWay) || errors.Is(err, bmc.ErrClosed) }

// Read asks the BMC of a machine and records what it says. row is the machine's; for
// nil, one that the catalog does not know, it is held until Keep.
func (b *BMCFacts) Read(ctx context.Context, m *site.Machine, row *inventory.Machine) (bmc.Reading, error) {
	controller, err := b.Powers.BMC(m.Address)
	if err != nil {
		return bmc.Reading{}, err
	}
	r, err := controller.Facts(ctx)
	if err != nil {
		return r, err
	}
	if row == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.held == nil {
			b.held = map[string]bmc.Reading{}
		}
		b.held[m.Address] = r
		return r, nil
	}
	_, _, err = b.Catalog.PutFacts(ctx, row.ID, r.Source, r.Facts, b.now())
	return r, err
}

// Keep records what was held, of the machines that the catalog knows by now.
func (b *BMCFacts) Keep(ctx context.Context, siteName string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for address, r := range b.held {
		row, err := b.Catalog.MachineByAddress(ctx, siteName, address)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			_, _, err = b.Catalog.PutFacts(ctx, row.ID, r.Source, r.Facts, b.now())
		}
		if err != nil {
			return err
		}
		delete(b.held, address)
	}
	return nil
}

// Round asks the BMCs of a site that were not asked for long, several at once. The
// error is the catalog's; tell is told of BMCs that do not answer.
func (b *BMCFacts) Round(ctx context.Context, s *site.Site, tell func(m *site.Machine, err error)) error {
	slots := make(chan struct{}, bmcFactsParallelism)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, m := range s.Machines {
		row, err := b.Catalog.MachineByAddress(ctx, s.Name, m.Address)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		known, err := b.Catalog.Facts(ctx, row.ID)
		if err != nil {
			return err
		}
		due, err := b.due(ctx, s.Name, m, known, quietBMCFacts)
		if err != nil {
			return err
		}
		// Those in the hands of a run have one session less for it.
		busy := row.State == inventory.StateInspecting || row.State == inventory.StateInstalling || b.Wanted != nil && b.Wanted.Has(row.ID)
		if !due || busy {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			_, err := b.try(ctx, s.Name, m, &row, quietBMCFacts)
			if ctx.Err() == nil && !unasked(err) {
				tell(m, err)
			}
		})
	}
	return nil
}

func (b *BMCFacts) now() time.Time {
	if b.Now == nil {
		return time.Now()
	}
	return b.Now()
}

// inspected is what is known of a machine that edge-agent looked at, without what its
// BMC says; nil before. What decides about its disks, and about how it boots, is the
// agent's alone.
func inspected(documents map[inventory.Source]inventory.Document) *inventory.Facts {
	agent, looked := documents[inventory.SourceAgent]
	if !looked {
		return nil
	}
	own, _ := inventory.OwnFacts(documents)
	own.Disks, own.Firmware = agent.Facts.Disks, agent.Facts.Firmware
	return &own
}

// InspectedFacts is what the catalog knows of a machine that edge-agent looked at,
// without what its BMC says; nil before. What is done to a machine goes by it.
func InspectedFacts(ctx context.Context, catalog *store.Store, id uuid.UUID) (*inventory.Facts, error) {
	documents, err := catalog.Facts(ctx, id)
	return inspected(documents), err
}

// ownFacts is what the catalog knows of a machine without what its BMC says; nil for
// nothing.
func ownFacts(ctx context.Context, catalog *store.Store, id uuid.UUID) (*inventory.Facts, error) {
	documents, err := catalog.Facts(ctx, id)
	if err != nil {
		return nil, err
	}
	if own, known := inventory.OwnFacts(documents); known {
		return &own, nil
	}
	return nil, nil
}

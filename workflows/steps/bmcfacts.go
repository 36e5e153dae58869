package steps

import (
	"context"
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

// Bounds of one reading while somebody waits for a plan, and while nobody does.
const (
	planBMCFacts  = 20 * time.Second
	quietBMCFacts = 2 * time.Minute
)

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

// Due reports whether the BMC of a machine, whose documents are known, is to be
// asked.
func (b *BMCFacts) Due(m *site.Machine, known map[inventory.Source]inventory.Document) bool {
	source := bmcSource(m)
	if source == "" {
		return false
	}
	last, ok := known[source]
	return !ok || b.now().Sub(last.LastSeen) >= BMCFactsAge
}

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
		// Those in the hands of a run have one session less for it.
		if !b.Due(m, known) || row.State == inventory.StateInspecting || row.State == inventory.StateInstalling {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			bounded, cancel := context.WithTimeout(ctx, quietBMCFacts)
			defer cancel()
			if _, err := b.Read(bounded, m, &row); ctx.Err() == nil {
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

// inspected is what is known of a machine that edge-agent looked at; nil before. What
// decides about its disks, and about how it boots, is the agent's alone: a BMC shows
// drives that a RAID controller hides, and knows nothing of what is on them.
func inspected(documents map[inventory.Source]inventory.Document) *inventory.Facts {
	agent, looked := documents[inventory.SourceAgent]
	if !looked {
		return nil
	}
	bySource := make(map[inventory.Source]inventory.Facts, len(documents))
	for source, d := range documents {
		bySource[source] = d.Facts
	}
	merged := inventory.Merge(bySource)
	merged.Disks, merged.Firmware = agent.Facts.Disks, agent.Facts.Firmware
	return &merged
}

// inspectedFacts is inspected of what the catalog has.
func inspectedFacts(ctx context.Context, catalog *store.Store, id uuid.UUID) (*inventory.Facts, error) {
	documents, err := catalog.Facts(ctx, id)
	return inspected(documents), err
}

// classable are the facts of a machine that edge-agent never looked at by which it
// is put into classes: those that people wrote. A class can switch a machine on and
// install it, and for that a BMC's word is not enough.
func classable(ctx context.Context, catalog *store.Store, id uuid.UUID) (*inventory.Facts, error) {
	documents, err := catalog.Facts(ctx, id)
	if err != nil {
		return nil, err
	}
	bySource := map[inventory.Source]inventory.Facts{}
	for source, d := range documents {
		if source != inventory.SourceRedfish && source != inventory.SourceIPMI {
			bySource[source] = d.Facts
		}
	}
	if len(bySource) == 0 {
		return nil, nil
	}
	merged := inventory.Merge(bySource)
	return &merged, nil
}

package steps

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/dispatch"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Discovery lets undeclared machines go once their facts are recorded: their
// next boot is from their own disk.
type Discovery struct {
	// Site is asked each time, because a daemon takes up an edited one.
	Site     func() *site.Site
	Catalog  *store.Store
	Dispatch *dispatch.Server
	Tell     func(Progress)
}

// discoveryInterval is how often the catalog is looked at for machines that can
// be let go; nobody waits for them.
const discoveryInterval = 2 * time.Second

// Run works until ctx ends.
func (d *Discovery) Run(ctx context.Context) {
	ticker := time.NewTicker(discoveryInterval)
	defer ticker.Stop()
	let := map[string]bool{} // boots that were told to go
	for {
		if err := d.once(ctx, let); err != nil && ctx.Err() == nil {
			d.Tell(Progress{Address: "discovery", Phase: "error", Message: err.Error()})
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (d *Discovery) once(ctx context.Context, let map[string]bool) error {
	declared := d.Site()
	// A machine that is declared by what it is stays for its installation.
	if err := Bind(ctx, declared, d.Catalog); err != nil {
		return err
	}
	machines, err := d.Catalog.Machines(ctx, store.MachineFilter{Site: declared.Name})
	if err != nil {
		return err
	}
	for _, m := range machines {
		session, in := d.Dispatch.Session(ctx, m.ID)
		if m.Address != "" || !in || let[session.Boot] {
			continue
		}
		documents, err := d.Catalog.Facts(ctx, m.ID)
		if err != nil {
			return err
		}
		if _, known := documents[inventory.SourceAgent]; !known {
			continue
		}
		let[session.Boot] = true
		d.Tell(Progress{Address: session.MAC.String(), Phase: "discovered", Message: fmt.Sprintf("recorded as %s; back to its own disk", m.ID)})
		id := "discovered/" + uuid.Must(uuid.NewV7()).String()
		bounded, cancel := context.WithTimeout(ctx, time.Minute)
		_, err = d.Dispatch.Do(bounded, m.ID, agent.Task{ID: id, Run: "discovery", Step: m.ID.String(), Attempt: 1, Kind: agent.KindReboot}, nil)
		cancel()
		if err != nil {
			return fmt.Errorf("letting %s go: %w", session.MAC, err)
		}
	}
	return nil
}

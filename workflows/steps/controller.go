package steps

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/hcl/v2"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Controllers opens the BMC of each machine at its first use and keeps it, so
// that one process speaks to a BMC with one voice. It implements Powers.
type Controllers struct {
	site    *site.Site
	catalog *store.Store
	deps    bmc.Deps

	mu   sync.Mutex
	open map[string]*bmc.Controller
}

// NewControllers returns the BMCs of a site; deps are given to each. Events
// carry the id that the catalog knows the machine by.
func NewControllers(s *site.Site, catalog *store.Store, deps bmc.Deps) *Controllers {
	return &Controllers{site: s, catalog: catalog, deps: deps, open: map[string]*bmc.Controller{}}
}

// BMC implements Powers.
func (c *Controllers) BMC(address string) (*bmc.Controller, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if open, ok := c.open[address]; ok {
		return open, nil
	}
	for _, m := range c.site.Machines {
		if m.Address != address {
			continue
		}
		deps := c.deps
		if deps.Recorder != nil {
			deps.Recorder = &identified{to: deps.Recorder, catalog: c.catalog, site: c.site.Name, address: address}
		}
		open, err := bmc.Open(BMCConfig(c.site, m), deps)
		if err != nil {
			return nil, fmt.Errorf("%s (%s): %w", address, m.BMC.DeclRange, err)
		}
		c.open[address] = open
		return open, nil
	}
	return nil, workflows.GiveUp(fmt.Errorf("%s is not declared in this site", address))
}

// Close logs out of every BMC.
func (c *Controllers) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, open := range c.open {
		// A session that is not logged out times out by itself.
		_ = open.Close()
	}
}

// identified gives the events of one BMC the id of its machine. A machine that is
// declared by what it is gets its id in the middle of a run, and has no MAC that
// its events could be joined by before.
type identified struct {
	to            bmc.Recorder
	catalog       *store.Store
	site, address string

	mu sync.Mutex
	id uuid.UUID
}

// lookupTimeout bounds the one look into the catalog that an event may wait for.
const lookupTimeout = 2 * time.Second

// Record implements bmc.Recorder.
func (r *identified) Record(e inventory.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.id == uuid.Nil {
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		defer cancel()
		// Not known yet, or not to be learned now: the event is kept all the same.
		if m, err := r.catalog.MachineByAddress(ctx, r.site, r.address); err == nil {
			r.id = m.ID
		}
	}
	e.Machine = r.id
	r.to.Record(e)
}

// BMCConfig is a declared BMC as its driver wants it.
func BMCConfig(s *site.Site, m *site.Machine) bmc.Config {
	c := bmc.Config{
		Driver: bmc.Driver(m.BMC.Driver), Address: m.BMC.Address,
		Username: m.BMC.Username, Password: bmc.Secret(m.BMC.Password.Reveal()),
		CipherSuite: m.BMC.CipherSuite, CA: []byte(m.BMC.CACert), Machine: m.Address, Declared: declared(m.BMC.DeclRange), Site: s.Name, MAC: m.MAC,
	}
	if f := m.BMC.Fingerprint; f != "" {
		c.Fingerprint = "sha256:" + strings.TrimPrefix(f, "sha256:")
	}
	return c
}

// declared is a place in site.hcl as messages name it; empty for a machine
// without a bmc block.
func declared(r hcl.Range) string {
	if r.Filename == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", filepath.Base(r.Filename), r.Start.Line)
}

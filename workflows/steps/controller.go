package steps

import (
	"fmt"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Controllers opens the BMC of each machine at its first use and keeps it, so
// that one process speaks to a BMC with one voice. It implements Powers.
type Controllers struct {
	site *site.Site
	deps bmc.Deps

	mu   sync.Mutex
	open map[string]*bmc.Controller
}

// NewControllers returns the BMCs of a site; deps are given to each.
func NewControllers(s *site.Site, deps bmc.Deps) *Controllers {
	return &Controllers{site: s, deps: deps, open: map[string]*bmc.Controller{}}
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
		open, err := bmc.Open(BMCConfig(c.site, m, uuid.Nil), c.deps)
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

// BMCConfig is a declared BMC as its driver wants it.
func BMCConfig(s *site.Site, m *site.Machine, id uuid.UUID) bmc.Config {
	c := bmc.Config{
		Driver: bmc.Driver(m.BMC.Driver), Address: m.BMC.Address,
		Username: m.BMC.Username, Password: bmc.Secret(m.BMC.Password.Reveal()),
		CA: []byte(m.BMC.CACert), Machine: m.Address, Site: s.Name, MAC: m.MAC, MachineID: id,
	}
	if f := m.BMC.Fingerprint; f != "" {
		c.Fingerprint = "sha256:" + strings.TrimPrefix(f, "sha256:")
	}
	return c
}

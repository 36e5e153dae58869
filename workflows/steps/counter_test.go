package steps_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

const counterSite = `
site "counter" {}
network "floor" {
  interface = "eth1"
  cidr      = "172.26.0.0/24"
  dhcp {
    range = "172.26.0.100-172.26.0.199"
  }
}
image "till" {
  distribution = "debian"
  release      = "bookworm"
}
class "till" {
  match = facts.memory.bytes >= GiB(2)
  react {
    provision = machine.till
    at_once   = 1
  }
}
class "tagged" {
  match = machine.tags.shelf == "top"
}
machine "till" {
  for_each = toset(["left", "right"])
  match    = class.till
  network  = network.floor
  image    = image.till
}
`

// counter is a site with its catalog, and a carrier that tells what it is asked.
type counter struct {
	*testing.T
	site    *site.Site
	catalog *store.Store
	keys    key
	said    said

	mu     sync.Mutex
	asked  []string
	answer func(ctx context.Context, targets []string, approve func(workflows.Plan) error) (workflows.Plan, error)
	// hinders is called before that; nil: the site can be opened.
	hinders func(waits func(reason string))
}

func newCounter(t *testing.T, cfg store.Config) *counter {
	t.Helper()
	s, err := load(t, counterSite)
	if err != nil {
		t.Fatal(err)
	}
	return &counter{T: t, site: s, catalog: storetest.Open(t, cfg)}
}

// key makes digests as a keyring does.
type key string

// Digest implements class.Digester.
func (k key) Digest(name string, value []byte) string {
	mac := hmac.New(sha256.New, []byte(k))
	fmt.Fprintf(mac, "%s %s", name, value)
	return hex.EncodeToString(mac.Sum(nil))
}

// Carry implements steps.Carrier.
func (c *counter) Carry(ctx context.Context, w steps.Work) (workflows.Plan, error) {
	c.mu.Lock()
	c.asked = append(c.asked, w.Why+" "+strings.Join(w.Targets, " "))
	c.mu.Unlock()
	if c.hinders != nil {
		c.hinders(w.Waits)
	}
	if c.answer == nil {
		return workflows.Plan{}, nil
	}
	return c.answer(ctx, w.Targets, w.Approve)
}

// served is the site as it is now.
func (c *counter) served() *site.Site {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.site
}

// serve takes another site up.
func (c *counter) serve(s *site.Site) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.site = s
}

// reactor is one of a program that has just started.
func (c *counter) reactor() *steps.Reactor {
	return &steps.Reactor{Site: c.served, Catalog: c.catalog, Keys: c.keys, Carrier: c, Tell: c.said.tell}
}

// plugIn is a machine that netboots and reports its facts.
func (c *counter) plugIn(n byte, bytes int64) inventory.Machine {
	c.Helper()
	m, _, err := c.catalog.Observe(c.Context(), "counter", store.Observation{
		Source: inventory.SourceAgent, Facts: &inventory.Facts{
			Memory: &inventory.Memory{Bytes: bytes}, NICs: []inventory.NIC{{Name: "eth0", MAC: inventory.MAC{0x52, 0x54, 0, 0x26, 0, n}}},
		},
	})
	if err != nil {
		c.Fatal(err)
	}
	return m
}

// pass is one pass of a reactor, until what it started has ended.
func (c *counter) pass(r *steps.Reactor) {
	c.Helper()
	if err := r.Pass(c.Context()); err != nil {
		c.Fatal(err)
	}
	r.Wait()
}

// wantAsked compares all that was started.
func (c *counter) wantAsked(want ...string) {
	c.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.asked, want) {
		c.Errorf("started %q; want %q", c.asked, want)
	}
}

// states are those of all reactions, in the order of arrival.
func (c *counter) states() string {
	c.Helper()
	rows, err := c.catalog.Reactions(c.Context(), store.ReactionFilter{Site: "counter"})
	if err != nil {
		c.Fatal(err)
	}
	var out []string
	for _, r := range rows {
		out = append(out, strings.TrimSpace(string(r.State)+" "+r.Address))
	}
	return strings.Join(out, ", ")
}

func (c *counter) wantStates(want string) {
	c.Helper()
	if got := c.states(); got != want {
		c.Errorf("reactions are %s; want %s", got, want)
	}
}

func (c *counter) classes(m inventory.Machine) string {
	c.Helper()
	now, err := c.catalog.Machine(c.Context(), m.ID)
	if err != nil {
		c.Fatal(err)
	}
	return strings.Join(now.Classes, " ")
}

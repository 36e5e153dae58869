//go:build e2e

package scenario

import (
	"encoding/json"
	"path/filepath"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/agent"
)

// open opens the site's catalog, of which no command prints everything that is
// asserted here.
func (l *lab) open() *store.Store {
	l.t.Helper()
	s, err := store.Open(l.t.Context(), store.Config{Path: filepath.Join(l.data, "catalog.db")})
	if err != nil {
		l.t.Fatalf("opening the catalog = %v", err)
	}
	return s
}

// catalog opens the catalog and finds a machine in it.
func (l *lab) catalog(address string) (*store.Store, inventory.Machine) {
	l.t.Helper()
	s := l.open()
	m, err := s.MachineByAddress(l.t.Context(), l.name, address)
	if err != nil {
		l.t.Fatalf("finding %s in the catalog = %v", address, err)
	}
	return s, m
}

// events are the newest events of a machine.
func (l *lab) events(address string) []inventory.Event {
	l.t.Helper()
	s, m := l.catalog(address)
	defer s.Close()
	events, err := s.Events(l.t.Context(), store.EventFilter{Machine: m.ID})
	if err != nil {
		l.t.Fatalf("reading the events of %s = %v", address, err)
	}
	return events
}

// write is the newest result of a write that the machine's agent reported.
func (l *lab) write(address string) agent.Result {
	l.t.Helper()
	s, m := l.catalog(address)
	defer s.Close()
	b, err := s.Settings().Get(l.t.Context(), "agent/"+m.ID.String())
	if err != nil {
		l.t.Fatalf("reading the agent's record of %s = %v", address, err)
	}
	var record struct {
		Results []agent.Result `json:"results"`
	}
	if err := json.Unmarshal(b, &record); err != nil {
		l.t.Fatalf("reading the agent's record of %s = %v", address, err)
	}
	for i := len(record.Results) - 1; i >= 0; i-- {
		if record.Results[i].Write != nil {
			l.t.Logf("the newest write of %s: %+v, boot %s", address, *record.Results[i].Write, record.Results[i].Boot)
			return record.Results[i]
		}
	}
	l.t.Fatalf("no result of a write of %s", address)
	return agent.Result{}
}

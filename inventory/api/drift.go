package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func (s *Server) driftRoutes() []route {
	return []route{
		{
			method: http.MethodGet, path: "/v1/machines/{machine}/drift", id: "getDrift", tag: "facts", need: resource.RoleReader,
			summary: "How the hardware of a machine stands against its snapshot",
			detail:  "`looked_at` says how old the answer is: a machine that was not looked at for long is not one without drift.",
			params:  []param{paramMachine}, reply: resource.Drift{}, etag: true,
			problems: []string{"not-found", "ambiguous", "conflict"}, serve: s.getDrift,
		},
		{
			method: http.MethodPost, path: "/v1/machines/{machine}/actions/accept-drift", id: "acceptDrift", tag: "actions", need: resource.RoleOperator,
			summary: "Accept the hardware of a machine as it is now",
			detail: "Freezes a new snapshot, if the difference is still the one that `digest` of getDrift names. Answers at once with an operation; " +
				"follow it at the path in Location.",
			params: []param{paramMachine}, body: resource.AcceptDrift{}, reply: resource.Operation{}, status: http.StatusAccepted, idempotent: true,
			problems: []string{"not-found", "ambiguous", "conflict", "invalid-body", "key-reused", "precondition-required", "unsupported-media-type", "too-large"},
			serve:    s.acceptDrift,
		},
	}
}

func (s *Server) getDrift(x *exchange) error {
	m, err := x.machine()
	if err != nil {
		return err
	}
	r, err := s.cfg.Catalog.Drift(x.ctx(), m.ID)
	if errors.Is(err, store.ErrNoSnapshotKey) {
		return problem("conflict", "This controller has no key to prove snapshots with.")
	}
	if err != nil {
		return err
	}
	history, err := s.cfg.Catalog.Snapshots(x.ctx(), m.ID)
	if err != nil {
		return err
	}
	out := resource.DriftOf(m.ID, r)
	for _, h := range history {
		out.History = append(out.History, resource.SnapshotOf(h.Snapshot, h.Forged))
	}
	return x.send(out)
}

func (s *Server) acceptDrift(x *exchange) error {
	key, err := x.idempotencyKey()
	if err != nil {
		return err
	}
	var want resource.AcceptDrift
	if err := x.read(&want); err != nil {
		return err
	}
	m, err := x.machine()
	if err != nil {
		return err
	}
	by := x.who.String()
	return s.begin(x, key, "accept-drift", m, want, func(ctx context.Context) (string, error) {
		if _, err := s.cfg.Catalog.AcceptDrift(ctx, m.ID, want.Digest, by); err != nil {
			return "", err
		}
		return "The hardware is accepted as it is.", nil
	})
}

// driftStates are all that a machine's hardware can be in; the last is for those
// without a snapshot.
var driftStates = []inventory.DriftState{inventory.DriftNone, inventory.DriftChanged, inventory.DriftForged, ""}

var (
	driftDesc = prometheus.NewDesc("edge_machine_drift", "Machines by site and by how their hardware stands against its snapshot: none, changed, forged, unknown (no snapshot).",
		[]string{"site", "state"}, nil)
	lookDesc = prometheus.NewDesc("edge_machine_oldest_look_timestamp_seconds", "When the machine with a snapshot that was not looked at for longest was looked at, by site.",
		[]string{"site"}, nil)
)

// hardware counts drift when it is asked.
type hardware struct {
	counts []store.DriftCount
	looks  map[string]time.Time
}

// Describe implements prometheus.Collector.
func (h hardware) Describe(ch chan<- *prometheus.Desc) { ch <- driftDesc; ch <- lookDesc }

// Collect implements prometheus.Collector.
func (h hardware) Collect(ch chan<- prometheus.Metric) {
	of := map[string]map[inventory.DriftState]int{}
	for _, n := range h.counts {
		if of[n.Site] == nil {
			of[n.Site] = map[inventory.DriftState]int{}
		}
		of[n.Site][n.State] = n.Machines
	}
	for site, byState := range of {
		for _, state := range driftStates {
			name := string(state)
			if state == "" {
				name = "unknown"
			}
			ch <- prometheus.MustNewConstMetric(driftDesc, prometheus.GaugeValue, float64(byState[state]), site, name)
		}
	}
	for site, at := range h.looks {
		ch <- prometheus.MustNewConstMetric(lookDesc, prometheus.GaugeValue, float64(at.Unix()), site)
	}
}

package api

import (
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// metrics are what /metrics shows.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics(cfg Config, h *hub) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "edge_api_requests_total", Help: "Requests answered, by route (operationId of the OpenAPI document) and status.",
		}, []string{"route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "edge_api_request_seconds", Help: "Time to answer a request that is no watch.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"route"}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "edge_build_info", Help: "1, with the version of the program."}, []string{"version"})
	build.WithLabelValues(cfg.Version).Set(1)
	m.registry.MustRegister(
		m.requests, m.seconds, build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "edge_api_watchers", Help: "Watches that are open."}, func() float64 { return float64(h.size()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "edge_api_watchers_cut_total", Help: "Watches that were cut off because their client did not read."},
			func() float64 { return float64(h.cut.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "edge_events_dropped_total", Help: "Events that were lost before they were in the catalog."},
			func() float64 { return float64(cfg.Catalog.EventsDropped()) }),
	)
	return m
}

func (m *metrics) answered(r route, status int, took time.Duration) {
	m.requests.WithLabelValues(r.id, strconv.Itoa(status)).Inc()
	if !r.watch {
		m.seconds.WithLabelValues(r.id).Observe(took.Seconds())
	}
}

// states are all that a machine can be in, so that a state without machines is
// shown as zero.
var states = []inventory.State{
	inventory.StateDeclared, inventory.StateDiscovered, inventory.StateInspecting, inventory.StateHeld,
	inventory.StateInstalling, inventory.StateInstalled, inventory.StateFailed,
}

var machinesDesc = prometheus.NewDesc("edge_machines", "Machines in the catalog, by site and state.", []string{"site", "state"}, nil)

// census counts the machines when it is asked.
type census struct {
	counts []store.StateCount
}

// Describe implements prometheus.Collector.
func (c census) Describe(ch chan<- *prometheus.Desc) { ch <- machinesDesc }

// Collect implements prometheus.Collector.
func (c census) Collect(ch chan<- prometheus.Metric) {
	of := map[string]map[inventory.State]int{}
	for _, n := range c.counts {
		if of[n.Site] == nil {
			of[n.Site] = map[inventory.State]int{}
		}
		of[n.Site][n.State] = n.Machines
	}
	for site, byState := range of {
		for _, state := range states {
			ch <- prometheus.MustNewConstMetric(machinesDesc, prometheus.GaugeValue, float64(byState[state]), site, string(state))
		}
	}
}

func (s *Server) healthRoutes() []route {
	return []route{
		{
			method: http.MethodGet, path: "/healthz", id: "getHealth", tag: "meta", need: resource.RolePublic,
			summary: "Whether the program runs", reply: resource.Health{},
			serve: func(x *exchange) error { return x.send(resource.Health{Status: "ok"}) },
		},
		{
			method: http.MethodGet, path: "/readyz", id: "getReadiness", tag: "meta", need: resource.RolePublic,
			summary: "Whether the catalog answers", detail: "Answers 503 with the same form when it does not.", reply: resource.Health{},
			otherwise: http.StatusServiceUnavailable, serve: s.getReadiness,
		},
		{
			method: http.MethodGet, path: "/metrics", id: "getMetrics", tag: "meta", need: resource.RoleReader,
			summary: "Metrics in Prometheus's text format", reply: "", media: "text/plain", serve: s.getMetrics,
		},
	}
}

func (s *Server) getReadiness(x *exchange) error {
	if err := s.cfg.Catalog.Ping(x.ctx()); err != nil {
		s.cfg.Log.Error("not ready", "error", err)
		x.route.status = x.route.otherwise
		return x.send(resource.Health{Status: "unavailable", Catalog: "The catalog does not answer; the controller's log has the cause."})
	}
	return x.send(resource.Health{Status: "ok"})
}

func (s *Server) getMetrics(x *exchange) error {
	counts, err := s.cfg.Catalog.CountStates(x.ctx())
	if err != nil {
		return err
	}
	var drift hardware
	if drift.counts, err = s.cfg.Catalog.CountDrift(x.ctx()); err != nil {
		return err
	}
	if drift.looks, err = s.cfg.Catalog.OldestLooks(x.ctx()); err != nil {
		return err
	}
	hooks, err := s.deliveries(x.ctx())
	if err != nil {
		return err
	}
	once := prometheus.NewRegistry()
	if err := errors.Join(once.Register(census{counts}), once.Register(drift), once.Register(hooks)); err != nil {
		return err
	}
	promhttp.HandlerFor(prometheus.Gatherers{s.metrics.registry, once}, promhttp.HandlerOpts{}).ServeHTTP(x.ResponseWriter, x.Request)
	return nil
}

func (s *Server) listTargets(x *exchange) error {
	if _, ok := x.query["port"]; !ok {
		scheme := "http"
		if x.TLS != nil {
			scheme = "https"
		}
		return x.send([]resource.Target{{Targets: []string{x.Host}, Labels: map[string]string{"__scheme__": scheme, "__metrics_path__": "/metrics"}}})
	}
	port, err := x.integer("port", 0, 1, 65535)
	if err != nil {
		return err
	}
	machines, err := s.each(x)
	if err != nil {
		return err
	}
	addresses, err := s.addresses(x.ctx(), machines)
	if err != nil {
		return err
	}
	out := []resource.Target{}
	for i, m := range machines {
		if !addresses[i].IsValid() {
			continue
		}
		labels := map[string]string{"machine_id": m.ID.String(), "site": m.Site, "state": string(m.State)}
		for label, value := range map[string]string{"machine": m.Address, "serial": m.Serial, "hostname": s.cfg.Hostname(m)} {
			if value != "" {
				labels[label] = value
			}
		}
		at := net.JoinHostPort(addresses[i].String(), strconv.FormatInt(port, 10))
		out = append(out, resource.Target{Targets: []string{at}, Labels: labels})
	}
	slices.SortFunc(out, func(a, b resource.Target) int { return slices.Compare(a.Targets, b.Targets) })
	return x.send(out)
}

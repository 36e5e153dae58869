package api_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
)

func TestReadinessFollowsTheCatalog(t *testing.T) {
	s := open(t)
	for _, path := range []string{"/healthz", "/readyz"} {
		if got := read[resource.Health](t, s.get(path)); got.Status != "ok" {
			t.Errorf("%s = %+v; want ok", path, got)
		}
	}
	if err := s.catalog.Close(); err != nil {
		t.Fatal(err)
	}
	if r := s.get("/healthz"); r.status != http.StatusOK {
		t.Errorf("/healthz without a catalog = %d; want 200: the program runs", r.status)
	}
	r := s.get("/readyz")
	var h resource.Health
	if err := json.Unmarshal(r.body, &h); err != nil || r.status != http.StatusServiceUnavailable || h.Status != "unavailable" {
		t.Errorf("/readyz without a catalog = %d %s, %v; want 503 and unavailable", r.status, r.body, err)
	}
	p := refused(t, s.get("/v1/machines"), "internal")
	if strings.Contains(p.Detail, "sql") {
		t.Errorf("a failure tells a client %q; want only where to look", p.Detail)
	}
}

func TestMetricsCountMachinesAndRequests(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	s.machine(2)
	if err := s.catalog.SetState(t.Context(), m.ID, inventory.StateHeld); err != nil {
		t.Fatal(err)
	}
	if r := s.get("/v1/count/machines"); string(r.body) != `{"machines":2,"states":{"declared":1,"held":1},"drift":{}}`+"\n" {
		t.Errorf("counts = %s; want one machine declared and one held", r.body)
	}
	s.get("/v1/machines")
	s.get("/v1/machines?limit=x")
	text := string(s.get("/metrics").body)
	for _, want := range []string{
		`edge_machines{site="store-0421",state="held"} 1`, `edge_machines{site="store-0421",state="declared"} 1`,
		`edge_machines{site="store-0421",state="failed"} 0`, `edge_api_requests_total{route="listMachines",status="200"} 1`,
		`edge_api_requests_total{route="listMachines",status="400"} 1`, `edge_build_info{version="1.2.3"} 1`, "edge_events_dropped_total 0",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

func TestPrometheusIsToldWhereMachinesAnswer(t *testing.T) {
	s := open(t)
	s.fill()
	s.machine(2) // has no address
	at := strings.TrimPrefix(s.http.URL, "http://")
	self := read[[]resource.Target](t, s.get("/v1/prometheus/targets"))
	if len(self) != 1 || self[0].Targets[0] != at || self[0].Labels["__scheme__"] != "http" {
		t.Errorf("targets = %+v; want this server", self)
	}
	got := read[[]resource.Target](t, s.get("/v1/prometheus/targets?port=9100"))
	if len(got) != 1 || got[0].Targets[0] != "172.22.0.11:9100" || got[0].Labels["machine"] != `machine.node["1"]` || got[0].Labels["site"] != "store-0421" {
		t.Errorf("targets = %+v; want the one machine that has an address", got)
	}
	refused(t, s.get("/v1/prometheus/targets?port=70000"), "invalid-parameter")
}

func TestAnsibleIsToldOfGroupsAndHosts(t *testing.T) {
	s := open(t)
	s.fill()
	s.machine(2)
	var list map[string]json.RawMessage
	if err := json.Unmarshal(s.get("/v1/ansible/inventory").body, &list); err != nil {
		t.Fatal(err)
	}
	var group struct{ Hosts []string }
	if err := json.Unmarshal(list["site_store_0421"], &group); err != nil || !slices.Equal(group.Hosts, []string{"node-1", "node-2"}) {
		t.Errorf("site_store_0421 = %s, %v; want node-1 and node-2", list["site_store_0421"], err)
	}
	host := read[map[string]any](t, s.get("/v1/ansible/inventory?host=node-1"))
	if host["ansible_host"] != "172.22.0.11" || host["edge_address"] != `machine.node["1"]` {
		t.Errorf("node-1 = %v; want its address", host)
	}
	refused(t, s.get("/v1/ansible/inventory?host=node-9"), "not-found")
	if got := read[map[string]any](t, s.get("/v1/ansible/inventory?filter=facts.memory.bytes%20%3E%20GiB(1)")); got["state_declared"] == nil {
		t.Errorf("a filtered inventory = %v; want the one machine", got)
	}
}

func TestHistoryTellsWhatChanged(t *testing.T) {
	s := open(t)
	m := s.fill()
	page := read[resource.Page[resource.Report]](t, s.get("/v1/machines/"+m.ID.String()+"/history?limit=1"))
	if len(page.Items) != 1 || page.Next == "" || fmt.Sprint(page.Items[0].Changes) != `[~ bios.version: "1.0" -> "1.1"]` {
		t.Fatalf("history = %+v; want the newest report with what changed", page)
	}
	page = read[resource.Page[resource.Report]](t, s.get("/v1/machines/"+m.ID.String()+"/history?limit=1&cursor="+page.Next))
	if len(page.Items) != 1 || page.Next != "" || page.Items[0].Changes != nil || page.Items[0].Facts.BIOS.Version != "1.0" {
		t.Errorf("second page = %+v; want the first report, which changes nothing", page)
	}
}

func TestServeEndsWithItsContextAlsoUnderAWatch(t *testing.T) {
	s := open(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	own, err := api.New(api.Config{Catalog: s.catalog, Runs: &s.journal, Anonymous: resource.RoleReader, WatchInterval: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextOf(t)
	done := make(chan error, 1)
	go func() { done <- own.Serve(ctx, l) }()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String()+"/v1/watch/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.until("the server answers a watch", func() bool {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp.StatusCode == http.StatusOK
	})
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Serve = %v; want nil", err)
		}
	case <-time.After(patience):
		t.Fatalf("Serve did not return in %s", patience)
	}
}

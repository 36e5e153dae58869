package api_test

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// BenchmarkEventTo1000Watchers measures the time from an event's recording until
// the last of 1,000 watchers has it: its commit, the wait of the server that
// follows the catalog (250 ms at most), and its delivery.
func BenchmarkEventTo1000Watchers(b *testing.B) {
	const watchers = 1000
	catalog := storetest.Open(b, storetest.SQLite(b))
	server, err := api.New(api.Config{Catalog: catalog, Runs: &journal{}, Anonymous: resource.RoleReader})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var parts sync.WaitGroup
	parts.Go(func() { server.Run(ctx) })
	web := httptest.NewServer(server.Handler())
	got := make(chan struct{}, watchers)
	for range watchers {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, web.URL+"/v1/watch/events", nil)
		if err != nil {
			b.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		parts.Go(func() {
			defer resp.Body.Close()
			for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
				if strings.HasPrefix(lines.Text(), "data: ") {
					got <- struct{}{}
				}
			}
		})
	}
	b.Cleanup(func() {
		cancel()
		parts.Wait()
		web.Close()
	})
	for b.Loop() {
		catalog.Record(inventory.Event{Site: "store-0421", Kind: inventory.EventDHCPAck})
		for range watchers {
			<-got
		}
	}
	b.ReportMetric(watchers, "watchers")
}

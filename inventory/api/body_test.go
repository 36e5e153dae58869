package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
)

// TestBodiesThatAreNotWhatTheySeem sends each route that takes a body what
// encoding/json would take for something else.
func TestBodiesThatAreNotWhatTheySeem(t *testing.T) {
	s := open(t)
	s.catalog.UseSnapshotKey(snapshotKey)
	m := s.machine(1)
	machine := "/v1/machines/" + m.ID.String()
	for _, c := range []struct{ method, path, twice, folded, field string }{
		{http.MethodPatch, machine + "/tags", `{"set":{"rack":"1","rack":"2"}}`, `{"set":{"rack":"1"},"SET":{"rack":"2"}}`, "set"},
		{http.MethodPatch, machine + "/facts/manual", `{"set":{"chassis.asset_tag":"1","chassis.asset_tag":"2"}}`, `{"remove":["bios"],"Remove":[]}`, "set"},
		{http.MethodPost, machine + "/actions/accept-drift", `{"digest":"a","digest":""}`, `{"digest":"a","DIGEST":""}`, "digest"},
		{http.MethodPost, machine + "/actions/reprovision", `{"serial":"a","serial":"b"}`, `{"serial":"a","Serial":"b"}`, "serial"},
		{http.MethodPost, machine + "/power", `{"action":"on","action":"off"}`, `{"action":"on","ACTION":"off"}`, "action"},
		{http.MethodPost, "/v1/tokens", `{"name":"x","role":"reader","role":"admin","ttl_seconds":60}`, `{"name":"x","role":"reader","ROLE":"admin","ttl_seconds":60}`, "name"},
		{http.MethodPost, "/v1/webhooks", `{"url":"https://a.example","url":"https://b.example"}`, `{"url":"https://a.example","URL":"https://b.example"}`, "url"},
	} {
		t.Run(c.path[strings.LastIndexByte(c.path, '/')+1:], func(t *testing.T) {
			ask := func(body string) reply {
				return s.do(call{method: c.method, path: c.path, role: resource.RoleAdmin, body: body, header: map[string]string{"Idempotency-Key": "k"}})
			}
			for name, body := range map[string]string{
				"a key twice": c.twice, "a key twice, in another case": c.folded, "no UTF-8": `{"` + c.field + `":"` + "\xff" + `"}`,
				"nested without end": strings.Repeat(`{"`+c.field+`":`, 5000) + "1" + strings.Repeat("}", 5000), "nothing": "", "two values": "{} {}", "null": "null", "a list": "[]", "a trailing comma": "{} ,",
			} {
				if body == "" {
					body = " "
				}
				t.Run(name, func(t *testing.T) { refused(t, ask(body), "invalid-body") })
			}
			refused(t, ask(`{"`+c.field+`":"`+strings.Repeat("A", 2<<20)+`"}`), "too-large")
		})
	}
	got := read[resource.Machine](t, s.get(machine))
	if len(got.Tags) != 0 {
		t.Errorf("tags = %v; want none of what was refused", got.Tags)
	}
	if r := s.do(call{method: http.MethodPatch, path: machine + "/tags", role: resource.RoleOperator, body: `{"set":{"rack":"1","Rack":"2"}}`}); r.status != http.StatusOK {
		t.Errorf("tags that differ in case = %d, %s; want both taken", r.status, r.body)
	}
}

// TestOnlyOneOfManyWritesOfFactsWithOneETagIsMade races writers who all read the
// same.
func TestOnlyOneOfManyWritesOfFactsWithOneETagIsMade(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	path := "/v1/machines/" + m.ID.String() + "/facts/manual"
	write := func(tag, value string) reply {
		c := call{method: http.MethodPatch, path: path, role: resource.RoleOperator, body: fmt.Sprintf(`{"set":{"chassis.asset_tag":%q}}`, value), header: map[string]string{}}
		if tag != "" {
			c.header["If-Match"] = tag
		}
		return s.do(c)
	}
	refused(t, write("*", "0"), "changed") // there is nothing yet
	if r := write("", "0"); r.status != http.StatusOK {
		t.Fatalf("the first write = %d, %s; want 200", r.status, r.body)
	}
	tag := s.get(path).header.Get("ETag")
	refused(t, write(`"00"`, "1"), "changed")
	const racers = 8
	statuses := make([]int, racers)
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() { statuses[i] = write(tag, fmt.Sprint("by ", i)).status })
	}
	wg.Wait()
	won := map[int]int{}
	for _, status := range statuses {
		won[status]++
	}
	if won[http.StatusOK] != 1 || won[http.StatusPreconditionFailed] != racers-1 {
		t.Errorf("statuses of writers with one ETag = %d; want one 200, and 412 for all others", statuses)
	}
	now := s.get(path)
	if d := read[inventory.Document](t, now); d.Facts.Chassis == nil || !strings.HasPrefix(d.Facts.Chassis.AssetTag, "by ") || now.header.Get("ETag") == tag {
		t.Errorf("written facts = %+v with ETag %s; want those of the one writer, and another ETag", d.Facts.Chassis, now.header.Get("ETag"))
	}
	if r := write(now.header.Get("ETag"), "last"); r.status != http.StatusOK {
		t.Errorf("a write with the newest ETag = %d, %s; want 200", r.status, r.body)
	}
}

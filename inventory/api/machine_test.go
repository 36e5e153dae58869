package api_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
)

func TestMachinesAreFilteredSortedAndPaged(t *testing.T) {
	s := open(t)
	for n := 1; n <= 25; n++ {
		s.machine(n)
	}
	query := url.Values{
		"filter": {"facts.memory.bytes >= GiB(8)"}, "sort": {"-facts.memory.bytes"}, "limit": {"7"},
		"fields": {"address,facts.memory.bytes"},
	}
	var got []string
	for pages := 1; ; pages++ {
		page := read[resource.Page[map[string]any]](t, s.get("/v1/machines?"+query.Encode()))
		for _, m := range page.Items {
			got = append(got, fmt.Sprint(m))
		}
		if page.Next == "" {
			if pages != 3 {
				t.Errorf("the list had %d pages; want 3", pages)
			}
			break
		}
		query.Set("cursor", page.Next)
	}
	var want []string
	for n := 25; n >= 8; n-- {
		want = append(want, fmt.Sprint(map[string]any{
			"address": fmt.Sprintf(`machine.node["%d"]`, n), "facts": map[string]any{"memory": map[string]any{"bytes": float64(int64(n) << 30)}},
		}))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("machines =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestFactsAreSentOnlyWhenAskedFor(t *testing.T) {
	s := open(t)
	s.machine(3)
	page := read[resource.Page[resource.Machine]](t, s.get("/v1/machines"))
	if len(page.Items) != 1 || page.Items[0].Facts != nil || page.Items[0].Site != "store-0421" {
		t.Errorf("machines = %+v; want one, without facts", page.Items)
	}
	one := read[resource.Machine](t, s.get("/v1/machines/"+page.Items[0].ID.String()+"?fields=id,facts.disks.serial"))
	if one.Facts == nil || len(one.Facts.Disks) != 1 || one.Facts.Disks[0].Serial != "D00003" || one.Facts.Disks[0].Name != "" || one.Site != "" {
		t.Errorf("machine with chosen fields = %+v; want id and the serials of disks alone", one)
	}
}

// TestEmptyListIsSentAndOneThatNobodyLookedForIsNot asks for a machine without disks,
// whose ports nobody looked for.
func TestEmptyListIsSentAndOneThatNobodyLookedForIsNot(t *testing.T) {
	s := open(t)
	m := s.machine(3)
	f := inventory.Facts{SchemaVersion: inventory.SchemaVersion, Disks: []inventory.Disk{}}
	if _, _, err := s.catalog.PutFacts(t.Context(), m.ID, inventory.SourceAgent, f, time.Time{}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"?fields=facts", "?fields=facts.disks.serial,facts.nics", "/facts"} {
		got := string(s.get("/v1/machines/" + m.ID.String() + path).body)
		if !strings.Contains(got, `"disks":[]`) || strings.Contains(got, `"nics"`) {
			t.Errorf("GET %s = %s; want an empty list of disks, and none of ports", path, got)
		}
	}
	for filter, want := range map[string]int{"length(facts.disks) == 0": 1, "length(facts.nics) == 0": 0, "missing(facts.nics)": 1, "missing(facts.disks)": 0} {
		page := read[resource.Page[resource.Machine]](t, s.get("/v1/machines?filter="+url.QueryEscape(filter)))
		if len(page.Items) != want {
			t.Errorf("machines with %s = %d; want %d", filter, len(page.Items), want)
		}
	}
}

func TestMachineIsFoundByEveryName(t *testing.T) {
	s := open(t)
	m := s.machine(0x042101)
	for _, name := range []string{
		m.ID.String(), m.ID.String()[:18], "52:54:00:04:21:01", "52-54-00-04-21-01", "5254.0004.2101", "525400042101", "52:54:00:04:21:01",
		`machine.node["270593"]`, "270593", strings.ToUpper("52:54:00:04:21:01"),
	} {
		if got := read[resource.Machine](t, s.get("/v1/machines/"+url.PathEscape(name))); got.ID != m.ID {
			t.Errorf("machine %q = %s; want %s", name, got.ID, m.ID)
		}
	}
	for _, name := range []string{
		"52_54_00_04_21_01", "52:54-00:04-21:01", "52 54 00 04 21 01", "5:254:00:04:21:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00",
		"525400042101ff", "nobody", "%", "\x00", strings.Repeat("a", 600), "../../etc/passwd", "'; DROP TABLE machines; --",
	} {
		refused(t, s.get("/v1/machines/"+url.PathEscape(name)), "not-found")
	}
}

func TestAmbiguousNameListsItsCandidates(t *testing.T) {
	s := open(t)
	s.machine(1)
	if _, err := s.catalog.Declare(t.Context(), "store-0422", `machine.node["1"]`, mac(99)); err != nil {
		t.Fatal(err)
	}
	if p := refused(t, s.get("/v1/machines/1"), "ambiguous"); len(p.Candidates) != 2 {
		t.Errorf("candidates = %q; want two", p.Candidates)
	}
}

func TestFilterMistakesCarryCarets(t *testing.T) {
	s := open(t)
	s.machine(1)
	p := refused(t, s.get("/v1/machines?filter="+url.QueryEscape("facts.memroy.bytes > 1")), "invalid-filter")
	if len(p.Diagnostics) != 1 {
		t.Fatalf("diagnostics = %+v; want one", p.Diagnostics)
	}
	d := p.Diagnostics[0]
	if !strings.Contains(d.Detail, `"memory"`) || d.Start != 0 || d.End != 12 {
		t.Errorf("diagnostic = %+v; want bytes 0 to 12 and the name that was meant", d)
	}
	want := "  facts.memroy.bytes > 1\n  ^^^^^^^^^^^^\n"
	if !strings.Contains(d.Text, want) {
		t.Errorf("text =\n%s\nwant in it\n%s", d.Text, want)
	}
}

func TestHostileParametersAreRefused(t *testing.T) {
	s := open(t)
	for n := 1; n <= 3; n++ {
		s.machine(n)
	}
	esc := url.QueryEscape
	first := read[resource.Page[resource.Machine]](t, s.get("/v1/machines?limit=1&filter="+esc("facts.memory.bytes > 0")))
	for range 3 {
		s.catalog.Record(inventory.Event{Site: "store-0421", Kind: inventory.EventDHCPAck, MAC: mac(1)})
	}
	if err := s.catalog.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	events := read[resource.Page[inventory.Event]](t, s.get("/v1/events?limit=1"))
	for name, c := range map[string]struct{ path, problem string }{
		"injection in a filter":          {"/v1/machines?filter=" + esc(`machine.serial == "x' OR 1=1 --"' OR 1=1 --`), "invalid-filter"},
		"a filter of 100 kB":             {"/v1/machines?filter=" + strings.Repeat("1", 100_000), "too-long"},
		"a filter of 40 kB":              {"/v1/machines?filter=" + strings.Repeat("1", 40_000), "invalid-filter"},
		"deep nesting":                   {"/v1/machines?filter=" + strings.Repeat("(", 2000) + "true" + strings.Repeat(")", 2000), "invalid-filter"},
		"a pattern RE2 does not take":    {"/v1/machines?filter=" + esc(`regex("(a+)+\\1$", facts.system.product)`), "invalid-filter"},
		"a filter that is no condition":  {"/v1/machines?filter=" + esc("facts.memory.bytes"), "invalid-filter"},
		"a filter without SQL":           {"/v1/machines?filter=" + esc(`contains(facts.cpu.flags, "vmx")`), "invalid-filter"},
		"an empty filter":                {"/v1/machines?filter=", "invalid-filter"},
		"a NUL in a filter":              {"/v1/machines?filter=" + esc("machine.serial == \"\x00\""), "invalid-filter"},
		"a huge page":                    {"/v1/machines?limit=1000000", "invalid-parameter"},
		"a negative page":                {"/v1/machines?limit=-1", "invalid-parameter"},
		"a page beyond 64 bits":          {"/v1/machines?limit=99999999999999999999", "invalid-parameter"},
		"a sort that no index has":       {"/v1/machines?sort=facts.cpu.flags", "invalid-parameter"},
		"injection in sort":              {"/v1/machines?sort=" + esc("id; DROP TABLE machines"), "invalid-parameter"},
		"an unknown field":               {"/v1/machines?fields=id,facts.memory.byts", "invalid-parameter"},
		"10,000 fields":                  {"/v1/machines?fields=" + strings.Repeat("id,", 10_000) + "id", "invalid-parameter"},
		"a misspelt parameter":           {"/v1/machines?fitler=" + esc("facts.memory.bytes > 0"), "unknown-parameter"},
		"a parameter given twice":        {"/v1/machines?site=a&site=b", "invalid-parameter"},
		"a bad escape":                   {"/v1/machines?filter=%zz", "invalid-parameter"},
		"a cursor of another filter":     {"/v1/machines?cursor=" + first.Next, "invalid-cursor"},
		"a cursor of another sort":       {"/v1/machines?sort=-id&filter=" + esc("facts.memory.bytes > 0") + "&cursor=" + first.Next, "invalid-cursor"},
		"a cursor of another resource":   {"/v1/machines?cursor=" + events.Next, "invalid-cursor"},
		"a cursor of machines in events": {"/v1/events?cursor=" + first.Next, "invalid-cursor"},
		"a cursor of other events":       {"/v1/events?order=newest&cursor=" + events.Next, "invalid-cursor"},
		"an invented cursor":             {"/v1/events?cursor=AAAA", "invalid-cursor"},
		"a long cursor":                  {"/v1/events?cursor=" + strings.Repeat("A", 50_000), "invalid-cursor"},
		"a time that is none":            {"/v1/events?since=yesterday", "invalid-parameter"},
		"a MAC that is none":             {"/v1/events?mac=52_54_00_04_21_01", "invalid-parameter"},
		"a run that is none":             {"/v1/events?run=1", "invalid-parameter"},
		"a thousand kinds":               {"/v1/events?kind=" + strings.Repeat("a,", 1000), "invalid-parameter"},
		"an empty kind":                  {"/v1/events?kind=", "invalid-parameter"},
		"an unknown path":                {"/v1/machine", "not-found"},
		"an unknown image":               {"/v1/images/sha256:00", "not-found"},
		"an unknown run":                 {"/v1/runs/latest", "not-found"},
	} {
		t.Run(name, func(t *testing.T) {
			p := refused(t, s.get(c.path), c.problem)
			if p.Detail == "" {
				t.Error("the problem has no detail")
			}
		})
	}
	if got := read[resource.Page[resource.Machine]](t, s.get("/v1/machines")); len(got.Items) != 3 {
		t.Errorf("%d machines are left; want 3", len(got.Items))
	}
}

func TestMethodsThatARouteDoesNotServe(t *testing.T) {
	s := open(t)
	r := s.do(call{method: http.MethodPut, path: "/v1/machines", role: resource.RoleAdmin})
	refused(t, r, "method-not-allowed")
	if allow := r.header.Get("Allow"); allow != "GET" {
		t.Errorf("Allow = %q; want GET", allow)
	}
	if r := s.do(call{method: http.MethodHead, path: "/v1/machines"}); r.status != http.StatusOK || len(r.body) != 0 {
		t.Errorf("HEAD = %d with %d bytes; want 200 without a body", r.status, len(r.body))
	}
}

func TestUnchangedAnswerIsNotSentAgain(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	path := "/v1/machines/" + m.ID.String()
	tag := s.get(path).header.Get("ETag")
	if r := s.do(call{path: path, header: map[string]string{"If-None-Match": `"other", W/` + tag}}); r.status != http.StatusNotModified || len(r.body) > 0 {
		t.Errorf("with its ETag the machine is answered with %d, %s; want 304", r.status, r.body)
	}
	if _, err := s.catalog.SetTags(t.Context(), m.ID, map[string]string{"location": "rack 2"}, nil, nil); err != nil {
		t.Fatal(err)
	}
	r := s.do(call{path: path, header: map[string]string{"If-None-Match": tag}})
	if got := read[resource.Machine](t, r); got.Tags["location"] != "rack 2" || r.header.Get("ETag") == tag {
		t.Errorf("after a change = %+v with ETag %s; want the new tag and another ETag", got, r.header.Get("ETag"))
	}
}

func TestOnlyOneOfManyChangesWithOneETagIsMade(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	path := "/v1/machines/" + m.ID.String()
	tag := s.get(path).header.Get("ETag")
	const racers = 8
	statuses := make([]int, racers)
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			statuses[i] = s.do(call{
				method: http.MethodPatch, path: path + "/tags", role: resource.RoleOperator, header: map[string]string{"If-Match": tag},
				body: resource.TagChange{Set: map[string]string{"winner": fmt.Sprint(i)}},
			}).status
		})
	}
	wg.Wait()
	won := 0
	for _, status := range statuses {
		switch status {
		case http.StatusOK:
			won++
		case http.StatusPreconditionFailed:
		default:
			t.Errorf("a racer got %d; want 200 or 412", status)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d changes with one ETag were made; want 1 (statuses %d)", won, racers, statuses)
	}
}

func TestMachineIsForgottenOnlyAsItWasRead(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	path := "/v1/machines/" + m.ID.String()
	del := func(header map[string]string) reply {
		return s.do(call{method: http.MethodDelete, path: path, role: resource.RoleAdmin, header: header})
	}
	refused(t, del(nil), "precondition-required")
	refused(t, del(map[string]string{"If-Match": `"00"`}), "changed")
	tag := s.get(path).header.Get("ETag")
	refused(t, del(map[string]string{"If-Match": "W/" + tag}), "changed") // RFC 9110 section 13.1.1: the strong comparison
	if r := del(map[string]string{"If-Match": `"00", ` + tag}); r.status != http.StatusNoContent {
		t.Errorf("forgetting the machine as it was read = %d, %s; want 204", r.status, r.body)
	}
	refused(t, s.get(path), "not-found")
}

func TestTagsAreCheckedBeforeTheyAreWritten(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	many := map[string]string{}
	for i := range inventory.MaxTags + 1 {
		many[fmt.Sprintf("k%d", i)] = "v"
	}
	for name, body := range map[string]any{
		"no JSON": "{", "two values": "{} {}", "another field": `{"tags":{}}`, "a list": "[]", "a NUL": `{"set":{"a":"\u0000"}}`,
		"no key": `{"set":{"":"x"}}`, "too many": resource.TagChange{Set: many},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, s.do(call{method: http.MethodPatch, path: "/v1/machines/" + m.ID.String() + "/tags", role: resource.RoleOperator, body: body}), "invalid-body")
		})
	}
	refused(t, s.do(call{
		method: http.MethodPatch, path: "/v1/machines/" + m.ID.String() + "/tags", role: resource.RoleOperator, body: strings.Repeat(" ", 2<<20),
	}), "too-large")
	refused(t, s.do(call{
		method: http.MethodPatch, path: "/v1/machines/" + m.ID.String() + "/tags", role: resource.RoleOperator, body: "set=1",
		header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"},
	}), "unsupported-media-type")
}

func TestBodyThatTricklesInIsGivenUp(t *testing.T) {
	s := open(t, func(c *api.Config) { c.BodyTimeout = 50 * time.Millisecond })
	m := s.machine(1)
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.http.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PATCH /v1/machines/%s/tags HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
		m.ID, s.bearers[resource.RoleOperator])
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("a body that never ends is not answered: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a body that never ends = %d; want 400", resp.StatusCode)
	}
}

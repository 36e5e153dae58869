package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// message is one Server-Sent Event as a test reads it.
type message struct {
	event string
	id    int64
	data  string
}

// following is a watch that a test reads.
type following struct {
	*testing.T
	messages chan message
	stop     context.CancelFunc
}

// patience bounds the wait for what must come: far longer than it takes, so that
// a loaded machine is no failure.
const patience = time.Minute

func (s *shop) follow(path string, after int64) *following {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.http.URL+path, nil)
	if err != nil {
		s.Fatal(err)
	}
	if after > 0 {
		req.Header.Set("Last-Event-ID", strconv.FormatInt(after, 10))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		s.Fatalf("%s = %d %s; want a stream", path, resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	f := &following{T: s.T, messages: make(chan message, 10_000), stop: cancel}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(f.messages)
		defer resp.Body.Close()
		var m message
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			field, value, _ := strings.Cut(lines.Text(), ": ")
			switch field {
			case "event":
				m.event = value
			case "id":
				m.id, _ = strconv.ParseInt(value, 10, 64)
			case "data":
				m.data = value
			case "":
				if m.event != "" {
					f.messages <- m
				}
				m = message{}
			}
		}
	}()
	s.Cleanup(func() {
		cancel()
		<-done
	})
	return f
}

// next is the next message; ended: the stream is over.
func (f *following) next() (m message, ended bool) {
	f.Helper()
	select {
	case m, ok := <-f.messages:
		return m, !ok
	case <-time.After(patience):
		f.Fatalf("no message came in %s", patience)
		return message{}, true
	}
}

// expect reads messages and compares them with a short form: the machine's
// address, "removed ADDRESS" and so on.
func (f *following) expect(name func(message) string, want ...string) int64 {
	f.Helper()
	var got []string
	var last int64
	for range want {
		m, ended := f.next()
		if ended {
			f.Fatalf("the stream ended after %q; want %q", got, want)
		}
		got = append(got, name(m))
		if m.id > 0 {
			last = m.id
		}
	}
	if !slices.Equal(got, want) {
		f.Errorf("messages = %q; want %q", got, want)
	}
	return last
}

// short names a message of a watch of machines.
func short(machines ...inventory.Machine) func(message) string {
	return func(m message) string {
		var of struct {
			ID       string
			Machines int
			Reason   string
			Facts    *inventory.Facts
		}
		if err := json.Unmarshal([]byte(m.data), &of); err != nil {
			return err.Error()
		}
		name := ""
		for i, known := range machines {
			if known.ID.String() == of.ID {
				name = string(rune('a' + i))
			}
		}
		switch m.event {
		case "machine":
			if of.Facts != nil && of.Facts.Memory != nil {
				return fmt.Sprintf("machine %s %d", name, of.Facts.Memory.Bytes>>30)
			}
			return "machine " + name
		case "synced":
			return fmt.Sprintf("synced %d", of.Machines)
		case "reset":
			return "reset " + of.Reason
		}
		return m.event + " " + name
	}
}

func (s *shop) memory(m inventory.Machine, gib int) {
	s.Helper()
	if _, _, err := s.catalog.PutFacts(s.Context(), m.ID, inventory.SourceAgent, facts(gib), time.Time{}); err != nil {
		s.Fatal(err)
	}
}

func TestWatchedMachinesEnterChangeAndLeaveTheFilter(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := openOn(t, cfg)
		a, b := s.machine(4), s.machine(16)
		name := short(a, b)
		path := "/v1/watch/machines?fields=id,facts.memory&filter=" + url.QueryEscape("facts.memory.bytes >= GiB(8)")
		f := s.follow(path, 0)
		f.expect(name, "machine b 16", "synced 1")
		// One by one: several changes of one machine may be told as one.
		s.memory(a, 9)
		f.expect(name, "machine a 9")
		s.memory(b, 17)
		f.expect(name, "machine b 17")
		s.memory(b, 2)
		f.expect(name, "removed b")
		s.memory(b, 3) // it is out already
		s.memory(a, 10)
		last := f.expect(name, "machine a 10")
		if err := s.catalog.Forget(t.Context(), a.ID); err != nil {
			t.Fatal(err)
		}
		f.expect(name, "removed a")
		f.stop()
		// Who comes back is told what was missed.
		s.follow(path, last).expect(name, "removed a")
		all := s.follow("/v1/watch/machines", 0)
		all.expect(name, "machine b", "synced 1")
	})
}

func TestWatchOfOneSiteSaysNothingOfAnother(t *testing.T) {
	s := open(t)
	a := s.machine(1)
	other, err := s.catalog.Declare(t.Context(), "elsewhere", "machine.x", mac(99))
	if err != nil {
		t.Fatal(err)
	}
	f := s.follow("/v1/watch/machines?site=store-0421&fields=id", 0)
	f.expect(short(a, other), "machine a", "synced 1")
	if err := s.catalog.SetImage(t.Context(), other.ID, "sha256:00"); err != nil {
		t.Fatal(err)
	}
	if err := s.catalog.SetImage(t.Context(), a.ID, "sha256:00"); err != nil {
		t.Fatal(err)
	}
	f.expect(short(a, other), "machine a")
}

// record writes events with numbers as their step.
func (s *shop) record(from, to int) {
	s.Helper()
	for n := from; n <= to; n++ {
		s.catalog.Record(inventory.Event{Site: "store-0421", Kind: inventory.EventDHCPAck, MAC: mac(n % 2), Step: strconv.Itoa(n)})
	}
	if err := s.catalog.Flush(s.Context()); err != nil {
		s.Fatal(err)
	}
}

func step(m message) string {
	var e inventory.Event
	if err := json.Unmarshal([]byte(m.data), &e); err != nil {
		return err.Error()
	}
	if m.event != "event" {
		return m.event + " " + m.data
	}
	if e.ID != m.id {
		return fmt.Sprintf("event %d with id %d", e.ID, m.id)
	}
	return e.Step
}

func TestWatchOfEventsGoesOnWhereItsClientWas(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := openOn(t, cfg)
		s.record(1, 3)
		f := s.follow("/v1/watch/events", 0)
		s.record(4, 5)
		last := f.expect(step, "4", "5")
		f.stop()
		s.record(6, 7)
		again := s.follow("/v1/watch/events?mac="+url.QueryEscape(mac(1).String()), last)
		s.record(8, 9)
		again.expect(step, "7", "9")
		byParameter := s.follow(fmt.Sprintf("/v1/watch/events?after=%d", last), 0)
		byParameter.expect(step, "6", "7", "8", "9")
	})
}

func TestWatchFromBeforeRetentionIsReset(t *testing.T) {
	cfg := storetest.SQLite(t)
	cfg.EventLimit = 4
	s := openOn(t, cfg)
	a := s.machine(1)
	s.record(1, 6)
	if _, err := s.catalog.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := s.follow("/v1/watch/events", 1)
	f.expect(step, `reset {"reason":"retention"}`, "3", "4", "5", "6")
	s.record(7, 7)
	f.expect(step, "7")
	s.follow("/v1/watch/machines", 1).expect(short(a), "reset retention", "machine a", "synced 1")
	s.follow("/v1/watch/machines", 1_000_000).expect(short(a), "reset unknown", "machine a", "synced 1")
	for _, id := range []string{"-1", "x", "1e3", strings.Repeat("9", 30)} {
		refused(t, s.do(call{path: "/v1/watch/events", header: map[string]string{"Last-Event-ID": id}}), "invalid-parameter")
	}
	refused(t, s.get("/v1/watch/machines?filter=facts.x"), "invalid-filter")
}

// overtaken does something when the answer begins: a watch has found by then that
// the events after its client's place are all there.
type overtaken struct {
	http.ResponseWriter
	begins func()
}

func (o *overtaken) Write(p []byte) (int, error) {
	o.begins()
	return o.ResponseWriter.Write(p)
}

func (o *overtaken) Unwrap() http.ResponseWriter { return o.ResponseWriter }

func TestWatchThatRetentionOvertakesIsReset(t *testing.T) {
	for path, want := range map[string][]string{
		"/v1/watch/events":   {`reset {"reason":"retention"}`, "3", "4", "5", "6"},
		"/v1/watch/machines": {"reset retention", "machine a", "synced 1"},
	} {
		t.Run(path, func(t *testing.T) {
			cfg := storetest.SQLite(t)
			cfg.EventLimit = 4
			s := openOn(t, cfg)
			name := step
			if path == "/v1/watch/machines" {
				name = short(s.machine(1))
			}
			s.record(0, 6)
			prune := sync.OnceFunc(func() {
				if _, err := s.catalog.Prune(t.Context()); err != nil {
					t.Error(err)
				}
			})
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s.server.Handler().ServeHTTP(&overtaken{w, prune}, r)
			}))
			t.Cleanup(web.Close)
			(&shop{T: t, catalog: s.catalog, http: web}).follow(path, 1).expect(name, want...)
		})
	}
}

// TestClientThatNeverReadsIsCutOff opens a stream on a bare connection with a
// small window, and never reads it: the server must neither wait for it nor keep
// everything for it, and others go on.
func TestClientThatNeverReadsIsCutOff(t *testing.T) {
	// As many events as wait for the one that reads at most, in however many
	// batches they come: the next are not recorded before it has read all.
	const burst = 200
	s := open(t, func(c *api.Config) {
		c.WatchQueue = burst
		c.KeepAlive = 2 * time.Second // which a stalled machine may hold up one that reads
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.http.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /v1/watch/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
	reader := s.follow("/v1/watch/events", 0)
	s.until("two watches", func() bool { return s.metric("edge_api_watchers") == 2 })
	sentEvents := 0
	big := strings.Repeat("x", 4000)
	s.until("the one that does not read is cut off", func() bool {
		for range burst {
			s.catalog.Record(inventory.Event{Site: "store-0421", Kind: inventory.EventAgentLog, Message: big})
		}
		if err := s.catalog.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		sentEvents += burst
		for range burst {
			if _, ended := reader.next(); ended {
				t.Fatal("the client that reads was cut off too")
			}
		}
		return s.metric("edge_api_watchers") == 1
	})
	if sentEvents > 100_000 {
		t.Errorf("%d events went out before the client was cut off", sentEvents)
	}
}

// until waits for a condition.
func (s *shop) until(what string, holds func() bool) {
	s.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			s.Fatalf("not in %s: %s", patience, what)
		}
	}
}

// metric reads one number of /metrics.
func (s *shop) metric(name string) float64 {
	s.Helper()
	for line := range strings.Lines(string(s.get("/metrics").body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				s.Fatal(err)
			}
			return v
		}
	}
	s.Fatalf("/metrics has no %s", name)
	return 0
}

func TestWatchesAreBoundedInNumber(t *testing.T) {
	s := open(t, func(c *api.Config) { c.Watchers = 2 })
	first := s.follow("/v1/watch/events", 0)
	s.follow("/v1/watch/machines", 0)
	r := s.get("/v1/watch/events")
	refused(t, r, "busy")
	if r.header.Get("Retry-After") == "" {
		t.Error("a refused watch is not told when to ask again")
	}
	first.stop()
	s.until("a place is free", func() bool { return s.metric("edge_api_watchers") < 2 })
	s.follow("/v1/watch/events", 0)
}

func TestWatchEndsWithItsToken(t *testing.T) {
	s := open(t, func(c *api.Config) {
		c.Anonymous = resource.RolePublic
		c.KeepAlive = 20 * time.Millisecond
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.http.URL+"/v1/watch/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.bearers[resource.RoleReader])
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			continue
		}
	}()
	id, _, _ := strings.Cut(strings.TrimPrefix(s.bearers[resource.RoleReader], "edge_"), "_")
	if err := s.catalog.RevokeToken(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Errorf("a watch went on for %s after its token was revoked", patience)
	}
}

// TestManyWatchersSeeEveryEventInOneOrder has two programs write to one catalog.
func TestManyWatchersSeeEveryEventInOneOrder(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := openOn(t, cfg)
		other := storetest.Open(t, cfg)
		const watchers, events = 20, 200
		var following []*following
		for range watchers {
			following = append(following, s.follow("/v1/watch/events", 0))
		}
		var wg sync.WaitGroup
		for i, c := range []*store.Store{s.catalog, other} {
			wg.Go(func() {
				for n := range events / 2 {
					c.Record(inventory.Event{Site: "store-0421", Kind: inventory.EventDHCPAck, Step: fmt.Sprintf("%d-%d", i, n)})
					if n%10 == 0 {
						if err := c.Flush(t.Context()); err != nil {
							t.Error(err)
						}
					}
				}
				if err := c.Flush(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		var first []string
		for i, f := range following {
			var got []string
			for range events {
				m, ended := f.next()
				if ended {
					t.Fatalf("watcher %d was cut off after %d events", i, len(got))
				}
				got = append(got, step(m))
			}
			if i == 0 {
				first = got
			}
			if !slices.Equal(got, first) {
				t.Fatalf("watcher %d saw another order than watcher 0", i)
			}
		}
		slices.Sort(first)
		if len(slices.Compact(first)) != events {
			t.Errorf("watchers saw %d different events; want %d", len(slices.Compact(first)), events)
		}
	})
}

func TestMisspeltKindOfEventsIsRefused(t *testing.T) {
	s := open(t)
	for _, path := range []string{"/v1/events", "/v1/watch/events"} {
		if t.Failed() {
			return // a watch that is not refused has no end
		}
		p := refused(t, s.get(path+"?kind=ssh.up,dhcp.akc"), "invalid-parameter")
		if p.Parameter != "kind" || p.Detail != `kind: "dhcp.akc" is no kind of events. Did you mean "dhcp.ack"?` {
			t.Errorf("%s: detail of %q = %q; want the kind that was meant", path, p.Parameter, p.Detail)
		}
	}
	for _, k := range inventory.EventKinds() {
		if r := s.get("/v1/events?kind=" + string(k)); r.status != http.StatusOK {
			t.Errorf("events of the kind %s = %d; want 200", k, r.status)
		}
	}
}

package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Run(m)) }

// shop is a catalog with a server over it.
type shop struct {
	*testing.T
	catalog   *store.Store
	server    *api.Server
	http      *httptest.Server
	journal   journal
	operation uuid.UUID // made by fill
	reaction  int64     // made by fill
	// bearers are tokens by their role.
	bearers map[resource.Role]string
	stop    func() // ends what the server does by itself
}

// journal is a Runs with fixed content.
type journal struct {
	runs  []resource.Run
	steps map[uuid.UUID][]resource.Step
}

func (j *journal) Runs(_ context.Context, site string, before uuid.UUID, limit int) ([]resource.Run, error) {
	var out []resource.Run
	passed := before == uuid.Nil
	for _, r := range j.runs {
		if passed && (site == "" || r.Site == site) && len(out) < limit {
			out = append(out, r)
		}
		passed = passed || r.ID == before
	}
	return out, nil
}

func (j *journal) Run(_ context.Context, id uuid.UUID) (resource.Run, []resource.Step, error) {
	for _, r := range j.runs {
		if r.ID == id {
			return r, j.steps[id], nil
		}
	}
	return resource.Run{}, nil, fs.ErrNotExist
}

// open makes a shop with a token for each role and no machine. Loopback without
// a token may read.
func open(t *testing.T, change ...func(*api.Config)) *shop {
	t.Helper()
	return openOn(t, storetest.SQLite(t), change...)
}

func openOn(t *testing.T, database store.Config, change ...func(*api.Config)) *shop {
	t.Helper()
	s := &shop{T: t, catalog: storetest.Open(t, database), bearers: map[resource.Role]string{}}
	cfg := api.Config{
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Catalog: s.catalog, Runs: &s.journal, Version: "1.2.3", Anonymous: resource.RoleReader,
		WatchInterval: 5 * time.Millisecond,
	}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	if s.server, err = api.New(cfg); err != nil {
		t.Fatal(err)
	}
	s.http = httptest.NewServer(s.server.Handler())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.server.Run(ctx)
	}()
	s.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(func() {
		s.stop()
		s.http.CloseClientConnections()
		s.http.Close()
	})
	for _, role := range resource.Roles() {
		issued, err := api.IssueToken(t.Context(), s.catalog, time.Now(), "", "the "+string(role), role, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		s.bearers[role] = issued.Bearer
	}
	return s
}

// machine adds a machine with its number in MAC, address and memory (GiB).
func (s *shop) machine(n int) inventory.Machine {
	s.Helper()
	ctx := s.Context()
	m, err := s.catalog.Declare(ctx, "store-0421", fmt.Sprintf(`machine.node["%d"]`, n), mac(n))
	if err == nil {
		_, _, err = s.catalog.PutFacts(ctx, m.ID, inventory.SourceAgent, facts(n), time.Time{})
	}
	if err != nil {
		s.Fatal(err)
	}
	return m
}

func mac(n int) inventory.MAC {
	return inventory.MAC{0x52, 0x54, 0, byte(n >> 16), byte(n >> 8), byte(n)}
}

func facts(n int) inventory.Facts {
	return inventory.Facts{
		System: &inventory.System{Manufacturer: "Acme", Product: "Box", Serial: fmt.Sprintf("S%05d", n)},
		BIOS:   &inventory.BIOS{Version: "1.0"},
		Memory: &inventory.Memory{Bytes: int64(n) << 30},
		Disks:  []inventory.Disk{{Name: "sda", Serial: fmt.Sprintf("D%05d", n), Bytes: 1 << 40, Signatures: []string{}}},
	}
}

// reply is an answer as a test looks at it.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// call is a request of a test.
type call struct {
	method, path string
	body         any
	header       map[string]string
	role         resource.Role // of the token; none: no token
}

func (s *shop) do(c call) reply {
	s.Helper()
	var body io.Reader
	if c.body != nil {
		raw, ok := c.body.(string)
		if !ok {
			b, err := json.Marshal(c.body)
			if err != nil {
				s.Fatal(err)
			}
			raw = string(b)
		}
		body = strings.NewReader(raw)
	}
	if c.method == "" {
		c.method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(s.Context(), c.method, s.http.URL+c.path, body)
	if err != nil {
		s.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.role != "" {
		req.Header.Set("Authorization", "Bearer "+s.bearers[c.role])
	}
	for name, value := range c.header {
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.Fatalf("%s %.200s: %v", c.method, c.path, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, raw}
}

func (s *shop) get(path string) reply {
	s.Helper()
	return s.do(call{path: path})
}

// read is the decoded body of a successful answer.
func read[T any](t *testing.T, r reply) T {
	t.Helper()
	var v T
	if r.status < 200 || r.status > 299 {
		t.Fatalf("status %d; want success: %s", r.status, r.body)
	}
	d := json.NewDecoder(bytes.NewReader(r.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("reading %s: %v", r.body, err)
	}
	return v
}

// refused is the problem of an answer that must be one of a name.
func refused(t *testing.T, r reply, name string) resource.Problem {
	t.Helper()
	var p resource.Problem
	if err := json.Unmarshal(r.body, &p); err != nil {
		t.Fatalf("status %d, body %s: %v", r.status, r.body, err)
	}
	if p.Name() != name || p.Status != r.status || r.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("answer %d %s %q; want the problem %s as application/problem+json: %s", r.status, r.header.Get("Content-Type"), p.Type, name, r.body)
	}
	if !strings.HasPrefix(p.Instance, "urn:uuid:") || !strings.HasSuffix(p.Instance, r.header.Get("X-Request-Id")) {
		t.Errorf("problem's instance = %q; want the request's id %q", p.Instance, r.header.Get("X-Request-Id"))
	}
	return p
}

const sampleDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

var (
	sampleRun    = uuid.MustParse("01968f3c-1111-7000-8000-000000000001")
	inventoryMAC = mac(0x042101)
)

// fill puts one of everything into the catalog.
func (s *shop) fill() inventory.Machine {
	s.Helper()
	ctx, now := s.Context(), time.Now().UTC()
	m := s.machine(1)
	steps := []error{
		s.catalog.Commit(ctx, inventory.Lease{
			Network: "network.edge", MAC: mac(1), Address: "172.22.0.11", Hostname: "node-1", Starts: now, Expires: now.Add(time.Hour), State: inventory.LeaseActive,
		}),
		s.catalog.PutImage(ctx, store.Image{Digest: sampleDigest, Name: "edge-os", Path: "/var/lib/somewhere", RawBytes: 1, StoredBytes: 1}),
	}
	s.catalog.UseSnapshotKey(snapshotKey)
	if _, err := s.catalog.Commission(ctx, m.ID, ""); err != nil {
		s.Fatal(err)
	}
	f := facts(1)
	f.BIOS.Version = "1.1"
	_, _, err := s.catalog.PutFacts(ctx, m.ID, inventory.SourceAgent, f, time.Time{})
	s.catalog.Record(inventory.Event{Site: "store-0421", Kind: inventory.EventDHCPAck, MAC: mac(1), Attrs: map[string]string{"address": "172.22.0.11"}})
	for _, err := range append(steps, err, s.catalog.Flush(ctx)) {
		if err != nil {
			s.Fatal(err)
		}
	}
	o, _, err := s.catalog.BeginOperation(ctx, store.Operation{Actor: "someone", Key: "k", Digest: "d", Kind: "power", Machine: m.ID, Site: m.Site})
	if err != nil {
		s.Fatal(err)
	}
	s.operation = o.ID
	s.reaction = s.react(m, "node", "sha256:1").ID
	s.journal.runs = []resource.Run{{ID: sampleRun, Site: "store-0421", Command: "apply", State: "ok", StartedAt: now, FinishedAt: &now}}
	s.journal.steps = map[uuid.UUID][]resource.Step{sampleRun: {
		{Run: sampleRun, Address: m.Address, Attempt: 1, State: "failed", Error: "no", StartedAt: now, FinishedAt: &now},
		{Run: sampleRun, Address: m.Address, Attempt: 2, State: "ok", StartedAt: now, FinishedAt: &now},
	}}
	return m
}

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return ctx, cancel
}

package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// tellsNobody serves a site's API, asks every route of it that reads, streams too,
// with every role, and looks for secrets in the answers. It returns the answers to an
// administrator.
func tellsNobody(t *testing.T, w *world, secrets ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandBound)
	served, err := w.listenAPI(apiFlags{listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- served.Serve(ctx, served.listener) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	bearers := map[resource.Role]string{resource.RolePublic: ""} // which reads, over loopback
	for _, role := range resource.Roles() {
		issued, err := api.IssueToken(ctx, w.catalog, time.Now(), "", "the "+string(role), role, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		bearers[role] = issued.Bearer
		_, secret, _ := strings.Cut(strings.TrimPrefix(issued.Bearer, "edge_"), "_")
		secrets = append(secrets, secret)
	}
	machines, err := w.catalog.Machines(ctx, store.MachineFilter{Site: w.site.Name})
	if err != nil {
		t.Fatal(err)
	}
	machine := uuid.Nil // an adopted one is not in the catalog
	if len(machines) > 0 {
		machine = machines[0].ID
	}
	runs, err := w.journal.List(ctx, w.site.Name, 0)
	if err != nil {
		t.Fatal(err)
	}
	const last = "the-last-event"
	w.catalog.Record(inventory.Event{Site: w.site.Name, Kind: inventory.EventDHCPAck, Attrs: map[string]string{"address": last}})
	if err := w.catalog.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	// ask reads an answer, or of a stream what there is by now.
	ask := func(path string, role resource.Role) (status int, body string) {
		t.Helper()
		ctx, hangUp := context.WithCancel(ctx)
		defer hangUp()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, served.url()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if bearers[role] != "" {
			req.Header.Set("Authorization", "Bearer "+bearers[role])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.Header.Get("Content-Type") != "text/event-stream" {
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, string(b)
		}
		var all strings.Builder
		lines := bufio.NewReader(resp.Body)
		for ended := false; !ended; {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("%s ended: %v\n%s", path, err, &all)
			}
			all.WriteString(line)
			ended = strings.HasPrefix(line, "event: synced") || strings.Contains(line, last)
		}
		return resp.StatusCode, all.String()
	}
	_, raw := ask("/v1/openapi.json", resource.RoleAdmin)
	doc, err := openapi3.NewLoader().LoadFromData([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	// Of what the catalog has the answer must be there to be looked into.
	look := func(path string, there bool) {
		t.Helper()
		if strings.HasPrefix(path, "/v1/watch/") {
			path += "?after=9007199254740991" // unknown: it sends everything that there is
		}
		for role := range bearers {
			status, body := ask(path, role)
			if role == resource.RoleAdmin {
				told.WriteString(body)
			}
			if status >= http.StatusInternalServerError || there && role == resource.RoleAdmin && status != http.StatusOK {
				t.Errorf("%s to %q = %d: %s", path, role, status, body)
			}
			for _, secret := range secrets {
				if strings.Contains(body, secret) {
					t.Errorf("%s tells %q the secret %q:\n%s", path, role, secret, body)
				}
			}
		}
	}
	for path, item := range doc.Paths.Map() {
		if item.Get == nil {
			continue
		}
		there := machine != uuid.Nil || !strings.Contains(path, "{machine}")
		for _, none := range []string{"{source}", "{digest}", "{operation}", "{reaction}"} {
			there = there && !strings.Contains(path, none)
		}
		path = strings.NewReplacer(
			"{machine}", machine.String(), "{source}", "agent", "{digest}", "sha256:"+strings.Repeat("0", 64), "{problem}", "not-found",
			"{operation}", uuid.NewString(), "{reaction}", "1",
		).Replace(path)
		if !strings.Contains(path, "{run}") {
			look(path, there)
			continue
		}
		for _, r := range runs {
			look(strings.Replace(path, "{run}", r.ID.String(), 1), there)
		}
	}
	return told.String()
}

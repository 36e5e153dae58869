package api_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// runner is a Runner that says what it is asked for and ends at once.
type runner struct {
	mu    sync.Mutex
	asked []string
	fail  error
}

func (r *runner) said(what string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, what)
	return "It is over.", r.fail
}

func (r *runner) CancelRun(_ context.Context, run uuid.UUID) (string, error) {
	return r.said("cancel " + run.String())
}

func (r *runner) Reprovision(_ context.Context, m inventory.Machine, serial, who string) (string, error) {
	return r.said("reprovision " + m.ID.String() + " " + serial + " for " + who)
}

func (r *runner) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.asked, "\n")
}

func (s *shop) post(path, key string, role resource.Role, body any) reply {
	s.Helper()
	return s.do(call{method: http.MethodPost, path: path, role: role, header: map[string]string{"Idempotency-Key": key}, body: body})
}

func TestReprovisioningWantsTheSerialOfTheMachine(t *testing.T) {
	r := &runner{}
	s := open(t, func(c *api.Config) { c.Runner = r })
	m := s.machine(1)
	const serial = "SN-0042"
	_, _, err := s.catalog.Observe(t.Context(), m.Site, store.Observation{
		Machine: m.ID, Source: inventory.SourceAgent, Facts: &inventory.Facts{System: &inventory.System{Serial: serial}},
	})
	if err != nil {
		t.Fatal(err)
	}
	path := "/v1/machines/" + m.ID.String() + "/actions/reprovision"
	with := func(serial string) resource.ReprovisionRequest { return resource.ReprovisionRequest{Serial: serial} }
	refused(t, s.post(path, "k1", resource.RoleAdmin, with("")), "invalid-body")
	refused(t, s.post(path, "k2", resource.RoleAdmin, with("SN-0043")), "conflict")
	refused(t, s.post(path, "k3", resource.RoleOperator, with(serial)), "forbidden")
	refused(t, s.post(path, "", resource.RoleAdmin, with(serial)), "precondition-required")
	refused(t, s.post("/v1/machines/nobody/actions/reprovision", "k4", resource.RoleAdmin, with(serial)), "not-found")
	if asked := r.all(); asked != "" {
		t.Fatalf("refused requests were carried out: %s", asked)
	}
	begun := s.post(path, "k5", resource.RoleAdmin, with(serial))
	o := read[resource.Operation](t, begun)
	if begun.status != http.StatusAccepted || o.Kind != "reprovision" || o.Machine != m.ID {
		t.Errorf("reprovision = %d %s; want 202 and an operation on the machine", begun.status, begun.body)
	}
	if got := s.ended(o); got.State != resource.OperationSucceeded || got.Result != "It is over." {
		t.Errorf("operation = %+v; want it succeeded", got)
	}
	if again := read[resource.Operation](t, s.post(path, "k5", resource.RoleAdmin, with(serial))); again.ID != o.ID {
		t.Errorf("the same request again = %s; want operation %s", again.ID, o.ID)
	}
	if asked := r.all(); !strings.HasPrefix(asked, "reprovision "+m.ID.String()+" "+serial+" for a client of the API (") || strings.Contains(asked, "\n") {
		t.Errorf("the runner was asked to %q; want one reprovisioning that names who asked", asked)
	}
	without := open(t)
	refused(t, without.post("/v1/machines/"+without.machine(1).ID.String()+"/actions/reprovision", "k", resource.RoleAdmin, with(serial)), "conflict")
}

func TestARunIsCancelledOverTheAPI(t *testing.T) {
	r := &runner{fail: errors.New("this controller is not carrying out that run")}
	s := open(t, func(c *api.Config) { c.Runner, c.Site = r, "store-0421" })
	s.fill()
	run := s.journal.runs[0].ID
	path := "/v1/runs/" + run.String() + "/actions/cancel"
	refused(t, s.post(path, "k1", resource.RoleReader, nil), "forbidden")
	refused(t, s.post("/v1/runs/nothing/actions/cancel", "k2", resource.RoleOperator, nil), "not-found")
	if got := s.ended(read[resource.Operation](t, s.post(path, "k3", resource.RoleOperator, nil))); got.State != resource.OperationFailed || got.Error != r.fail.Error() || got.Kind != "cancel" {
		t.Errorf("operation = %+v; want it failed with the runner's error", got)
	}
	r.mu.Lock()
	r.fail = nil
	r.mu.Unlock()
	if got := s.ended(read[resource.Operation](t, s.post(path, "k4", resource.RoleOperator, nil))); got.State != resource.OperationSucceeded {
		t.Errorf("operation = %+v; want it succeeded", got)
	}
	if want := "cancel " + run.String() + "\ncancel " + run.String(); r.all() != want {
		t.Errorf("the runner was asked to %q; want %q", r.all(), want)
	}
	other := open(t, func(c *api.Config) { c.Runner, c.Site = r, "another" })
	other.fill()
	refused(t, other.post(path, "k5", resource.RoleOperator, nil), "conflict")
}

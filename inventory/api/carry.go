package api

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
)

// Runner begins runs and cancels them. Both methods return when it is over, with a
// sentence about it or an error that holds no secret; when ctx ends they return
// and the run goes on.
type Runner interface {
	// CancelRun asks a run to start nothing new, and waits for what runs.
	CancelRun(ctx context.Context, run uuid.UUID) (result string, err error)
	// Reprovision installs a declared machine anew, which erases its disk. serial
	// is the machine's, typed by who asks for it: anything else must do nothing.
	Reprovision(ctx context.Context, m inventory.Machine, serial, who string) (result string, err error)
}

// Bounds of operations that are runs: what they wait for has bounds of its own,
// such as boot_timeout and the timeouts of steps.
const (
	cancelTimeout      = time.Hour
	reprovisionTimeout = 4 * time.Hour
)

// Kinds of operations that are runs.
const (
	kindCancel      = "cancel"
	kindReprovision = "reprovision"
)

// timeoutOf bounds an operation.
func timeoutOf(kind string) time.Duration {
	switch kind {
	case kindCancel:
		return cancelTimeout
	case kindReprovision:
		return reprovisionTimeout
	}
	return operationTimeout
}

func (s *Server) carryRoutes() []route {
	problems := []string{"not-found", "conflict", "key-reused", "precondition-required"}
	return []route{
		{
			method: http.MethodPost, path: "/v1/runs/{run}/actions/cancel", id: "cancelRun", tag: "actions", need: resource.RoleOperator,
			summary: "Stop a run gracefully: it starts nothing new and lets finish what runs",
			detail:  "Answers at once with an operation, which ends when the run has; follow it at the path in Location. Only the run that this controller carries out can be cancelled.",
			params:  []param{paramRun}, reply: resource.Operation{}, status: http.StatusAccepted, idempotent: true, problems: problems, serve: s.cancelRun,
		},
		{
			method: http.MethodPost, path: "/v1/machines/{machine}/actions/reprovision", id: "reprovisionMachine", tag: "actions", need: resource.RoleAdmin,
			summary: "Install a machine anew, which erases its disk",
			detail: "Carries out what `edge-provision apply -replace` would do for this machine alone, with the site as it is served. The body holds the machine's serial (its SMBIOS UUID, where it has none) " +
				"as consent to the erasure. Answers at once with an operation, which ends when the machine answers from its new system; follow it at the path in Location. One run is carried out at a time.",
			params: []param{paramMachine}, body: resource.ReprovisionRequest{}, reply: resource.Operation{}, status: http.StatusAccepted, idempotent: true,
			problems: append(problems, "ambiguous", "invalid-body", "unsupported-media-type", "too-large"), serve: s.reprovision,
		},
	}
}

func (s *Server) cancelRun(x *exchange) error {
	key, err := x.idempotencyKey()
	if err != nil {
		return err
	}
	run, _, err := x.run()
	if err != nil {
		return err
	}
	x.target = run.ID.String()
	if s.cfg.Runner == nil || run.Site != s.cfg.Site {
		return problem("conflict", "This controller carries out no runs of site %s.", run.Site)
	}
	asked := struct{ Run uuid.UUID }{run.ID}
	return s.begin(x, key, kindCancel, inventory.Machine{Site: run.Site}, asked, func(ctx context.Context) (string, error) {
		return s.cfg.Runner.CancelRun(ctx, run.ID)
	})
}

func (s *Server) reprovision(x *exchange) error {
	key, err := x.idempotencyKey()
	if err != nil {
		return err
	}
	var want resource.ReprovisionRequest
	if err := x.read(&want); err != nil {
		return err
	}
	if want.Serial == "" {
		return problem("invalid-body", "serial: the machine's serial is the consent to erase its disk.")
	}
	m, err := x.machine()
	if err != nil {
		return err
	}
	switch {
	case s.cfg.Runner == nil:
		return problem("conflict", "This controller carries out no runs.")
	case m.Serial != "" && m.Serial != want.Serial:
		return problem("conflict", "The serial in the body is not that of machine %s; nothing was done.", m.ID)
	}
	who := "a client of the API"
	if x.who.name != "" {
		who += " (" + x.who.name + ")"
	}
	return s.begin(x, key, kindReprovision, m, want, func(ctx context.Context) (string, error) {
		return s.cfg.Runner.Reprovision(ctx, m, want.Serial, who)
	})
}

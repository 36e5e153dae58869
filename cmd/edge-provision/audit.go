package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/edge-provision/edge-provision/inventory/store"
)

// audited does what somebody with access to the catalog itself asks for. Nothing is
// done that could not be recorded: who does it is written down before, and what
// came of it after, also when it was cut off. status is that of the API's answer to
// the same request.
func audited(ctx context.Context, s *store.Store, action, target string, status int, do func() error) error {
	record, err := s.Audit(ctx, store.AuditEntry{Actor: "command-line", Name: whoAmI(), Action: action, Target: target})
	if err != nil {
		return err
	}
	failed := do()
	if failed != nil {
		status = http.StatusConflict
	}
	return errors.Join(failed, s.Audited(context.WithoutCancel(ctx), record, "", status))
}

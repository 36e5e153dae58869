package store

import (
	"context"
	"time"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/audit"
)

// AuditEntry is a request to change something.
type AuditEntry struct {
	ID     int64 // greater for later ones; given by Audit
	Time   time.Time
	Actor  string // id of a token, "local" or "command-line"
	Name   string // the token's, or user and host of the command line
	Role   string
	Remote string // IP address
	Method string
	Path   string
	Action string // operationId, or a command
	Target string
	// Request is the id of the request.
	Request string
	// Status is the HTTP status of the answer; zero while there is none.
	Status     int
	FinishedAt time.Time
}

// Audit records a request before it is carried out, and returns its id.
func (s *Store) Audit(ctx context.Context, e AuditEntry) (int64, error) {
	var id int64
	err := s.write(ctx, "writing the audit record", func(tx *ent.Tx) error {
		row := tx.Audit.Create().SetTime(s.now()).SetActor(clean(e.Actor)).SetActorName(clean(e.Name)).SetRole(e.Role).
			SetRemote(clean(e.Remote)).SetMethod(clean(e.Method)).SetPath(clean(e.Path)).SetAction(e.Action).
			SetTarget(clean(e.Target)).SetRequest(e.Request)
		if e.Status != 0 {
			row.SetStatus(e.Status).SetFinishedAt(s.now())
		}
		r, err := row.Save(ctx)
		if err == nil {
			id = r.ID
		}
		return err
	})
	return id, err
}

// Audited completes the record of a request with what came of it.
func (s *Store) Audited(ctx context.Context, id int64, target string, status int) error {
	return s.write(ctx, "completing the audit record", func(tx *ent.Tx) error {
		up := tx.Audit.UpdateOneID(id).SetStatus(status).SetFinishedAt(s.now())
		if target != "" {
			up.SetTarget(clean(target))
		}
		return up.Exec(ctx)
	})
}

// AuditPage returns at most limit records, the newest first, that are older than
// the one with the id before; zero begins with the newest. actor selects those of
// one actor.
func (s *Store) AuditPage(ctx context.Context, actor string, before int64, limit int) ([]AuditEntry, error) {
	q := s.main.client.Audit.Query().Order(ent.Desc(audit.FieldID)).Limit(limit)
	if before > 0 {
		q.Where(audit.IDLT(before))
	}
	if actor != "" {
		q.Where(audit.Actor(actor))
	}
	rows, err := q.All(ctx)
	if err != nil {
		return nil, s.explain("reading the audit records", err)
	}
	out := make([]AuditEntry, len(rows))
	for i, r := range rows {
		out[i] = AuditEntry{
			ID: r.ID, Time: r.Time.UTC(), Actor: r.Actor, Name: r.ActorName, Role: r.Role, Remote: r.Remote,
			Method: r.Method, Path: r.Path, Action: r.Action, Target: r.Target, Request: r.Request,
		}
		if r.Status != nil {
			out[i].Status = *r.Status
		}
		setTime(&out[i].FinishedAt, r.FinishedAt)
	}
	return out, nil
}

// Bounds of what is kept of the past of the API.
const (
	auditMemory    = 365 * 24 * time.Hour
	auditLimit     = 100_000
	operationsKept = 30 * 24 * time.Hour
)

func (s *Store) pruneAudit(ctx context.Context, tx *ent.Tx) (int, error) {
	old, err := tx.Audit.Query().Where(audit.TimeLT(s.now().Add(-auditMemory))).Limit(pruneBatch).IDs(ctx)
	if err == nil && len(old) == 0 {
		old, err = tx.Audit.Query().Order(ent.Desc(audit.FieldID)).Offset(auditLimit).Limit(pruneBatch).IDs(ctx)
	}
	if err != nil || len(old) == 0 {
		return 0, err
	}
	return tx.Audit.Delete().Where(audit.IDIn(old...)).Exec(ctx)
}

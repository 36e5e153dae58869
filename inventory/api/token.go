package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func (s *Server) tokenRoutes() []route {
	return []route{
		{
			method: http.MethodGet, path: "/v1/tokens", id: "listTokens", tag: "access", need: resource.RoleAdmin,
			summary: "List API tokens, the newest first; never their secrets", params: []param{paramLimit, paramCursor},
			reply: resource.Page[resource.Token]{}, problems: []string{"invalid-cursor"}, serve: s.listTokens,
		},
		{
			method: http.MethodPost, path: "/v1/tokens", id: "createToken", tag: "access", need: resource.RoleAdmin,
			summary: "Make an API token", detail: "The answer holds the secret, which is not kept and cannot be shown again.",
			body: resource.NewToken{}, reply: resource.IssuedToken{}, status: http.StatusCreated,
			problems: []string{"invalid-body", "unsupported-media-type", "too-large"}, serve: s.createToken,
		},
		{
			method: http.MethodDelete, path: "/v1/tokens/{token}", id: "revokeToken", tag: "access", need: resource.RoleAdmin,
			summary: "End a token now", params: []param{{name: "token", in: "path", summary: "the id of a token, which is its part between the underscores", example: "abcdefghijklmnop"}},
			status: http.StatusNoContent, problems: []string{"not-found"}, serve: s.revokeToken,
		},
		{
			method: http.MethodGet, path: "/v1/audit", id: "listAudit", tag: "access", need: resource.RoleAdmin,
			summary: "Who asked to change what, the newest first",
			params:  []param{{name: "actor", summary: "only this token's"}, paramLimit, paramCursor},
			reply:   resource.Page[resource.AuditEntry]{}, problems: []string{"invalid-cursor"}, serve: s.listAudit,
		},
	}
}

func (s *Server) listTokens(x *exchange) error {
	limit, err := x.limit()
	if err != nil {
		return err
	}
	at, err := x.cursor()
	if err != nil {
		return err
	}
	all, err := s.cfg.Catalog.Tokens(x.ctx())
	if err != nil {
		return err
	}
	var items []resource.Token
	passed := at == ""
	for _, t := range all {
		if passed {
			items = append(items, TokenOf(t))
		}
		passed = passed || t.ID == at
	}
	page := resource.Page[resource.Token]{}
	page.Items, page.Next, err = pageOf(x, items, limit, func(t resource.Token) string { return t.ID })
	if err != nil {
		return err
	}
	return x.send(page)
}

func (s *Server) createToken(x *exchange) error {
	var want resource.NewToken
	if err := x.read(&want); err != nil {
		return err
	}
	ttl := time.Duration(want.TTLSeconds) * time.Second
	if want.TTLSeconds < 0 || want.TTLSeconds > int64(MaxTokenTTL/time.Second) {
		return problem("invalid-body", "ttl_seconds is %d; want 1 to %d, or none for %d.", want.TTLSeconds, MaxTokenTTL/time.Second, DefaultTokenTTL/time.Second)
	}
	if _, err := resource.ParseRole(string(want.Role)); err != nil {
		return problem("invalid-body", "role: %v.", err)
	}
	if want.Name == "" || len(want.Name) > maxTokenName {
		return problem("invalid-body", "name: want 1 to %d bytes.", maxTokenName)
	}
	t, err := IssueToken(x.ctx(), s.cfg.Catalog, s.cfg.Now(), x.who.id, want.Name, want.Role, ttl)
	if err != nil {
		return err
	}
	x.target = t.ID
	return x.send(t)
}

func (s *Server) revokeToken(x *exchange) error {
	x.target = clip(x.PathValue("token"))
	if err := s.cfg.Catalog.RevokeToken(x.ctx(), x.PathValue("token")); err != nil {
		return err
	}
	x.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) listAudit(x *exchange) error {
	limit, err := x.limit()
	if err != nil {
		return err
	}
	before, err := x.cursorID()
	if err != nil {
		return err
	}
	entries, err := s.cfg.Catalog.AuditPage(x.ctx(), x.query["actor"], before, limit+1)
	if err != nil {
		return err
	}
	page := resource.Page[resource.AuditEntry]{}
	kept, next, err := pageOf(x, entries, limit, func(e store.AuditEntry) string { return strconv.FormatInt(e.ID, 10) })
	if err != nil {
		return err
	}
	page.Next, page.Items = next, make([]resource.AuditEntry, len(kept))
	for i, e := range kept {
		page.Items[i] = auditOf(e)
	}
	return x.send(page)
}

func auditOf(e store.AuditEntry) resource.AuditEntry {
	out := resource.AuditEntry{
		ID: e.ID, Time: e.Time, Actor: e.Actor, Name: e.Name, Role: resource.Role(e.Role), Remote: e.Remote,
		Method: e.Method, Path: e.Path, Action: e.Action, Target: e.Target, Request: e.Request, FinishedAt: timeOf(e.FinishedAt),
	}
	if e.Status != 0 {
		out.Status = &e.Status
	}
	return out
}

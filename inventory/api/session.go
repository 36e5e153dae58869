package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"github.com/edge-provision/edge-provision/inventory/resource"
)

// cookieName is the name of the cookie that carries the token of somebody who
// signed in to the dashboard. Scripts cannot read it, and no other site's page can
// have it sent. A browser sends a host's cookies to each of its ports: the name has
// the catalog that the token is of, so that controllers on one host leave each
// other's alone.
func (s *Server) cookieName() string { return "edge_session_" + s.cfg.Catalog.CatalogID().String() }

func (s *Server) sessionRoutes() []route {
	return []route{
		{
			method: http.MethodGet, path: "/v1/session", id: "getSession", tag: "access", need: resource.RolePublic, knows: true,
			summary: "Who is asking, and in which role", reply: resource.Session{}, problems: []string{"invalid-token"}, serve: s.getSession,
		},
		{
			method: http.MethodPost, path: "/v1/session", id: "signIn", tag: "access", need: resource.RolePublic,
			summary: "Exchange a token for a cookie, for the dashboard",
			detail: "The cookie is HttpOnly and SameSite=Strict, and ends with the token. A change with it needs the Origin header, which browsers send, and `csrf` of getSession " +
				"in the header X-CSRF-Token.",
			body: resource.SignIn{}, status: http.StatusNoContent, problems: []string{"invalid-body", "invalid-token", "unsupported-media-type", "too-large"}, serve: s.signIn,
		},
		{
			method: http.MethodDelete, path: "/v1/session", id: "signOut", tag: "access", need: resource.RolePublic,
			summary: "Have the browser forget the cookie", status: http.StatusNoContent,
			serve: func(x *exchange) error {
				x.forgetCookie()
				x.WriteHeader(http.StatusNoContent)
				return nil
			},
		},
	}
}

func (x *exchange) cookie(value string, expires time.Time) *http.Cookie {
	c := &http.Cookie{
		Name: x.server.cookieName(), Value: value, Path: "/", Expires: expires, HttpOnly: true, Secure: x.TLS != nil, SameSite: http.SameSiteStrictMode,
	}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

// forgetCookie has the browser drop the cookie.
func (x *exchange) forgetCookie() { http.SetCookie(x.ResponseWriter, x.cookie("", time.Unix(0, 0))) }

func (s *Server) getSession(x *exchange) error {
	out := resource.Session{ID: x.who.id, Name: x.who.name, Role: x.who.role, Anonymous: x.who.id == ""}
	if cookie, err := x.Cookie(x.server.cookieName()); err == nil && !out.Anonymous && x.Request.Header.Get("Authorization") == "" {
		out.CSRF = csrfToken(cookie.Value)
	}
	return x.send(out)
}

// csrfHeader names, beside the cookie, what only a page of this server can have
// read.
const csrfHeader = "X-CSRF-Token"

// csrfToken is that of a session. Who knows it cannot tell the session's cookie.
func csrfToken(bearer string) string {
	mac := hmac.New(sha256.New, []byte(bearer))
	mac.Write([]byte("edge-provision csrf"))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

func (s *Server) signIn(x *exchange) error {
	var given resource.SignIn
	if err := x.read(&given); err != nil {
		return err
	}
	t, err := s.token(x.ctx(), given.Token)
	if errors.Is(err, errToken) {
		return problem("invalid-token", "The token is unknown, has expired or was revoked.")
	}
	if err != nil {
		return err
	}
	x.who = principal{id: t.ID, name: t.Name, role: resource.Role(t.Role)}
	entry := x.auditEntry()
	entry.Status = http.StatusNoContent
	if _, err := s.cfg.Catalog.Audit(x.ctx(), entry); err != nil {
		return err
	}
	http.SetCookie(x.ResponseWriter, x.cookie(given.Token, t.ExpiresAt))
	x.WriteHeader(http.StatusNoContent)
	return nil
}

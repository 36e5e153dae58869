package api

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// maxURIBytes is the longest URL that is looked at: a filter of 16 KiB with each
// byte escaped, and room for the rest.
const maxURIBytes = 64 << 10

// guard refuses what no route may see.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := s.foreign(r); f != nil {
			s.answer(route{id: "refused", raw: true, serve: func(*exchange) error { return f }})(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// foreign is why a request must not be answered whoever sends it; nil: it may.
// Browsers name the page that a request comes from in Origin and Sec-Fetch-Site
// (https://www.w3.org/TR/fetch-metadata/); other clients send neither.
func (s *Server) foreign(r *http.Request) *failure {
	if len(r.RequestURI) > maxURIBytes {
		return problem("too-long", "The URL has %d bytes; at most %d are read.", len(r.RequestURI), maxURIBytes)
	}
	if !s.hostAllowed(r.Host) {
		return problem("wrong-host", "The request is for the host %q, which is none of this server's names. Start it with --server-name for each name that clients use.", clip(r.Host)).at("Host")
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
			return problem("cross-origin", "The page at %q may not use this API.", clip(origin)).at("Origin")
		}
	}
	switch site := r.Header.Get("Sec-Fetch-Site"); {
	case site == "", site == "same-origin", site == "none":
	case opensDashboard(r): // a link in a chat or mail
	default:
		return problem("cross-origin", "A page of another site may not use this API (Sec-Fetch-Site: %s).", clip(site)).at("Sec-Fetch-Site")
	}
	return nil
}

// opensDashboard reports whether a browser opens the dashboard's page in a tab,
// which gives nothing to the page that it came from.
func opensDashboard(r *http.Request) bool {
	return r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document" &&
		(r.URL.Path == "/" || strings.HasPrefix(r.URL.Path, dashboardPath))
}

// authenticate finds out who asks.
func (s *Server) authenticate(x *exchange) error {
	x.who = principal{role: s.cfg.Anonymous}
	if x.route.need == resource.RolePublic && !x.route.knows {
		return nil
	}
	bearer, fromCookie, err := x.bearer()
	if err != nil || bearer == "" {
		return err
	}
	t, err := s.token(x.ctx(), bearer)
	if errors.Is(err, errToken) {
		return x.unproved(fromCookie)
	}
	if err != nil {
		return err
	}
	x.who = principal{id: t.ID, name: t.Name, role: resource.Role(t.Role)}
	s.touch(x.ctx(), t)
	return nil
}

// unproved is what becomes of a request whose token is not valid. A program chose
// to send its header; a browser sends its cookie unasked, long after the token
// ended. It forgets the cookie, and may do what it may without one.
func (x *exchange) unproved(fromCookie bool) error {
	at := "Authorization"
	if fromCookie {
		at = "Cookie"
		x.forgetCookie()
		if x.who.role.Allows(x.route.need) {
			return nil
		}
	}
	x.Header().Set("WWW-Authenticate", `Bearer realm="edge-provision", error="invalid_token"`)
	return problem("invalid-token", "The token is unknown, has expired or was revoked.").at(at)
}

// bearer is the token that a request carries, in its header or in the dashboard's
// cookie; empty: none.
func (x *exchange) bearer() (bearer string, fromCookie bool, err error) {
	if given := x.Request.Header.Get("Authorization"); given != "" {
		bearer, ok := strings.CutPrefix(given, "Bearer ")
		if !ok {
			return "", false, problem("invalid-token", "The Authorization header must be `Bearer TOKEN`.").at("Authorization")
		}
		return bearer, false, nil
	}
	cookie, err := x.Cookie(x.server.cookieName())
	if err != nil {
		return "", false, nil
	}
	// A browser sends a cookie by itself, and names the page that a change comes
	// from; guard has compared that with ours.
	if !x.reads() && x.Request.Header.Get("Origin") == "" {
		return "", true, problem("cross-origin", "A change with the dashboard's cookie needs the Origin header, which browsers send.").at("Origin")
	}
	if !x.reads() && !hmac.Equal([]byte(x.Request.Header.Get(csrfHeader)), []byte(csrfToken(cookie.Value))) {
		return "", true, problem("cross-origin", "A change with the dashboard's cookie needs the header %s, with `csrf` of /v1/session.", csrfHeader).at(csrfHeader)
	}
	return cookie.Value, true, nil
}

// reads reports whether the request's method changes nothing.
func (x *exchange) reads() bool { return x.Method == http.MethodGet || x.Method == http.MethodHead }

// errToken is a token that is not valid; why is nobody's business.
var errToken = errors.New("the token is not valid")

// token is the valid token that a bearer holds.
func (s *Server) token(ctx context.Context, bearer string) (store.Token, error) {
	id, secret, err := parseBearer(bearer)
	if err != nil {
		return store.Token{}, err
	}
	t, err := s.cfg.Catalog.Token(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return t, errToken
	}
	if err != nil {
		return t, err
	}
	hash := sha256.Sum256(secret)
	if subtle.ConstantTimeCompare(hash[:], t.Hash) != 1 || !t.RevokedAt.IsZero() || !s.cfg.Now().Before(t.ExpiresAt) {
		return t, errToken
	}
	return t, nil
}

// touched remembers when the use of a token was noted last.
type touched struct {
	mu sync.Mutex
	at map[string]time.Time
}

// touchInterval is how exact a token's last use is: each note is a write.
const touchInterval = time.Minute

// touch notes that a token was used. A catalog that cannot be written does not
// keep anybody from reading.
func (s *Server) touch(ctx context.Context, t store.Token) {
	now := s.cfg.Now()
	s.touched.mu.Lock()
	last := s.touched.at[t.ID]
	due := now.Sub(last) >= touchInterval && now.Sub(t.LastUsedAt) >= touchInterval
	if due {
		s.touched.at[t.ID] = now
	}
	s.touched.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := s.cfg.Catalog.TouchToken(ctx, t.ID, now); err != nil {
		s.cfg.Log.Warn("noting the use of a token", "token", t.ID, "error", err)
	}
}

// audit records a request that may change something, before it does. What cannot
// be recorded is not done. finish completes the record. Strangers are not
// recorded: they could drive everybody else out of the records.
func (s *Server) audit(x *exchange) (finish func(*exchange, error), err error) {
	stranger := x.who.id == "" && !x.who.role.Allows(x.route.need)
	if x.route.raw || x.route.need == resource.RolePublic || x.reads() || stranger {
		return func(*exchange, error) {}, nil
	}
	id, err := s.cfg.Catalog.Audit(x.ctx(), x.auditEntry())
	if err != nil {
		return nil, fmt.Errorf("nothing was done, because the audit record could not be written: %w", err)
	}
	return func(x *exchange, failed error) {
		status := x.route.status
		if status == 0 {
			status = http.StatusOK
		}
		if failed != nil {
			status = explain(failed).Status
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx()), s.cfg.RequestTimeout)
		defer cancel()
		if err := s.cfg.Catalog.Audited(ctx, id, x.target, status); err != nil {
			s.cfg.Log.Error("completing an audit record", "record", id, "status", status, "error", err)
		}
	}, nil
}

// auditEntry is the record of a request that has no answer yet.
func (x *exchange) auditEntry() store.AuditEntry {
	actor := x.who.id
	if actor == "" {
		actor = "local"
	}
	remote, _, err := net.SplitHostPort(x.RemoteAddr)
	if err != nil {
		remote = x.RemoteAddr
	}
	return store.AuditEntry{
		Actor: actor, Name: x.who.name, Role: string(x.who.role), Remote: remote, Method: x.Method, Path: x.URL.Path,
		Action: x.route.id, Request: x.id.String(),
	}
}

// Bounds of a token's life.
const (
	DefaultTokenTTL = 90 * 24 * time.Hour
	MaxTokenTTL     = 366 * 24 * time.Hour
)

// IssueToken makes a token and keeps its hash in a catalog. ttl is
// DefaultTokenTTL when zero, and at most MaxTokenTTL.
func IssueToken(ctx context.Context, catalog *store.Store, now time.Time, by, name string, role resource.Role, ttl time.Duration) (resource.IssuedToken, error) {
	defaultTo(&ttl, DefaultTokenTTL)
	switch _, err := resource.ParseRole(string(role)); {
	case err != nil:
		return resource.IssuedToken{}, err
	case name == "" || len(name) > maxTokenName:
		return resource.IssuedToken{}, fmt.Errorf("a token needs a name of at most %d bytes, by which a person knows whose it is", maxTokenName)
	case ttl < time.Second || ttl > MaxTokenTTL:
		return resource.IssuedToken{}, fmt.Errorf("a token is valid for 1s to %s, not %s", MaxTokenTTL, ttl)
	}
	raw := make([]byte, idBytes+secretBytes)
	rand.Read(raw) // never fails: it ends the program where there is no randomness
	id, secret := strings.ToLower(idCoding.EncodeToString(raw[:idBytes])), raw[idBytes:]
	hash := sha256.Sum256(secret)
	t := store.Token{ID: id, Name: name, Hash: hash[:], Role: string(role), CreatedBy: by, CreatedAt: now, ExpiresAt: now.Add(ttl)}
	if err := catalog.PutToken(ctx, t); err != nil {
		return resource.IssuedToken{}, err
	}
	return resource.IssuedToken{Token: TokenOf(t), Bearer: bearerPrefix + id + "_" + base64.RawURLEncoding.EncodeToString(secret)}, nil
}

// The text of a token is edge_ID_SECRET. The prefix lets scanners of secrets find
// one that was committed somewhere.
const (
	bearerPrefix = "edge_"
	idBytes      = 10
	secretBytes  = 32
	maxTokenName = 128
)

var idCoding = base32.StdEncoding.WithPadding(base32.NoPadding)

func parseBearer(bearer string) (id string, secret []byte, err error) {
	rest, ok := strings.CutPrefix(bearer, bearerPrefix)
	id, coded, cut := strings.Cut(rest, "_")
	if !ok || !cut || len(id) != idCoding.EncodedLen(idBytes) || len(coded) != base64.RawURLEncoding.EncodedLen(secretBytes) {
		return "", nil, errToken
	}
	if secret, err = base64.RawURLEncoding.DecodeString(coded); err != nil {
		return "", nil, errToken
	}
	return id, secret, nil
}

// TokenOf is what may be told of a token.
func TokenOf(t store.Token) resource.Token {
	return resource.Token{
		ID: t.ID, Name: t.Name, Role: resource.Role(t.Role), CreatedAt: t.CreatedAt, CreatedBy: t.CreatedBy,
		ExpiresAt: t.ExpiresAt, RevokedAt: timeOf(t.RevokedAt), LastUsedAt: timeOf(t.LastUsedAt),
	}
}

// timeOf is nil for a time that has not come.
func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/agext/levenshtein"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory/resource"
)

// route is one line of the API: what the mux serves and the OpenAPI document
// describes.
type route struct {
	method string
	path   string // pattern of http.ServeMux
	id     string // operationId
	tag    string
	// summary is one line, detail the rest in Markdown.
	summary, detail string
	need            resource.Role
	params          []param
	// body and reply are zero values of what is taken and sent; nil: none.
	body, reply any
	status      int    // of success; 200 when zero
	otherwise   int    // status of a reply of the same form that is no success; none when zero
	media       string // of the reply; JSON when empty
	// etag: the reply has one, and If-None-Match is answered.
	etag bool
	// tagged: the reply has the ETag of what was changed.
	tagged bool
	match  match
	// idempotent: Idempotency-Key is required.
	idempotent bool
	problems   []string // beside those that every route can answer with
	// watch: a stream without an end.
	watch bool
	// knows: a public route that wants to know who asks.
	knows bool
	// raw: answers whatever the query holds; it is no route of the API.
	raw   bool
	serve func(*exchange) error
}

// match says whether a route takes If-Match.
type match int

const (
	matchNone match = iota
	matchOptional
	matchRequired
)

// param is a parameter of a query or path.
type param struct {
	name    string
	in      string // query when empty, path or header
	kind    paramKind
	summary string
	enum    []string
	example string
}

type paramKind int

const (
	text paramKind = iota
	number
	moment // RFC 3339
)

// Media types of replies.
const (
	mediaJSON    = "application/json"
	mediaProblem = "application/problem+json"
	mediaStream  = "text/event-stream"
)

// principal is who asks.
type principal struct {
	id, name string
	role     resource.Role
}

// String names them to people: a name that its maker chose, and the id that is the
// token's alone.
func (p principal) String() string {
	if p.id == "" {
		return "local"
	}
	return fmt.Sprintf("%s (token %s)", p.name, p.id)
}

// exchange is one request and its answer.
type exchange struct {
	http.ResponseWriter
	*http.Request
	server *Server
	route  route
	who    principal
	id     uuid.UUID
	query  map[string]string
	// gone ends when the client goes; the request's own context also when its
	// time is over.
	gone context.Context
	// target is what the request is about, for the audit.
	target string
}

// ctx is the request's context.
func (x *exchange) ctx() context.Context { return x.Context() }

// answer makes a route's function a handler.
func (s *Server) answer(r route) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		x := &exchange{ResponseWriter: w, Request: req, server: s, route: r, id: uuid.Must(uuid.NewV7()), gone: req.Context()}
		counted := &counter{ResponseWriter: w}
		x.ResponseWriter = counted
		began := s.cfg.Now()
		h := w.Header()
		h.Set("X-Request-Id", x.id.String())
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		if err := s.do(x); err != nil {
			s.refuse(x, counted, err)
		}
		s.metrics.answered(r, counted.status, s.cfg.Now().Sub(began))
	}
}

// do runs the checks of a route and then its function.
func (s *Server) do(x *exchange) error {
	if err := s.authenticate(x); err != nil {
		return err
	}
	finish, err := s.audit(x)
	if err != nil {
		return err
	}
	err = s.permitted(x)
	finish(x, err)
	return err
}

func (s *Server) permitted(x *exchange) error {
	if !x.who.role.Allows(x.route.need) {
		if x.who.id == "" {
			x.Header().Set("WWW-Authenticate", `Bearer realm="edge-provision"`)
			return problem("no-token", "This needs the role %s. Send a token as `Authorization: Bearer TOKEN`; `edge-provision token create` makes one.", x.route.need)
		}
		return problem("forbidden", "This needs the role %s, and the token %s has the role %s.", x.route.need, x.who.id, x.who.role)
	}
	if x.route.raw {
		return x.route.serve(x)
	}
	if err := x.readQuery(); err != nil {
		return err
	}
	if x.route.match == matchRequired && x.Request.Header.Get("If-Match") == "" {
		return problem("precondition-required", "Send If-Match with the ETag of what you have read.").at("If-Match")
	}
	if x.route.watch {
		return x.route.serve(x)
	}
	ctx, cancel := context.WithTimeout(x.ctx(), s.cfg.RequestTimeout)
	defer cancel()
	x.Request = x.WithContext(ctx)
	// A client that reads slowly must not keep a connection to the catalog; the
	// whole answer is made before it is sent, and sending has its own bound.
	deadline := time.Now().Add(2 * s.cfg.RequestTimeout) // the socket knows no injected clock
	if err := http.NewResponseController(x.ResponseWriter).SetWriteDeadline(deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if x.route.need != resource.RolePublic {
		select {
		case s.readers <- struct{}{}:
			defer func() { <-s.readers }()
		case <-ctx.Done():
			return problem("busy", "The server has too many requests to answer this one in %s. Ask again later, or for less at once.", s.cfg.RequestTimeout)
		}
	}
	return x.route.serve(x)
}

// readQuery refuses parameters that the route does not have, and those given
// twice: a misspelt filter must not select everything.
func (x *exchange) readQuery() error {
	values, err := parseQuery(x.URL.RawQuery)
	if err != nil {
		return err
	}
	x.query = map[string]string{}
	var known []string
	for _, p := range x.route.params {
		if p.in == "" {
			known = append(known, p.name)
		}
	}
	for _, p := range x.route.params {
		if p.in == "path" && !plain(x.PathValue(p.name)) {
			return problem("not-found", "There is no %s whose name is not valid UTF-8, or holds a NUL.", p.name).at(p.name)
		}
	}
	for name, given := range values {
		i := slices.IndexFunc(x.route.params, func(p param) bool { return p.in == "" && p.name == name })
		if i < 0 {
			return problem("unknown-parameter", "%s has no parameter %q. %s", x.route.id, clip(name), suggest(name, known)).at(clip(name))
		}
		if len(given) > 1 {
			return problem("invalid-parameter", "The parameter %s is given %d times.", name, len(given)).at(name)
		}
		p := x.route.params[i]
		if len(p.enum) > 0 && !slices.Contains(p.enum, given[0]) {
			return problem("invalid-parameter", "%s=%q: want one of %s.", name, clip(given[0]), strings.Join(p.enum, ", ")).at(name)
		}
		if p.name != paramFilter.name && !plain(given[0]) { // the language of filters says that itself, with the place
			return problem("invalid-parameter", "The parameter %s is not valid UTF-8, or holds a NUL.", name).at(name)
		}
		x.query[name] = given[0]
	}
	return nil
}

// plain reports whether every database takes a text.
func plain(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// integer reads a parameter that is a number between two bounds.
func (x *exchange) integer(name string, otherwise, least, most int64) (int64, error) {
	given, ok := x.query[name]
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(given, 10, 64)
	if err != nil || n < least || n > most {
		return 0, problem("invalid-parameter", "%s=%q: want a whole number from %d to %d.", name, clip(given), least, most).at(name)
	}
	return n, nil
}

// moment reads a parameter that is a time; zero when it is not given.
func (x *exchange) moment(name string) (time.Time, error) {
	given, ok := x.query[name]
	if !ok {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, given)
	if err != nil {
		return time.Time{}, problem("invalid-parameter", "%s=%q: want a time as RFC 3339 writes it, such as 2026-11-21T18:00:00Z.", name, clip(given)).at(name)
	}
	return t, nil
}

// send writes a JSON answer, with its ETag where the route has one.
func (x *exchange) send(v any) error {
	raw, err := encode(v)
	if err != nil {
		return err
	}
	return x.sendRaw(raw)
}

func (x *exchange) sendRaw(raw []byte) error {
	h := x.Header()
	if x.route.tagged {
		h.Set("ETag", etagOf(raw))
	}
	if x.route.etag {
		tag := etagOf(raw)
		h.Set("ETag", tag)
		h.Set("Cache-Control", "private, no-cache")
		if matches(x.Request.Header.Get("If-None-Match"), tag, true) {
			x.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	media := x.route.media
	if media == "" {
		media = mediaJSON
	}
	h.Set("Content-Type", media)
	h.Set("Content-Length", strconv.Itoa(len(raw)))
	status := x.route.status
	if status == 0 {
		status = http.StatusOK
	}
	x.WriteHeader(status)
	if x.Method == http.MethodHead {
		return nil
	}
	_, err := x.Write(raw)
	return sent(err)
}

// Header is the answer's header; the request's is x.Request.Header.
func (x *exchange) Header() http.Header { return x.ResponseWriter.Header() }

// Write sends a part of the answer.
func (x *exchange) Write(b []byte) (int, error) { return x.ResponseWriter.Write(b) }

// errGone is an answer that could not be delivered: its client is gone.
var errGone = errors.New("the client is gone")

func sent(err error) error {
	if err != nil {
		return fmt.Errorf("%w: %v", errGone, err)
	}
	return nil
}

// encode is the JSON form of a resource, without HTML's escapes.
func encode(v any) ([]byte, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("writing %s as JSON: %w", reflect.TypeOf(v), err)
	}
	return []byte(b.String()), nil
}

// counter remembers the status of an answer.
type counter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (c *counter) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (c *counter) Write(b []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	return c.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// clip keeps a stranger's text from filling an answer.
func clip(s string) string {
	const longest = 64
	if len(s) > longest {
		return strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return s
}

// suggest is a sentence that names what was probably meant.
func suggest(written string, known []string) string {
	best, distance := "", len(written)/2+1
	for _, k := range known {
		if len(written) > 64 {
			break
		}
		if d := levenshtein.Distance(written, k, nil); d < distance {
			best, distance = k, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("Did you mean %q?", best)
	case len(known) == 0:
		return "It has none."
	case len(known) <= 24:
		return "Known: " + strings.Join(known, ", ") + "."
	}
	return ""
}

package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/edge-provision/edge-provision/inventory/query"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// problemTypes are all problems that the API answers with. /v1/problems/NAME
// shows each.
var problemTypes = []resource.ProblemType{
	{Name: "invalid-filter", Title: "The filter cannot be used", Status: 400, Meaning: "The filter is no expression over machines, or one that the catalog cannot answer. The diagnostics point at the place."},
	{Name: "invalid-parameter", Title: "A parameter has a value that it cannot have", Status: 400, Meaning: "The detail says which values the parameter takes."},
	{Name: "unknown-parameter", Title: "There is no such parameter", Status: 400, Meaning: "A misspelt parameter is refused and not ignored, so that a misspelt filter does not select everything."},
	{Name: "invalid-cursor", Title: "The cursor does not belong to this query", Status: 400, Meaning: "A cursor continues the query that it came from, with the same filter, sort and other parameters except limit and fields. Begin again without it."},
	{Name: "invalid-body", Title: "The body cannot be read", Status: 400, Meaning: "The body must be the one JSON object that the OpenAPI document describes, without other fields."},
	{Name: "no-token", Title: "A token is needed", Status: 401, Meaning: "Send a token in the header Authorization: Bearer TOKEN."},
	{Name: "invalid-token", Title: "The token is not valid", Status: 401, Meaning: "It is unknown, has expired or was revoked. An administrator makes a new one."},
	{Name: "forbidden", Title: "The token's role does not allow this", Status: 403, Meaning: "The detail names the role that is needed."},
	{Name: "wrong-host", Title: "The request is for another host", Status: 421, Meaning: "The Host header names none of the names of this server. That keeps a page whose name resolves to this server's address from reading it."},
	{Name: "cross-origin", Title: "The request comes from another site's page", Status: 403, Meaning: "A browser sent it on behalf of a page that this server did not serve."},
	{Name: "not-found", Title: "There is no such thing", Status: 404, Meaning: "The path is unknown, or the catalog has nothing of that name."},
	{Name: "method-not-allowed", Title: "The method is not served there", Status: 405, Meaning: "The Allow header lists the methods of the path."},
	{Name: "ambiguous", Title: "The name fits several machines", Status: 409, Meaning: "Use one of the ids among the candidates."},
	{Name: "conflict", Title: "The state of things does not allow this", Status: 409, Meaning: "The detail says what stands in the way."},
	{Name: "machine-busy", Title: "A run works on the machine", Status: 409, Meaning: "Its disk may be half written. Wait for the run that is named in run, or cancel it with POST /v1/runs/RUN/actions/cancel. Only \"force\": true has the power changed all the same."},
	{Name: "changed", Title: "It has changed since it was read", Status: 412, Meaning: "The ETag in If-Match is not that of what is there now. Read it again and decide anew."},
	{Name: "too-large", Title: "The body is too large", Status: 413, Meaning: "The detail says what is accepted."},
	{Name: "too-long", Title: "The URL is too long", Status: 414, Meaning: "A filter has at most 16 KiB."},
	{Name: "unsupported-media-type", Title: "The body has another type than JSON", Status: 415, Meaning: "Send Content-Type: application/json."},
	{Name: "key-reused", Title: "The Idempotency-Key was used for another request", Status: 422, Meaning: "Use a new key for each thing to be done, and the same one only to repeat a request."},
	{Name: "too-expensive", Title: "The query found nothing in the time it has", Status: 503, Meaning: "No index answers it, or the catalog is too busy. Add a condition on an indexed fact, or ask again later."},
	{Name: "precondition-required", Title: "The request needs a condition", Status: 428, Meaning: "Send If-Match with the ETag of what you have read, so that nobody's change is lost."},
	{Name: "internal", Title: "The server failed", Status: 500, Meaning: "The log of the controller has the cause under the id of the request."},
	{Name: "busy", Title: "The server has too much to do", Status: 503, Meaning: "Ask again after the seconds in Retry-After."},
	{Name: "full", Title: "The catalog's disk is full", Status: 507, Meaning: "Free space on the filesystem of the catalog. Nothing that was written is lost."},
}

// failure is a problem on its way to the client.
type failure struct{ resource.Problem }

// Error implements error.
func (f *failure) Error() string { return f.Problem.Error() }

// problem is a failure of a type in problemTypes.
func problem(name, detail string, args ...any) *failure {
	for _, t := range problemTypes {
		if t.Name == name {
			return &failure{resource.Problem{
				Type: problemPath + t.Name, Title: t.Title, Status: t.Status, Detail: fmt.Sprintf(detail, args...),
			}}
		}
	}
	return problem("internal", "An error of the unlisted type %s.", name)
}

const problemPath = "/v1/problems/"

// at names the parameter at fault.
func (f *failure) at(parameter string) *failure {
	f.Parameter = parameter
	return f
}

// invalidFilter points at the mistakes of a filter.
func invalidFilter(source string, diags hcl.Diagnostics) *failure {
	f := problem("invalid-filter", "%s", strings.TrimSpace(firstOf(diags))).at("filter")
	for _, d := range diags {
		out := resource.Diagnostic{Summary: d.Summary, Detail: d.Detail, Text: query.Format(source, hcl.Diagnostics{d})}
		if d.Subject != nil {
			out.Start, out.End = d.Subject.Start.Byte, d.Subject.End.Byte
		}
		f.Diagnostics = append(f.Diagnostics, out)
		if len(f.Diagnostics) == maxDiagnostics {
			break
		}
	}
	return f
}

// maxDiagnostics bounds an answer: a filter of 16 KiB can be wrong in thousands
// of places.
const maxDiagnostics = 20

func firstOf(diags hcl.Diagnostics) string {
	if len(diags) == 0 {
		return ""
	}
	return diags[0].Summary + ". " + diags[0].Detail
}

// explain turns an error of the catalog into a problem. What a client cannot
// mend is told by its request's id only, and logged.
func explain(err error) *failure {
	var f *failure
	var ambiguous *store.AmbiguousError
	var full *store.FullError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &ambiguous):
		than := ""
		if ambiguous.More {
			than = "more than "
		}
		p := problem("ambiguous", "%q names %s%d machines.", clip(ambiguous.Name), than, len(ambiguous.Candidates))
		for _, c := range ambiguous.Candidates {
			if len(p.Candidates) == maxDiagnostics {
				break
			}
			p.Candidates = append(p.Candidates, c.ID.String())
		}
		return p
	case errors.As(err, &full):
		return problem("full", "The catalog's filesystem has no room left.")
	case errors.Is(err, fs.ErrNotExist):
		return problem("not-found", "The catalog has nothing of that name.")
	case errors.Is(err, context.DeadlineExceeded):
		return problem("busy", "The answer took too long.")
	}
	return problem("internal", "The controller's log has the cause under this request's id.")
}

// refuse answers with a problem, unless something was sent already.
func (s *Server) refuse(x *exchange, w *counter, err error) {
	log := s.cfg.Log.With("request", x.id, "route", x.route.id)
	_, explained := errors.AsType[*failure](err)
	if errors.Is(err, errGone) || x.gone.Err() != nil && !explained {
		log.Debug("client went away", "error", err)
		return
	}
	f := explain(err)
	if f.Status >= http.StatusInternalServerError {
		log.Error("request failed", "error", err, "path", x.URL.Path)
	}
	if w.status != 0 {
		return
	}
	p := f.Problem
	p.Instance = x.id.URN()
	if p.Status == http.StatusServiceUnavailable {
		x.Header().Set("Retry-After", "5")
	}
	raw, err := encode(p)
	if err != nil {
		log.Error("writing a problem", "error", err)
		return
	}
	h := x.Header()
	h.Del("ETag")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", mediaProblem)
	x.WriteHeader(p.Status)
	if x.Method != http.MethodHead {
		if _, err := x.Write(raw); err != nil {
			log.Debug("client went away", "error", err)
		}
	}
}

// parseQuery reads the parameters of a URL; unlike url.ParseQuery's users often
// do, it does not go on after an error.
func parseQuery(raw string) (url.Values, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, problem("invalid-parameter", "The query of the URL is not encoded as it should be: %v.", err)
	}
	return values, nil
}

// problemRoute shows what a type of problem means.
func (s *Server) problemRoute() route {
	return route{
		method: http.MethodGet, path: problemPath + "{problem}", id: "getProblem", tag: "meta", need: resource.RolePublic,
		summary: "What a type of problem means", reply: resource.ProblemType{}, etag: true,
		params: []param{{name: "problem", in: "path", summary: "last part of a problem's type", example: "invalid-filter"}},
		serve: func(x *exchange) error {
			for _, t := range problemTypes {
				if t.Name == x.PathValue("problem") {
					return x.send(t)
				}
			}
			return problem("not-found", "There is no problem of that name.")
		},
	}
}

// unknown answers for every path that no route has.
func (s *Server) unknown() route {
	return route{id: "unknown", raw: true, serve: func(x *exchange) error {
		var allow []string
		for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			probe := &http.Request{Method: m, URL: x.URL, Host: x.Host}
			if _, pattern := s.mux.Handler(probe); pattern != "/" && pattern != "" {
				allow = append(allow, m)
			}
		}
		if len(allow) > 0 {
			x.Header().Set("Allow", strings.Join(allow, ", "))
			return problem("method-not-allowed", "%s is served for %s only.", clip(x.URL.Path), strings.Join(allow, ", "))
		}
		return problem("not-found", "Nothing is served at %s. /v1/openapi.json lists what is.", clip(x.URL.Path))
	}}
}

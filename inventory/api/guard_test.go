package api_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
)

// access is the role that each route needs, written down a second time: a route
// that is added, or whose role changes, has to be thought of here too.
var access = map[string]resource.Role{
	"listMachines": "reader", "countMachines": "reader", "getMachine": "reader", "forgetMachine": "admin", "changeTags": "operator", "changeFacts": "operator",
	"setPower": "operator", "cancelRun": "operator", "reprovisionMachine": "admin", "listOperations": "reader", "getOperation": "reader",
	"getFacts": "reader", "getSourceFacts": "reader", "listHistory": "reader", "getDrift": "reader", "acceptDrift": "operator", "getTimeline": "reader",
	"listLeases": "reader", "listImages": "reader", "getImage": "reader",
	"listReactions": "reader", "getReaction": "reader",
	"listRuns": "reader", "getRun": "reader", "listSteps": "reader", "listEvents": "reader",
	"watchEvents": "reader", "watchMachines": "reader",
	"getAnsibleInventory": "reader", "listTargets": "reader", "getMetrics": "reader",
	"listTokens": "admin", "createToken": "admin", "revokeToken": "admin", "listAudit": "admin",
	"listWebhooks": "admin", "createWebhook": "admin", "deleteWebhook": "admin",
	"getSession": "", "signIn": "", "signOut": "", "getHealth": "", "getReadiness": "", "getProblem": "", "getOpenAPI": "", "getFactsSchema": "",
}

// TestEveryRouteIsClosedToEveryLesserRole walks all routes with no token, a bad
// one, an expired one, a revoked one and one of each role, without and with the
// trust in loopback.
func TestEveryRouteIsClosedToEveryLesserRole(t *testing.T) {
	now := time.Now()
	s := open(t, func(c *api.Config) {
		c.Anonymous = resource.RolePublic
		c.Now = func() time.Time { return now }
	})
	s.fill()
	doc := s.description()
	expired, err := api.IssueToken(t.Context(), s.catalog, now.Add(-2*time.Hour), "", "expired", resource.RoleAdmin, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	revoked, err := api.IssueToken(t.Context(), s.catalog, now, "", "revoked", resource.RoleAdmin, time.Hour)
	if err == nil {
		err = s.catalog.RevokeToken(t.Context(), revoked.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	unsigned := s.bearers[resource.RoleAdmin][:len(s.bearers[resource.RoleAdmin])-4] + "AAAA"
	bearers := map[string]string{
		"no token": "", "a token of nobody": "edge_aaaaaaaaaaaaaaaa_" + strings.Repeat("A", 43), "a token with another secret": unsigned,
		"an expired token": expired.Bearer, "a revoked token": revoked.Bearer, "no token's form": "admin",
	}
	for role, bearer := range s.bearers {
		bearers[string(role)] = bearer
	}
	walked := 0
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			need, known := access[op.OperationID]
			if !known {
				t.Errorf("%s %s (%s) is not in the table of this test: say who may do that", method, path, op.OperationID)
				continue
			}
			walked++
			for who, bearer := range bearers {
				role := resource.Role(who)
				if _, isRole := s.bearers[role]; !isRole {
					role = resource.RolePublic
				}
				got := s.statusOf(method, s.sample(path), bearer)
				open := got != http.StatusUnauthorized && got != http.StatusForbidden
				if open != role.Allows(need) && !(op.OperationID == "getSession" && got == http.StatusUnauthorized) {
					t.Errorf("%s %s with %s = %d; want it open: %v", method, path, who, got, role.Allows(need))
				}
				if !open && role != resource.RolePublic && got != http.StatusForbidden {
					t.Errorf("%s %s with the role %s = %d; want 403", method, path, who, got)
				}
			}
		}
	}
	if walked < len(access)-1 { // the timeline comes and goes with the dashboard
		t.Errorf("%d routes were walked; want the %d of the table", walked, len(access))
	}
}

// statusOf asks without a body; a stream is left after its header.
func (s *shop) statusOf(method, path, bearer string) int {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), method, s.http.URL+path, nil)
	if err != nil {
		s.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestLoopbackWithoutATokenMayOnlyRead(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	if r := s.get("/v1/machines"); r.status != http.StatusOK {
		t.Errorf("reading over loopback = %d; want 200", r.status)
	}
	refused(t, s.do(call{method: http.MethodDelete, path: "/v1/machines/" + m.ID.String()}), "no-token")
	refused(t, s.get("/v1/tokens"), "no-token")
	refused(t, s.do(call{path: "/v1/machines", header: map[string]string{"Authorization": "Bearer edge_x"}}), "invalid-token")
	refused(t, s.do(call{path: "/v1/machines", header: map[string]string{"Authorization": "Basic YWRtaW46YWRtaW4="}}), "invalid-token")
}

func TestPagesOfOtherSitesAreRefused(t *testing.T) {
	s := open(t, func(c *api.Config) {
		c.Names = []string{"controller.example"}
		c.Dashboard = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the dashboard") })
	})
	at := strings.TrimPrefix(s.http.URL, "http://")
	port := at[strings.LastIndexByte(at, ':'):]
	for name, c := range map[string]struct {
		path   string
		header map[string]string
		want   string // problem; empty: answered
	}{
		"its address":                 {header: map[string]string{"Host": at}},
		"localhost":                   {header: map[string]string{"Host": "localhost" + port}},
		"IPv6":                        {header: map[string]string{"Host": "[::1]" + port}},
		"a name that is declared":     {header: map[string]string{"Host": "Controller.Example" + port}},
		"the same with a dot":         {header: map[string]string{"Host": "controller.example." + port}},
		"a rebound name":              {header: map[string]string{"Host": "evil.example" + port}, want: "wrong-host"},
		"a name that ends like ours":  {header: map[string]string{"Host": "evilcontroller.example" + port}, want: "wrong-host"},
		"a name that begins like one": {header: map[string]string{"Host": "localhost.evil.example"}, want: "wrong-host"},
		"an address in a name":        {header: map[string]string{"Host": "127.0.0.1.evil.example"}, want: "wrong-host"},
		"its own page":                {header: map[string]string{"Origin": "http://" + at, "Sec-Fetch-Site": "same-origin"}},
		"another page":                {header: map[string]string{"Origin": "http://evil.example"}, want: "cross-origin"},
		"another port":                {header: map[string]string{"Origin": "http://127.0.0.1:1"}, want: "cross-origin"},
		"a sandboxed page":            {header: map[string]string{"Origin": "null"}, want: "cross-origin"},
		"an image on another page":    {header: map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, want: "cross-origin"},
		"a page of a sister site":     {header: map[string]string{"Sec-Fetch-Site": "same-site"}, want: "cross-origin"},
		"a link to the API":           {header: map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, want: "cross-origin"},
		"typed into the address bar":  {header: map[string]string{"Sec-Fetch-Site": "none"}},
		"a link to the dashboard":     {path: "/", header: map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}},
		"the dashboard in a frame":    {path: "/", header: map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, want: "cross-origin"},
		"health under another name":   {path: "/healthz", header: map[string]string{"Host": "evil.example"}, want: "wrong-host"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.path == "" {
				c.path = "/v1/machines"
			}
			r := s.do(call{path: c.path, header: c.header})
			if c.want != "" {
				refused(t, r, c.want)
			} else if r.status != http.StatusOK {
				t.Errorf("status = %d, %s; want 200", r.status, r.body)
			}
		})
	}
}

func TestEveryChangeIsAudited(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	tags := "/v1/machines/" + m.ID.String() + "/tags"
	body := resource.TagChange{Set: map[string]string{"a": "b"}}
	s.do(call{method: http.MethodPatch, path: tags, body: body, role: resource.RoleOperator})
	s.do(call{method: http.MethodPatch, path: tags, body: body, role: resource.RoleReader})
	s.do(call{method: http.MethodPatch, path: tags, body: "{", role: resource.RoleOperator})
	s.do(call{method: http.MethodPatch, path: tags, body: body}) // a stranger
	created := read[resource.IssuedToken](t, s.do(call{
		method: http.MethodPost, path: "/v1/tokens", role: resource.RoleAdmin, body: resource.NewToken{Name: "ci", Role: "reader", TTLSeconds: 60},
	}))
	s.do(call{method: http.MethodDelete, path: "/v1/tokens/" + created.ID, role: resource.RoleAdmin})
	s.get("/v1/machines")

	var got []string
	for cursor := ""; ; {
		page := read[resource.Page[resource.AuditEntry]](t, s.do(call{path: "/v1/audit?limit=2&cursor=" + cursor, role: resource.RoleAdmin}))
		for _, e := range page.Items {
			if e.Status == nil || e.FinishedAt == nil || e.Remote != "127.0.0.1" || e.Request == "" || e.Actor == "" {
				t.Errorf("entry %+v; want an actor, a remote address, a request, and how it ended", e)
				continue
			}
			target := e.Target
			switch target {
			case m.ID.String():
				target = "machine"
			case created.ID:
				target = "token"
			}
			got = append(got, fmt.Sprintf("%s by %s on %q: %d", e.Action, e.Role, target, *e.Status))
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	slices.Reverse(got)
	want := []string{
		`changeTags by operator on "machine": 200`, `changeTags by reader on "": 403`, `changeTags by operator on "": 400`,
		`createToken by admin on "token": 201`, `revokeToken by admin on "token": 204`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("audit =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	refused(t, s.do(call{path: "/v1/machines", header: map[string]string{"Authorization": "Bearer " + created.Bearer}}), "invalid-token")
}

func TestWhatCannotBeAuditedIsNotDone(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	if err := s.catalog.Close(); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodPatch, "http://localhost/v1/machines/"+m.ID.String()+"/tags", strings.NewReader(`{"set":{"a":"b"}}`))
	s.server.Handler().ServeHTTP(w, req)
	if w.Code == http.StatusOK {
		t.Errorf("a change without an audit record = %d; want it refused", w.Code)
	}
}

// TestNoAnswerHoldsASecret looks for what is secret in every answer to every role.
// What the product itself records, and the streams, tellsNobody of
// cmd/edge-provision looks at.
func TestNoAnswerHoldsASecret(t *testing.T) {
	s := open(t)
	m := s.fill()
	secrets := []string{"/var/lib/somewhere"}
	for _, bearer := range s.bearers {
		_, secret, _ := strings.Cut(strings.TrimPrefix(bearer, "edge_"), "_")
		secrets = append(secrets, secret)
	}
	if err := s.catalog.Settings().Put(t.Context(), "sealed", []byte("sealed-value")); err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, "sealed-value")
	doc := s.description()
	for path, item := range doc.Paths.Map() {
		if item.Get == nil || strings.HasPrefix(path, "/v1/watch/") {
			continue
		}
		for _, role := range append(resource.Roles(), resource.RolePublic) {
			r := s.do(call{path: s.sample(path), role: role})
			for _, secret := range secrets {
				if strings.Contains(string(r.body), secret) {
					t.Errorf("%s tells %q the secret %q:\n%s", path, role, secret, r.body)
				}
			}
		}
	}
	for name := range doc.Components.Schemas["Step"].Value.Properties {
		if name == "outputs" || name == "inputs" {
			t.Errorf("a step shows its %s, which can be secret", name)
		}
	}
	_ = m
}

func TestSignInGivesACookieThatOtherPagesCannotUse(t *testing.T) {
	s := open(t, func(c *api.Config) { c.Anonymous = resource.RolePublic })
	m := s.machine(1)
	refused(t, s.do(call{method: http.MethodPost, path: "/v1/session", body: resource.SignIn{Token: "edge_x"}}), "invalid-token")
	cookie := s.signIn(resource.RoleOperator)
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" || cookie.Expires.Before(time.Now()) {
		t.Errorf("cookie = %v; want HttpOnly, SameSite=Strict, for all paths, until the token ends", cookie)
	}
	csrf := ""
	with := func(c call, origin string) reply {
		c.header = map[string]string{"Cookie": cookie.Name + "=" + cookie.Value, "X-CSRF-Token": csrf}
		if origin != "" {
			c.header["Origin"] = origin
		}
		return s.do(c)
	}
	session := read[resource.Session](t, with(call{path: "/v1/session"}, ""))
	if session.Role != resource.RoleOperator || session.Anonymous || session.Name != "the operator" {
		t.Errorf("session = %+v; want the operator's", session)
	}
	change := call{method: http.MethodPatch, path: "/v1/machines/" + m.ID.String() + "/tags", body: resource.TagChange{Set: map[string]string{"a": "b"}}}
	refused(t, with(change, s.http.URL), "cross-origin") // it does not know the session's CSRF token
	if csrf = session.CSRF; csrf == "" || strings.Contains(cookie.Value, csrf) {
		t.Fatalf("the session's CSRF token is %q; want one that is no part of the cookie", csrf)
	}
	refused(t, with(change, ""), "cross-origin")
	refused(t, with(change, "http://evil.example"), "cross-origin")
	if r := with(change, s.http.URL); r.status != http.StatusOK {
		t.Errorf("a change from our own page = %d, %s; want 200", r.status, r.body)
	}
	csrf = strings.Repeat("0", len(csrf))
	refused(t, with(change, s.http.URL), "cross-origin")
	if direct := read[resource.Session](t, s.do(call{path: "/v1/session", role: resource.RoleOperator})); direct.CSRF != "" {
		t.Errorf("a session without the cookie = %+v; want no CSRF token", direct)
	}
	out := with(call{method: http.MethodDelete, path: "/v1/session"}, s.http.URL)
	if gone, err := http.ParseSetCookie(out.header.Get("Set-Cookie")); err != nil || gone.MaxAge >= 0 || gone.Value != "" {
		t.Errorf("signing out sets %v, %v; want the cookie gone", gone, err)
	}
}

// TestABrowserWhoseTokenEndedIsLikeOneWithoutAToken is about cookies that are not
// valid any more, which browsers go on sending.
func TestABrowserWhoseTokenEndedIsLikeOneWithoutAToken(t *testing.T) {
	unknown := "edge_aaaaaaaaaaaaaaaa_" + strings.Repeat("A", 43)
	tags := func(s *shop) call {
		return call{method: http.MethodPatch, path: "/v1/machines/" + s.machine(1).ID.String() + "/tags", body: resource.TagChange{Set: map[string]string{"a": "b"}}}
	}
	reads := func(path string) func(*shop) call { return func(*shop) call { return call{path: path} } }
	for name, c := range map[string]struct {
		closed  bool   // nobody may read without a token
		cookie  string // empty: of an operator's token that was revoked
		asks    func(*shop) call
		header  map[string]string
		noCSRF  bool   // the page does not know what the session's changes need
		want    string // problem; empty: answered
		forgets bool   // the browser is told to forget the cookie
	}{
		"reads where everybody may":         {asks: reads("/v1/machines"), forgets: true},
		"of nobody reads":                   {cookie: unknown, asks: reads("/v1/machines"), forgets: true},
		"of no token's form reads":          {cookie: "admin", asks: reads("/v1/machines"), forgets: true},
		"learns that nobody is signed in":   {asks: reads("/v1/session"), forgets: true},
		"learns so where a token is needed": {closed: true, asks: reads("/v1/session"), forgets: true},
		"reads nothing where a token is":    {closed: true, asks: reads("/v1/machines"), want: "invalid-token", forgets: true},
		"is no admin":                       {asks: reads("/v1/tokens"), want: "invalid-token", forgets: true},
		"is not looked at where all may":    {closed: true, asks: reads("/healthz")},
		"changes nothing":                   {asks: tags, want: "invalid-token", forgets: true},
		"changes nothing for another page":  {asks: tags, noCSRF: true, want: "cross-origin"},
		"does not excuse a bad header":      {asks: reads("/v1/machines"), header: map[string]string{"Authorization": "Bearer " + unknown}, want: "invalid-token"},
		"does not excuse another scheme":    {asks: reads("/v1/machines"), header: map[string]string{"Authorization": "Basic eDp4"}, want: "invalid-token"},
	} {
		t.Run("a cookie "+name, func(t *testing.T) {
			s := open(t, func(cfg *api.Config) {
				if c.closed {
					cfg.Anonymous = resource.RolePublic
				}
			})
			cookie := s.signIn(resource.RoleOperator)
			header := map[string]string{"Origin": s.http.URL, "Cookie": cookie.Name + "=" + cookie.Value}
			session := read[resource.Session](t, s.do(call{path: "/v1/session", header: header}))
			if !c.noCSRF {
				header["X-CSRF-Token"] = session.CSRF
			}
			if err := s.catalog.RevokeToken(t.Context(), session.ID); err != nil {
				t.Fatal(err)
			}
			if c.cookie != "" {
				header["Cookie"] = cookie.Name + "=" + c.cookie
			}
			maps.Copy(header, c.header)
			asked := c.asks(s)
			asked.header = header
			r := s.do(asked)
			if c.want != "" {
				refused(t, r, c.want)
			} else if r.status != http.StatusOK {
				t.Errorf("status = %d; want 200", r.status)
			}
			gone, err := http.ParseSetCookie(r.header.Get("Set-Cookie"))
			if forgets := err == nil && gone.Name == cookie.Name && gone.MaxAge < 0 && gone.Path == "/" && gone.HttpOnly; forgets != c.forgets {
				t.Errorf("Set-Cookie = %q; want the cookie forgotten: %v", r.header.Get("Set-Cookie"), c.forgets)
			}
			entries, err := s.catalog.AuditPage(t.Context(), "", 0, 10)
			if err != nil || len(entries) != 1 || entries[0].Action != "signIn" {
				t.Errorf("audit = %+v, %v; want the sign-in alone", entries, err)
			}
		})
	}
}

func TestWhoseTokenEndedIsShownAsNobody(t *testing.T) {
	for _, anonymous := range []resource.Role{resource.RoleReader, resource.RolePublic} {
		s := open(t, func(c *api.Config) { c.Anonymous = anonymous })
		cookie := s.signIn(resource.RoleOperator)
		r := s.do(call{path: "/v1/session", header: map[string]string{"Cookie": cookie.Name + "=edge_x"}})
		if got := read[resource.Session](t, r); got != (resource.Session{Role: anonymous, Anonymous: true}) {
			t.Errorf("session = %+v; want nobody's, with the role %q", got, anonymous)
		}
	}
}

// TestControllersOfOneHostLeaveEachOthersCookiesAlone has one browser signed in to
// two: it sends a host's cookies to each of its ports.
func TestControllersOfOneHostLeaveEachOthersCookiesAlone(t *testing.T) {
	one, other := open(t), open(t)
	a, b := one.signIn(resource.RoleOperator), other.signIn(resource.RoleAdmin)
	header := map[string]string{"Cookie": a.Name + "=" + a.Value + "; " + b.Name + "=" + b.Value}
	for s, role := range map[*shop]resource.Role{one: resource.RoleOperator, other: resource.RoleAdmin} {
		r := s.do(call{path: "/v1/session", header: header})
		if got := read[resource.Session](t, r); got.Role != role || r.header.Get("Set-Cookie") != "" {
			t.Errorf("session = %+v, Set-Cookie = %q; want the role %s, and no cookie touched", got, r.header.Get("Set-Cookie"), role)
		}
	}
}

// signIn is the dashboard's cookie of somebody with a role.
func (s *shop) signIn(role resource.Role) *http.Cookie {
	s.Helper()
	r := s.do(call{method: http.MethodPost, path: "/v1/session", body: resource.SignIn{Token: s.bearers[role]}})
	cookie, err := http.ParseSetCookie(r.header.Get("Set-Cookie"))
	if err != nil || r.status != http.StatusNoContent {
		s.Fatalf("signing in = %d, %v; want 204 and a cookie", r.status, err)
	}
	return cookie
}

func TestTokensAreListedWithoutTheirSecretsAndNoteTheirUse(t *testing.T) {
	s := open(t)
	s.do(call{path: "/v1/machines", role: resource.RoleReader})
	used := 0
	list := read[resource.Page[resource.Token]](t, s.do(call{path: "/v1/tokens", role: resource.RoleAdmin}))
	for _, token := range list.Items {
		if token.LastUsedAt != nil {
			used++
		}
	}
	if len(list.Items) != 3 || used != 2 {
		t.Errorf("tokens = %+v; want three, of which two were used", list.Items)
	}
	for name, body := range map[string]any{
		"no name": resource.NewToken{Role: "reader", TTLSeconds: 60}, "no role": resource.NewToken{Name: "x", TTLSeconds: 60},
		"an unknown role": resource.NewToken{Name: "x", Role: "root", TTLSeconds: 60}, "a life without end": resource.NewToken{Name: "x", Role: "reader", TTLSeconds: 1 << 40},
		"a life that ended": resource.NewToken{Name: "x", Role: "reader", TTLSeconds: -1},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, s.do(call{method: http.MethodPost, path: "/v1/tokens", role: resource.RoleAdmin, body: body}), "invalid-body")
		})
	}
}

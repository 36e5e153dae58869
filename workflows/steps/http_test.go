package steps

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// httpInputs fills in null for what is not given.
func httpInputs(given map[string]cty.Value) cty.Value {
	all := map[string]cty.Value{
		"url": cty.NullVal(cty.String), "method": cty.NullVal(cty.String), "headers": cty.NullVal(cty.Map(cty.String)), "body": cty.NullVal(cty.String),
		"status": cty.NullVal(cty.List(cty.Number)), "ca": cty.NullVal(cty.String), "check": cty.NullVal(cty.String), "triggers": cty.NullVal(cty.Map(cty.String)),
	}
	for k, v := range given {
		all[k] = v
	}
	return cty.ObjectVal(all)
}

func TestHTTPStepSendsOnceAndWhatWasDeclared(t *testing.T) {
	var got []string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, fmt.Sprintf("%s %s %s %s", r.Method, r.URL, r.Header.Get("X-Token"), body))
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, "made")
	}))
	defer server.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	inputs := httpInputs(map[string]cty.Value{
		"url": cty.StringVal(server.URL + "/things?x=1"), "method": cty.StringVal("POST"), "body": cty.StringVal("{}"), "ca": cty.StringVal(ca),
		"headers": cty.MapVal(map[string]cty.Value{"X-Token": cty.StringVal("t")}),
	})
	step, err := newHTTP(inputs, Env{Inputs: "digest"})
	if err != nil {
		t.Fatal(err)
	}
	if f, err := step.Inspect(t.Context()); err != nil || f.Presence != workflows.Absent {
		t.Errorf("Inspect of what never ran = %+v, %v; want absent", f, err)
	}
	out, err := step.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0] != "POST /things?x=1 t {}" || out.GetAttr("body").AsString() != "made" {
		t.Errorf("the server got %q and the output is %#v", got, out)
	}
	if err := step.Verify(t.Context()); err != nil {
		t.Errorf("Verify = %v", err)
	}
	step, err = newHTTP(inputs, Env{Inputs: "digest", Applied: "digest"})
	if err != nil {
		t.Fatal(err)
	}
	if f, err := step.Inspect(t.Context()); err != nil || f.Presence != workflows.Present {
		t.Errorf("Inspect of what ran with these inputs = %+v, %v; want present", f, err)
	}
	without, err := newHTTP(httpInputs(map[string]cty.Value{"url": cty.StringVal(server.URL)}), Env{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := without.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Do without the CA = %v; want the certificate refused", err)
	}
}

func TestHTTPStepWithACheck(t *testing.T) {
	status, sent := http.StatusNotFound, 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/check" {
			w.WriteHeader(status)
			return
		}
		sent++
	}))
	defer server.Close()
	step, err := newHTTP(httpInputs(map[string]cty.Value{"url": cty.StringVal(server.URL), "check": cty.StringVal(server.URL + "/check?token=s3cret")}), Env{Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		status, sent int
		fails        bool
	}{{http.StatusServiceUnavailable, 0, true}, {http.StatusNoContent, 0, false}, {http.StatusNotFound, 1, false}} {
		status = test.status
		out, err := step.Do(t.Context())
		if (err != nil) != test.fails || sent != test.sent {
			t.Errorf("Do with a check that answers %d = %v and sent %d requests; want an error: %v, and %d", status, err, sent, test.fails, test.sent)
		}
		if err == nil && out.GetAttr("body").IsNull() != (test.sent == 0) {
			t.Errorf("Do with a check that answers %d gives %#v; want no answer where nothing was sent", status, out)
		}
	}
	for _, test := range []struct {
		status int
		want   workflows.Presence
	}{
		{http.StatusNotFound, workflows.Absent},
		{http.StatusNoContent, workflows.Present},
		{http.StatusServiceUnavailable, workflows.Unreachable},
		{http.StatusTooManyRequests, workflows.Unreachable},
	} {
		status = test.status
		f, err := step.Inspect(t.Context())
		if err != nil || f.Presence != test.want || strings.Contains(fmt.Sprint(f), "s3cret") {
			t.Errorf("Inspect with a check that answers %d = %+v, %v; want %v", status, f, err, test.want)
		}
	}
	status = http.StatusNotFound
	if err := step.Verify(t.Context()); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("Verify while the check disagrees = %v; want an error", err)
	}
	server.Close()
	if f, err := step.Inspect(t.Context()); err != nil || f.Presence != workflows.Unreachable {
		t.Errorf("Inspect of a server that is gone = %+v, %v; want unreachable", f, err)
	}
}

func TestHTTPStepSaysWhatWasAnswered(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "/elsewhere":
			t.Error("the redirection was followed")
		case "/busy":
			http.Error(w, "come back later", http.StatusServiceUnavailable)
		case "/large":
			_, _ = w.Write(make([]byte, maxBodyBytes+1))
		default:
			http.Error(w, "no such tenant", http.StatusForbidden)
		}
	}))
	defer server.Close()
	for _, test := range []struct {
		name, path string
		more       map[string]cty.Value
		want       string // in the error; "" for none
		final      bool
	}{
		{"refused", "/x?token=s3cret", nil, "answered 403 Forbidden: no such tenant", true},
		{"refused, sensitive", "/x", map[string]cty.Value{"body": cty.StringVal("p").Mark(site.Sensitive)}, "its answer is not shown", true},
		{"expected", "/x", map[string]cty.Value{"status": cty.ListVal([]cty.Value{cty.NumberIntVal(403)})}, "", false},
		{"busy", "/busy", nil, "answered 503", false},
		{"redirected", "/redirect", nil, "answered 302 Found", false},
		{"large", "/large", nil, "more than", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			given := map[string]cty.Value{"url": cty.StringVal(server.URL + test.path)}
			for k, v := range test.more {
				given[k] = v
			}
			step, err := newHTTP(httpInputs(given), Env{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = step.Do(t.Context())
			if test.want == "" {
				if err != nil {
					t.Errorf("Do = %v; want no error", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret") || workflows.Final(err) != test.final {
				t.Errorf("Do = %v (final %v); want %q, final %v, and no secret", err, workflows.Final(err), test.want, test.final)
			}
		})
	}
}

func TestHTTPStepRefusesWhatIsNoRequest(t *testing.T) {
	for name, test := range map[string]struct {
		given map[string]cty.Value
		want  string
	}{
		"no URL":         {map[string]cty.Value{"url": cty.StringVal("nonsense")}, "Invalid URL"},
		"file":           {map[string]cty.Value{"url": cty.StringVal("file:///etc/passwd")}, "Invalid URL"},
		"password":       {map[string]cty.Value{"url": cty.StringVal("https://u:s3cret@h/")}, "Invalid URL"},
		"check":          {map[string]cty.Value{"url": cty.StringVal("https://h/"), "check": cty.StringVal("h")}, "Invalid URL"},
		"method":         {map[string]cty.Value{"url": cty.StringVal("https://h/"), "method": cty.StringVal("get")}, "Invalid method"},
		"certificate":    {map[string]cty.Value{"url": cty.StringVal("https://h/"), "ca": cty.StringVal("x")}, "Invalid certificate"},
		"status":         {map[string]cty.Value{"url": cty.StringVal("https://h/"), "status": cty.ListVal([]cty.Value{cty.NumberFloatVal(200.5)})}, "Invalid status"},
		"another status": {map[string]cty.Value{"url": cty.StringVal("https://h/"), "status": cty.ListVal([]cty.Value{cty.NumberIntVal(1000)})}, "Invalid status"},
	} {
		diags := checkHTTP(httpInputs(test.given), nil)
		if !diags.HasErrors() || diags[0].Summary != test.want || strings.Contains(diags.Error(), "s3cret") {
			t.Errorf("%s: checkHTTP = %v; want %s", name, diags, test.want)
		}
	}
	if diags := checkHTTP(httpInputs(map[string]cty.Value{"url": cty.StringVal("https://h/x")}), nil); diags.HasErrors() {
		t.Errorf("checkHTTP of a good request = %v", diags)
	}
}

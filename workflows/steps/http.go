package steps

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// httpType sends a request from the controller. Without `check` it is an action:
// it is sent once for each digest of its inputs and triggers.
var httpType = Type{
	Name: "http",
	Shape: site.StepType{
		Spec: hcldec.ObjectSpec{
			"url":      attribute("url", cty.String, true),
			"method":   attribute("method", cty.String, false),
			"headers":  attribute("headers", cty.Map(cty.String), false),
			"body":     attribute("body", cty.String, false),
			"status":   attribute("status", cty.List(cty.Number), false),
			"ca":       attribute("ca", cty.String, false),
			"check":    attribute("check", cty.String, false),
			"triggers": attribute("triggers", cty.Map(cty.String), false),
		},
		Outputs: map[string]cty.Type{"status": cty.Number, "body": cty.String},
		Check:   checkHTTP,
	},
	New: newHTTP,
}

const (
	// httpBound is how long one request may take; the step's timeout bounds all
	// of its attempts.
	httpBound = time.Minute
	// maxBodyBytes bounds the answer that is kept as an output.
	maxBodyBytes = 1 << 20
	// maxShownBody bounds what an error repeats of an answer.
	maxShownBody = 300
)

var httpMethods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

func checkHTTP(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
	var diags hcl.Diagnostics
	known := func(name string) (string, bool) {
		v, _ := inputs.GetAttr(name).Unmark()
		if !v.IsKnown() || v.IsNull() {
			return "", false
		}
		return v.AsString(), true
	}
	for _, name := range []string{"url", "check"} {
		if s, ok := known(name); ok {
			if err := webURL(s); err != nil {
				diags = append(diags, mistake(ranges, name, "Invalid URL", upper(err.Error())+"."))
			}
		}
	}
	if m, ok := known("method"); ok && !slices.Contains(httpMethods, m) {
		diags = append(diags, mistake(ranges, "method", "Invalid method", fmt.Sprintf("%q is none of %s.", m, strings.Join(httpMethods, ", "))))
	}
	if ca, ok := known("ca"); ok && !x509.NewCertPool().AppendCertsFromPEM([]byte(ca)) {
		diags = append(diags, mistake(ranges, "ca", "Invalid certificate", "There is no certificate in it; it must be in PEM."))
	}
	status, _ := inputs.GetAttr("status").UnmarkDeep()
	if status.IsWhollyKnown() && !status.IsNull() {
		for _, e := range status.AsValueSlice() {
			if n, exact := e.AsBigFloat().Int64(); exact != 0 || n < 100 || n > 599 {
				diags = append(diags, mistake(ranges, "status", "Invalid status", fmt.Sprintf("%s is no HTTP status.", e.AsBigFloat().Text('g', 10))))
			}
		}
	}
	return diags
}

// webURL says what keeps s from being asked for. It does not repeat s, which may
// hold a token.
func webURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("it is no URL")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return errors.New("it is no http or https URL with a host")
	case u.User != nil:
		return errors.New("it has a user in it; put credentials into headers")
	}
	return nil
}

// httpStep is the inputs of one http step.
type httpStep struct {
	env         Env
	url, method string
	headers     map[string]string
	body        string
	status      []int64
	check       string
	sensitive   bool
	client      *http.Client
}

func newHTTP(inputs cty.Value, env Env) (Step, error) {
	s := &httpStep{
		env: env, url: text(inputs, "url"), method: text(inputs, "method"), headers: textMap(inputs, "headers"), body: text(inputs, "body"),
		check: text(inputs, "check"), sensitive: site.IsSensitive(inputs),
	}
	if s.method == "" {
		s.method = http.MethodGet
	}
	status, _ := inputs.GetAttr("status").UnmarkDeep()
	if !status.IsNull() {
		for _, e := range status.AsValueSlice() {
			n, _ := e.AsBigFloat().Int64()
			s.status = append(s.status, n)
		}
	}
	for _, u := range []string{s.url, s.check} {
		if u == "" {
			continue
		}
		if err := webURL(u); err != nil {
			return nil, err
		}
	}
	t := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}
	if ca := text(inputs, "ca"); ca != "" {
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM([]byte(ca)) {
			return nil, errors.New("ca: there is no certificate in it; it must be in PEM")
		}
	}
	// A redirection is an answer like any other: credentials go to whom they
	// were declared for.
	s.client = &http.Client{Transport: t, Timeout: httpBound, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return s, nil
}

// send makes one request and reads the answer.
func (s *httpStep) send(ctx context.Context, method, address, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	if err != nil {
		return 0, "", workflows.GiveUp(errors.New("it is no request that can be sent: the URL or the method is malformed"))
	}
	for k, v := range s.headers {
		req.Header.Set(k, v)
		if http.CanonicalHeaderKey(k) == "Host" {
			req.Host = v
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		// net/http puts the whole URL before its errors.
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return 0, "", fmt.Errorf("%s %s: %w", method, artifact.Redact(address), err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxBodyBytes+1))
	if err != nil {
		return 0, "", fmt.Errorf("%s %s: reading the answer: %w", method, artifact.Redact(address), err)
	}
	if len(content) > maxBodyBytes {
		return 0, "", workflows.GiveUp(fmt.Errorf("%s %s: the answer has more than %d bytes", method, artifact.Redact(address), maxBodyBytes))
	}
	return resp.StatusCode, strings.ToValidUTF8(string(content), "�"), nil
}

func (s *httpStep) expected(status int) bool {
	if len(s.status) == 0 {
		return status/100 == 2
	}
	return slices.Contains(s.status, int64(status))
}

// Inspect implements Step. A check says with 2xx that there is nothing to do.
func (s *httpStep) Inspect(ctx context.Context) (Finding, error) {
	if s.check == "" {
		return once(s.env), nil
	}
	status, _, err := s.send(ctx, http.MethodGet, s.check, "")
	switch {
	case err != nil:
		return Finding{Presence: workflows.Unreachable, Detail: err.Error()}, nil
	case status == http.StatusTooManyRequests || status >= 500:
		// That the other side is in trouble does not tell what is there.
		return Finding{Presence: workflows.Unreachable, Detail: fmt.Sprintf("GET %s: it answers %d %s", artifact.Redact(s.check), status, http.StatusText(status))}, nil
	case status/100 == 2:
		return Finding{Presence: workflows.Present}, nil
	}
	return Finding{Presence: workflows.Absent, Changes: []string{fmt.Sprintf("the check answers %d %s", status, http.StatusText(status))}}, nil
}

// Do implements Step. What the check finds done is not sent again: the run that
// sent it may have been cut off before it could say so.
func (s *httpStep) Do(ctx context.Context) (cty.Value, error) {
	if s.check != "" {
		f, err := s.Inspect(ctx)
		switch {
		case err != nil:
			return cty.NilVal, err
		case f.Presence == workflows.Unreachable:
			return cty.NilVal, errors.New(f.Detail)
		case f.Presence == workflows.Present:
			s.env.Say("its check finds that there is nothing to do")
			return cty.ObjectVal(map[string]cty.Value{"status": cty.NullVal(cty.Number), "body": cty.NullVal(cty.String)}), nil
		}
	}
	status, body, err := s.send(ctx, s.method, s.url, s.body)
	if err != nil {
		return cty.NilVal, err
	}
	if !s.expected(status) {
		shown := strings.Join(strings.Fields(body), " ")
		if len(shown) > maxShownBody {
			shown = strings.ToValidUTF8(shown[:maxShownBody], "") + "…"
		}
		if s.sensitive {
			shown = "(its answer is not shown, because the step's inputs are sensitive)"
		}
		err := fmt.Errorf("%s %s answered %d %s: %s", s.method, artifact.Redact(s.url), status, http.StatusText(status), shown)
		if status/100 == 4 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout {
			err = workflows.GiveUp(err)
		}
		return cty.NilVal, err
	}
	return cty.ObjectVal(map[string]cty.Value{"status": cty.NumberIntVal(int64(status)), "body": cty.StringVal(body)}), nil
}

// Verify implements Step: with a check, the check must agree now.
func (s *httpStep) Verify(ctx context.Context) error {
	if s.check == "" {
		return nil
	}
	status, _, err := s.send(ctx, http.MethodGet, s.check, "")
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("the request was answered as expected, but GET %s answers %d %s", artifact.Redact(s.check), status, http.StatusText(status))
	}
	return err
}

// Package client asks an edge-provision controller's API, from Go. The errors of
// its methods are *resource.Problem where the server explains what is wrong.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
)

// Config says which server is asked, and as whom.
type Config struct {
	// URL is the server's, such as https://controller.example:8482.
	URL string
	// Token is sent with each request; empty: none. It is refused over plain
	// HTTP to anything but a loopback address.
	Token string
	// CA is a PEM bundle that the server's certificate must be signed by; empty:
	// the host's own.
	CA []byte
	// Timeout bounds a request that is no watch; 60 s when zero.
	Timeout time.Duration
	// Transport replaces how requests are sent; CA is not used then.
	Transport http.RoundTripper
}

// Client asks one server. It is safe for use by several goroutines.
type Client struct {
	base    *url.URL
	token   string
	timeout time.Duration
	http    *http.Client
}

// maxReplyBytes bounds one answer: a page of 1,000 machines with all their facts
// stays below it.
const maxReplyBytes = 256 << 20

// New makes a client. It does not ask the server anything yet.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q is not the URL of a server; want one such as https://controller:8482", cfg.URL)
	}
	if u.Scheme == "http" && cfg.Token != "" && !loopback(u.Hostname()) {
		return nil, fmt.Errorf("a token is not sent in clear to %s; use https", u.Host)
	}
	transport := cfg.Transport
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		if len(cfg.CA) > 0 {
			pool := x509.NewCertPool()
			if !pool.AppendCertsFromPEM(cfg.CA) {
				return nil, errors.New("the CA file holds no certificate in PEM form")
			}
			own.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		}
		transport = own
	}
	c := &Client{base: u, token: cfg.Token, timeout: cfg.Timeout}
	if c.timeout == 0 {
		c.timeout = time.Minute
	}
	c.http = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a token goes nowhere else
	}
	return c, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// request is one question to the server.
type request struct {
	method string
	path   []string // segments, not escaped
	query  url.Values
	header http.Header
	body   any
}

// get is a request that only reads.
func get(query url.Values, path ...string) request {
	return request{method: http.MethodGet, path: path, query: query}
}

// send asks and returns the answer, whose body the caller closes. An answer that
// is no success comes back as an error.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	segments := make([]string, len(r.path))
	for i, s := range r.path {
		segments[i] = url.PathEscape(s)
	}
	u := *c.base
	u.Path, u.RawPath = "", ""
	target := strings.TrimSuffix(u.String(), "/") + strings.TrimSuffix(c.base.EscapedPath(), "/") + "/" + strings.Join(segments, "/")
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		raw, err := json.Marshal(r.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, err
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unwrap(err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.problem(resp)
}

// unwrap leaves the method and URL out, whose query can be long.
func unwrap(err error) error {
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("no server answers there: %w", err)
	}
	return err
}

// problem is what an answer that is no success says.
func (c *Client) problem(resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && media == "application/problem+json" {
		var p resource.Problem
		if err := json.Unmarshal(raw, &p); err == nil {
			return &p
		}
	}
	return fmt.Errorf("the server answered %s; is it an edge-provision controller?", resp.Status)
}

// do asks and decodes the answer, and returns its ETag.
func (c *Client) do(ctx context.Context, r request, into any) (etag string, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.send(ctx, r)
	if err != nil {
		return "", fmt.Errorf("asking %s: %w", c.base.Host, err)
	}
	defer resp.Body.Close()
	if into == nil {
		return resp.Header.Get("ETag"), nil
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxReplyBytes+1))
	if err == nil && len(raw) > maxReplyBytes {
		err = fmt.Errorf("the answer has more than %d bytes", maxReplyBytes)
	}
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return "", fmt.Errorf("reading the answer of %s: %w", c.base.Host, err)
	}
	return resp.Header.Get("ETag"), nil
}

// pages reads a list to its end, a page at a time.
func pages[T any](ctx context.Context, c *Client, r request) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		query := url.Values{}
		for name, values := range r.query {
			query[name] = values
		}
		for {
			r.query = query
			var page resource.Page[T]
			if _, err := c.do(ctx, r, &page); err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			query.Set("cursor", page.Next)
		}
	}
}

// Collect reads a list to its end.
func Collect[T any](list iter.Seq2[T, error]) ([]T, error) {
	var out []T
	for item, err := range list {
		if err != nil {
			return out, err
		}
		out = append(out, item)
	}
	return out, nil
}

// MachineQuery selects machines.
type MachineQuery struct {
	// Filter is an expression over a machine and its facts; empty: all.
	Filter string
	Site   string
	// Sort is what to order by, with a minus for the greatest first; id when
	// empty.
	Sort string
	// Fields are the paths to be sent; none: all but the facts.
	Fields []string
	// Facts has the merged facts sent too, where no Fields are given.
	Facts bool
	// Limit is how many are asked for at a time; the server's default when zero.
	Limit int
}

func (q MachineQuery) values() url.Values {
	v := url.Values{}
	set(v, "filter", q.Filter)
	set(v, "site", q.Site)
	set(v, "sort", q.Sort)
	fields := q.Fields
	if len(fields) == 0 && q.Facts {
		fields = everyField()
	}
	set(v, "fields", strings.Join(fields, ","))
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// everyField are the fields of a machine, its facts among them.
func everyField() []string {
	out := []string{"facts"}
	for f := range reflect.TypeFor[inventory.Machine]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		out = append(out, name)
	}
	return out
}

func set(v url.Values, name, value string) {
	if value != "" {
		v.Set(name, value)
	}
}

// Machines lists the machines that q selects, over all pages.
func (c *Client) Machines(ctx context.Context, q MachineQuery) iter.Seq2[resource.Machine, error] {
	return pages[resource.Machine](ctx, c, get(q.values(), "v1", "machines"))
}

// MachinePage is one page of Machines; cursor is the Next of the one before.
func (c *Client) MachinePage(ctx context.Context, q MachineQuery, cursor string) (resource.Page[resource.Machine], error) {
	v := q.values()
	set(v, "cursor", cursor)
	var page resource.Page[resource.Machine]
	_, err := c.do(ctx, get(v, "v1", "machines"), &page)
	return page, err
}

// CountMachines counts the machines of all sites.
func (c *Client) CountMachines(ctx context.Context) (resource.MachineCounts, error) {
	var n resource.MachineCounts
	_, err := c.do(ctx, get(nil, "v1", "count", "machines"), &n)
	return n, err
}

// Machine returns the machine of a name, and the ETag that ForgetMachine takes
// when no fields are chosen.
func (c *Client) Machine(ctx context.Context, name string, fields ...string) (m resource.Machine, etag string, err error) {
	v := url.Values{}
	set(v, "fields", strings.Join(fields, ","))
	etag, err = c.do(ctx, get(v, "v1", "machines", name), &m)
	return m, etag, err
}

// ForgetMachine forgets a machine that has not changed since it was read.
func (c *Client) ForgetMachine(ctx context.Context, name, etag string) error {
	_, err := c.do(ctx, request{
		method: http.MethodDelete, path: []string{"v1", "machines", name}, header: http.Header{"If-Match": {etag}},
	}, nil)
	return err
}

// Facts returns the current facts of a machine, merged and by source.
func (c *Client) Facts(ctx context.Context, machine string) (resource.MachineFacts, error) {
	var f resource.MachineFacts
	_, err := c.do(ctx, get(nil, "v1", "machines", machine, "facts"), &f)
	return f, err
}

// ChangeFacts changes what people wrote of a machine's facts, and returns all of
// it.
func (c *Client) ChangeFacts(ctx context.Context, machine string, edit resource.FactEdit) (inventory.Facts, error) {
	var f inventory.Facts
	_, err := c.do(ctx, request{method: http.MethodPatch, path: []string{"v1", "machines", machine, "facts", "manual"}, body: edit}, &f)
	return f, err
}

// History lists the reports of a machine, the newest first; of all sources when
// source is empty.
func (c *Client) History(ctx context.Context, machine string, source inventory.Source) iter.Seq2[resource.Report, error] {
	v := url.Values{}
	set(v, "source", string(source))
	return pages[resource.Report](ctx, c, get(v, "v1", "machines", machine, "history"))
}

// ChangeTags writes tags on a machine and takes others off, and returns the machine.
func (c *Client) ChangeTags(ctx context.Context, machine string, change resource.TagChange) (resource.Machine, error) {
	var m resource.Machine
	_, err := c.do(ctx, request{method: http.MethodPatch, path: []string{"v1", "machines", machine, "tags"}, body: change}, &m)
	return m, err
}

// ReactionQuery selects reactions; zero fields select everything.
type ReactionQuery struct {
	Site    string
	Machine string // named as in a path
	Class   string
	State   inventory.ReactionState
}

// Reactions lists what classes started or will start, the newest first.
func (c *Client) Reactions(ctx context.Context, q ReactionQuery) iter.Seq2[inventory.Reaction, error] {
	v := url.Values{}
	set(v, "site", q.Site)
	set(v, "machine", q.Machine)
	set(v, "class", q.Class)
	set(v, "state", string(q.State))
	return pages[inventory.Reaction](ctx, c, get(v, "v1", "reactions"))
}

// Reaction returns one reaction.
func (c *Client) Reaction(ctx context.Context, id int64) (inventory.Reaction, error) {
	var r inventory.Reaction
	_, err := c.do(ctx, get(nil, "v1", "reactions", strconv.FormatInt(id, 10)), &r)
	return r, err
}

// Leases lists leases, of one network when it is named.
func (c *Client) Leases(ctx context.Context, network string) iter.Seq2[inventory.Lease, error] {
	v := url.Values{}
	set(v, "network", network)
	return pages[inventory.Lease](ctx, c, get(v, "v1", "leases"))
}

// Images lists the images in the controller's store.
func (c *Client) Images(ctx context.Context) iter.Seq2[resource.Image, error] {
	return pages[resource.Image](ctx, c, get(nil, "v1", "images"))
}

// Runs lists runs, the newest first; of all sites when site is empty.
func (c *Client) Runs(ctx context.Context, site string) iter.Seq2[resource.Run, error] {
	v := url.Values{}
	set(v, "site", site)
	return pages[resource.Run](ctx, c, get(v, "v1", "runs"))
}

// Run returns one run, with what its plan does.
func (c *Client) Run(ctx context.Context, id uuid.UUID) (resource.Run, error) {
	var r resource.Run
	_, err := c.do(ctx, get(nil, "v1", "runs", id.String()), &r)
	return r, err
}

// Timeline returns what happened to a machine in its newest 100 attempts to come up.
func (c *Client) Timeline(ctx context.Context, machine string) (resource.MachineTimeline, error) {
	var t resource.MachineTimeline
	_, err := c.do(ctx, get(url.Values{"attempts": {"100"}}, "v1", "machines", machine, "timeline"), &t)
	return t, err
}

// Steps lists the attempts of a run in the order they were started.
func (c *Client) Steps(ctx context.Context, run uuid.UUID) iter.Seq2[resource.Step, error] {
	return pages[resource.Step](ctx, c, get(nil, "v1", "runs", run.String(), "steps"))
}

// EventQuery selects events; zero fields select everything.
type EventQuery struct {
	Machine string
	MAC     inventory.MAC
	Site    string
	Run     string
	Kinds   []inventory.EventKind
	// Newest: the newest first. Since and Until bound the time. Not for a watch.
	Newest       bool
	Since, Until time.Time
}

func (q EventQuery) values() url.Values {
	v := url.Values{}
	set(v, "machine", q.Machine)
	set(v, "site", q.Site)
	set(v, "run", q.Run)
	if !q.MAC.IsZero() {
		v.Set("mac", q.MAC.String())
	}
	kinds := make([]string, len(q.Kinds))
	for i, k := range q.Kinds {
		kinds[i] = string(k)
	}
	set(v, "kind", strings.Join(kinds, ","))
	if q.Newest {
		v.Set("order", "newest")
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if !q.Until.IsZero() {
		v.Set("until", q.Until.Format(time.RFC3339Nano))
	}
	return v
}

// Events lists events in the order they were committed.
func (c *Client) Events(ctx context.Context, q EventQuery) iter.Seq2[inventory.Event, error] {
	return pages[inventory.Event](ctx, c, get(q.values(), "v1", "events"))
}

// Ansible returns the machines that q selects as an inventory of Ansible: what
// --list prints, or with a host what --host prints.
func (c *Client) Ansible(ctx context.Context, q MachineQuery, host string) (json.RawMessage, error) {
	v := url.Values{}
	set(v, "filter", q.Filter)
	set(v, "site", q.Site)
	set(v, "host", host)
	var out json.RawMessage
	_, err := c.do(ctx, get(v, "v1", "ansible", "inventory"), &out)
	return out, err
}

// CreateToken makes an API token; its secret is in the answer and nowhere else.
func (c *Client) CreateToken(ctx context.Context, t resource.NewToken) (resource.IssuedToken, error) {
	var out resource.IssuedToken
	_, err := c.do(ctx, request{method: http.MethodPost, path: []string{"v1", "tokens"}, body: t}, &out)
	return out, err
}

// SetPower begins to change a machine's power: on, off, soft, cycle or reset. key
// is the Idempotency-Key: a request that is repeated with it does nothing twice.
func (c *Client) SetPower(ctx context.Context, machine string, want resource.PowerRequest, key string) (resource.Operation, error) {
	var o resource.Operation
	_, err := c.do(ctx, request{
		method: http.MethodPost, path: []string{"v1", "machines", machine, "power"},
		header: http.Header{"Idempotency-Key": {key}}, body: want,
	}, &o)
	return o, err
}

// Drift tells how the hardware of a machine stands against its snapshot.
func (c *Client) Drift(ctx context.Context, machine string) (resource.Drift, error) {
	var d resource.Drift
	_, err := c.do(ctx, get(nil, "v1", "machines", machine, "drift"), &d)
	return d, err
}

// AcceptDrift begins to accept the hardware of a machine as it is, if digest, which
// Drift gave, still names the difference. key is the Idempotency-Key.
func (c *Client) AcceptDrift(ctx context.Context, machine, digest, key string) (resource.Operation, error) {
	var o resource.Operation
	_, err := c.do(ctx, request{
		method: http.MethodPost, path: []string{"v1", "machines", machine, "actions", "accept-drift"},
		header: http.Header{"Idempotency-Key": {key}}, body: resource.AcceptDrift{Digest: digest},
	}, &o)
	return o, err
}

// Reprovision begins to install a machine anew, which erases its disk; serial is
// the machine's, as consent. key is the Idempotency-Key.
func (c *Client) Reprovision(ctx context.Context, machine, serial, key string) (resource.Operation, error) {
	var o resource.Operation
	_, err := c.do(ctx, request{
		method: http.MethodPost, path: []string{"v1", "machines", machine, "actions", "reprovision"},
		header: http.Header{"Idempotency-Key": {key}}, body: resource.ReprovisionRequest{Serial: serial},
	}, &o)
	return o, err
}

// CancelRun begins to stop a run gracefully. key is the Idempotency-Key.
func (c *Client) CancelRun(ctx context.Context, run uuid.UUID, key string) (resource.Operation, error) {
	var o resource.Operation
	_, err := c.do(ctx, request{
		method: http.MethodPost, path: []string{"v1", "runs", run.String(), "actions", "cancel"},
		header: http.Header{"Idempotency-Key": {key}},
	}, &o)
	return o, err
}

// awaitInterval is how often Await asks.
const awaitInterval = 500 * time.Millisecond

// Await returns an operation as it ended, or ctx's error.
func (c *Client) Await(ctx context.Context, o resource.Operation) (resource.Operation, error) {
	ticker := time.NewTicker(awaitInterval)
	defer ticker.Stop()
	for o.State == resource.OperationRunning {
		select {
		case <-ctx.Done():
			return o, ctx.Err()
		case <-ticker.C:
		}
		if _, err := c.do(ctx, get(nil, "v1", "operations", o.ID.String()), &o); err != nil {
			return o, err
		}
	}
	return o, nil
}

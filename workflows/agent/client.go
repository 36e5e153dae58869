package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// ClientConfig says which controller to talk to.
type ClientConfig struct {
	// URL is the controller's address, such as https://172.22.0.1:8443.
	URL string
	// Pin is the hex SHA-256 of the controller's SubjectPublicKeyInfo. The
	// certificate around the key is not looked at: a machine's clock may be
	// years off, and only this key is trusted.
	Pin string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Client speaks the agent protocol. It is safe for use by several goroutines.
type Client struct {
	base   *url.URL
	pinned *http.Client
	plain  *http.Client
	now    func() time.Time

	mu      sync.Mutex
	bearer  string
	contact time.Time
}

// requestTimeout bounds every request but a long poll, which gets its hold
// time on top.
const requestTimeout = 30 * time.Second

// PinError says that something answered at the controller's address with a key
// that is not the controller's.
type PinError struct{ Got, Want string }

func (e *PinError) Error() string {
	return fmt.Sprintf("the server's public key has SHA-256 %s; want the pinned %s: this is not the controller that booted this machine", e.Got, e.Want)
}

// RefusedError is an answer other than 200.
type RefusedError struct {
	Status int
	Refusal
}

func (e *RefusedError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("the controller answered with status %d", e.Status)
	}
	return fmt.Sprintf("the controller refused (%s): %s", e.Reason, e.Detail)
}

// final reports whether repeating the request in this boot is pointless.
func (e *RefusedError) final() bool {
	switch e.Reason {
	case RefusalToken, RefusalSession, RefusalSuperseded, RefusalVersion:
		return true
	}
	return false
}

// NewClient returns a Client. Nothing is sent yet.
func NewClient(cfg ClientConfig) (*Client, error) {
	base, err := url.Parse(cfg.URL)
	if err != nil || base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("controller address %q: want https://HOST:PORT", cfg.URL)
	}
	pin, err := hex.DecodeString(cfg.Pin)
	if err != nil || len(pin) != sha256.Size {
		return nil, fmt.Errorf("pin %q: want the SHA-256 of the controller's public key, 64 hexadecimal digits", cfg.Pin)
	}
	now := cfg.Now
	if now == nil {
		now = time.Now
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	transport := func(cfg *tls.Config) *http.Transport {
		return &http.Transport{
			DialContext:         dialer.DialContext,
			TLSClientConfig:     cfg,
			TLSHandshakeTimeout: 20 * time.Second,
			MaxIdleConnsPerHost: 8,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
			// HTTP/1.1 only: one stalled connection must not stall the rest.
			TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
		}
	}
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &Client{base: base, now: now, contact: now()}
	c.pinned = &http.Client{CheckRedirect: noRedirect, Transport: transport(&tls.Config{
		MinVersion: tls.VersionTLS13,
		// The pin below replaces the chain and its dates.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errors.New("the server showed no certificate")
			}
			got := sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if subtle.ConstantTimeCompare(got[:], pin) != 1 {
				return &PinError{Got: hex.EncodeToString(got[:]), Want: cfg.Pin}
			}
			return nil
		},
	})}
	c.plain = &http.Client{CheckRedirect: noRedirect, Transport: transport(nil)}
	return c, nil
}

// LastContact is when the controller last answered anything at all.
func (c *Client) LastContact() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.contact
}

// Open exchanges a token for a session, which later requests carry.
func (c *Client) Open(ctx context.Context, req SessionRequest) (SessionReply, error) {
	req.Version = ProtocolVersion
	var reply SessionReply
	if err := c.post(ctx, PathSession, requestTimeout, req, &reply); err != nil {
		return SessionReply{}, fmt.Errorf("opening a session: %w", err)
	}
	c.mu.Lock()
	c.bearer = Bearer(reply.Machine, req.Session)
	c.mu.Unlock()
	return reply, nil
}

// Facts reports the machine's facts.
func (c *Client) Facts(ctx context.Context, facts inventory.Facts) error {
	if err := c.post(ctx, PathFacts, requestTimeout, facts, nil); err != nil {
		return fmt.Errorf("reporting facts: %w", err)
	}
	return nil
}

// Neighbors reports what the machine's ports are connected to, beside its facts.
func (c *Client) Neighbors(ctx context.Context, neighbors []inventory.Neighbor) error {
	if err := c.post(ctx, PathNeighbors, requestTimeout, NeighborsReport{Neighbors: neighbors}, nil); err != nil {
		return fmt.Errorf("reporting neighbors: %w", err)
	}
	return nil
}

// Poll asks what to do; the controller may hold the request for hold.
func (c *Client) Poll(ctx context.Context, running *TaskRef, hold time.Duration) (PollReply, error) {
	var reply PollReply
	req := PollRequest{Running: running, WaitMillis: hold.Milliseconds()}
	if err := c.post(ctx, PathTask, hold+requestTimeout, req, &reply); err != nil {
		return PollReply{}, fmt.Errorf("asking for a task: %w", err)
	}
	return reply, nil
}

// Progress reports where a task stands.
func (c *Client) Progress(ctx context.Context, p Progress) error {
	if err := c.post(ctx, PathProgress, requestTimeout, p, nil); err != nil {
		return fmt.Errorf("reporting progress: %w", err)
	}
	return nil
}

// Result delivers a result. When it returns nil the controller has it on disk.
func (c *Client) Result(ctx context.Context, r Result) error {
	if err := c.post(ctx, PathResult, requestTimeout, r, nil); err != nil {
		return fmt.Errorf("delivering the result of %s: %w", r.Task, err)
	}
	return nil
}

// Log sends log lines; it needs an open session.
func (c *Client) Log(ctx context.Context, lines []LogLine) error {
	c.mu.Lock()
	open := c.bearer != ""
	c.mu.Unlock()
	if !open {
		return errors.New("sending log lines: no session is open yet")
	}
	if err := c.post(ctx, PathLog, requestTimeout, LogRequest{Lines: lines}, nil); err != nil {
		return fmt.Errorf("sending log lines: %w", err)
	}
	return nil
}

// post sends one request and decodes the answer into reply, unless that is nil.
func (c *Client) post(ctx context.Context, path string, timeout time.Duration, body, reply any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath(path).String(), bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	c.mu.Lock()
	if c.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	c.mu.Unlock()
	resp, err := c.pinned.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, MaxReplyBytes+1))
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if len(answer) > MaxReplyBytes {
		return fmt.Errorf("the answer is larger than %d bytes", MaxReplyBytes)
	}
	c.mu.Lock()
	c.contact = c.now()
	c.mu.Unlock()
	if resp.StatusCode != http.StatusOK {
		refused := &RefusedError{Status: resp.StatusCode}
		// A body that is no Refusal leaves the status to speak for itself.
		if json.Unmarshal(answer, &refused.Refusal) != nil {
			refused.Refusal = Refusal{}
		}
		return refused
	}
	if reply == nil {
		return nil
	}
	if err := json.Unmarshal(answer, reply); err != nil {
		return fmt.Errorf("decoding the answer: %w", err)
	}
	return nil
}

// resolve makes an address of an image absolute, and picks the client for it.
// https is held to the pin; plain http is for bulk bytes, whose digests came
// over the session.
func (c *Client) resolve(ref string) (string, *http.Client, error) {
	u, err := c.base.Parse(ref)
	if err != nil {
		return "", nil, fmt.Errorf("address %q: %w", ref, err)
	}
	switch {
	case u.Host == "":
		return "", nil, fmt.Errorf("address %q names no host", ref)
	case u.Scheme == "https":
		return u.String(), c.pinned, nil
	case u.Scheme == "http":
		return u.String(), c.plain, nil
	}
	return "", nil, fmt.Errorf("address %q: want http or https", ref)
}

// Get opens ref for reading; a positive length asks for the range of length
// bytes at offset and accepts nothing else. The caller checks the content.
func (c *Client) Get(ctx context.Context, ref string, offset, length int64) (io.ReadCloser, error) {
	address, client, err := c.resolve(ref)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	want := http.StatusOK
	if length > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
		want = http.StatusPartialContent
	}
	c.mu.Lock()
	if client == c.pinned && c.bearer != "" && strings.EqualFold(req.URL.Host, c.base.Host) {
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	c.mu.Unlock()
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != want {
		resp.Body.Close()
		return nil, &RefusedError{Status: resp.StatusCode}
	}
	return resp.Body, nil
}

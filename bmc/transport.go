package bmc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/stmcginnis/gofish/common"
)

// Bounds of one verb of a Redfish session. A system's document is a few kilobytes; the
// biggest seen (with all OEM extensions) stay under 200 kB.
const (
	maxBodyBytes = 2 << 20 // of one answer
	maxVerbBytes = 8 << 20 // of all answers together
	maxMembers   = 16      // of a collection; each costs a request
)

// maxTextRunes bounds a stranger's text in a message.
const maxTextRunes = 200

// clip makes a stranger's text fit for a message: one line, printable, short.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if r := []rune(s); len(r) > maxTextRunes {
		return string(r[:maxTextRunes]) + "…"
	}
	return s
}

// transport is the HTTP side of one Redfish session. It holds the library to
// the session's context, to the BMC's own address and to the bounds above,
// and notes what the library's errors do not tell.
type transport struct {
	host  string // host:port that every request must go to
	inner *http.Transport

	mu     sync.Mutex
	ctx    context.Context // of the running call, later of the logout
	bytes  int
	fault  *fault // first one
	token  string // of the session; empty when the login gave none
	system systemDocument
	drives []mediaDocument // the virtual media that were read, in that order
}

// newTransport prepares a session with the BMC at e.
func newTransport(ctx context.Context, e endpoint, tlsConfig *tls.Config) *transport {
	return &transport{ctx: ctx, host: e.bracketed() + ":" + fmt.Sprint(e.port), inner: &http.Transport{
		// No proxy from the environment: a BMC is on a local network.
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableKeepAlives:      true,
	}}
}

// client wraps t for the library. Redirects are not followed: the login's body
// has the password.
func (t *transport) client() *http.Client {
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

// begin starts a verb: later requests belong to ctx and have a new budget.
func (t *transport) begin(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ctx, t.bytes = ctx, 0
}

// failed notes the first fault, which is the cause of the others.
func (t *transport) failed(f *fault) *fault {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fault == nil {
		t.fault = f
	}
	return f
}

// noted returns and clears the first fault.
func (t *transport) noted() *fault {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.fault
	t.fault = nil
	return f
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.mu.Lock()
	ctx := t.ctx
	t.mu.Unlock()

	// The library appends links found in answers to the address as text, so
	// a link such as "@elsewhere/" would carry the session token away.
	if req.URL.Scheme != "https" || req.URL.Host != t.host || req.URL.User != nil {
		return nil, t.failed(&fault{kind: faultResponse, err: fmt.Errorf("the BMC sent a link that leads away from it: %s", clip(req.URL.Redacted()))})
	}
	login := req.Method == http.MethodPost && req.Header.Get("X-Auth-Token") == ""
	resp, err := t.inner.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, t.failed(connectFault(err))
	}
	body, err := t.readBody(resp.Body)
	if err != nil {
		return nil, t.failed(classifyRead(err))
	}
	if req.Method == http.MethodGet && resp.StatusCode < 300 && req.Context().Value(own{}) == nil {
		if f := checkCollection(body); f != nil {
			return nil, t.failed(f)
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.ContentLength = int64(len(body))
	t.note(req, resp, body, login)
	return resp, nil
}

var errTooLarge = fmt.Errorf("the BMC's answer is larger than %d bytes", maxBodyBytes)

// readBody reads a whole answer within the bounds.
func (t *transport) readBody(r io.ReadCloser) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxBodyBytes+1))
	err = errors.Join(err, r.Close())
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes += len(body)
	if len(body) > maxBodyBytes || t.bytes > maxVerbBytes {
		return nil, errTooLarge
	}
	return body, nil
}

// checkCollection keeps collections from the library that it cannot read
// safely: when the next page of one fails while members of this page fail too,
// gofish v0.20 writes a map from two goroutines, which ends the process. The
// library's own type reads the body here, so that both see the same.
func checkCollection(body []byte) *fault {
	var c common.Collection
	if json.NewDecoder(bytes.NewReader(body)).Decode(&c) != nil {
		return nil
	}
	if c.MembersNextLink != "" || len(c.ItemLinks) > maxMembers {
		return &fault{kind: faultResponse, err: fmt.Errorf("the BMC lists more than %d systems, or in pages; one is expected", maxMembers)}
	}
	return nil
}

// note keeps what an answer means for the session.
func (t *transport) note(req *http.Request, resp *http.Response, body []byte, login bool) {
	said := func(kind faultKind) {
		_ = t.failed(&fault{kind: kind, status: resp.StatusCode, complaints: readComplaints(body), err: fmt.Errorf("%s %s: HTTP %s%s", req.Method, clip(req.URL.Path), clip(resp.Status), redfishMessage(body))})
	}
	switch code := resp.StatusCode; {
	case login && code < 300:
		t.mu.Lock()
		t.token = resp.Header.Get("X-Auth-Token")
		t.mu.Unlock()
	case login && (code == http.StatusUnauthorized || code == http.StatusForbidden || code == http.StatusBadRequest):
		// Some controllers (HPE iLO 4) answer 400 to a wrong password.
		said(faultRefused)
	case code == http.StatusServiceUnavailable, code == http.StatusTooManyRequests, code == http.StatusBadGateway, code == http.StatusGatewayTimeout:
		said(faultBusy)
	case code == http.StatusUnauthorized:
		// The session was ended under us, by its limit or a restart.
		said(faultBusy)
	case code == http.StatusForbidden:
		said(faultPrivilege)
	case code == http.StatusNotFound, code == http.StatusMethodNotAllowed, code == http.StatusNotImplemented:
		said(faultUnsupported)
	case code >= 300:
		said(faultResponse)
	case req.Method == http.MethodGet && req.Context().Value(own{}) == nil:
		t.read(entityTag(resp.Header), body)
	}
}

// read keeps what this package wants to know of the documents that the library
// reads.
func (t *transport) read(etag string, body []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if doc, ok := parseSystem(body); ok {
		t.system, t.system.etag = doc, etag
		return
	}
	var drive mediaDocument
	if json.Unmarshal(body, &drive) == nil && len(drive.MediaTypes) > 0 && drive.ID != "" && len(t.drives) < maxMembers {
		t.drives = append(t.drives, drive)
	}
}

// connectFault classifies an error before an answer.
func connectFault(err error) *fault {
	var pin *pinError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &pin):
		return &fault{kind: faultCertificate, fingerprint: pin.got, err: pin}
	case errors.As(err, &verify):
		f := &fault{kind: faultCertificate, err: verify.Err}
		if len(verify.UnverifiedCertificates) > 0 {
			f.fingerprint = Fingerprint(verify.UnverifiedCertificates[0])
		}
		return f
	}
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		return &fault{kind: faultResponse, err: fmt.Errorf("the port does not speak TLS: %w", err)}
	}
	var alert tls.AlertError
	if errors.As(err, &alert) {
		return &fault{kind: faultUnsupported, err: fmt.Errorf("TLS 1.2 or later could not be agreed on: %w", err)}
	}
	if strings.Contains(err.Error(), "malformed HTTP") {
		return &fault{kind: faultResponse, err: fmt.Errorf("the answer is not HTTP: %s", clip(err.Error()))}
	}
	return &fault{kind: faultUnreachable, err: err}
}

// classifyRead classifies an error within an answer.
func classifyRead(err error) *fault {
	if errors.Is(err, errTooLarge) {
		return &fault{kind: faultResponse, err: err}
	}
	return &fault{kind: faultUnreachable, err: fmt.Errorf("the answer broke off: %w", err)}
}

// Fingerprint is the form in which a certificate is pinned and shown.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// parseFingerprint reads Config.Fingerprint.
func parseFingerprint(s string) ([]byte, error) {
	digits, found := strings.CutPrefix(strings.ToLower(s), "sha256:")
	sum, err := hex.DecodeString(strings.ReplaceAll(digits, ":", ""))
	if !found || err != nil || len(sum) != sha256.Size {
		return nil, fmt.Errorf("fingerprint %q is not %q and 64 hexadecimal digits", clip(s), "sha256:")
	}
	return sum, nil
}

// pinError says that another certificate than the pinned one was shown.
type pinError struct{ got string }

func (e *pinError) Error() string {
	return "the certificate is " + e.got + ", which is not the pinned one"
}

// tlsConfig is how the BMC's certificate is verified.
func tlsConfig(c Config) (*tls.Config, error) {
	// The library opens a connection for each request; resuming spares a slow
	// controller most of the public key work. VerifyConnection runs for
	// resumed sessions too.
	t := &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	if len(c.CA) > 0 {
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(c.CA) {
			return nil, fmt.Errorf("the CA has no certificate in PEM form")
		}
	}
	if c.Fingerprint == "" {
		return t, nil
	}
	want, err := parseFingerprint(c.Fingerprint)
	if err != nil {
		return nil, err
	}
	// The chain is not verified because the pin is stronger: it fixes the
	// very certificate. VerifyConnection runs in every handshake.
	t.InsecureSkipVerify = true
	t.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return &pinError{got: "missing"}
		}
		got := sha256.Sum256(state.PeerCertificates[0].Raw)
		if subtle.ConstantTimeCompare(got[:], want) != 1 {
			return &pinError{got: Fingerprint(state.PeerCertificates[0])}
		}
		return nil
	}
	return t, nil
}

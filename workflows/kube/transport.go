package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxResponseBytes bounds one answer; etcd itself keeps no object above
	// 1.5 MiB, so that only a list comes near.
	maxResponseBytes = 64 << 20
	// maxRetryAfter bounds what a server can make us wait between two attempts.
	maxRetryAfter = 30 * time.Second
	firstPause    = 250 * time.Millisecond
	lastPause     = 8 * time.Second
)

// transport sends each request until it is answered or its budget is spent.
// Every request of this package can be sent twice: reads, server-side applies,
// and deletions and creations whose second sending fails in a way that is
// looked at.
type transport struct {
	base     http.RoundTripper
	clock    Clock
	timeout  time.Duration
	attempts int
	retryFor time.Duration
	jitter   func() float64
}

func newTransport(base http.RoundTripper, config Config) *transport {
	return &transport{
		base: base, clock: config.Clock, timeout: config.RequestTimeout, attempts: config.Attempts, retryFor: config.RetryFor, jitter: rand.Float64,
	}
}

// errSilent is the cause of an attempt that took too long.
var errSilent = errors.New("no answer in time")

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	began := t.clock.Now()
	for n := 1; ; n++ {
		resp, definite, err := t.attempt(req)
		if req.Context().Err() != nil {
			return nil, context.Cause(req.Context())
		}
		if err == nil && (definite || !transient(resp.StatusCode)) || err != nil && distrusted(err) {
			return resp, hide(err, n)
		}
		pause := t.pause(n, resp)
		if n >= t.attempts || t.clock.Now().Add(pause).Sub(began) > t.retryFor {
			if resp != nil {
				// client-go would begin another round of retries of its own.
				resp.Header.Del("Retry-After")
			}
			return resp, hide(err, n)
		}
		select {
		case <-req.Context().Done():
			return nil, context.Cause(req.Context())
		case <-t.clock.After(pause):
		}
	}
}

// unfit are the words with which the server says that an object does not fit its
// kind at all, such as a list with one key twice or a quantity that is none. It
// says so with status 500 and no reason, as of Kubernetes 1.34.
var unfit = []string{"failed to create typed patch object", "failed to convert new object"}

func saysUnfit(message string) bool {
	return slices.ContainsFunc(unfit, func(words string) bool { return strings.Contains(message, words) })
}

// attempt sends the request once and reads the whole answer, so that an answer
// that is cut off is retried too. An answer is definite when it is about what was
// asked in spite of its status.
func (t *transport) attempt(req *http.Request) (resp *http.Response, definite bool, err error) {
	ctx, cancel := context.WithTimeoutCause(req.Context(), t.timeout, errSilent)
	defer cancel()
	once := req.Clone(ctx)
	if req.Body != nil {
		if req.GetBody == nil {
			return nil, false, errors.New("the request cannot be sent again")
		}
		body, err := req.GetBody()
		if err != nil {
			return nil, false, err
		}
		once.Body = body
	}
	resp, err = t.base.RoundTrip(once)
	if err != nil {
		return nil, false, late(ctx, err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxResponseBytes+1))
	if err != nil {
		return nil, false, late(ctx, err)
	}
	if len(content) > maxResponseBytes {
		return nil, false, fmt.Errorf("the answer has more than %d bytes", maxResponseBytes)
	}
	resp.Body = io.NopCloser(bytes.NewReader(content))
	return resp, transient(resp.StatusCode) && saysUnfit(string(content)), nil
}

func late(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

// transient reports whether a status says nothing about what was asked.
func transient(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// distrusted reports whether the server failed to prove who it is, which no
// repetition mends.
func distrusted(err error) bool {
	var verify *tls.CertificateVerificationError
	return errors.As(err, &verify)
}

// hide keeps the words of err and not its type: client-go repeats some errors
// by their type, after the repetitions here.
func hide(err error, attempts int) error {
	switch {
	case err == nil:
		return nil
	case attempts > 1:
		return fmt.Errorf("after %d attempts: %v", attempts, err)
	}
	return errors.New(err.Error())
}

// pause is how long to wait after failure n.
func (t *transport) pause(n int, resp *http.Response) time.Duration {
	d := min(firstPause<<min(n-1, 10), lastPause)
	d = time.Duration(float64(d) * (0.75 + t.jitter()/2))
	if resp == nil {
		return d
	}
	// RFC 9110, section 10.2.3; the API server gives seconds, never a date.
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		asked := min(time.Duration(min(seconds, 3600))*time.Second, maxRetryAfter)
		d = max(d, asked+time.Duration(float64(firstPause)*t.jitter()))
	}
	return d
}

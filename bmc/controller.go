package bmc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/edge-provision/edge-provision/inventory"
)

// logoutTimeout bounds the logout after a call, which also runs when the
// call's own context has ended.
const logoutTimeout = 5 * time.Second

// session is one logged-in conversation with a BMC. Its methods return a
// *fault for what the BMC did, and must return soon after ctx ends.
type session interface {
	power(ctx context.Context) (PowerState, error)
	setPower(ctx context.Context, a PowerAction) error
	setBoot(ctx context.Context, d BootDevice, o BootOptions) error
	boot(ctx context.Context) (NextBoot, error)
	// media puts an image into the virtual CD drive; empty: takes it out. It returns
	// what it has ejected, also with an error.
	media(ctx context.Context, image string) (ejected []string, err error)
	sensors(ctx context.Context) ([]Sensor, error)
	facts(ctx context.Context) (Reading, error)
	// console returns what joins two streams to the machine's console. That
	// may be called after close, and returns a *fault or its context's error.
	console() (func(ctx context.Context, in io.Reader, out io.Writer) error, error)
	// identity is what the BMC says its machine is; zero when it does not.
	identity() Identity
	// close logs out; it is called exactly once, whatever happened before.
	close(ctx context.Context)
}

// effect is set by a call once it did something that must not be repeated.
type effect struct{ once bool }

// Controller is one BMC. It is safe for use by several goroutines; their
// calls take turns. Use one Controller for a BMC, not one for each task.
type Controller struct {
	config  Config
	deps    Deps
	log     *slog.Logger
	address string
	dial    func(context.Context) (session, error)
	turn    chan struct{} // holds a token while no call runs
	closed  bool          // guarded by turn
	breaker breaker       // guarded by turn
	yield   yield
	digest  string // of the credential, for deps.Refusals
}

// Open checks a configuration and prepares a Controller. It does not use the
// network, so a BMC that is down is found by the first call. The caller must
// Close it.
func Open(c Config, d Deps) (*Controller, error) {
	c = c.withDefaults()
	who := "configuring BMC"
	if c.Machine != "" {
		who += " of " + c.Machine
	}
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", who, err)
	}
	ctl := &Controller{config: c, turn: make(chan struct{}, 1)}
	ctl.turn <- struct{}{}
	ctl.breaker = breaker{after: c.BreakAfter, coolDown: c.CoolDown}
	if d.Now == nil {
		d.Now = time.Now
	}
	ctl.log = d.Log
	if ctl.log == nil {
		ctl.log = slog.New(slog.DiscardHandler)
	}
	if d.Refusals == nil {
		d.Refusals, d.RefusalKey = &memoryRefusals{}, make([]byte, sha256.Size)
	}
	if len(d.RefusalKey) < sha256.Size {
		return nil, fmt.Errorf("%s: the key for remembered refusals has %d bytes; it needs at least %d", who, len(d.RefusalKey), sha256.Size)
	}
	ctl.deps = d
	if c.Driver == DriverNone {
		ctl.dial = func(context.Context) (session, error) { return person{}, nil }
		return ctl, nil
	}
	e, err := parseEndpoint(c.Driver, c.Address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", who, err)
	}
	ctl.address = e.String()
	ctl.digest = refusalDigest(d.RefusalKey, c.Driver, ctl.address, c.Username, c.Password)
	if c.Driver == DriverIPMI {
		ctl.dial, err = ipmiDialer(c, e)
	} else {
		ctl.dial, err = redfishDialer(c, e)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", who, err)
	}
	return ctl, nil
}

// ErrClosed says that a Controller was closed before a call had its turn, so that
// nothing was asked of the BMC.
var ErrClosed = errors.New("the controller was closed")

// Close waits for the running call, if any, and makes later ones fail with
// ErrClosed. No session outlives its call, so nothing remains on the BMC.
func (c *Controller) Close() error {
	<-c.turn
	c.closed = true
	c.turn <- struct{}{}
	return nil
}

// ForgetRefusal allows a refused credential to be tried again, for when the
// BMC was changed and not the site.
func (c *Controller) ForgetRefusal(ctx context.Context) error {
	return c.deps.Refusals.Forget(ctx, c.digest)
}

// Address is the BMC's host and port; empty where nothing is spoken to.
func (c *Controller) Address() string { return c.address }

// name says which BMC, for messages.
func (c *Controller) name() string {
	if c.config.Machine != "" {
		return c.config.Machine
	}
	return c.address
}

// exclusive runs f while no other call of this Controller runs.
func (c *Controller) exclusive(ctx context.Context, op string, f func() error) error {
	defer c.yield.ask()()
	return c.alone(ctx, op, f)
}

// alone is exclusive, and does not ask a reading to give way.
func (c *Controller) alone(ctx context.Context, op string, f func() error) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s: waiting for another call to this BMC to end: %w", c.info(op), context.Cause(ctx))
	case <-c.turn:
	}
	defer func() { c.turn <- struct{}{} }()
	if c.closed {
		return fmt.Errorf("%s: %w", c.info(op), ErrClosed)
	}
	return f()
}

// call logs in, runs f and logs out, with deadline, retries and bookkeeping.
// The turn is held.
func (c *Controller) call(ctx context.Context, op string, f func(context.Context, session, *effect) error) error {
	return c.callWithin(ctx, op, c.config.Timeout, f)
}

// callWithin is call with another bound of one attempt.
func (c *Controller) callWithin(ctx context.Context, op string, limit time.Duration, f func(context.Context, session, *effect) error) error {
	if c.breaker.open(c.deps.Now()) {
		return &UnreachableError{Call: c.info(op), Until: c.breaker.until, Err: c.breaker.last}
	}
	if c.config.Driver != DriverNone {
		refusal, refused, err := c.deps.Refusals.Refused(ctx, c.digest)
		if err != nil {
			return fmt.Errorf("%s: looking up refused credentials: %w", c.info(op), err)
		}
		if refused {
			return &CredentialError{Call: c.info(op), Username: c.config.Username, Remembered: true, Since: refusal.Time}
		}
	}
	sent := &effect{}
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval = c.config.RetryWait
	pause.MaxInterval = max(30*time.Second, c.config.RetryWait)
	pause.Multiplier = 2
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := c.attempt(ctx, limit, f, sent)
		var flt *fault
		transient := errors.As(err, &flt) && (flt.kind == faultUnreachable || flt.kind == faultBusy)
		if err != nil && (!transient || sent.once) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(pause), backoff.WithMaxTries(uint(max(c.config.Attempts, 1))),
		backoff.WithNotify(func(err error, d time.Duration) {
			c.log.InfoContext(ctx, "BMC call failed, trying again", "bmc", c.name(), "operation", op, "wait", d, "error", err)
		}))
	return c.settle(ctx, op, sent, err)
}

// attempt is one session within one timeout.
func (c *Controller) attempt(ctx context.Context, limit time.Duration, f func(context.Context, session, *effect) error, sent *effect) error {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s, err := c.dial(bounded)
	if err == nil {
		defer func() {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutTimeout)
			defer cancel()
			s.close(end)
		}()
		err = f(bounded, s, sent)
	}
	var flt *fault
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%w (%v)", context.Cause(ctx), err)
	case errors.As(err, &flt):
		flt.err = c.redact(flt.err)
		return flt
	case bounded.Err() != nil:
		return &fault{kind: faultUnreachable, err: fmt.Errorf("no answer within %s", limit)}
	}
	return &fault{kind: faultResponse, err: c.redact(err)}
}

// redact guards against a BMC that quotes the login in its complaint.
func (c *Controller) redact(err error) error {
	password := string(c.config.Password)
	if password == "" || !strings.Contains(err.Error(), password) {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), password, hiddenSecret))
}

// settle turns the outcome of a call into the exported error, an event, and
// what breaker and refusals must know.
func (c *Controller) settle(ctx context.Context, op string, sent *effect, err error) error {
	var flt *fault
	if err != nil && !errors.As(err, &flt) {
		return fmt.Errorf("%s: %w", c.info(op), err)
	}
	if flt == nil {
		c.breaker.reached()
		return nil
	}
	uncertain := sent.once && (flt.kind == faultUnreachable || flt.kind == faultBusy || flt.kind == faultResponse)
	if flt.kind != faultUnreachable {
		c.breaker.reached()
	}
	kind := inventory.EventBMCError
	var out error
	switch flt.kind {
	case faultPerson:
		return &PersonError{Call: c.info(op), Do: flt.Error()}
	case faultRefused:
		kind = inventory.EventBMCRefused
		out = &CredentialError{Call: c.info(op), Username: c.config.Username, Err: flt.err}
		r := Refusal{Time: c.deps.Now(), Driver: c.config.Driver, Address: c.address, Username: c.config.Username}
		// The call may have been cancelled meanwhile; forgetting a refusal for
		// that reason could lock the account.
		if err := c.deps.Refusals.Remember(context.WithoutCancel(ctx), c.digest, r); err != nil {
			out = errors.Join(out, fmt.Errorf("remembering the refused credential: %w", err))
		}
	case faultPrivilege:
		kind = inventory.EventBMCRefused
		out = &CredentialError{Call: c.info(op), Username: c.config.Username, Privilege: true, Err: flt.err}
	case faultUnreachable:
		kind = inventory.EventBMCUnreachable
		out = &UnreachableError{Call: c.info(op), Err: flt.err}
		c.breaker.missed(c.deps.Now(), flt.err)
	case faultUnsupported:
		out = &UnsupportedError{Call: c.info(op), Err: flt.err}
	case faultCertificate:
		out = &CertificateError{Call: c.info(op), Fingerprint: flt.fingerprint, Pinned: c.config.Fingerprint, Err: flt.err}
	case faultResponse, faultBusy:
		out = &ResponseError{Call: c.info(op), Err: flt.err}
	}
	if uncertain {
		out = &ResponseError{Call: c.info(op), Uncertain: true, Err: flt.err}
	}
	c.record(kind, out.Error(), map[string]string{"error": flt.Error()})
	return out
}

// info describes a call for an error.
func (c *Controller) info(op string) Call {
	return Call{Machine: c.config.Machine, Declared: c.config.Declared, Driver: c.config.Driver, Address: c.address, Operation: op}
}

// record emits an event; attrs get driver and address added.
func (c *Controller) record(kind inventory.EventKind, message string, attrs map[string]string) {
	if c.deps.Recorder == nil {
		return
	}
	attrs["driver"], attrs["address"] = string(c.config.Driver), c.address
	c.deps.Recorder.Record(inventory.Event{
		Time: c.deps.Now(), Site: c.config.Site, MAC: c.config.MAC, Machine: c.config.MachineID,
		Kind: kind, Message: message, Attrs: attrs,
	})
}

package api

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/edge-provision/edge-provision/inventory/resource"
)

// stream writes Server-Sent Events (HTML Living Standard, section 9.2). The id of
// each is that of the last event of the catalog that it covers, so that a client
// that connects again with Last-Event-ID goes on where it was.
type stream struct {
	*exchange
	control *http.ResponseController
	buffer  bytes.Buffer
	last    int64 // id that the client has
}

// open starts a stream.
func (x *exchange) open() (*stream, error) {
	st := &stream{exchange: x, control: http.NewResponseController(x.ResponseWriter)}
	h := x.Header()
	h.Set("Content-Type", mediaStream)
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	x.WriteHeader(http.StatusOK)
	st.buffer.WriteString("retry: 2000\n\n") // milliseconds
	return st, st.flush()
}

// put adds one event; it goes out with the next flush, at the latest when there
// is much of it. id zero: the client's place does not move.
func (st *stream) put(event string, id int64, data []byte) error {
	if id > 0 {
		st.buffer.WriteString("id: " + strconv.FormatInt(id, 10) + "\n")
		st.last = id
	}
	st.buffer.WriteString("event: " + event + "\ndata: ")
	st.buffer.Write(bytes.TrimSuffix(data, []byte("\n"))) // JSON has no other line feed
	st.buffer.WriteString("\n\n")
	if st.buffer.Len() >= streamBuffer {
		return st.flush()
	}
	return nil
}

const streamBuffer = 32 << 10

func (st *stream) putJSON(event string, id int64, v any) error {
	raw, err := encode(v)
	if err != nil {
		return err
	}
	return st.put(event, id, raw)
}

// flush sends what was put. A client that does not read is given up.
func (st *stream) flush() error {
	if st.buffer.Len() == 0 {
		return nil
	}
	deadline := time.Now().Add(st.server.cfg.KeepAlive) // the socket knows no injected clock
	if err := st.control.SetWriteDeadline(deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return sent(err)
	}
	if _, err := st.Write(st.buffer.Bytes()); err != nil {
		return sent(err)
	}
	st.buffer.Reset()
	return sent(st.control.Flush())
}

// idle tells the client that the stream is alive, and how far it has come: what
// was passed over must not be asked for again.
func (st *stream) idle(at int64) error {
	if at > st.last {
		st.buffer.WriteString("id: " + strconv.FormatInt(at, 10) + "\n")
		st.last = at
	}
	st.buffer.WriteString(": still here\n\n")
	return st.flush()
}

// place is where a watch goes on: after the event that the client has seen. ok is
// false for one that begins.
func (x *exchange) place() (after int64, ok bool, err error) {
	name, given := "Last-Event-ID", x.Request.Header.Get("Last-Event-ID")
	if given == "" {
		name, given = "after", x.query["after"]
	}
	if given == "" {
		return 0, false, nil
	}
	after, err = strconv.ParseInt(given, 10, 64)
	if err != nil || after < 0 {
		return 0, false, problem("invalid-parameter", "%s: %q is no id of an event.", name, clip(given)).at(name)
	}
	return after, true, nil
}

// lost is why a watch cannot go on after an event; empty: it can.
func (s *Server) lost(ctx context.Context, after int64) (reason string, newest int64, err error) {
	span, err := s.cfg.Catalog.EventSpan(ctx)
	switch {
	case err != nil:
		return "", 0, err
	case after < span.Pruned:
		return "retention", span.Newest, nil
	case after > span.Newest:
		return "unknown", span.Newest, nil
	}
	return "", span.Newest, nil
}

// gap ends the reading of a past of which retention has removed a part meanwhile.
type gap struct{ reason string }

func (g *gap) Error() string { return "events were removed: " + g.reason }

// whole is a gap when events that were read after another may not be all of them.
// It is asked when they have been read, and before they are sent. Zero is no
// event: what comes after it is what is left.
func (s *Server) whole(ctx context.Context, after int64) error {
	if after == 0 {
		return nil
	}
	reason, _, err := s.lost(ctx, after)
	if err == nil && reason != "" {
		err = &gap{reason}
	}
	return err
}

// watch is what a kind of watch does with the catalog's events.
type watch struct {
	// begin sends what there is to a client that begins, or that was reset, and
	// returns the id of the event from which on it follows; zero: from the oldest.
	begin func(st *stream, reset bool) (int64, error)
	// past sends what happened after an event, at most one page, and returns the
	// id of the last that it has looked at, and whether there may be more. Where
	// not all of it is left, it sends nothing and its error is a gap.
	past func(st *stream, after int64) (last int64, more bool, err error)
	// now sends one event of the batch that just came.
	now func(*stream, news) error
}

// stream answers a request with a watch.
func (s *Server) stream(x *exchange, w watch) error {
	after, resumes, err := x.place()
	if err != nil {
		return err
	}
	if !s.hub.admit() {
		return problem("busy", "There are %d watches already, or the server is stopping.", s.cfg.Watchers)
	}
	defer s.hub.depart()
	reason := ""
	if resumes {
		if reason, _, err = s.lost(x.ctx(), after); err != nil {
			return err
		}
	}
	st, err := x.open()
	if err != nil {
		return err
	}
	switch {
	case reason != "":
		after, err = w.anew(st, reason)
	case !resumes:
		after, err = w.begin(st, false)
	}
	if err != nil {
		return err
	}
	return s.goOn(st, w, after)
}

// anew lets the client forget what it has, and begins again.
func (w watch) anew(st *stream, reason string) (after int64, err error) {
	if err := st.putJSON("reset", 0, resource.Reset{Reason: reason}); err != nil {
		return 0, err
	}
	return w.begin(st, true)
}

// goOn sends what happened after an event, and then what happens.
func (s *Server) goOn(st *stream, w watch, after int64) error {
	ctx := st.ctx()
	catchUp := func(upTo int64) (err error) {
		for more := true; more && (upTo == 0 || after < upTo); {
			after, more, err = w.past(st, after)
			if lost, ok := errors.AsType[*gap](err); ok {
				more = true
				after, err = w.anew(st, lost.reason)
			}
			if err != nil {
				return err
			}
			if err := st.flush(); err != nil {
				return err
			}
		}
		return nil
	}
	// Most of the past is sent before the queue exists that it could overflow.
	if err := catchUp(0); err != nil {
		return err
	}
	if after > st.last { // a client whose connection breaks before the first event has its place too
		if err := st.idle(after); err != nil {
			return err
		}
	}
	queue, from, err := s.hub.join(ctx)
	if err != nil {
		return err
	}
	defer s.hub.leave(queue)
	if err := catchUp(from); err != nil {
		return err
	}
	keepAlive := time.NewTicker(s.cfg.KeepAlive)
	defer keepAlive.Stop()
	for {
		select {
		case <-ctx.Done():
			return errGone
		case <-queue.ended:
			return nil
		case <-keepAlive.C:
			if err := s.stillAllowed(st.exchange); err != nil {
				return err
			}
			if err := st.idle(after); err != nil {
				return err
			}
		case <-queue.ready:
			for _, batch := range queue.take() {
				for _, n := range batch {
					if n.ID <= after {
						continue
					}
					if err := w.now(st, n); err != nil {
						return err
					}
					after = n.ID
				}
			}
			if err := st.flush(); err != nil {
				return err
			}
		}
	}
}

// stillAllowed ends the watch of a token that has expired or was revoked.
func (s *Server) stillAllowed(x *exchange) error {
	if x.who.id == "" {
		return nil
	}
	t, err := s.cfg.Catalog.Token(x.ctx(), x.who.id)
	if err != nil {
		return err
	}
	if !t.RevokedAt.IsZero() || !s.cfg.Now().Before(t.ExpiresAt) {
		return problem("invalid-token", "The token has expired or was revoked.")
	}
	return nil
}

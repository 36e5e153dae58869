package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
)

// Change is one message of a watch: exactly one of its fields is set.
type Change struct {
	Event   *inventory.Event  // of WatchEvents
	Machine *resource.Machine // of WatchMachines: new or changed
	Removed *resource.Removed
	Synced  *resource.Synced
	Reset   *resource.Reset
}

// WatchEvents follows events, from the next one on, or after the event with the
// id after when it is not zero. When the connection breaks it connects again and
// goes on where it was, until ctx ends, the server refuses, or what it sends is no
// stream of events.
func (c *Client) WatchEvents(ctx context.Context, q EventQuery, after int64) iter.Seq2[Change, error] {
	v := q.values()
	for _, name := range []string{"order", "since", "until"} {
		v.Del(name)
	}
	return c.watch(ctx, v, after, "events")
}

// WatchMachines follows the machines that q selects; it begins with all of them.
// It connects again like WatchEvents.
func (c *Client) WatchMachines(ctx context.Context, q MachineQuery) iter.Seq2[Change, error] {
	v := q.values()
	v.Del("sort")
	v.Del("limit")
	return c.watch(ctx, v, 0, "machines")
}

// silence is how long a server may say nothing: it sends a comment every 15 s.
const silence = time.Minute

// reconnectPauses are the waits before the tries to connect again; the last one
// repeats.
var reconnectPauses = []time.Duration{0, time.Second, 2 * time.Second, 5 * time.Second, 15 * time.Second}

func (c *Client) watch(ctx context.Context, v url.Values, after int64, what string) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		last, failures, connected := after, 0, false
		for {
			done, err := c.follow(ctx, v, &last, what, &connected, func(change Change) bool {
				failures = 0
				return yield(change, nil)
			})
			var refused *resource.Problem
			final := errors.As(err, &refused) && refused.Status < 500 || errors.As(err, new(malformed))
			switch {
			case done:
				return
			case ctx.Err() != nil:
				yield(Change{}, ctx.Err())
				return
			case final, err != nil && !connected: // a server that never answered is a mistake, not a break
				yield(Change{}, fmt.Errorf("watching %s of %s: %w", what, c.base.Host, err))
				return
			}
			pause := time.NewTimer(reconnectPauses[min(failures, len(reconnectPauses)-1)])
			failures++
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
				yield(Change{}, ctx.Err())
				return
			}
		}
	}
}

// malformed is an error for what would come again in the same way.
type malformed struct{ error }

func (m malformed) Unwrap() error { return m.error }

// follow reads one connection to its end; connected: the server has begun to
// answer, done: the caller wants no more.
func (c *Client) follow(ctx context.Context, v url.Values, last *int64, what string, connected *bool, give func(Change) bool) (done bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	r := get(v, "v1", "watch", what)
	r.header = http.Header{"Accept": {"text/event-stream"}}
	if *last > 0 {
		r.header.Set("Last-Event-ID", strconv.FormatInt(*last, 10))
	}
	resp, err := c.send(ctx, r)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	*connected = true
	lines := bufio.NewReaderSize(&counted{resp.Body, func() { watchdog.Reset(silence) }}, 64<<10)
	for {
		m, err := readMessage(lines)
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		change, ok, err := m.change()
		if err != nil {
			return false, malformed{err}
		}
		if ok && !give(change) {
			return true, nil
		}
		if m.id > 0 { // only what was dealt with is not asked for again
			*last = m.id
		}
	}
}

// counted calls heard whenever something was read.
type counted struct {
	io.Reader
	heard func()
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	if n > 0 {
		c.heard()
	}
	return n, err
}

// message is one Server-Sent Event.
type message struct {
	id    int64
	event string
	data  []byte
}

// maxMessageBytes bounds one message of a server.
const maxMessageBytes = 8 << 20

// readMessage reads up to the next blank line. A message without data only moves
// the place.
func readMessage(r *bufio.Reader) (message, error) {
	var m message
	size := 0
	for {
		line, err := readLine(r, maxMessageBytes-size)
		if err != nil {
			return m, err // what is not complete is sent again after a break
		}
		size += len(line)
		if line == "" {
			return m, nil
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			if m.id, err = strconv.ParseInt(value, 10, 64); err != nil {
				return m, malformed{fmt.Errorf("the stream has the id %q: %w", value, err)}
			}
		case "event":
			m.event = value
		case "data":
			if len(m.data) > 0 {
				m.data = append(m.data, '\n')
			}
			m.data = append(m.data, value...)
		}
	}
}

// readLine reads a line of at most most bytes, without its end.
func readLine(r *bufio.Reader, most int) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if line = append(line, part...); len(line) > most {
			return "", malformed{fmt.Errorf("a message of the stream has more than %d bytes", maxMessageBytes)}
		}
		switch {
		case err == nil:
			return strings.TrimRight(string(line), "\r\n"), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return "", err
		}
	}
}

// change decodes a message; ok is false for one that only moves the place, or
// that a newer server sends.
func (m message) change() (c Change, ok bool, err error) {
	if len(m.data) == 0 {
		return c, false, nil
	}
	var into any
	switch m.event {
	case "event":
		c.Event = &inventory.Event{}
		into = c.Event
	case "machine":
		c.Machine = &resource.Machine{}
		into = c.Machine
	case "removed":
		c.Removed = &resource.Removed{}
		into = c.Removed
	case "synced":
		c.Synced = &resource.Synced{}
		into = c.Synced
	case "reset":
		c.Reset = &resource.Reset{}
		into = c.Reset
	default:
		return c, false, nil
	}
	if err := json.Unmarshal(m.data, into); err != nil {
		return c, false, fmt.Errorf("reading %q of the stream: %w", m.event, err)
	}
	return c, true, nil
}

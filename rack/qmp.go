package rack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmp is a connection to one emulator's machine protocol (QEMU's
// docs/interop/qmp-spec). The peer is our own child; the software on the
// emulated machine has no way to put words into it.
type qmp struct {
	conn net.Conn
	// answers receives the answer to the one command in flight.
	answers chan qmpMessage
	// closed is closed when the reader has ended, with why in err, and in
	// shutdown the last SHUTDOWN event.
	closed   chan struct{}
	err      error
	shutdown shutdownEvent
	mu       sync.Mutex // held for one command
}

// shutdownEvent is the data of QEMU's SHUTDOWN event, which also announces that
// QEMU ends because of a reset (-action reboot=shutdown).
type shutdownEvent struct {
	// Guest says that the software on the machine asked for it.
	Guest  bool   `json:"guest"`
	Reason string `json:"reason"`
}

type qmpMessage struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class       string `json:"class"`
		Description string `json:"desc"`
	} `json:"error"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

// dialQMP reads the greeting and negotiates; bound it by ctx. It owns conn.
func dialQMP(ctx context.Context, conn net.Conn) (*qmp, error) {
	q := &qmp{
		conn:    conn,
		answers: make(chan qmpMessage, 1),
		closed:  make(chan struct{}),
	}
	go q.read()
	select {
	case <-q.answers: // the greeting
	case <-q.closed:
		return nil, errors.Join(fmt.Errorf("waiting for QMP's greeting: %w", q.err), q.close())
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("waiting for QMP's greeting: %w", ctx.Err()), q.close())
	}
	if err := q.execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		return nil, errors.Join(err, q.close())
	}
	return q, nil
}

func (q *qmp) read() {
	defer close(q.closed)
	dec := json.NewDecoder(q.conn)
	for {
		var m qmpMessage
		if err := dec.Decode(&m); err != nil {
			q.err = err
			return
		}
		if m.Event == "" {
			q.answers <- m
			continue
		}
		if m.Event != "SHUTDOWN" {
			continue
		}
		if err := json.Unmarshal(m.Data, &q.shutdown); err != nil {
			q.err = fmt.Errorf("reading a SHUTDOWN event: %w", err)
			return
		}
	}
}

// reset reports whether the emulator, which has exited, ended because the
// software on the machine wanted a reset.
func (q *qmp) reset() bool {
	// The other end of the socket pair died with the emulator.
	<-q.closed
	return q.shutdown.Guest && q.shutdown.Reason == "guest-reset"
}

// execute runs one command and decodes what it returns into out, if not nil.
func (q *qmp) execute(ctx context.Context, command string, args, out any) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	request := map[string]any{"execute": command}
	if args != nil {
		request["arguments"] = args
	}
	b, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encoding QMP command %s: %w", command, err)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(qmpTimeout)
	}
	if err := q.conn.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("sending QMP command %s: %w", command, err)
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("sending QMP command %s: %w", command, err)
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	var m qmpMessage
	select {
	case m = <-q.answers:
	case <-q.closed:
		select {
		case m = <-q.answers: // the last thing that it said
		default:
			return fmt.Errorf("waiting for the answer to QMP command %s: %w", command, q.err)
		}
	case <-timer.C:
		return q.abandon(command, context.DeadlineExceeded)
	case <-ctx.Done():
		return q.abandon(command, ctx.Err())
	}
	if m.Error != nil {
		return fmt.Errorf("QMP command %s: %s: %s", command, m.Error.Class, m.Error.Description)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, out); err != nil {
		return fmt.Errorf("reading the answer to QMP command %s: %w", command, err)
	}
	return nil
}

// abandon takes the late answer of a command that nobody waits for any more,
// so that the next command does not get it. An emulator that does not answer
// within a second more has lost its connection.
func (q *qmp) abandon(command string, cause error) error {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-q.answers:
	case <-q.closed:
	case <-timer.C:
		cause = errors.Join(cause, q.conn.Close())
	}
	return fmt.Errorf("waiting for the answer to QMP command %s: %w", command, cause)
}

// close ends the connection and the reader.
func (q *qmp) close() error {
	err := q.conn.Close()
	for {
		select {
		case <-q.answers: // the reader may be blocked on it
		case <-q.closed:
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
	}
}

// qmpTimeout bounds a command whose caller has no deadline. Answers take
// milliseconds, on a host with all cores busy a second.
const qmpTimeout = 10 * time.Second

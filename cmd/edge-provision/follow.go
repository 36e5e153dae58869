package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/term"

	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/control"
)

// socketKey is where the catalog keeps the path of the socket of a site's daemon.
func socketKey(site string) string { return "serve/" + site + "/socket" }

// reach connects to the daemon that holds a site on this host; nil when there is
// none that can be talked to.
func (a *app) reach(ctx context.Context, catalog *store.Store, site string) (*control.Conn, error) {
	self, err := store.Self("")
	if err != nil {
		return nil, err
	}
	locks, err := catalog.Locks(ctx, site)
	if err != nil {
		return nil, err
	}
	for _, l := range locks {
		o := l.Owner
		if l.Address != siteLock || o.Purpose != purposeServe || o.Host != self.Host || l.Dead(time.Now()) {
			continue
		}
		raw, err := catalog.Settings().Get(ctx, socketKey(site))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // it has not come as far yet
		}
		var path string
		if err == nil {
			err = json.Unmarshal(raw, &path)
		}
		if err != nil {
			return nil, fmt.Errorf("finding the socket of serve: %w", err)
		}
		c, hello, err := control.Dial(ctx, path)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
			return nil, nil // on its way up or down; the lock tells the rest
		case err != nil:
			return nil, err
		case hello.PID != o.PID || hello.Catalog != catalog.CatalogID().String() || hello.Site != site:
			return nil, c.Close() // another one listens there now
		}
		return c, nil
	}
	return nil, nil
}

// servedError says that a command is the daemon's to carry out, and has the
// conversation that was begun.
type servedError struct{ conn *control.Conn }

// Error implements error.
func (e *servedError) Error() string { return "the site is held by serve" }

// through has the daemon carry a command out and shows it on this terminal.
func (e *servedError) through(ctx context.Context, a *app, on display, r request) (err error) {
	defer func() { err = errors.Join(err, ignoreClosed(e.conn.Close())) }()
	r, err = a.describe(r)
	if err != nil {
		return err
	}
	if err := e.conn.Send(control.KindRequest, r); err != nil {
		return err
	}
	f := &following{
		app: a, conn: e.conn, on: on, answers: bufio.NewReader(a.stdin), typed: make(chan line, 1), out: r.Out, goesOn: r.Command != "plan",
	}
	return f.follow(ctx)
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// following is a command that the daemon carries out, as this terminal follows it.
type following struct {
	app     *app
	conn    *control.Conn
	on      display
	out     string // the file that a plan is saved in
	goesOn  bool   // the command goes on without this terminal
	answers *bufio.Reader

	typed   chan line
	reading bool              // a line is being waited for
	pending *control.Question // of the daemon, not answered yet
	leaving bool              // the question whether to leave or to cancel stands
	stops   int
	run     uuid.UUID
}

// line is what somebody typed.
type line struct {
	text string
	err  error
}

// received is a message of the daemon, or why there are no more.
type received struct {
	m   control.Message
	err error
}

// errDaemonGone says that the daemon did not see the end of a command.
var errDaemonGone = errors.New("serve ended before the command did; what was under way is looked at anew by the next apply: start serve again, or run apply without it")

// follow shows what comes until the command has ended, or this terminal leaves.
func (f *following) follow(ctx context.Context) error {
	messages := make(chan received)
	quit := make(chan struct{})
	defer close(quit)
	go func() {
		for {
			m, err := f.conn.Receive()
			select {
			case messages <- received{m, err}:
			case <-quit:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	signals := make(chan os.Signal, 4)
	defer f.app.takeSignals(signals)()
	stop := f.app.stop
	for {
		select {
		case r := <-messages:
			if r.err != nil {
				return errors.Join(errDaemonGone, ignoreEOF(r.err))
			}
			ended, err := f.show(r.m)
			if ended || err != nil {
				return err
			}
		case s := <-signals:
			if err := f.interrupted(s); err != nil {
				return err
			}
		case <-stop:
			stop = nil
			if err := f.interrupted(os.Interrupt); err != nil {
				return err
			}
		case l := <-f.typed:
			f.reading = false
			if err := f.take(l); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// show shows one message; ended says that it was the last one.
func (f *following) show(m control.Message) (ended bool, err error) {
	switch m.Kind {
	case control.KindText:
		var t control.Text
		if err := m.Into(&t); err != nil {
			return false, err
		}
		to := f.app.stderr
		if t.Stream == 1 {
			to = f.app.stdout
		}
		_, err := io.WriteString(to, t.Text)
		return false, err
	case control.KindAsk:
		var q control.Question
		if err := m.Into(&q); err != nil {
			return false, err
		}
		f.pending = &q
		if !f.leaving {
			f.ask(q.Text)
		}
		return false, nil
	case control.KindExit:
		var e control.Exit
		if err := m.Into(&e); err != nil {
			return false, err
		}
		if e.Code != exitOK {
			return true, exitCode(e.Code)
		}
		return true, nil
	case kindBegin:
		if err := m.Into(&f.run); err != nil {
			return false, err
		}
	case kindFile:
		var b []byte
		if err := m.Into(&b); err != nil {
			return false, err
		}
		if f.out == "" {
			return false, errors.New("serve sent a file that nobody asked for")
		}
		return false, replaceFile(f.out, b, 0o600)
	}
	known, err := render(f.on, m)
	if err == nil && !known {
		err = fmt.Errorf("serve sent a message of kind %q, which this program does not know: start it again with the same release", m.Kind)
	}
	return false, err
}

// ask prints a question and waits for a line, if none is being waited for.
func (f *following) ask(question string) {
	fmt.Fprint(f.app.stderr, question)
	if f.reading {
		return
	}
	f.reading = true
	go func() {
		text, err := f.answers.ReadString('\n')
		f.typed <- line{text, err}
	}()
}

// take does what was typed.
func (f *following) take(l line) error {
	if l.err != nil && !errors.Is(l.err, io.EOF) {
		return fmt.Errorf("reading an answer: %w", l.err)
	}
	if !f.leaving {
		if f.pending == nil {
			return nil
		}
		a := control.Answer{ID: f.pending.ID, Text: l.text}
		f.pending = nil
		return f.conn.Send(control.KindAnswer, a)
	}
	answer := strings.ToLower(strings.TrimSpace(l.text))
	if answer == "d" || answer == "detach" {
		return f.leave() // with the display held: it would draw over what is said now
	}
	f.settle()
	switch answer {
	case "c", "cancel":
		if err := f.cancel(); err != nil {
			return err
		}
	default:
		fmt.Fprintln(f.app.stderr, "Nothing was changed.")
	}
	if f.pending != nil {
		f.ask(f.pending.Text)
	}
	return nil
}

// interrupted is Ctrl-C, of which a person is asked what is meant, and which means to
// cancel for a program; or SIGTERM, which ends this program alone: what it follows
// goes on, as it does when the terminal is closed.
func (f *following) interrupted(s os.Signal) error {
	switch {
	case f.goesOn && s != os.Interrupt:
		f.hold()
		return f.leave()
	case !f.goesOn || !f.person() || f.stops > 0:
		return f.cancel()
	}
	if f.leaving { // again: they mean it
		f.settle()
		return f.cancel()
	}
	f.leaving = true
	f.hold()
	f.ask("\nserve carries this out. Type d to detach and let it go on, c to cancel it, or Enter to go on following: ")
	return nil
}

// hold keeps the display from drawing over what is said.
func (f *following) hold() {
	if live, ok := f.on.(*liveDisplay); ok {
		live.hold(true)
	}
}

// settle ends the question whether to leave.
func (f *following) settle() {
	f.leaving = false
	if live, ok := f.on.(*liveDisplay); ok {
		live.hold(false)
	}
}

// person reports whether somebody sits before this terminal.
func (f *following) person() bool {
	for _, stream := range []any{f.app.stdin, f.app.stderr} {
		file, ok := stream.(*os.File)
		if !ok || !term.IsTerminal(int(file.Fd())) {
			return false
		}
	}
	return true
}

// cancel asks the daemon to start nothing new; the second time to stop at once.
func (f *following) cancel() error {
	f.stops++
	switch f.stops {
	case 1:
		fmt.Fprintln(f.app.stderr, "\nStopping. Press Ctrl-C again to stop at once.")
	case 2:
	default:
		return errInterrupted
	}
	return f.conn.Send(control.KindStop, nil)
}

// leave lets the run go on by itself.
func (f *following) leave() error {
	if err := f.conn.Send(control.KindLeave, nil); err != nil {
		return err
	}
	switch {
	case f.pending != nil:
		fmt.Fprintln(f.app.stderr, "Detached. What serve asks now nobody is there to answer, and it is taken as no.")
	case f.run == uuid.Nil:
		fmt.Fprintln(f.app.stderr, "Detached before a run began; see what becomes of it with: edge-provision runs list")
	default:
		fmt.Fprintf(f.app.stderr, "Detached; serve goes on. Follow it again with: edge-provision runs attach %s\n", f.run)
	}
	return exitCode(exitError)
}

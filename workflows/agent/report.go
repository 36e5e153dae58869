package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// reporter sends the progress of one task. Only the newest report is sent, at
// most once a second: the controller wants to know where things stand, not how
// they got there.
type reporter struct {
	ctx    context.Context
	loop   *Loop
	ref    TaskRef
	fresh  chan struct{}
	closed chan struct{}
	ended  sync.WaitGroup

	mu     sync.Mutex
	newest *Progress
}

// reportInterval is the least time between two reports.
const reportInterval = time.Second

func newReporter(ctx context.Context, l *Loop, ref TaskRef) *reporter {
	r := &reporter{ctx: ctx, loop: l, ref: ref, fresh: make(chan struct{}, 1), closed: make(chan struct{})}
	r.ended.Go(r.run)
	return r
}

// report takes a report. For PhaseBegin it returns when the controller has
// acknowledged it, or cannot be reached; for the others at once.
func (r *reporter) report(p Progress) error {
	p.Task = r.ref
	if p.Phase == PhaseBegin {
		return r.loop.retry(r.ctx, func() error { return r.loop.cfg.Client.Progress(r.ctx, p) })
	}
	r.mu.Lock()
	r.newest = &p
	r.mu.Unlock()
	select {
	case r.fresh <- struct{}{}:
	default:
	}
	return nil
}

func (r *reporter) run() {
	tick := time.NewTicker(reportInterval)
	defer tick.Stop()
	for {
		select {
		case <-r.fresh:
		case <-r.closed:
			return
		}
		r.mu.Lock()
		p := *r.newest
		r.mu.Unlock()
		if err := r.loop.cfg.Client.Progress(r.ctx, p); err != nil {
			// The next report says more than a repeated old one.
			r.loop.log.Debug("reporting progress", "error", err)
		}
		select {
		case <-tick.C:
		case <-r.closed:
			return
		}
	}
}

// close ends the reporting; a report on its way is waited for.
func (r *reporter) close() {
	close(r.closed)
	r.ended.Wait()
}

// LogStream is a slog.Handler that sends records to the controller beside
// passing them on. Lines that cannot be sent in time are dropped, oldest first.
type LogStream struct {
	next  slog.Handler
	attrs []slog.Attr
	queue *logQueue
}

type logQueue struct {
	mu    sync.Mutex
	lines []LogLine
}

// maxQueuedLines bounds the memory of a LogStream.
const maxQueuedLines = 500

// NewLogStream returns a handler that passes records on to next.
func NewLogStream(next slog.Handler) *LogStream {
	return &LogStream{next: next, queue: &logQueue{}}
}

// Enabled implements slog.Handler.
func (s *LogStream) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || s.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (s *LogStream) Handle(ctx context.Context, record slog.Record) error {
	if record.Level >= slog.LevelInfo {
		line := LogLine{Level: record.Level.String(), Message: record.Message, Attrs: make(map[string]string)}
		for _, a := range s.attrs {
			line.Attrs[a.Key] = a.Value.String()
		}
		record.Attrs(func(a slog.Attr) bool {
			line.Attrs[a.Key] = a.Value.String()
			return true
		})
		s.queue.mu.Lock()
		s.queue.lines = append(s.queue.lines, line)
		if over := len(s.queue.lines) - maxQueuedLines; over > 0 {
			s.queue.lines = append([]LogLine(nil), s.queue.lines[over:]...)
		}
		s.queue.mu.Unlock()
	}
	if !s.next.Enabled(ctx, record.Level) {
		return nil
	}
	return s.next.Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (s *LogStream) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &LogStream{next: s.next.WithAttrs(attrs), attrs: append(append([]slog.Attr(nil), s.attrs...), attrs...), queue: s.queue}
}

// WithGroup implements slog.Handler. Sent lines are flat: groups show in next
// only.
func (s *LogStream) WithGroup(name string) slog.Handler {
	return &LogStream{next: s.next.WithGroup(name), attrs: s.attrs, queue: s.queue}
}

// Send sends queued lines every second until ctx ends, and then once more.
func (s *LogStream) Send(ctx context.Context, client *Client) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.flush(ctx, client)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			s.flush(last, client)
			cancel()
			return
		}
	}
}

// linesPerRequest stays under what the controller takes at once.
const linesPerRequest = 100

func (s *LogStream) flush(ctx context.Context, client *Client) {
	s.queue.mu.Lock()
	n := min(len(s.queue.lines), linesPerRequest)
	lines := append([]LogLine(nil), s.queue.lines[:n]...)
	s.queue.mu.Unlock()
	// Lines that were not taken stay queued; logging that here would only
	// queue more.
	if n == 0 || client.Log(ctx, lines) != nil {
		return
	}
	s.queue.mu.Lock()
	s.queue.lines = s.queue.lines[min(n, len(s.queue.lines)):]
	s.queue.mu.Unlock()
}

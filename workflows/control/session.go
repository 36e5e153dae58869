package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Bounds of what a session keeps for those who follow it later, or slowly. The
// oldest is left out first.
const (
	keptMessages = 10_000
	keptBytes    = 32 << 20
)

// Session is one command under way in the daemon. It goes on whether or not
// somebody follows it.
type Session struct {
	mu sync.Mutex
	// woken is closed, and replaced, when there is something new.
	woken chan struct{}
	log   []entry
	bytes int
	// next is the number of the message after the last, lost that after the newest
	// one of the log that is not kept any more.
	next, lost int64
	// latest is what is worth knowing only in its newest form, by key.
	latest    map[string]entry
	ended     bool
	followers []*Follower // in the order in which they came
	question  *open
	questions int
}

// entry is a message with its place in the order of all.
type entry struct {
	number int64
	m      Message
}

// open is a question that nobody has answered yet.
type open struct {
	Question
	answered chan struct{} // closed with answer set, or left false
	answer   string
	ok       bool
}

// NewSession begins one.
func NewSession() *Session {
	return &Session{woken: make(chan struct{}), latest: map[string]entry{}}
}

// wake lets those look who wait; s.mu is held.
func (s *Session) wake() {
	close(s.woken)
	s.woken = make(chan struct{})
}

// Publish shows something to those who follow, and keeps it for those who come
// later. It never waits for anybody.
func (s *Session) Publish(kind Kind, data any) error {
	m, err := New(kind, data)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	s.append(m)
	return nil
}

// append adds to the log; s.mu is held.
func (s *Session) append(m Message) {
	s.log = append(s.log, entry{s.next, m})
	s.next++
	s.bytes += len(m.Data)
	drop := 0
	for drop < len(s.log)-1 && (len(s.log)-drop > keptMessages || s.bytes > keptBytes) {
		s.bytes -= len(s.log[drop].m.Data)
		drop++
	}
	if drop > 0 {
		s.lost = s.log[drop-1].number + 1
		s.log = append([]entry(nil), s.log[drop:]...)
	}
	s.wake()
}

// Update shows something of which only the newest is kept, by key.
func (s *Session) Update(key string, kind Kind, data any) error {
	m, err := New(kind, data)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	s.latest[key] = entry{s.next, m}
	s.next++
	s.wake()
	return nil
}

// Forget drops what Update kept under a key.
func (s *Session) Forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.latest, key)
}

// End ends the session: those who follow see the rest and then the exit.
func (s *Session) End(code int) {
	m, err := New(KindExit, Exit{code})
	if err != nil { // a number always marshals
		m = Message{Kind: KindExit}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.append(m)
	s.ended = true
}

// Ask asks the one who has followed longest, or when that one leaves the next.
// With nobody left to ask, and when ctx ends, ok is false.
func (s *Session) Ask(ctx context.Context, text string) (answer string, ok bool) {
	s.mu.Lock()
	if s.question != nil || len(s.followers) == 0 || s.ended {
		s.mu.Unlock()
		return "", false
	}
	s.questions++
	q := &open{Question: Question{ID: s.questions, Text: text}, answered: make(chan struct{})}
	s.question = q
	s.wake()
	s.mu.Unlock()
	select {
	case <-q.answered:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.question == q {
		s.question = nil
	}
	return q.answer, q.ok
}

// Answer answers the question that stands; an answer to another one is ignored.
func (s *Session) Answer(a Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.question; q != nil && q.ID == a.ID {
		s.settle(a.Text, true)
	}
}

// Asked is the one whose answer to a question is waited for; nil: no question stands.
func (s *Session) Asked() *Follower {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.question == nil || len(s.followers) == 0 {
		return nil
	}
	return s.followers[0]
}

// settle ends the question that stands; s.mu is held.
func (s *Session) settle(answer string, ok bool) {
	q := s.question
	s.question = nil
	q.answer, q.ok = answer, ok
	close(q.answered)
}

// Follower sees a session from its beginning, as far as it is kept.
type Follower struct {
	s     *Session
	next  int64 // number of the message that it wants
	asked int   // the question that it was shown last
}

// Follow begins to follow. The caller ends it with Leave.
func (s *Session) Follow() *Follower {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &Follower{s: s}
	s.followers = append(s.followers, f)
	return f
}

// Leave ends following. A question that only this one could answer is left
// without an answer.
func (f *Follower) Leave() {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.followers = slices.DeleteFunc(s.followers, func(other *Follower) bool { return other == f })
	if len(s.followers) == 0 && s.question != nil {
		s.settle("", false)
	}
	s.wake()
}

// Next waits for the next message; io.EOF after the exit.
func (f *Follower) Next(ctx context.Context) (Message, error) {
	for {
		m, woken, err := f.take()
		if err != nil || m.Kind != "" {
			return m, err
		}
		select {
		case <-ctx.Done():
			// A session often ends together with what it is followed in: its exit is
			// told all the same.
			if m, _, err = f.take(); err == nil && m.Kind == "" {
				err = context.Cause(ctx)
			}
			return m, err
		case <-woken:
		}
	}
}

// take returns what there is for the follower now, or the channel to wait on.
func (f *Follower) take() (Message, <-chan struct{}, error) {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.next < s.lost {
		f.next = s.lost
		m, err := New(KindText, Text{Stream: 2, Text: "(what was shown before is not kept any more)\n"})
		return m, nil, err
	}
	var best entry
	// Updates take numbers too, so that a message's place is not its number.
	i, _ := slices.BinarySearchFunc(s.log, f.next, func(e entry, n int64) int { return cmp.Compare(e.number, n) })
	found := i < len(s.log)
	if found {
		best = s.log[i]
	}
	for _, e := range s.latest {
		if e.number >= f.next && (!found || e.number < best.number) {
			best, found = e, true
		}
	}
	switch {
	case found:
		f.next = best.number + 1
		return best.m, nil, nil
	case s.question != nil && s.followers[0] == f && f.asked != s.question.ID:
		f.asked = s.question.ID
		m, err := New(KindAsk, s.question.Question)
		return m, nil, err
	case s.ended:
		return Message{}, nil, io.EOF
	}
	return Message{}, s.woken, nil
}

// Relay carries the session that f follows to a client and what the client says to
// the session, until the session has ended, the client leaves or vanishes, or ctx
// ends. Then f leaves. Stop is called for each stop that the client sends.
//
// For the client that begins what the session shows, f follows from before that
// begins: what is asked while nobody follows gets no answer.
func Relay(ctx context.Context, c *Conn, f *Follower, stop func()) error {
	defer f.Leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		cancel(hear(c, f.s, stop))
	}()
	var err error
	for {
		var m Message
		if m, err = f.Next(ctx); err != nil {
			break
		}
		if err = c.SendMessage(m); err != nil {
			break
		}
		if m.Kind == KindExit {
			break
		}
	}
	err = errors.Join(err, c.Close()) // which ends hear
	<-heard
	return err
}

// errLeft says that a client left.
var errLeft = errors.New("the client left")

// hear takes what a client says until it leaves.
func hear(c *Conn, s *Session, stop func()) error {
	for {
		m, err := c.Receive()
		if err != nil {
			return errors.Join(errLeft, err)
		}
		switch m.Kind {
		case KindAnswer:
			var a Answer
			if err := m.Into(&a); err != nil {
				return err
			}
			s.Answer(a)
		case KindStop:
			stop()
		case KindLeave:
			return errLeft
		default:
			return fmt.Errorf("a client sent a message of kind %q", m.Kind)
		}
	}
}

package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/edge-provision/edge-provision/workflows/control"
)

func say(t *testing.T, s *control.Session, text string) {
	t.Helper()
	if err := s.Publish(control.KindText, control.Text{Stream: 1, Text: text}); err != nil {
		t.Fatal(err)
	}
}

// seen reads a follower to the exit.
func seen(t *testing.T, f *control.Follower) []string {
	t.Helper()
	var out []string
	for {
		m, err := f.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s %s", m.Kind, m.Data))
	}
}

func TestWhoeverComesLaterSeesAllThatIsKept(t *testing.T) {
	s := control.NewSession()
	early := s.Follow()
	say(t, s, "one")
	for n := range 3 {
		if err := s.Update("a", "progress", n); err != nil {
			t.Fatal(err)
		}
	}
	say(t, s, "two")
	late := s.Follow()
	s.End(1)
	want := `text {"stream":1,"text":"one"}, progress 2, text {"stream":1,"text":"two"}, exit {"code":1}`
	for name, f := range map[string]*control.Follower{"early": early, "late": late} {
		if got := strings.Join(seen(t, f), ", "); got != want {
			t.Errorf("the %s one saw %s; want %s", name, got, want)
		}
	}
	say(t, s, "too late")
	if got := seen(t, s.Follow()); len(got) != 4 {
		t.Errorf("after the end %d messages are there; want 4", len(got))
	}
}

func TestProgressOfWhatHasEndedIsForgotten(t *testing.T) {
	s := control.NewSession()
	if err := s.Update("a", "progress", 1); err != nil {
		t.Fatal(err)
	}
	s.Forget("a")
	s.End(0)
	if got := strings.Join(seen(t, s.Follow()), ", "); got != `exit {"code":0}` {
		t.Errorf("seen = %s; want the exit alone", got)
	}
}

func TestASessionKeepsABoundedPast(t *testing.T) {
	s := control.NewSession()
	f := s.Follow()
	for range 100 {
		say(t, s, strings.Repeat("x", 1<<20))
	}
	s.End(0)
	got := seen(t, f)
	if len(got) > 40 || !strings.Contains(got[0], "not kept any more") || got[len(got)-1] != `exit {"code":0}` {
		t.Errorf("seen = %d messages, the first %.80s; want it said that the beginning is missing, then the rest", len(got), got[0])
	}
}

func TestAQuestionGoesToOneAndThenToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := control.NewSession()
		if answer, ok := s.Ask(t.Context(), "anybody?"); ok {
			t.Errorf("Ask with nobody there = %q; want no answer", answer)
		}
		first, second := s.Follow(), s.Follow()
		type result struct {
			text string
			ok   bool
		}
		answers := make(chan result, 1)
		go func() {
			text, ok := s.Ask(t.Context(), "sure?")
			answers <- result{text, ok}
		}()
		synctest.Wait()
		m, err := first.Next(t.Context())
		var q control.Question
		if err != nil || m.Kind != control.KindAsk || m.Into(&q) != nil || q.Text != "sure?" {
			t.Fatalf("the first one sees %s %s, %v; want the question", m.Kind, m.Data, err)
		}
		waiting, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("nothing for the second"))
		if m, err := second.Next(waiting); err == nil {
			t.Errorf("the second one sees %s; want nothing", m.Kind)
		}
		s.Answer(control.Answer{ID: q.ID + 1, Text: "to another question"})
		first.Leave()
		if m, err = second.Next(t.Context()); err != nil || m.Kind != control.KindAsk {
			t.Fatalf("after the first one left the second sees %s, %v; want the question", m.Kind, err)
		}
		s.Answer(control.Answer{ID: q.ID, Text: "yes"})
		if got := <-answers; got != (result{"yes", true}) {
			t.Errorf("Ask = %+v; want yes", got)
		}
		go func() {
			text, ok := s.Ask(t.Context(), "and now?")
			answers <- result{text, ok}
		}()
		synctest.Wait()
		second.Leave()
		if got := <-answers; got.ok {
			t.Errorf("Ask after the last one left = %+v; want no answer", got)
		}
	})
}

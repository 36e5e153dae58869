package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edge-provision/edge-provision/workflows/control"
)

// A terminal that somebody forgot with a question in it must not keep everything else
// from beginning for ever.
func TestAQuestionThatStandsTooLongIsANo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := &daemonRun{command: "apply", session: control.NewSession(), over: make(chan struct{}), stop: make(chan struct{}), process: 4711}
		run.client = run.session.Follow()
		r := running{world: &world{app: &app{run: run, daemon: &daemon{ctx: t.Context()}}}}
		began := time.Now()
		answers := make(chan bool, 1)
		go func() { answers <- r.confirm("sure? ", "yes") }()
		synctest.Wait()
		if busy := run.busy(); !busy.Asks || !strings.Contains(busy.Error(), "process 4711") {
			t.Errorf("who wants a run meanwhile is told %q; want who is asked", busy)
		}
		if yes := <-answers; yes || time.Since(began) != answerLimit {
			t.Errorf("confirm() = %v after %s; want no after %s", yes, time.Since(began), answerLimit)
		}
		if busy := run.busy(); busy.Asks {
			t.Errorf("after that it is told %q; want no question", busy)
		}
		if r.confirm("and this one? ", "yes") || time.Since(began) != answerLimit {
			t.Errorf("the next question took %s; want a no at once", time.Since(began)-answerLimit)
		}
		run.session.End(exitError)
		if told := texts(t, run.client); !strings.Contains(told, "Nobody answered within 10 minutes") || strings.Contains(told, "and this one?") {
			t.Errorf("the client was told %q; want that nobody answered, and nothing more asked", told)
		}
	})
}

func TestAQuestionSaysHowLongItStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := &daemonRun{session: control.NewSession(), stop: make(chan struct{})}
		client := run.session.Follow()
		go func() {
			answer, ok := run.ask(t.Context(), "sure? ")
			run.session.End(exitOK)
			if answer != "yes" || !ok {
				t.Errorf("ask() = %q, %v; want yes", answer, ok)
			}
		}()
		m, err := client.Next(t.Context())
		var q control.Question
		if err != nil || m.Into(&q) != nil {
			t.Fatalf("the client sees %s, %v; want a question", m.Kind, err)
		}
		if want := "No answer within 10 minutes is taken as no.\nsure? "; q.Text != want {
			t.Errorf("the question is %q; want %q", q.Text, want)
		}
		time.Sleep(answerLimit - time.Second)
		run.session.Answer(control.Answer{ID: q.ID, Text: "yes"})
	})
}

// texts is what a session that has ended wrote, and asked.
func texts(t *testing.T, f *control.Follower) string {
	t.Helper()
	var out strings.Builder
	for {
		m, err := f.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return out.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s ", m.Data)
	}
}

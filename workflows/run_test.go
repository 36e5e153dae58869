package workflows_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/workflows"
)

// memoryJournal keeps what it is told. It fails on the entry that broken names.
type memoryJournal struct {
	mu     sync.Mutex
	lines  []string
	broken string
}

var errDisk = errors.New("no space left on device")

func (j *memoryJournal) add(line string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != "" && strings.HasPrefix(line, j.broken) {
		return errDisk
	}
	j.lines = append(j.lines, line)
	return nil
}

func (j *memoryJournal) Started(_ context.Context, _ uuid.UUID, address string, attempt int, inputs string) error {
	return j.add(fmt.Sprintf("start %s %d %s", address, attempt, inputs))
}

func (j *memoryJournal) Finished(_ context.Context, _ uuid.UUID, address string, attempt int, outcome, failure string, outputs []byte) error {
	return j.add(strings.TrimSpace(fmt.Sprintf("end %s %d %s %s %s", address, attempt, outcome, failure, outputs)))
}

// outcomes is how each node ended, for comparing.
func outcomes(endings []workflows.Ending) string {
	var out []string
	for _, e := range endings {
		out = append(out, e.Address+"="+string(e.Outcome))
	}
	return strings.Join(out, " ")
}

func does(err error) func(context.Context, int) (workflows.Outputs, error) {
	return func(context.Context, int) (workflows.Outputs, error) { return nil, err }
}

func run(t *testing.T, e *workflows.Engine, nodes []workflows.Node, stop <-chan struct{}) ([]workflows.Ending, error) {
	t.Helper()
	if e.Clock == nil {
		e.Clock = workflows.SystemClock{}
	}
	if e.Journal == nil {
		e.Journal = &memoryJournal{}
	}
	return e.Run(t.Context(), uuid.New(), nodes, stop)
}

func TestNodesRunInTheOrderOfTheirDependencies(t *testing.T) {
	var mu sync.Mutex
	var order []string
	note := func(name string) func(context.Context, int) (workflows.Outputs, error) {
		return func(context.Context, int) (workflows.Outputs, error) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, name)
			return workflows.Outputs(name), nil
		}
	}
	j := &memoryJournal{}
	endings, err := run(t, &workflows.Engine{Journal: j}, []workflows.Node{
		{Address: "c", DependsOn: []string{"b"}, Do: note("c")},
		{Address: "b", DependsOn: []string{"a", "done-before"}, Do: note("b"), Inputs: "sha256:b"},
		{Address: "a", Do: note("a")},
	}, nil)
	if err != nil || outcomes(endings) != "c=ok b=ok a=ok" {
		t.Fatalf("Run() = %s, %v; want all ok, in the order of the nodes", outcomes(endings), err)
	}
	if !slices.Equal(order, []string{"a", "b", "c"}) {
		t.Errorf("order = %v; want a b c", order)
	}
	want := []string{"start a 1", "end a 1 ok  a", "start b 1 sha256:b", "end b 1 ok  b", "start c 1", "end c 1 ok  c"}
	for i := range j.lines {
		j.lines[i] = strings.TrimSpace(j.lines[i])
	}
	if !slices.Equal(j.lines, want) {
		t.Errorf("journal = %q; want %q", j.lines, want)
	}
}

func TestLimitsBoundWhatRunsAtOnce(t *testing.T) {
	tests := []struct {
		name        string
		parallelism int
		limit       func(i int) []string
		want        int
	}{
		{"ten by default", 0, func(int) []string { return nil }, 10},
		{"three", 3, func(int) []string { return nil }, 3},
		{"one per BMC", 0, func(i int) []string { return []string{fmt.Sprintf("bmc %d", i%2)} }, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				now, most := 0, 0
				perLimit := map[string]int{}
				var nodes []workflows.Node
				for i := range 20 {
					limits := test.limit(i)
					nodes = append(nodes, workflows.Node{Address: fmt.Sprint(i), Limits: limits, Do: func(context.Context, int) (workflows.Outputs, error) {
						mu.Lock()
						now++
						most = max(most, now)
						for _, l := range limits {
							if perLimit[l]++; perLimit[l] > 1 {
								t.Errorf("two nodes hold %q at once", l)
							}
						}
						mu.Unlock()
						<-time.After(time.Second) // the bubble's clock
						mu.Lock()
						defer mu.Unlock()
						now--
						for _, l := range limits {
							perLimit[l]--
						}
						return nil, nil
					}})
				}
				if _, err := run(t, &workflows.Engine{Parallelism: test.parallelism}, nodes, nil); err != nil {
					t.Fatal(err)
				}
				if most != test.want {
					t.Errorf("at most %d ran at once; want %d", most, test.want)
				}
			})
		})
	}
}

func TestFailureDoesToOthersWhatTheNodeSays(t *testing.T) {
	boom := errors.New("boom")
	tests := []struct {
		onFailure workflows.OnFailure
		want      string
	}{
		{workflows.OnFailureContinue, "before=ok bad=failed after=blocked beyond=blocked other=ok"},
		{workflows.OnFailureStop, "before=ok bad=failed after=blocked beyond=blocked other=cancelled"},
		{workflows.OnFailureRollback, "before=rolled back bad=failed after=blocked beyond=blocked other=cancelled"},
	}
	for _, test := range tests {
		t.Run(string(test.onFailure), func(t *testing.T) {
			var undone []string
			undo := func(name string) func(context.Context) error {
				return func(context.Context) error { undone = append(undone, name); return nil }
			}
			endings, err := run(t, &workflows.Engine{Parallelism: 1}, []workflows.Node{
				{Address: "before", Do: does(nil), Undo: undo("before")},
				{Address: "bad", DependsOn: []string{"before"}, Do: does(boom), Undo: undo("bad"), OnFailure: test.onFailure},
				{Address: "after", DependsOn: []string{"bad"}, Do: does(nil), Undo: undo("after")},
				{Address: "beyond", DependsOn: []string{"after"}, Do: does(nil)},
				{Address: "other", Do: does(nil), DependsOn: []string{"before"}},
			}, nil)
			if err != nil || outcomes(endings) != test.want {
				t.Errorf("Run() = %s, %v; want %s", outcomes(endings), err, test.want)
			}
			if !errors.Is(endings[1].Err, boom) || endings[2].Cause != "bad" || endings[3].Cause != "after" {
				t.Errorf("Run() = %+v; want the failure and what blocked each", endings)
			}
			if test.onFailure == workflows.OnFailureRollback {
				if want := []string{"bad", "before"}; !slices.Equal(undone, want) {
					t.Errorf("undone = %v; want %v: in reverse, what failed half-way too", undone, want)
				}
			} else if undone != nil {
				t.Errorf("undone = %v; want nothing", undone)
			}
		})
	}
}

func TestUndoThatFailsIsShownAndTheRestIsStillUndone(t *testing.T) {
	stuck := errors.New("stuck")
	undone := false
	j := &memoryJournal{}
	endings, err := run(t, &workflows.Engine{Journal: j}, []workflows.Node{
		{Address: "a", Do: does(nil), Undo: func(context.Context) error { undone = true; return nil }},
		{Address: "b", DependsOn: []string{"a"}, Do: does(nil), Undo: func(context.Context) error { return stuck }},
		{Address: "c", DependsOn: []string{"b"}, Do: does(errors.New("boom")), OnFailure: workflows.OnFailureRollback},
	}, nil)
	if err != nil || outcomes(endings) != "a=rolled back b=failed c=failed" {
		t.Errorf("Run() = %s, %v; want b's undoing shown as failed", outcomes(endings), err)
	}
	if !errors.Is(endings[1].Err, stuck) || !undone {
		t.Errorf("b = %v, a undone = %t; want the cause, and a undone all the same", endings[1].Err, undone)
	}
	if last := j.lines[len(j.lines)-1]; !strings.HasPrefix(last, "end a 0 rolled back") {
		t.Errorf("the journal ends with %q; want the undoing of a", last)
	}
}

func TestStopStartsNothingNewAndEndsRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		tries := 0
		nodes := []workflows.Node{
			{Address: "running", Do: func(context.Context, int) (workflows.Outputs, error) {
				close(stop)
				<-time.After(time.Minute) // of the bubble: what runs is finished
				return nil, nil
			}},
			{Address: "retrying", Retry: workflows.Retry{Attempts: 100, Backoff: time.Hour}, Do: func(context.Context, int) (workflows.Outputs, error) {
				tries++
				return nil, errors.New("not yet")
			}},
			{Address: "next", DependsOn: []string{"running"}, Do: func(context.Context, int) (workflows.Outputs, error) {
				t.Error("next started after the stop")
				return nil, nil
			}},
		}
		began := time.Now()
		endings, err := run(t, &workflows.Engine{}, nodes, stop)
		if want := "running=ok retrying=failed next=cancelled"; err != nil || outcomes(endings) != want {
			t.Errorf("Run() = %s, %v; want %s", outcomes(endings), err, want)
		}
		if took := time.Since(began); took != time.Minute || tries != 1 {
			t.Errorf("the run took %s and %d tries; want a minute and one", took, tries)
		}
		if !strings.Contains(endings[1].Err.Error(), "stopped after 1 of 100 attempts") {
			t.Errorf("retrying = %v; want that it was stopped", endings[1].Err)
		}
	})
}

func TestRunThatIsStoppedBeforeItBeginsStartsNothing(t *testing.T) {
	stop := make(chan struct{})
	close(stop)
	for range 50 { // the choice between two ready channels is random
		endings, err := run(t, &workflows.Engine{}, []workflows.Node{{Address: "a", Do: does(nil)}}, stop)
		if err != nil || outcomes(endings) != "a=cancelled" {
			t.Fatalf("Run() = %s, %v; want a=cancelled", outcomes(endings), err)
		}
	}
}

// Whoever closes Run's stop may be late.
func TestAStopIsSeenBeforeItIsPassedOn(t *testing.T) {
	asked := false
	nodes := []workflows.Node{
		{Address: "a", Do: func(context.Context, int) (workflows.Outputs, error) {
			asked = true
			return nil, nil
		}},
		{Address: "b", DependsOn: []string{"a"}, Do: does(nil)},
	}
	endings, err := run(t, &workflows.Engine{Stopping: func() bool { return asked }}, nodes, nil)
	if err != nil || outcomes(endings) != "a=ok b=cancelled" {
		t.Errorf("Run() = %s, %v; want b cancelled", outcomes(endings), err)
	}
}

func TestEndOfTheContextCutsOffWhatRuns(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	j := &memoryJournal{}
	e := &workflows.Engine{Journal: j, Clock: workflows.SystemClock{}}
	endings, err := e.Run(ctx, uuid.New(), []workflows.Node{
		{Address: "a", Retry: workflows.Retry{Attempts: 9}, Do: func(ctx context.Context, _ int) (workflows.Outputs, error) {
			cancel(interrupted)
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}},
		{Address: "b", DependsOn: []string{"a"}, Do: does(nil)},
	}, nil)
	if err != nil || outcomes(endings) != "a=failed b=blocked" || !errors.Is(endings[0].Err, interrupted) {
		t.Errorf("Run() = %s (%v), %v; want a cut off", outcomes(endings), endings[0].Err, err)
	}
	if want := "end a 1 failed interrupted"; !slices.Contains(j.lines, want) {
		t.Errorf("journal = %q; want %q: what was done is written down also then", j.lines, want)
	}
}

func TestTimeoutBoundsOneAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts []int
		endings, err := run(t, &workflows.Engine{}, []workflows.Node{{
			Address: "a", Timeout: time.Minute, Retry: workflows.Retry{Attempts: 2, Backoff: time.Second},
			Do: func(ctx context.Context, attempt int) (workflows.Outputs, error) {
				attempts = append(attempts, attempt)
				if attempt == 1 {
					<-ctx.Done()
					return nil, context.Cause(ctx)
				}
				return nil, nil
			},
		}}, nil)
		if err != nil || outcomes(endings) != "a=ok" || !slices.Equal(attempts, []int{1, 2}) {
			t.Errorf("Run() = %s, %v after %v; want ok on the second attempt", outcomes(endings), err, attempts)
		}
		if d := endings[0].Duration; d < time.Minute || d > time.Minute+2*time.Second {
			t.Errorf("Duration = %s; want the timeout and one pause", d)
		}
	})
}

func TestJournalThatCannotBeWrittenEndsTheRun(t *testing.T) {
	for _, broken := range []string{"start a", "end a"} {
		t.Run(broken, func(t *testing.T) {
			ran := false
			endings, err := run(t, &workflows.Engine{Journal: &memoryJournal{broken: broken}, Parallelism: 1}, []workflows.Node{
				{Address: "a", Do: func(context.Context, int) (workflows.Outputs, error) { ran = true; return nil, nil }, Retry: workflows.Retry{Attempts: 3}},
				{Address: "b", Do: does(nil)},
			}, nil)
			if !errors.Is(err, errDisk) || outcomes(endings) != "a=failed b=cancelled" {
				t.Errorf("Run() = %s, %v; want the journal's error and nothing more started", outcomes(endings), err)
			}
			if ran != (broken == "end a") {
				t.Errorf("a ran = %t; what cannot be journaled must not begin", ran)
			}
			if n := strings.Count(endings[0].Err.Error(), errDisk.Error()); n != 1 {
				t.Errorf("a failed with %q; want the cause once", endings[0].Err)
			}
		})
	}
}

func TestCycleIsReportedInsteadOfWaitedFor(t *testing.T) {
	endings, err := run(t, &workflows.Engine{}, []workflows.Node{
		{Address: "a", DependsOn: []string{"b"}, Do: does(nil)},
		{Address: "b", DependsOn: []string{"a"}, Do: does(nil)},
		{Address: "c", Do: does(nil)},
	}, nil)
	if err != nil || outcomes(endings) != "a=failed b=failed c=ok" || !strings.Contains(endings[0].Err.Error(), "cycle") {
		t.Errorf("Run() = %s, %v; want the cycle named", outcomes(endings), err)
	}
}

func TestWatchSeesEveryStartAndEnd(t *testing.T) {
	var got []string
	var mu sync.Mutex
	e := &workflows.Engine{Watch: func(c workflows.Change) {
		mu.Lock()
		defer mu.Unlock()
		if c.Ended == nil {
			got = append(got, fmt.Sprintf("%s start %d", c.Address, c.Attempt))
		} else {
			got = append(got, fmt.Sprintf("%s %s", c.Address, c.Ended.Outcome))
		}
	}}
	if _, err := run(t, e, []workflows.Node{{Address: "a", Do: does(nil)}, {Address: "b", DependsOn: []string{"a"}, Do: does(errors.New("x"))}}, nil); err != nil {
		t.Fatal(err)
	}
	if want := []string{"a start 1", "a ok", "b start 1", "b failed"}; !slices.Equal(got, want) {
		t.Errorf("Watch saw %q; want %q", got, want)
	}
}

// pauses is a clock that does not wait and remembers how long it should have.
type pauses struct{ list []time.Duration }

func (p *pauses) Now() time.Time { return time.Unix(0, 0) }

func (p *pauses) After(d time.Duration) <-chan time.Time {
	p.list = append(p.list, d)
	c := make(chan time.Time, 1)
	c <- time.Time{}
	return c
}

func TestRetryPausesGrowWithinTheirBounds(t *testing.T) {
	tests := []struct {
		name   string
		jitter float64
		max    time.Duration
		want   []time.Duration
	}{
		{"in the middle of the spread", 0.5, 0, []time.Duration{1, 2, 4, 8, 16, 16}},
		{"at its lower bound", 0, 0, []time.Duration{3, 6, 12, 24, 48, 48}},
		{"at most MaxBackoff", 0.5, 3 * time.Second, []time.Duration{1, 2, 3, 3, 3, 3}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			clock := &pauses{}
			r := workflows.Retry{Attempts: 7, Backoff: time.Second, MaxBackoff: test.max, Jitter: func() float64 { return test.jitter }}
			err := r.Do(t.Context(), clock, func(context.Context, int) error { return errors.New("no") })
			if err == nil || !strings.Contains(err.Error(), "after 7 attempts") {
				t.Errorf("Do() = %v; want the number of attempts", err)
			}
			unit := time.Second
			if test.jitter == 0 {
				unit = time.Second / 4
			}
			var want []time.Duration
			for _, w := range test.want {
				want = append(want, w*unit)
			}
			if !slices.Equal(clock.list, want) {
				t.Errorf("pauses = %v; want %v", clock.list, want)
			}
		})
	}
}

func TestRetrySpreadsByAQuarter(t *testing.T) {
	clock := &pauses{}
	r := workflows.Retry{Attempts: 1000, Backoff: time.Second, MaxBackoff: time.Second}
	_ = r.Do(t.Context(), clock, func(context.Context, int) error { return errors.New("no") })
	low, high := slices.Min(clock.list), slices.Max(clock.list)
	if low < 750*time.Millisecond || high > 1250*time.Millisecond || high-low < 100*time.Millisecond {
		t.Errorf("pauses are between %s and %s; want them spread over 750 ms to 1.25 s", low, high)
	}
}

func TestRetryKnowsWhenToGiveUp(t *testing.T) {
	refused := errors.New("refused")
	clock, calls := &pauses{}, 0
	err := workflows.Retry{Attempts: 5}.Do(t.Context(), clock, func(context.Context, int) error {
		calls++
		return fmt.Errorf("asking: %w", workflows.GiveUp(refused))
	})
	if calls != 1 || !errors.Is(err, refused) || !workflows.Final(err) {
		t.Errorf("Do() = %v after %d calls; want one call and the cause", err, calls)
	}
	if workflows.GiveUp(nil) != nil || workflows.Final(refused) {
		t.Error("GiveUp(nil) is an error, or Final holds for an ordinary one")
	}
}

package dispatch_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/dispatch"
	"github.com/edge-provision/edge-provision/workflows/keyring"
	"github.com/edge-provision/edge-provision/workflows/keyring/keyringtest"
)

var mac = inventory.MAC{0x52, 0x54, 0, 4, 0x21, 1}

// rig is a controller over loopback TLS that can be killed and started again on
// the same port with the same store.
type rig struct {
	t         *testing.T
	values    *keyringtest.Files
	authority *keyring.Authority
	address   string
	leases    dispatch.Leases
	machine   uuid.UUID
	events    *events

	server *dispatch.Server
	kill   func()
	sunk   chan inventory.Facts
	heard  chan []inventory.Neighbor
	deaf   atomic.Bool   // who keeps what was heard
	news   chan struct{} // of the agent
}

type events struct {
	mu  sync.Mutex
	all []inventory.Event
}

func (e *events) Record(_ context.Context, event inventory.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, event)
}

func (e *events) count(kind inventory.EventKind) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, event := range e.all {
		if event.Kind == kind {
			n++
		}
	}
	return n
}

func newRig(t *testing.T) *rig {
	t.Helper()
	values, err := keyringtest.OpenFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.Open(t.Context(), keyring.Config{KeyFile: t.TempDir() + "/key", Values: values})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := keys.Authority(t.Context(), "store-0421", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		t: t, values: values, authority: authority, address: "127.0.0.1:0", machine: uuid.New(),
		events: &events{}, sunk: make(chan inventory.Facts, 100), heard: make(chan []inventory.Neighbor, 100),
		news: make(chan struct{}, 1),
	}
	r.start()
	return r
}

// start starts a controller.
func (r *rig) start() {
	r.t.Helper()
	cfg, err := r.authority.TLS([]string{"127.0.0.1"}, time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	r.server, err = dispatch.New(dispatch.Config{
		Site: "store-0421", Store: r.values, Leases: r.leases, Recorder: r.events, TLS: cfg, PollLimit: 2 * time.Second,
		Facts: func(_ context.Context, _ uuid.UUID, _ string, f inventory.Facts) error {
			r.sunk <- f
			return nil
		},
		Neighbors: func(_ context.Context, machine uuid.UUID, neighbors []inventory.Neighbor) error {
			r.heard <- neighbors
			if r.deaf.Load() {
				return errors.New("the catalog is locked")
			}
			return nil
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(ctx, listener) }()
	r.kill = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			r.t.Errorf("Serve = %v; want nil after its context ended", err)
		}
	})
	r.t.Cleanup(func() { r.kill() })
}

func (r *rig) client() *agent.Client {
	r.t.Helper()
	c, err := agent.NewClient(agent.ClientConfig{URL: "https://" + r.address, Pin: r.authority.Pin()})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *rig) mint(boot string) string {
	r.t.Helper()
	token, err := r.server.MintToken(r.t.Context(), r.machine, mac, boot)
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// boot starts an agent; it returns how the agent ended.
func (r *rig) boot(name string, executor agent.Executor) <-chan error {
	r.t.Helper()
	loop := agent.NewLoop(agent.Config{
		Client: r.client(), Token: r.mint(name), Boot: name, MAC: mac, Version: "test", News: r.news,
		Neighbors: func(context.Context) ([]inventory.Neighbor, error) {
			return []inventory.Neighbor{{MAC: mac, Chassis: "sw-1", Port: "7"}}, nil
		},
		Facts: func(context.Context) (inventory.Facts, error) {
			return inventory.Facts{SchemaVersion: 1, Kernel: &inventory.Kernel{Release: name}}, nil
		},
		Executor: executor, Hold: time.Second, Backoff: 10 * time.Millisecond, LostAfter: time.Minute,
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		_, err := loop.Run(ctx)
		ended <- err
	}()
	r.t.Cleanup(cancel)
	return ended
}

// stage is an executor whose tasks last until they are told to end.
type stage struct {
	mu      sync.Mutex
	log     []string
	started chan agent.Task
	finish  chan agent.Result
	begin   bool // ask for leave before it "writes"
	// linger, unless it is nil, is closed when a task that was cut off may end.
	linger chan struct{}
}

func newStage() *stage {
	return &stage{started: make(chan agent.Task, 10), finish: make(chan agent.Result, 10)}
}

func (s *stage) note(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, line)
}

func (s *stage) Execute(ctx context.Context, task agent.Task, report func(agent.Progress) error) agent.Result {
	s.note("start " + task.Ref().String())
	defer s.note("end " + task.Ref().String())
	if s.begin {
		if err := report(agent.Progress{Phase: agent.PhaseBegin}); err != nil {
			return agent.Result{Outcome: agent.OutcomeRefused, Error: &agent.Failure{Code: agent.CodeFetch, Message: err.Error()}}
		}
		s.note("writing")
	}
	s.started <- task
	select {
	case r := <-s.finish:
		return r
	case <-ctx.Done():
		if s.linger != nil {
			<-s.linger
		}
		return agent.Result{Outcome: agent.OutcomeFailed, Error: &agent.Failure{Code: agent.CodeInternal, Message: "cut"}}
	}
}

func (s *stage) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

func writeTask(attempt int) agent.Task {
	return agent.Task{
		ID: "install/write", Run: "run-1", Step: `machine.node["a"]`, Attempt: attempt, Kind: agent.KindWrite,
		Write: &agent.Write{
			Disk:  agent.DiskRef{Serial: "S1", Bytes: 1 << 30},
			Image: "sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", ManifestURL: "/m", FramesURL: "/f",
		},
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // to end what hangs
	t.Cleanup(cancel)
	return ctx
}

func TestAgentReportsFactsWorksAndReboots(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	s := newStage()
	ended := r.boot("boot-1", s)
	session, err := r.server.WaitSession(ctx, r.machine)
	if err != nil || session.Boot != "boot-1" || session.MAC != mac || session.Address != netip.MustParseAddr("127.0.0.1") {
		t.Fatalf("WaitSession = %+v, %v; want boot-1 of %s at 127.0.0.1", session, err, mac)
	}
	facts, err := r.server.WaitFacts(ctx, r.machine)
	if err != nil || facts.Kernel == nil || facts.Kernel.Release != "boot-1" {
		t.Fatalf("WaitFacts = %+v, %v; want those of boot-1", facts, err)
	}
	if sunk := <-r.sunk; sunk.Kernel == nil {
		t.Errorf("the facts sink got %+v", sunk)
	}
	hold := agent.Task{ID: "hold", Attempt: 1, Kind: agent.KindHold, Hold: &agent.Hold{Message: "a person decides"}}
	if result, err := r.server.Do(ctx, r.machine, hold, nil); err != nil || result.Outcome != agent.OutcomeOK {
		t.Fatalf("Do(hold) = %+v, %v; want ok", result, err)
	}
	s.finish <- agent.Result{Outcome: agent.OutcomeOK, Write: &agent.WriteResult{Bytes: 42}}
	result, err := r.server.Do(ctx, r.machine, writeTask(1), nil)
	if err != nil || result.Outcome != agent.OutcomeOK || result.Write == nil || result.Write.Bytes != 42 || result.Boot != "boot-1" {
		t.Fatalf("Do(write) = %+v, %v; want ok with 42 bytes", result, err)
	}
	// The same attempt again is not done again.
	if again, err := r.server.Do(ctx, r.machine, writeTask(1), nil); err != nil || again.Write == nil || again.Write.Bytes != 42 {
		t.Fatalf("Do(write) again = %+v, %v; want the same result", again, err)
	}
	if got := s.lines(); len(got) != 2 {
		t.Errorf("the executor saw %q; want one write", got)
	}
	if _, err := r.server.Do(ctx, r.machine, agent.Task{ID: "reboot", Attempt: 1, Kind: agent.KindReboot}, nil); err != nil {
		t.Fatalf("Do(reboot) = %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the agent ended with %v; want a reboot", err)
	}
	if session, ok := r.server.Session(ctx, r.machine); ok {
		t.Errorf("Session after the reboot = %+v; want none", session)
	}
	for _, kind := range []inventory.EventKind{inventory.EventAgentSession, inventory.EventAgentFacts, inventory.EventAgentTask, inventory.EventAgentResult} {
		if r.events.count(kind) == 0 {
			t.Errorf("no %s event was recorded", kind)
		}
	}
}

func TestRestartOfTheControllerLeavesTheRunningTaskAlone(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	s := newStage()
	s.begin = true
	r.boot("boot-1", s)
	first, stopFirst := context.WithCancel(ctx)
	died := make(chan error, 1)
	go func() {
		_, err := r.server.Do(first, r.machine, writeTask(1), func(agent.Progress) {})
		died <- err
	}()
	<-s.started
	stopFirst()
	if err := <-died; !errors.Is(err, context.Canceled) {
		t.Fatalf("Do of the dying controller = %v; want canceled", err)
	}
	r.kill()
	r.start()
	if session, err := r.server.WaitSession(ctx, r.machine); err != nil || session.Boot != "boot-1" {
		t.Fatalf("WaitSession after the restart = %+v, %v; want boot-1", session, err)
	}
	// In mid-write the facts are those from before.
	if facts, err := r.server.WaitFacts(ctx, r.machine); err != nil || facts.Kernel == nil || facts.Kernel.Release != "boot-1" {
		t.Errorf("WaitFacts after the restart = %+v, %v; want those of boot-1", facts, err)
	}
	if left, err := r.server.UnfinishedWrites(ctx, r.machine); err != nil || len(left) != 1 || left[0].Disk.Serial != "S1" {
		t.Errorf("UnfinishedWrites = %+v, %v; want the disk S1", left, err)
	}
	done := make(chan agent.Result, 1)
	go func() {
		result, err := r.server.Do(ctx, r.machine, writeTask(1), nil)
		if err != nil {
			t.Error(err)
		}
		done <- result
	}()
	s.finish <- agent.Result{Outcome: agent.OutcomeOK}
	if result := <-done; result.Outcome != agent.OutcomeOK {
		t.Errorf("Do after the restart = %+v; want ok", result)
	}
	if got, want := s.lines(), []string{"start install/write#1", "writing", "end install/write#1"}; !slices.Equal(got, want) {
		t.Errorf("the executor saw %q; want %q", got, want)
	}
	if left, err := r.server.UnfinishedWrites(ctx, r.machine); err != nil || len(left) != 0 {
		t.Errorf("UnfinishedWrites after the end = %+v, %v; want none", left, err)
	}
}

func TestResultThatArrivesWhileNobodyWaitsIsFoundLater(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	s := newStage()
	r.boot("boot-1", s)
	first, stopFirst := context.WithCancel(ctx)
	died := make(chan error, 1)
	go func() {
		_, err := r.server.Do(first, r.machine, writeTask(1), nil)
		died <- err
	}()
	<-s.started
	stopFirst()
	<-died // ended by stopFirst
	r.kill()
	s.finish <- agent.Result{Outcome: agent.OutcomeOK, Write: &agent.WriteResult{Bytes: 7}}
	r.start()
	for r.events.count(inventory.EventAgentResult) == 0 {
		if ctx.Err() != nil {
			t.Fatal("the result was not delivered to the new controller")
		}
		if _, err := r.server.WaitSession(ctx, r.machine); err != nil {
			t.Fatal(err)
		}
	}
	r.kill()
	r.start()
	result, err := r.server.Do(ctx, r.machine, writeTask(1), nil)
	if err != nil || result.Write == nil || result.Write.Bytes != 7 {
		t.Errorf("Do of the third controller = %+v, %v; want the result that the second accepted", result, err)
	}
}

func TestNewerAttemptStartsOnlyWhenTheOlderHasStopped(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	s := newStage()
	s.linger = make(chan struct{})
	r.boot("boot-1", s)
	older := make(chan error, 1)
	go func() {
		_, err := r.server.Do(ctx, r.machine, writeTask(1), nil)
		older <- err
	}()
	<-s.started
	newer := make(chan agent.Result, 1)
	go func() {
		result, err := r.server.Do(ctx, r.machine, writeTask(2), nil)
		if err != nil {
			t.Error(err)
		}
		newer <- result
	}()
	// Once the older attempt has stopped its Do may as well return the result.
	if err := <-older; !errors.Is(err, dispatch.ErrReplaced) {
		t.Errorf("Do of the older attempt = %v; want ErrReplaced", err)
	}
	close(s.linger)
	<-s.started
	if result, err := r.server.Do(ctx, r.machine, writeTask(1), nil); err != nil || result.Outcome != agent.OutcomeCancelled {
		t.Errorf("Do of the older attempt while the newer runs = %+v, %v; want its cancelled result", result, err)
	}
	s.mu.Lock()
	if len(s.log) != 3 {
		t.Errorf("asking for the older attempt again changed what runs: %q", s.log)
	}
	s.mu.Unlock()
	s.finish <- agent.Result{Outcome: agent.OutcomeOK}
	<-newer
	want := []string{"start install/write#1", "end install/write#1", "start install/write#2", "end install/write#2"}
	if got := s.lines(); !slices.Equal(got, want) {
		t.Errorf("the executor saw %q; want %q", got, want)
	}
}

func TestLowerFenceIsRefused(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	s := newStage()
	r.boot("boot-1", s)
	high := writeTask(1)
	high.Fence = 7
	s.finish <- agent.Result{Outcome: agent.OutcomeOK}
	if _, err := r.server.Do(ctx, r.machine, high, nil); err != nil {
		t.Fatal(err)
	}
	low := writeTask(1)
	low.ID, low.Fence = "of an older owner", 6
	result, err := r.server.Do(ctx, r.machine, low, nil)
	if err != nil || result.Outcome != agent.OutcomeRefused || result.Error.Code != agent.CodeStale {
		t.Errorf("Do with a lower fence = %+v, %v; want refused as stale", result, err)
	}
}

func TestCancelStopsTheTask(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	s := newStage()
	r.boot("boot-1", s)
	done := make(chan agent.Result, 1)
	go func() {
		result, err := r.server.Do(ctx, r.machine, writeTask(1), nil)
		if err != nil {
			t.Error(err)
		}
		done <- result
	}()
	<-s.started
	if err := r.server.Cancel(ctx, r.machine, writeTask(1).Ref()); err != nil {
		t.Fatal(err)
	}
	if result := <-done; result.Outcome != agent.OutcomeCancelled || result.Error.Code != agent.CodeCancelled {
		t.Errorf("Do of a cancelled task = %+v; want cancelled", result)
	}
}

// Between the restart of a controller and the engine's taking up of its run
// nobody could journal that a disk is about to change.
func TestDiskIsNotTouchedBeforeTheEngineKnows(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	s := newStage()
	s.begin = true
	r.boot("boot-1", s)
	first, stopFirst := context.WithCancel(ctx)
	_, err := r.server.Do(first, r.machine, writeTask(1), func(p agent.Progress) {
		if p.Phase == agent.PhaseBegin {
			// The journal cannot be written.
			stopFirst()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Do = %v; want canceled", err)
	}
	begun := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		_, err := r.server.Do(ctx, r.machine, writeTask(1), func(p agent.Progress) {
			if p.Phase == agent.PhaseBegin {
				if slices.Contains(s.lines(), "writing") {
					t.Error("the disk was written before the engine knew")
				}
				begun <- struct{}{}
			}
		})
		done <- err
	}()
	<-begun
	<-s.started
	s.finish <- agent.Result{Outcome: agent.OutcomeOK}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The machine's own power is cut in the middle of a write.
func TestWriteIsOfferedToTheNextBootAsOneToResume(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	s := newStage()
	s.begin = true
	r.boot("boot-1", s)
	done := make(chan agent.Result, 1)
	go func() {
		result, err := r.server.Do(ctx, r.machine, writeTask(1), nil)
		if err != nil {
			t.Error(err)
		}
		done <- result
	}()
	if task := <-s.started; task.Write.Resume {
		t.Error("the first offer asks to resume")
	}
	second := newStage()
	second.begin = true
	r.boot("boot-2", second)
	if task := <-second.started; !task.Write.Resume {
		t.Error("the offer to the second boot does not ask to resume")
	}
	second.finish <- agent.Result{Outcome: agent.OutcomeOK}
	if result := <-done; result.Boot != "boot-2" || result.Outcome != agent.OutcomeOK {
		t.Errorf("Do = %+v; want the result of boot-2", result)
	}
}

package bmc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
	"github.com/edge-provision/edge-provision/inventory"
)

const password = "correct-horse-7"

// rig is a simulated machine behind a simulated Redfish service on loopback.
type rig struct {
	machine *sim.Memory
	service *sim.Redfish
	server  *httptest.Server
	config  bmc.Config
	events  *events
}

// events is a Recorder that keeps everything.
type events struct {
	mu   sync.Mutex
	list []inventory.Event
}

func (e *events) Record(ev inventory.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, ev)
}

// of are the events of a kind.
func (e *events) of(kind inventory.EventKind) []inventory.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(e.list), func(ev inventory.Event) bool { return ev.Kind != kind })
}

func (e *events) kinds() []inventory.EventKind {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []inventory.EventKind
	for _, ev := range e.list {
		out = append(out, ev.Kind)
	}
	return out
}

func newRig(t *testing.T, more ...func(*sim.RedfishConfig)) *rig {
	t.Helper()
	cert, fingerprint, err := sim.SelfSigned(netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{machine: &sim.Memory{}, events: &events{}}
	c := sim.RedfishConfig{
		Username: "admin", Password: password, SystemUUID: "4c4c4544-0042-3010-8042-b4c04f4d3232",
		Serial: "SN-1", Manufacturer: "Example", Model: "Edge 1", MACs: []string{"52:54:00:04:21:01"},
	}
	for _, change := range more {
		change(&c)
	}
	r.service = sim.NewRedfish(c, r.machine)
	r.server = httptest.NewUnstartedServer(r.service)
	r.server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.server.StartTLS()
	t.Cleanup(r.server.Close)
	r.config = bmc.Config{
		Driver: bmc.DriverRedfish, Address: r.server.URL, Username: "admin", Password: password, Fingerprint: fingerprint,
		Timeout: 30 * time.Second, Attempts: 2, RetryWait: time.Millisecond, PollInterval: time.Millisecond, OffTime: time.Millisecond,
		Machine: `machine.node["a"]`,
	}
	return r
}

// open opens a Controller that is closed with the test.
func (r *rig) open(t *testing.T, d bmc.Deps) *bmc.Controller {
	t.Helper()
	if d.Recorder == nil {
		d.Recorder = r.events
	}
	c, err := bmc.Open(r.config, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// noSessions fails when the service has a session open.
func (r *rig) noSessions(t *testing.T) {
	t.Helper()
	if open, ever := r.service.Sessions(); open != 0 || ever == 0 {
		t.Errorf("sessions open, ever = %d, %d; want none left open of at least one", open, ever)
	}
}

func TestRedfishPowerActionsReachTheMachineAndAreIdempotent(t *testing.T) {
	tests := []struct {
		name   string
		on     bool
		action bmc.PowerAction
		want   []sim.Action
		after  bmc.PowerState
	}{
		{"on when off", false, bmc.On, []sim.Action{sim.On}, bmc.PowerOn},
		{"on when on", true, bmc.On, nil, bmc.PowerOn},
		{"off when on", true, bmc.Off, []sim.Action{sim.Off}, bmc.PowerOff},
		{"off when off", false, bmc.Off, nil, bmc.PowerOff},
		{"soft when on", true, bmc.Soft, []sim.Action{sim.Soft}, bmc.PowerOff},
		{"soft when off", false, bmc.Soft, nil, bmc.PowerOff},
		{"cycle when on", true, bmc.Cycle, []sim.Action{sim.Off, sim.On}, bmc.PowerOn},
		{"cycle when off", false, bmc.Cycle, []sim.Action{sim.On}, bmc.PowerOn},
		{"reset when on", true, bmc.Reset, []sim.Action{sim.Reset}, bmc.PowerOn},
		{"reset when off", false, bmc.Reset, []sim.Action{sim.On}, bmc.PowerOn},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			if tt.on {
				if err := r.machine.Do(t.Context(), sim.On); err != nil {
					t.Fatal(err)
				}
			}
			before := len(r.machine.Actions())
			c := r.open(t, bmc.Deps{})
			if err := c.SetPower(t.Context(), tt.action); err != nil {
				t.Fatalf("SetPower(%s) = %v; want no error", tt.action, err)
			}
			if got := r.machine.Actions()[before:]; fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("SetPower(%s) did %v; want %v", tt.action, got, tt.want)
			}
			if got, err := c.PowerState(t.Context()); got != tt.after || err != nil {
				t.Errorf("PowerState() = %s, %v; want %s", got, err, tt.after)
			}
			r.noSessions(t)
		})
	}
}

func TestOneTimeBootIsUsedOnceAndTheNextBootGoesToDisk(t *testing.T) {
	r := newRig(t)
	c := r.open(t, bmc.Deps{})
	if err := c.SetNextBoot(t.Context(), bmc.BootPXE, bmc.BootOptions{EFI: true}); err != nil {
		t.Fatal(err)
	}
	for _, a := range []bmc.PowerAction{bmc.On, bmc.Reset} {
		if err := c.SetPower(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	want := []sim.Override{{Device: sim.PXE, Once: true, EFI: true}, {Device: sim.Disk}}
	if got := r.machine.Boots(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("boots = %v; want %v", got, want)
	}
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.NextBoot.Device != bmc.BootNone || st.Power != bmc.PowerOn || st.Identity.Serial != "SN-1" || st.Identity.UUID == "" {
		t.Errorf("Status() = %+v; want power on, no override left, serial SN-1 and a UUID", st)
	}
	if got := fmt.Sprint(r.events.kinds()); got != "[bmc.boot bmc.power bmc.power]" {
		t.Errorf("events = %s; want [bmc.boot bmc.power bmc.power]", got)
	}
}

func TestEveryBootDeviceAndOptionIsReadBack(t *testing.T) {
	r := newRig(t)
	c := r.open(t, bmc.Deps{})
	devices := map[bmc.BootDevice]sim.Device{
		bmc.BootPXE: sim.PXE, bmc.BootDisk: sim.Disk, bmc.BootCDROM: sim.CDROM, bmc.BootBIOS: sim.BIOSSetup, bmc.BootNone: sim.FirmwareOrder,
	}
	for device, want := range devices {
		for _, o := range []bmc.BootOptions{{}, {EFI: true}, {Persistent: true}, {EFI: true, Persistent: true}} {
			if err := c.SetNextBoot(t.Context(), device, o); err != nil {
				t.Fatalf("SetNextBoot(%s, %+v) = %v; want no error", device, o, err)
			}
			wantOverride := sim.Override{Device: want, Once: !o.Persistent, EFI: o.EFI}
			if device == bmc.BootNone {
				wantOverride = sim.Override{}
			}
			if got, _ := r.machine.Boot(t.Context()); got != wantOverride {
				t.Errorf("SetNextBoot(%s, %+v) set %+v; want %+v", device, o, got, wantOverride)
			}
		}
	}
}

func TestOneTimeOverrideThatTheBMCMakesPermanentIsAnError(t *testing.T) {
	r := newRig(t)
	r.service.SetFault(sim.FaultSticky)
	err := r.open(t, bmc.Deps{}).SetNextBoot(t.Context(), bmc.BootPXE, bmc.BootOptions{EFI: true})
	var re *bmc.ResponseError
	if !errors.As(err, &re) || !strings.Contains(err.Error(), "one-time") {
		t.Errorf("SetNextBoot() = %v; want a ResponseError about the one-time override", err)
	}
}

func TestUntrustedCertificateGetsNoPasswordAndShowsItsFingerprint(t *testing.T) {
	for _, pin := range []string{"", "sha256:" + strings.Repeat("ab", 32)} {
		r := newRig(t)
		right := r.config.Fingerprint
		r.config.Fingerprint = pin
		_, err := r.open(t, bmc.Deps{}).PowerState(t.Context())
		var ce *bmc.CertificateError
		if !errors.As(err, &ce) || ce.Fingerprint != right || ce.Pinned != pin || !strings.Contains(err.Error(), right) {
			t.Errorf("PowerState() with pin %q = %v; want a CertificateError that shows %s", pin, err, right)
		}
		if got := r.service.Requests(); len(got) != 0 {
			t.Errorf("with pin %q the service got %v; want nothing", pin, got)
		}
	}
}

func TestCAThatSignedTheCertificateIsTrusted(t *testing.T) {
	r := newRig(t)
	r.config.Fingerprint = ""
	r.config.CA = pemOf(r.server.Certificate())
	if _, err := r.open(t, bmc.Deps{}).PowerState(t.Context()); err != nil {
		t.Errorf("PowerState() = %v; want no error", err)
	}
	other := newRig(t)
	r.config.CA = pemOf(other.server.Certificate())
	var ce *bmc.CertificateError
	if _, err := r.open(t, bmc.Deps{}).PowerState(t.Context()); !errors.As(err, &ce) {
		t.Errorf("PowerState() with another CA = %v; want a CertificateError", err)
	}
}

func TestBadAnswersAreErrorsWithinBounds(t *testing.T) {
	// A target of its own for each case: they run at once.
	response := func() any { return new(*bmc.ResponseError) }
	unreachable := func() any { return new(*bmc.UnreachableError) }
	tests := []struct {
		fault  sim.Fault
		target func() any
		logout bool
	}{
		{sim.FaultHang, unreachable, false},
		{sim.FaultHangSystem, unreachable, true},
		{sim.FaultReset, unreachable, false},
		{sim.FaultUnavailable, response, false},
		{sim.FaultRedirect, response, false},
		{sim.FaultGarbage, response, true},
		{sim.FaultWrongTypes, response, true},
		{sim.FaultHuge, response, true},
		{sim.FaultManyLinks, response, true},
		{sim.FaultPages, response, true},
		{sim.FaultForeignLink, response, true},
	}
	for _, tt := range tests {
		t.Run(string(tt.fault), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.config.Timeout = 20 * time.Second
			if tt.fault == sim.FaultHang || tt.fault == sim.FaultHangSystem {
				r.config.Timeout = 2 * time.Second // a login is a part of it
			}
			r.service.SetFault(tt.fault)
			state, err := r.open(t, bmc.Deps{}).PowerState(t.Context())
			if target := tt.target(); err == nil || !errors.As(err, target) {
				t.Fatalf("PowerState() = %s, %v; want %T", state, err, target)
			}
			if len(err.Error()) > 1500 {
				t.Errorf("the error has %d bytes; want a message that fits a terminal", len(err.Error()))
			}
			if got := len(r.service.Requests()); got > 20 {
				t.Errorf("the service got %d requests; want a bounded number", got)
			}
			r.service.SetFault(sim.FaultNone)
			if tt.logout {
				r.noSessions(t)
			}
		})
	}
}

func TestResetThatWasSentIsNotRepeated(t *testing.T) {
	r := newRig(t)
	if err := r.machine.Do(t.Context(), sim.On); err != nil {
		t.Fatal(err)
	}
	r.service.SetFault(sim.FaultLostReset)
	err := r.open(t, bmc.Deps{}).SetPower(t.Context(), bmc.Reset)
	var re *bmc.ResponseError
	if !errors.As(err, &re) || !re.Uncertain {
		t.Errorf("SetPower(reset) = %v; want an uncertain ResponseError", err)
	}
	if got := fmt.Sprint(r.machine.Actions()); got != "[on reset]" {
		t.Errorf("actions = %s; want [on reset]", got)
	}
}

func TestPowerOnWhoseAnswerWasLostIsConfirmedNotRepeated(t *testing.T) {
	r := newRig(t)
	r.service.SetFault(sim.FaultLostReset)
	if err := r.open(t, bmc.Deps{}).SetPower(t.Context(), bmc.On); err != nil {
		t.Errorf("SetPower(on) = %v; want no error", err)
	}
	if got := fmt.Sprint(r.machine.Actions()); got != "[on]" {
		t.Errorf("actions = %s; want [on]", got)
	}
}

func TestRefusedActionsSayWhy(t *testing.T) {
	var unsupported *bmc.UnsupportedError
	var credential *bmc.CredentialError
	var response *bmc.ResponseError
	tests := []struct {
		fault  sim.Fault
		target any
	}{
		{sim.FaultNoReset, &unsupported},
		{sim.FaultForbidden, &credential},
		{sim.FaultStuck, &response},
	}
	for _, tt := range tests {
		r := newRig(t)
		action := bmc.Reset
		if tt.fault == sim.FaultStuck {
			action, r.config.Timeout = bmc.Off, 2*time.Second // all of which it is looked at
		}
		if err := r.machine.Do(t.Context(), sim.On); err != nil {
			t.Fatal(err)
		}
		r.service.SetFault(tt.fault)
		c := r.open(t, bmc.Deps{})
		if err := c.SetPower(t.Context(), action); !errors.As(err, tt.target) {
			t.Errorf("SetPower(%s) under %q = %v; want %T", action, tt.fault, err, tt.target)
		}
		if tt.fault == sim.FaultForbidden {
			// A missing privilege is no wrong password: the login still works.
			if _, err := c.PowerState(t.Context()); err != nil {
				t.Errorf("PowerState() after a missing privilege = %v; want no error", err)
			}
		}
		r.noSessions(t)
	}
}

func TestBreakerFailsFastUntilTheCoolDownIsOver(t *testing.T) {
	r := newRig(t)
	r.config.BreakAfter, r.config.CoolDown, r.config.Attempts = 2, time.Minute, 1
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	c := r.open(t, bmc.Deps{Now: func() time.Time { return now }})
	r.service.SetFault(sim.FaultReset)
	for range 2 {
		if _, err := c.PowerState(t.Context()); err == nil {
			t.Fatal("PowerState() of a dead service = nil; want an error")
		}
	}
	r.service.SetFault(sim.FaultNone)
	asked := len(r.service.Requests())
	_, err := c.PowerState(t.Context())
	var ue *bmc.UnreachableError
	if !errors.As(err, &ue) || !ue.Until.Equal(now.Add(time.Minute)) || len(r.service.Requests()) != asked {
		t.Errorf("PowerState() = %v after %d requests; want an UnreachableError until %s and no request", err, len(r.service.Requests())-asked, now.Add(time.Minute))
	}
	now = now.Add(time.Minute)
	if _, err := c.PowerState(t.Context()); err != nil {
		t.Errorf("PowerState() after the cool-down = %v; want no error", err)
	}
}

func TestCallsToOneBMCTakeTurns(t *testing.T) {
	r := newRig(t)
	c := r.open(t, bmc.Deps{})
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, err := c.PowerState(t.Context()); err != nil {
				t.Errorf("PowerState() = %v; want no error", err)
			}
		})
	}
	wg.Wait()
	if open, ever := r.service.Sessions(); open != 0 || ever != 6 {
		t.Errorf("sessions open, ever = %d, %d; want 0, 6", open, ever)
	}
	// Two calls at once would show as a login while a session is open.
	open := 0
	for _, request := range r.service.Requests() {
		switch {
		case strings.HasPrefix(request, "POST "):
			open++
		case strings.HasPrefix(request, "DELETE "):
			open--
		}
		if open > 1 {
			t.Fatalf("%d sessions at a time; want one", open)
		}
	}
}

func TestCancelledCallEndsSoonAndLogsOut(t *testing.T) {
	r := newRig(t)
	r.service.SetFault(sim.FaultHangSystem)
	r.config.Timeout = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	c := r.open(t, bmc.Deps{})
	go func() {
		_, err := c.PowerState(ctx)
		done <- err
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !slices.ContainsFunc(r.service.Requests(), func(request string) bool { return strings.Contains(request, "/Systems/") }) {
		select {
		case err := <-done:
			t.Fatalf("PowerState() = %v before it was cancelled", err)
		case <-tick.C:
		}
	}
	start := time.Now()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || time.Since(start) > 20*time.Second {
		t.Errorf("PowerState() = %v after %s; want the context's error at once", err, time.Since(start))
	}
	r.service.SetFault(sim.FaultNone)
	r.noSessions(t)
	if got := len(r.events.kinds()); got != 0 {
		t.Errorf("%d events of a cancelled call; want none", got)
	}
}

func TestWaitingForATurnEndsWithItsContext(t *testing.T) {
	r := newRig(t)
	r.service.SetFault(sim.FaultHang)
	c := r.open(t, bmc.Deps{})
	first, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = c.PowerState(first)
	}()
	for len(r.service.Requests()) == 0 {
		select {
		case <-done:
			t.Fatal("the first call ended before it was stopped")
		default:
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.PowerState(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("PowerState() behind a hanging call = %v; want context.Canceled", err)
	}
	stop()
	<-done
}

func TestNobodyListeningIsUnreachable(t *testing.T) {
	r := newRig(t)
	r.server.Close()
	_, err := r.open(t, bmc.Deps{}).PowerState(t.Context())
	var ue *bmc.UnreachableError
	if !errors.As(err, &ue) || !strings.Contains(err.Error(), `machine.node["a"]`) {
		t.Errorf("PowerState() = %v; want an UnreachableError that names the machine", err)
	}
	if got := fmt.Sprint(r.events.kinds()); got != "[bmc.unreachable]" {
		t.Errorf("events = %s; want [bmc.unreachable]", got)
	}
}

func TestDriverNoneSaysWhatAPersonIsToDo(t *testing.T) {
	c, err := bmc.Open(bmc.Config{Driver: bmc.DriverNone, Machine: "machine.till"}, bmc.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[bmc.PowerAction]string{
		bmc.On: "switch it on by hand", bmc.Off: "switch it off by hand", bmc.Soft: "shut it down by hand",
		bmc.Cycle: "off and on again", bmc.Reset: "off and on again",
	}
	for action, do := range want {
		var pe *bmc.PersonError
		if err := c.SetPower(t.Context(), action); !errors.As(err, &pe) || !strings.Contains(pe.Do, do) || !strings.Contains(err.Error(), "machine.till") {
			t.Errorf("SetPower(%s) = %v; want a PersonError that names the machine and says %q", action, err, do)
		}
	}
	for _, device := range []bmc.BootDevice{bmc.BootPXE, bmc.BootDisk, bmc.BootNone} {
		var pe *bmc.PersonError
		if err := c.SetNextBoot(t.Context(), device, bmc.BootOptions{}); !errors.As(err, &pe) {
			t.Errorf("SetNextBoot(%s) = %v; want a PersonError", device, err)
		}
	}
	if st, err := c.Status(t.Context()); st.Power != bmc.PowerUnknown || err != nil {
		t.Errorf("Status() = %+v, %v; want power unknown", st, err)
	}
	if st, err := c.PowerState(t.Context()); st != bmc.PowerUnknown || err != nil {
		t.Errorf("PowerState() = %s, %v; want unknown", st, err)
	}
}

func TestSessionThatTheBMCEndedIsOpenedAgain(t *testing.T) {
	r := newRig(t)
	r.service.SetFault(sim.FaultSessionLost)
	if _, err := r.open(t, bmc.Deps{}).PowerState(t.Context()); err != nil {
		t.Errorf("PowerState() = %v; want no error after a second login", err)
	}
	if open, ever := r.service.Sessions(); open != 0 || ever != 2 {
		t.Errorf("sessions open, ever = %d, %d; want 0, 2", open, ever)
	}
	if got := r.service.Refused(); got != 0 {
		t.Errorf("the service saw %d refused logins; want 0", got)
	}
}

func TestPlainHTTPAndOtherServersAreNotSpokenTo(t *testing.T) {
	r := newRig(t)
	plain := httptest.NewServer(r.service)
	defer plain.Close()
	r.config.Address = strings.TrimPrefix(plain.URL, "http://")
	var re *bmc.ResponseError
	if _, err := r.open(t, bmc.Deps{}).PowerState(t.Context()); !errors.As(err, &re) || !strings.Contains(err.Error(), "does not speak TLS") {
		t.Errorf("PowerState() of a plain HTTP port = %v; want a ResponseError about TLS", err)
	}
	if got := r.service.Requests(); len(got) != 0 {
		t.Errorf("the service got %v; want nothing", got)
	}
}

func TestLibraryThatWouldPrintThePasswordIsNotStarted(t *testing.T) {
	t.Setenv("DEBUG_BMCLIB", "true")
	r := newRig(t)
	if _, err := r.open(t, bmc.Deps{}).PowerState(t.Context()); err == nil || !strings.Contains(err.Error(), "DEBUG_BMCLIB") {
		t.Errorf("PowerState() = %v; want an error that names DEBUG_BMCLIB", err)
	}
}

func TestClosedControllerRefusesCalls(t *testing.T) {
	r := newRig(t)
	c := r.open(t, bmc.Deps{})
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.PowerState(t.Context()); !errors.Is(err, bmc.ErrClosed) {
		t.Errorf("PowerState() after Close = %v; want ErrClosed", err)
	}
}

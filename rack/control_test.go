package rack

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestControlWorksInADirectoryDeeperThanASocketAddress(t *testing.T) {
	dir := t.TempDir()
	for range 4 {
		dir = filepath.Join(dir, strings.Repeat("d", 40))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := listenControl(dir, func(_ context.Context, q controlRequest) controlReply {
		if q.Verb != "power" || q.Machine != "m" || q.Power != PowerOn {
			return controlReply{Error: "garbled"}
		}
		return controlReply{Status: &Status{Name: "deep"}}
	})
	if err != nil {
		t.Fatalf("listenControl = %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- s.serve(ctx) }()
	reply, err := askSupervisor(ctx, dir, controlRequest{Verb: "power", Machine: "m", Power: PowerOn})
	if err != nil || reply.Status == nil || reply.Status.Name != "deep" {
		t.Errorf("askSupervisor = %+v, %v; want the answer", reply, err)
	}
	if _, err := askSupervisor(ctx, dir, controlRequest{Verb: "other"}); err == nil || err.Error() != "garbled" {
		t.Errorf("askSupervisor = %v; want the supervisor's own error", err)
	}
	// Somebody who connects and says nothing must not keep it from ending.
	err = atControl(dir, func(path string) error {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return err
		}
		defer conn.Close()
		cancel()
		return <-served
	})
	if err != nil {
		t.Errorf("serve = %v; want nil when its context ends", err)
	}
	if _, err := askSupervisor(context.Background(), dir, controlRequest{Verb: "status"}); !errors.Is(err, errNotRunning) {
		t.Errorf("askSupervisor of one that ended = %v; want errNotRunning", err)
	}
}

func TestARackThatIsNotUp(t *testing.T) {
	r := rackOn(t)
	ctx := context.Background()
	if st, err := r.Status(ctx); err != nil || st.State != StateDown {
		t.Errorf("Status = %+v, %v; want it down", st, err)
	}
	if err := r.Power(ctx, `machine.node["a"]`, PowerOn); !errors.Is(err, errNotRunning) {
		t.Errorf("Power = %v; want errNotRunning", err)
	}
	if _, err := r.Machine(ctx, `machine.node["a"]`); err == nil {
		t.Errorf("Machine = nil error; want one")
	}
	if err := r.Down(ctx, false); err != nil {
		t.Errorf("Down = %v; want nil", err)
	}
	if _, err := os.Stat(r.layout.machine(`machine.node["a"]`)); err != nil {
		t.Errorf("Down without removal removed the machine's files: %v", err)
	}
	stray := r.layout.path("somebody-elses.txt")
	write(t, stray, "keep me")
	if err := r.Down(ctx, true); err != nil {
		t.Errorf("Down = %v; want nil", err)
	}
	if _, err := os.Stat(r.layout.machine(`machine.node["a"]`)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Down with removal left the machine's files: %v", err)
	}
	if _, err := os.Stat(stray); err != nil {
		t.Errorf("Down removed a file that is not the rack's: %v", err)
	}
}

func TestOnlyOneUpOrDownWorksOnAStateDirectory(t *testing.T) {
	r := rackOn(t)
	unlock, err := r.lock()
	if err != nil {
		t.Fatalf("lock = %v", err)
	}
	if err := r.Down(context.Background(), true); err == nil || !strings.Contains(err.Error(), "at work") {
		t.Errorf("Down while locked = %v; want it refused", err)
	}
	if err := unlock(); err != nil {
		t.Fatalf("unlock = %v", err)
	}
	if err := r.Down(context.Background(), true); err != nil {
		t.Errorf("Down = %v", err)
	}
}

func TestStatusForAPerson(t *testing.T) {
	var b bytes.Buffer
	for _, s := range []Status{
		{State: StateDown, Name: "store-0421"},
		{State: StateBroken, Name: "store-0421", Namespace: "edge-store-0421"},
		{State: StateUp, Name: "store-0421", Namespace: "edge-store-0421", Supervisor: 4711, Accelerator: AcceleratorTCG, Machines: []MachineStatus{
			{Address: `machine.node["a"]`, On: true, Boots: 3, Serial: "/s/a/serial.log", BMC: "https://172.22.1.11", Fingerprint: "sha256:00ff", Certificate: "/s/a/c.pem"},
			{Address: `machine.node["b"]`, Serial: "/s/b/serial.log"},
		}},
	} {
		if err := s.Write(&b); err != nil {
			t.Fatalf("Write = %v", err)
		}
		b.WriteString("--\n")
	}
	golden(t, "status", b.String())
}

func TestCommandLinesAreQuotedForTheShell(t *testing.T) {
	got := shellQuote([]string{"edge-provision", "apply", "my site.hcl", "it's", "", "-var=a=b", "$HOME"})
	if want := `edge-provision apply 'my site.hcl' 'it'\''s' '' -var=a=b '$HOME'`; got != want {
		t.Errorf("shellQuote = %s; want %s", got, want)
	}
}

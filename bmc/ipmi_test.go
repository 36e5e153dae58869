package bmc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
)

// ipmiRig is a simulated machine behind ipmi_sim on loopback.
func ipmiRig(t *testing.T, secret string, more ...func(*sim.IPMIConfig)) (*sim.Memory, bmc.Config) {
	t.Helper()
	for _, program := range []string{"ipmi_sim", "ipmitool"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (packages openipmi and ipmitool): real IPMI cannot be spoken here", program)
		}
	}
	m := &sim.Memory{}
	addr := freeUDP(t)
	c := sim.IPMIConfig{Addr: addr, Username: "admin", Password: secret, StateDir: t.TempDir(), EFI: true, Log: t.Output()}
	for _, change := range more {
		change(&c)
	}
	s, err := sim.StartIPMI(t.Context(), c, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return m, bmc.Config{
		Driver: bmc.DriverIPMI, Address: addr.String(), Username: "admin", Password: bmc.Secret(secret),
		Timeout: 10 * time.Second, Attempts: 2, RetryWait: time.Millisecond, PollInterval: 10 * time.Millisecond,
	}
}

// freeUDP is a UDP address of loopback that nobody used a moment ago; ipmi_sim
// cannot choose one itself.
func freeUDP(t *testing.T) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func openIPMI(t *testing.T, c bmc.Config, d bmc.Deps) *bmc.Controller {
	t.Helper()
	ctl, err := bmc.Open(c, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ctl.Close() })
	return ctl
}

func TestIPMIPowersAMachineAndNetbootsItOnce(t *testing.T) {
	t.Parallel()
	m, config := ipmiRig(t, "pa$s'w0rd#")
	c := openIPMI(t, config, bmc.Deps{})
	if st, err := c.PowerState(t.Context()); st != bmc.PowerOff || err != nil {
		t.Fatalf("PowerState() = %s, %v; want off", st, err)
	}
	if err := c.SetNextBoot(t.Context(), bmc.BootPXE, bmc.BootOptions{EFI: true}); err != nil {
		t.Fatal(err)
	}
	if st, err := c.Status(t.Context()); err != nil || st.NextBoot.Device != bmc.BootPXE {
		t.Errorf("Status() = %+v, %v; want next boot pxe", st, err)
	}
	for _, a := range []bmc.PowerAction{bmc.On, bmc.On, bmc.Reset} {
		if err := c.SetPower(t.Context(), a); err != nil {
			t.Fatalf("SetPower(%s) = %v; want no error", a, err)
		}
	}
	want := []sim.Override{{Device: sim.PXE, Once: true, EFI: true}, {Device: sim.Disk}}
	if got := m.Boots(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("boots = %v; want %v", got, want)
	}
	for _, a := range []bmc.PowerAction{bmc.Off, bmc.Off} {
		if err := c.SetPower(t.Context(), a); err != nil {
			t.Fatalf("SetPower(%s) = %v; want no error", a, err)
		}
	}
	if on, _ := m.Power(t.Context()); on {
		t.Error("the machine is on after SetPower(off)")
	}
	if got := fmt.Sprint(m.Actions()); got != "[on reset off]" {
		t.Errorf("actions = %s; want [on reset off], each once", got)
	}
}

func TestIPMIPowerCycleEndsWithTheMachineOn(t *testing.T) {
	t.Parallel()
	m, config := ipmiRig(t, "secret")
	if err := m.Do(t.Context(), sim.On); err != nil {
		t.Fatal(err)
	}
	if err := openIPMI(t, config, bmc.Deps{}).SetPower(t.Context(), bmc.Cycle); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(m.Actions()); got != "[on off on]" {
		t.Errorf("actions = %s; want [on off on]", got)
	}
}

func TestIPMIRefusalsAreToldFromSilence(t *testing.T) {
	t.Parallel()
	_, config := ipmiRig(t, "secret")
	key, dir := []byte(strings.Repeat("k", 32)), bmc.RefusalDir(t.TempDir())
	var credential *bmc.CredentialError
	var unsupported *bmc.UnsupportedError
	var unreachable *bmc.UnreachableError

	wrong := config
	wrong.Password = "wrong"
	for i := range 2 {
		_, err := openIPMI(t, wrong, bmc.Deps{Refusals: dir, RefusalKey: key}).PowerState(t.Context())
		if !errors.As(err, &credential) || credential.Remembered != (i > 0) {
			t.Errorf("PowerState() %d with a wrong password = %v; want a CredentialError, remembered: %t", i, err, i > 0)
		}
	}
	stranger := config
	stranger.Username = "nobody"
	if _, err := openIPMI(t, stranger, bmc.Deps{}).PowerState(t.Context()); !errors.As(err, &credential) {
		t.Errorf("PowerState() of an unknown user = %v; want a CredentialError", err)
	}
	suite := config
	suite.CipherSuite = 17
	if _, err := openIPMI(t, suite, bmc.Deps{}).PowerState(t.Context()); !errors.As(err, &unsupported) {
		t.Errorf("PowerState() with cipher suite 17 = %v; want an UnsupportedError", err)
	}
	silent := config
	silent.Address, silent.Timeout, silent.Attempts = freeUDP(t).String(), 300*time.Millisecond, 1
	if _, err := openIPMI(t, silent, bmc.Deps{}).PowerState(t.Context()); !errors.As(err, &unreachable) {
		t.Errorf("PowerState() of a silent address = %v; want an UnreachableError", err)
	}
}

func TestIPMIPasswordIsNotOnTheCommandLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tool := filepath.Join(dir, "ipmitool")
	// A stand-in that keeps its arguments and answers like ipmitool.
	script := "#!/bin/sh\necho \"$*\" >> " + dir + "/argv\necho 'Chassis Power is on'\n"
	if err := os.WriteFile(tool, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	c := openIPMI(t, bmc.Config{Driver: bmc.DriverIPMI, Address: "192.0.2.1", Username: "admin", Password: "hunter2-hunter2", IPMITool: tool}, bmc.Deps{})
	if _, err := c.PowerState(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = c.SetNextBoot(t.Context(), bmc.BootPXE, bmc.BootOptions{})
	argv, err := os.ReadFile(filepath.Join(dir, "argv"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(argv), "hunter2") || strings.Count(string(argv), "-C 3") < 3 {
		t.Errorf("ipmitool was run with\n%swant cipher suite 3 in each run and no password", argv)
	}
}

func TestCancelledIPMICallLeavesNoProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tool, pid := filepath.Join(dir, "ipmitool"), filepath.Join(dir, "pid")
	// A stand-in that never ends by itself; exec keeps it one process.
	if err := os.WriteFile(tool, []byte("#!/bin/sh\necho $$ > "+pid+".new; mv "+pid+".new "+pid+"\nexec sleep 600\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c := openIPMI(t, bmc.Config{Driver: bmc.DriverIPMI, Address: "192.0.2.1", Username: "a", Password: "b", IPMITool: tool}, bmc.Deps{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.PowerState(ctx)
		done <- err
	}()
	deadline := time.Now().Add(time.Minute)
	for {
		if _, err := os.Stat(pid); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the stand-in for ipmitool did not start within a minute")
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("PowerState() = %v; want context.Canceled", err)
	}
	text, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(text))); err == nil {
		t.Errorf("process %s is still there", strings.TrimSpace(string(text)))
	}
}

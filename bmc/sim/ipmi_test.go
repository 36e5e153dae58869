package sim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// childEnv makes the test binary start a simulator, print its child's process
// id and wait for ever; so the test can kill it.
const childEnv = "EDGE_PROVISION_TEST_IPMI_ADDR"

func TestMain(m *testing.M) {
	if addr := os.Getenv(childEnv); addr != "" {
		s, err := StartIPMI(context.Background(), IPMIConfig{Addr: netip.MustParseAddrPort(addr), Username: "admin", Password: "secret", StateDir: os.Args[1]}, &Memory{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(s.cmd.Process.Pid)
		select {}
	}
	os.Exit(m.Run())
}

func needIPMISim(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("ipmi_sim"); err != nil {
		t.Skip("ipmi_sim is not installed (package openipmi)")
	}
}

func freeUDP(t *testing.T) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// awaitGone waits until a process is gone or dead.
func awaitGone(t *testing.T, pid string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if errors.Is(err, os.ErrNotExist) || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %s is still there: %s", pid, stat)
		}
		if err := pause(t.Context(), 5*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIPMIChildEndsWithStopAndWithItsContext(t *testing.T) {
	needIPMISim(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, end := range []string{"stop", "context"} {
		s, err := StartIPMI(ctx, IPMIConfig{Addr: freeUDP(t), Username: "admin", Password: "secret", StateDir: t.TempDir()}, &Memory{})
		if err != nil {
			t.Fatal(err)
		}
		pid := fmt.Sprint(s.cmd.Process.Pid)
		if end == "context" {
			cancel()
			awaitGone(t, pid)
		}
		for range 2 {
			if err := s.Stop(); err != nil {
				t.Errorf("Stop() = %v; want no error", err)
			}
		}
		awaitGone(t, pid)
	}
}

func TestIPMIChildEndsWhenItsParentIsKilled(t *testing.T) {
	needIPMISim(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.CommandContext(t.Context(), self, t.TempDir())
	parent.Env = append(os.Environ(), childEnv+"="+freeUDP(t).String())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	pid := strings.TrimSpace(line)
	if _, statErr := os.Stat("/proc/" + pid); err != nil || statErr != nil {
		t.Fatalf("the parent said %q (%v); want the process id of a living child", line, err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	awaitGone(t, pid)
}

func TestStartIPMIRefusesWhatItCannotRun(t *testing.T) {
	good := IPMIConfig{Addr: netip.MustParseAddrPort("127.0.0.1:1623"), Username: "admin", Password: "secret", StateDir: t.TempDir()}
	tests := []struct {
		name   string
		change func(*IPMIConfig)
		want   string
	}{
		{"no address", func(c *IPMIConfig) { c.Addr = netip.AddrPort{} }, "no IP address or no port"},
		{"space in password", func(c *IPMIConfig) { c.Password = "a b" }, "printable ASCII"},
		{"quote in username", func(c *IPMIConfig) { c.Username = `a"b` }, "printable ASCII"},
		{"long password", func(c *IPMIConfig) { c.Password = strings.Repeat("p", 21) }, "1 to 20"},
		{"no program", func(c *IPMIConfig) { c.Program = "/nonexistent/ipmi_sim" }, "install the openipmi package"},
	}
	for _, tt := range tests {
		c := good
		tt.change(&c)
		if _, err := StartIPMI(t.Context(), c, &Memory{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: StartIPMI() = %v; want an error with %q", tt.name, err, tt.want)
		}
	}
}

func TestStartIPMISaysWhenTheAddressIsTaken(t *testing.T) {
	needIPMISim(t)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	addr := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	if _, err := StartIPMI(ctx, IPMIConfig{Addr: addr, Username: "admin", Password: "secret", StateDir: t.TempDir()}, &Memory{}); err == nil || !strings.Contains(err.Error(), addr.String()) {
		t.Errorf("StartIPMI() at a taken address = %v; want an error that names %s", err, addr)
	}
}

func TestChassisControlQuestions(t *testing.T) {
	m := &Memory{}
	tests := []struct {
		question string
		want     string
		fails    bool
	}{
		{"get power", `power:0\n`, false},
		{"set power 1", "", false},
		{"get power boot", `power:1\nboot:none\n`, false},
		{"set boot default", "", false},
		{"get boot", `boot:default\n`, false},
		{"set boot none", "", false},
		{"get boot", `boot:none\n`, false},
		{"set shutdown 1", "", false},
		{"get power", `power:0\n`, false},
		{"set identify 15", "", false},
		{"set boot tape", "", true},
		{"set power", "", true},
		{"get temperature", "", true},
		{"explode", "", true},
		{"", "", true},
	}
	for _, tt := range tests {
		got, err := control(t.Context(), strings.Fields(tt.question), false, m)
		if got != tt.want || (err != nil) != tt.fails {
			t.Errorf("control(%q) = %q, %v; want %q, failing: %t", tt.question, got, err, tt.want, tt.fails)
		}
	}
}

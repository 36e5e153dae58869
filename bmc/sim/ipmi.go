package sim

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// IPMIConfig describes a simulated IPMI 2.0 BMC.
type IPMIConfig struct {
	// Addr is the UDP address to answer on. The child process binds it in
	// the network namespace of this process.
	Addr netip.AddrPort
	// Username (at most 16 bytes) and Password (at most 20) of the only
	// account, which has administrator privilege. ipmi_sim's configuration
	// can take neither spaces nor double quotes nor backslashes in them.
	Username, Password string
	// StateDir is an existing directory for the child's files, for this
	// simulator alone. The password is in one of them (mode 0600).
	StateDir string
	// GUID is the system GUID (IPMI 2.0 section 20.8); zero: one made of Addr.
	GUID [16]byte
	// EFI is what the Machine is told about overrides: ipmi_sim does not hand
	// the EFI flag of the request on.
	EFI bool
	// Sensors are what the controller measures.
	Sensors []Sensor
	// FRU is the FRU data of the board; the zero FRU: there is none.
	FRU FRU
	// Console is the TCP address of the machine's serial port, for serial over
	// LAN; the zero AddrPort: none is offered. ipmi_sim connects to it at its
	// start and again while nobody answers there.
	Console netip.AddrPort
	// Program is the path of ipmi_sim; empty: looked up in PATH.
	Program string
	// Log gets the child's output; nil: discarded.
	Log io.Writer
}

// startTimeout bounds how long ipmi_sim may take until it answers, and
// stopTimeout how long until it is gone.
const (
	startTimeout = 10 * time.Second
	stopTimeout  = 5 * time.Second
)

// IPMI is a running ipmi_sim.
//
// ipmi_sim asks its chassis_control program for every get and set of power and
// boot device. Ours is a five-line shell script in StateDir that hands the
// question to this process through a pair of named pipes, so that no second
// program has to be installed and nothing listens on the network.
//
// What ipmi_sim cannot do: every override is one-time; the EFI and persistent
// flags are accepted and lost; reading the boot flags back shows the device
// with the valid bit unset; only cipher suite 3 is offered.
type IPMI struct {
	cmd    *exec.Cmd
	done   chan struct{} // closed when the child has been waited for
	err    error         // of the wait; read after done
	cancel context.CancelFunc
	serve  sync.WaitGroup
	stop   sync.Once
	pipes  []*os.File
}

// StartIPMI starts ipmi_sim and returns when it answers on Addr. The child ends
// with Stop, with ctx, and with this process even when that is killed.
func StartIPMI(ctx context.Context, c IPMIConfig, m Machine) (*IPMI, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("starting the simulated IPMI controller: %w", err)
	}
	program := c.Program
	if program == "" {
		program = "ipmi_sim"
	}
	program, err := exec.LookPath(program)
	if err != nil {
		return nil, fmt.Errorf("starting the simulated IPMI controller: %w; install the openipmi package", err)
	}
	// ipmi_sim runs in StateDir, but its script is started by a shell that
	// may not.
	dir, err := filepath.Abs(c.StateDir)
	if err != nil {
		return nil, fmt.Errorf("state directory of the simulated IPMI controller: %w", err)
	}
	if strings.ContainsAny(dir, "\"'\\ \n") {
		return nil, fmt.Errorf("state directory %q of the simulated IPMI controller has characters that ipmi_sim's configuration cannot take; use plain ones", dir)
	}
	if err := c.writeFiles(dir); err != nil {
		return nil, fmt.Errorf("writing the files of the simulated IPMI controller: %w", err)
	}
	s := &IPMI{done: make(chan struct{})}
	for _, name := range []string{"question", "answer"} {
		// Opened for reading and writing so that opening never waits for the
		// other end.
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|syscall.O_NONBLOCK, 0)
		if err != nil {
			s.closePipes()
			return nil, fmt.Errorf("opening pipe of the simulated IPMI controller: %w", err)
		}
		s.pipes = append(s.pipes, f)
	}
	s.cmd = exec.Command(program, "-n", "-c", filepath.Join(dir, "lan.conf"), "-f", filepath.Join(dir, "sim.emu"), "-s", filepath.Join(dir, "state"))
	s.cmd.Dir = dir
	s.cmd.Stdout, s.cmd.Stderr = c.Log, c.Log
	s.cmd.WaitDelay = time.Second
	// The group holds the script too. Pdeathsig covers our own kill -9.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.start(); err != nil {
		s.closePipes()
		return nil, fmt.Errorf("starting %s: %w", program, err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.serve.Go(func() { s.answer(run, c, m) })
	s.serve.Go(func() {
		select {
		case <-ctx.Done():
			s.kill()
		case <-s.done:
		}
	})
	if err := s.awaitAnswer(ctx, c); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// start runs the child from a thread of its own: the kernel sends Pdeathsig
// when the starting thread ends, not the process.
func (s *IPMI) start() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(s.done)
		err := s.cmd.Start()
		started <- err
		if err == nil {
			s.err = s.cmd.Wait()
		}
	}()
	return <-started
}

// validate checks what ipmi_sim's configuration can express.
func (c IPMIConfig) validate() error {
	if !c.Addr.IsValid() || c.Addr.Port() == 0 {
		return fmt.Errorf("address %s has no IP address or no port", c.Addr)
	}
	for name, v := range map[string]struct {
		text string
		max  int
	}{"username": {c.Username, 16}, "password": {c.Password, 20}} {
		if v.text == "" || len(v.text) > v.max {
			return fmt.Errorf("%s has %d bytes; IPMI takes 1 to %d", name, len(v.text), v.max)
		}
		for _, r := range v.text {
			if r <= ' ' || r > '~' || r == '"' || r == '\\' {
				return fmt.Errorf("%s has a character that ipmi_sim's configuration cannot take; use printable ASCII without space, double quote and backslash", name)
			}
		}
	}
	for _, s := range c.Sensors {
		if err := s.check(); err != nil {
			return err
		}
	}
	return nil
}

// script is the chassis_control program. Each question carries the shell's
// process id, so that an answer meant for a script that was killed is not
// taken for one's own.
const script = `#!/bin/sh
cd '%s' || exit 1
echo "$$ $*" > question
while read -r id status text < answer; do
	[ "$id" = "$$" ] && break
done
[ -z "$text" ] || printf '%%b' "$text"
exit "${status:-1}"
`

// writeFiles fills the state directory.
func (c IPMIConfig) writeFiles(dir string) error {
	// Without a GUID ipmi_sim does not offer IPMI 2.0.
	guid := c.GUID
	if guid == ([16]byte{}) {
		sum := sha256.Sum256([]byte(c.Addr.String()))
		copy(guid[:], sum[:])
	}
	sol := ""
	if c.Console.IsValid() {
		sol = fmt.Sprintf("  sol \"tcp:%s:%d\" 115200\n", c.Console.Addr(), c.Console.Port())
	}
	lan := fmt.Sprintf(`name "edge-provision-simulator"
set_working_mc 0x20
  startlan 1
    addr %s %d
    priv_limit admin
    allowed_auths_callback none md5
    allowed_auths_user none md5
    allowed_auths_operator none md5
    allowed_auths_admin none md5
    guid %x
  endlan
%s  chassis_control "%s"
  user 1 false "" "none" user 10 none md5
  user 2 true "%s" "%s" admin 10 none md5
`, c.Addr.Addr(), c.Addr.Port(), guid, sol, filepath.Join(dir, "chassis-control"), c.Username, c.Password)
	emulation := `mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
`
	for i, s := range c.Sensors {
		emulation += s.commands(i + 1)
	}
	emulation += c.FRU.command() + "mc_enable 0x20\n"
	// ipmi_sim prefers what it saved in an earlier run to the configuration.
	state := filepath.Join(dir, "state")
	err := errors.Join(os.RemoveAll(state), os.Mkdir(state, 0o700),
		os.WriteFile(filepath.Join(dir, "lan.conf"), []byte(lan), 0o600),
		os.WriteFile(filepath.Join(dir, "sim.emu"), []byte(emulation), 0o600),
		os.WriteFile(filepath.Join(dir, "chassis-control"), fmt.Appendf(nil, script, dir), 0o700))
	for _, name := range []string{"question", "answer"} {
		path := filepath.Join(dir, name)
		if e := os.Remove(path); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
		err = errors.Join(err, syscall.Mkfifo(path, 0o600))
	}
	return err
}

// answer serves the script's questions until ctx ends.
func (s *IPMI) answer(ctx context.Context, c IPMIConfig, m Machine) {
	questions, answers := s.pipes[0], s.pipes[1]
	// The script's lines are short; a longer one is not from it.
	lines := bufio.NewScanner(questions)
	lines.Buffer(make([]byte, 4096), 4096)
	for lines.Scan() {
		id, words, _ := strings.Cut(lines.Text(), " ")
		text, err := control(ctx, strings.Fields(words), c.EFI, m)
		status := 0
		if err != nil {
			status = 1
			if c.Log != nil {
				_, _ = fmt.Fprintf(c.Log, "simulated machine: %s: %v\n", words, err)
			}
		}
		if _, err := fmt.Fprintf(answers, "%s %d %s\n", id, status, text); err != nil {
			return
		}
	}
}

// control carries out one question of ipmi_sim (ipmi_sim_cmd(5),
// chassis_control): "get NAME…" or "set NAME VALUE…". The answer to a get is
// "NAME:VALUE" per line, with \n written as in printf %b.
func control(ctx context.Context, words []string, efi bool, m Machine) (string, error) {
	if len(words) == 0 {
		return "", fmt.Errorf("empty question")
	}
	verb, rest := words[0], words[1:]
	var out strings.Builder
	switch verb {
	case "get":
		for _, name := range rest {
			value, err := controlGet(ctx, name, m)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&out, `%s:%s\n`, name, value)
		}
	case "set":
		if len(rest)%2 != 0 {
			return "", fmt.Errorf("question %q has a name without a value", words)
		}
		for ; len(rest) > 0; rest = rest[2:] {
			if err := controlSet(ctx, rest[0], rest[1], efi, m); err != nil {
				return "", err
			}
		}
	default:
		return "", fmt.Errorf("question %q is unknown", words)
	}
	return out.String(), nil
}

// bootWords are ipmi_sim's names of boot devices; "default" is its name of
// "force boot from default hard drive" (IPMI 2.0 table 28-14).
var bootWords = map[string]Device{"none": FirmwareOrder, "pxe": PXE, "default": Disk, "cdrom": CDROM, "bios": BIOSSetup}

func controlGet(ctx context.Context, name string, m Machine) (string, error) {
	switch name {
	case "power":
		on, err := m.Power(ctx)
		if on {
			return "1", err
		}
		return "0", err
	case "boot":
		o, err := m.Boot(ctx)
		for word, device := range bootWords {
			if device == o.Device {
				return word, err
			}
		}
		return "", fmt.Errorf("boot device %q is unknown: %w", o.Device, err)
	}
	return "", fmt.Errorf("value %q is unknown", name)
}

func controlSet(ctx context.Context, name, value string, efi bool, m Machine) error {
	switch name {
	case "power":
		if value == "1" {
			return m.Do(ctx, On)
		}
		return m.Do(ctx, Off)
	case "reset":
		return m.Do(ctx, Reset)
	case "shutdown":
		return m.Do(ctx, Soft)
	case "boot":
		device, known := bootWords[value]
		if !known {
			return fmt.Errorf("boot device %q is unknown", value)
		}
		if device == FirmwareOrder {
			return m.SetBoot(ctx, Override{})
		}
		return m.SetBoot(ctx, Override{Device: device, Once: true, EFI: efi})
	case "identify":
		return nil
	}
	return fmt.Errorf("value %q is unknown", name)
}

// awaitAnswer sends ASF presence pings (IPMI 2.0 section 13.2.3) until one is
// answered.
func (s *IPMI) awaitAnswer(ctx context.Context, c IPMIConfig) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	conn, err := net.Dial("udp", c.Addr.String())
	if err != nil {
		return fmt.Errorf("reaching the simulated IPMI controller: %w", err)
	}
	defer func() { _ = conn.Close() }()
	ping := []byte{0x06, 0, 0xff, 0x06, 0, 0, 0x11, 0xbe, 0x80, 0, 0, 0}
	pong := make([]byte, 64)
	for {
		select {
		case <-s.done:
			return fmt.Errorf("ipmi_sim ended at once (%v); is %s in use or not an address of this host?", s.err, c.Addr)
		case <-ctx.Done():
			return fmt.Errorf("ipmi_sim does not answer at %s: %w", c.Addr, context.Cause(ctx))
		default:
		}
		_, _ = conn.Write(ping)
		_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if n, err := conn.Read(pong); err == nil && n > 8 && pong[8] == 0x40 {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			continue
		}
	}
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// kill ends the child's process group. It is only called before Wait's result
// is in, or harmlessly after.
func (s *IPMI) kill() {
	select {
	case <-s.done:
	default:
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	}
}

func (s *IPMI) closePipes() {
	for _, f := range s.pipes {
		_ = f.Close()
	}
}

// Stop ends the child process and waits until nothing of it is left. It may be
// called again, and by several goroutines.
func (s *IPMI) Stop() error {
	s.stop.Do(func() {
		s.kill()
		s.cancel()
		s.closePipes()
	})
	select {
	case <-s.done:
	case <-time.After(stopTimeout):
		return fmt.Errorf("ipmi_sim (process %d) is still there %s after it was killed", s.cmd.Process.Pid, stopTimeout)
	}
	s.serve.Wait()
	return nil
}

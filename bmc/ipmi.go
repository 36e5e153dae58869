package bmc

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/bmc-toolbox/bmclib/v2/providers/ipmitool"
)

// maxToolOutput bounds what is read of one run of ipmitool, in bytes.
const maxToolOutput = 64 << 10

// ipmi is a session of DriverIPMI. Each run of ipmitool is an RMCP+ session of
// its own that it closes itself; a run that is cut off by a deadline leaves
// its session to the controller's inactivity timeout (60 s, IPMI 2.0 section
// 6.12.15).
//
// Actions go through bmclib's provider. Reading goes through the same program
// directly: bmclib does not ask for the reason of a failed login and so cannot
// tell a wrong password from a dead host, and it cannot read boot flags back.
type ipmi struct {
	conn     *ipmitool.Conn
	tool     string
	endpoint endpoint
	config   Config
}

// ipmiDialer prepares sessions. It fails when ipmitool is missing.
func ipmiDialer(c Config, e endpoint) (func(context.Context) (session, error), error) {
	tool := c.IPMITool
	if tool == "" {
		tool = "ipmitool"
	}
	path, err := exec.LookPath(tool)
	if err != nil {
		return nil, fmt.Errorf("driver ipmi needs the ipmitool program: %w; install the ipmitool package or use driver redfish", err)
	}
	conn, err := ipmitool.New(e.bracketed(), c.Username, string(c.Password),
		ipmitool.WithPort(strconv.Itoa(int(e.port))),
		ipmitool.WithCipherSuite(strconv.Itoa(c.CipherSuite)),
		ipmitool.WithIpmitoolPath(path))
	if err != nil {
		return nil, fmt.Errorf("preparing ipmitool: %w", err)
	}
	s := &ipmi{conn: conn, tool: path, endpoint: e, config: c}
	return func(ctx context.Context) (session, error) {
		// The first read is the login: only after it did an answer prove the
		// credential are actions sent, so that a wrong password costs the
		// account one failed attempt and not one for each run.
		_, err := s.power(ctx)
		return s, err
	}, nil
}

// run executes ipmitool verbosely, which makes it tell why a login failed.
func (s *ipmi) run(ctx context.Context, args ...string) (string, error) {
	cmd := s.command(ctx, append([]string{"-v"}, s.options(args...)...))
	out := &cappedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", s.explain(out.String(), err)
	}
	return out.String(), nil
}

// options puts which controller before what is asked of it.
func (s *ipmi) options(args ...string) []string {
	return append([]string{
		"-I", "lanplus", "-H", s.endpoint.host, "-p", strconv.Itoa(int(s.endpoint.port)),
		"-U", s.config.Username, "-E", "-C", strconv.Itoa(s.config.CipherSuite), "-N", "2", "-R", "3",
	}, args...)
}

// command prepares one run of ipmitool. The password goes through the
// environment, which only the same user can read, never through the command
// line, which everybody can.
func (s *ipmi) command(ctx context.Context, argv []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.tool, argv...)
	cmd.Env = []string{"IPMITOOL_PASSWORD=" + string(s.config.Password), "LC_ALL=C"}
	cmd.WaitDelay = time.Second
	return cmd
}

// cappedBuffer keeps the first maxToolOutput bytes and swallows the rest.
// It does not embed its buffer, whose ReadFrom would go past the bound.
type cappedBuffer struct{ kept bytes.Buffer }

func (b *cappedBuffer) Write(p []byte) (int, error) {
	if room := maxToolOutput - b.kept.Len(); room > 0 {
		_, _ = b.kept.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (b *cappedBuffer) String() string { return b.kept.String() }

// explanations map what ipmitool 1.8 prints (lib/plugins/lanplus) to what it
// means; the first that is contained decides.
var explanations = []struct {
	text string
	kind faultKind
	say  string
}{
	{"RAKP 2 HMAC is invalid", faultRefused, "the password is wrong"},
	{"RAKP 4 message has invalid integrity check value", faultRefused, "the password is wrong"},
	{"unauthorized name", faultRefused, "the username is unknown or disabled"},
	{"invalid role", faultRefused, "the account may not log in as administrator"},
	{"unauthorized role or privilege level requested", faultRefused, "the account may not log in as administrator"},
	{"invalid authentication algorithm", faultUnsupported, "the controller does not take the cipher suite: say cipher_suite = 17 in its bmc block, or leave it out for 3"},
	{"invalid integrity algorithm", faultUnsupported, "the controller does not take the cipher suite: say cipher_suite = 17 in its bmc block, or leave it out for 3"},
	{"invalid confidentiality algorithm", faultUnsupported, "the controller does not take the cipher suite: say cipher_suite = 17 in its bmc block, or leave it out for 3"},
	{"no matching cipher suite", faultUnsupported, "the controller does not take the cipher suite: say cipher_suite = 17 in its bmc block, or leave it out for 3"},
	{"does not support IPMI v2", faultUnsupported, "the controller does not offer IPMI 2.0"},
	{"already active on another session", faultBusy, "somebody else has the console open; end that session, or wait until the controller does"},
	{"payload type disabled", faultUnsupported, "serial over LAN is disabled; enable it in the controller's setup, for this account too"},
	{"SOL parameter", faultUnsupported, "the controller has no serial over LAN"},
	{"insufficient resources", faultBusy, "the controller has no free session"},
	{"node busy", faultBusy, "the controller is busy"},
	{"insufficient privilege", faultPrivilege, "the account lacks the privilege"},
	{"invalid command", faultUnsupported, "the controller does not know the command"},
	{"unable to establish", faultUnreachable, "no RMCP+ session could be established"},
	{"could not open socket", faultUnreachable, "the address cannot be used from here"},
	{"address lookup", faultUnreachable, "the host name is unknown"},
}

// probeNoise is what a verbose ipmitool prints when its probes for vendor
// extensions are turned down, which happens in runs that succeed too.
var probeNoise = regexp.MustCompile(`(?m)^Invalid completion code received:.*$`)

// explain turns a failed run into a fault.
func (s *ipmi) explain(output string, err error) error {
	low := strings.ToLower(probeNoise.ReplaceAllString(output, ""))
	for _, x := range explanations {
		if strings.Contains(low, strings.ToLower(x.text)) {
			return &fault{kind: x.kind, err: fmt.Errorf("%s (ipmitool: %s)", x.say, lastLine(output))}
		}
	}
	return &fault{kind: faultResponse, err: fmt.Errorf("ipmitool: %s: %w", lastLine(output), err)}
}

// lastLine is the last line with text in it, for a message.
func lastLine(s string) string {
	s = strings.TrimSpace(strings.ToValidUTF8(s, "?"))
	if i := strings.LastIndexByte(s, '\n'); i >= 0 {
		s = s[i+1:]
	}
	return clip(s)
}

func (s *ipmi) power(ctx context.Context) (PowerState, error) {
	out, err := s.run(ctx, "chassis", "power", "status")
	if err != nil {
		return PowerUnknown, err
	}
	return parsePowerState(out), nil
}

func (s *ipmi) setPower(ctx context.Context, a PowerAction) error {
	_, err := s.conn.PowerSet(ctx, string(a))
	return s.acted(ctx, err)
}

func (s *ipmi) setBoot(ctx context.Context, d BootDevice, o BootOptions) error {
	_, err := s.conn.BootDeviceSet(ctx, string(d), o.Persistent, o.EFI)
	return s.acted(ctx, err)
}

// acted classifies the error of an action.
func (s *ipmi) acted(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return s.explain(err.Error(), errors.New("action failed"))
}

func (s *ipmi) boot(ctx context.Context) (NextBoot, error) {
	out, err := s.run(ctx, "chassis", "bootparam", "get", "5")
	if err != nil {
		return NextBoot{}, err
	}
	n, err := parseBootFlags(out)
	if err != nil {
		return NextBoot{}, &fault{kind: faultResponse, err: err}
	}
	return n, nil
}

var bootFlagsLine = regexp.MustCompile(`(?m)^\s*Boot parameter data: ([0-9a-fA-F]{4,64})\s*$`)

// parseBootFlags reads boot option parameter 5 (IPMI 2.0 table 28-14) out of
// ipmitool's text. Controllers that leave the valid bit unset on reading
// (OpenIPMI's among them) do not report mode and persistence, so then those
// stay unsaid.
func parseBootFlags(text string) (NextBoot, error) {
	m := bootFlagsLine.FindStringSubmatch(text)
	if m == nil {
		return NextBoot{}, fmt.Errorf("ipmitool printed no boot flags: %s", lastLine(text))
	}
	data, err := hex.DecodeString(m[1])
	if err != nil {
		return NextBoot{}, fmt.Errorf("boot flags %q are not hexadecimal: %w", m[1], err)
	}
	n := NextBoot{Device: BootDevice("ipmi device " + strconv.Itoa(int(data[1]>>2&0xf)))}
	switch data[1] >> 2 & 0xf {
	case 0:
		n.Device = BootNone
	case 1:
		n.Device = BootPXE
	case 2:
		n.Device = BootDisk
	case 5:
		n.Device = BootCDROM
	case 6:
		n.Device = BootBIOS
	}
	if data[0]&0x80 != 0 {
		efi, once := data[0]&0x20 != 0, data[0]&0x40 == 0
		n.EFI, n.Once = &efi, &once
	}
	return n, nil
}

// identity: what IPMI offers (FRU data) is free text of the board's maker.
func (s *ipmi) identity() Identity { return Identity{} }

// close: ipmitool closed its session at the end of each run.
func (s *ipmi) close(context.Context) {}

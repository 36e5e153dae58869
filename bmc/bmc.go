// Package bmc powers machines and tells them what to boot, through their
// baseboard management controllers. It puts the few verbs that edge-provision
// needs over bmclib's providers: exactly one provider per driver, never a list
// of fallbacks, because a second protocol that answers differently is worse
// than an error.
//
// One Controller stands for one BMC. Its calls run one at a time; each logs
// in, does its work and logs out, so that no session is left open on
// controllers that allow only a few. A call has a deadline, is tried again
// only when that cannot repeat an effect, and is not tried at all while the
// BMC is known to be unreachable (a breaker) or to refuse the credential
// (Refusals), because repeated wrong passwords lock accounts.
//
// Vendor strings, status codes and output of tools end here: callers see the
// types of this package and its errors.
package bmc

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// Driver is how a BMC is spoken to.
type Driver string

// Drivers.
const (
	// DriverRedfish is DMTF Redfish (DSP0266) over HTTPS with sessions.
	DriverRedfish Driver = "redfish"
	// DriverIPMI is IPMI 2.0 over RMCP+, by the ipmitool program, which
	// must be installed. It has no certificates: whoever can answer for the
	// address can attack the password offline, so it belongs on a
	// management network of its own.
	DriverIPMI Driver = "ipmi"
	// DriverNone is a person: every action answers with a PersonError that
	// says what is to be done at which machine, and the power state is
	// unknown.
	DriverNone Driver = "none"
)

// Secret is a password. It prints as "(sensitive)" in every format.
type Secret string

const hiddenSecret = "(sensitive)"

// String implements fmt.Stringer.
func (Secret) String() string { return hiddenSecret }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return hiddenSecret }

// Format implements fmt.Formatter, so that no verb shows the secret.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hiddenSecret)) }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(hiddenSecret), nil }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(hiddenSecret) }

// Config describes one BMC. Zero values mean the defaults named at each field.
type Config struct {
	Driver Driver
	// Address is https://host[:port] or host[:port] for Redfish (port 443),
	// host[:port] for IPMI (UDP port 623); unused with none.
	Address string
	// Username and Password; for IPMI at most 16 and 20 bytes
	// (IPMI 2.0 section 22.28 and 22.30).
	Username string
	Password Secret

	// CA is a PEM bundle that the BMC's certificate must chain to.
	CA []byte
	// Fingerprint pins the BMC's certificate: "sha256:" and the hexadecimal
	// SHA-256 of its DER form, colons between bytes allowed. With a pin, name
	// and validity time of the certificate are not looked at. With neither
	// CA nor Fingerprint the system's trust store decides; verification is
	// never left out.
	Fingerprint string

	// Timeout bounds one attempt of a call, from connecting to confirmed
	// effect; default 30 s.
	Timeout time.Duration
	// Attempts is how often a call is tried in all; default 3.
	Attempts int
	// RetryWait is the pause before the second attempt; it doubles up to
	// 30 s and has 50 % jitter. Default 1 s.
	RetryWait time.Duration
	// PollInterval is the pause between two looks at the power state while
	// waiting for it to change; default 500 ms.
	PollInterval time.Duration
	// OffTime is how long a power cycle keeps the machine without power;
	// default 5 s, so that power supplies discharge. IPMI controllers choose
	// it themselves.
	OffTime time.Duration
	// BreakAfter is the number of calls in a row that found the BMC
	// unreachable after which calls fail at once, for CoolDown; then one is
	// let through again. Defaults 3 and 1 min.
	BreakAfter int
	CoolDown   time.Duration

	// CipherSuite is the IPMI cipher suite id (IPMI 2.0 table 22-20): 3
	// (SHA-1, AES-128; the default, because IPMI 2.0 demands it of every
	// controller, though newer ones may have it switched off) or 17 (SHA-256,
	// AES-128). Weaker ones are refused.
	CipherSuite int
	// IPMITool is the path of ipmitool; empty: looked up in PATH.
	IPMITool string

	// Machine is the machine's address in site.hcl, and Declared the place of its
	// bmc block there, such as "site.hcl:18"; both for messages.
	Machine, Declared string
	// Site, MAC and MachineID join the events to the machine.
	Site      string
	MAC       inventory.MAC
	MachineID uuid.UUID
}

// Recorder receives bmc.* events. Record must not block for long and must not
// call back into the Controller.
type Recorder interface {
	Record(inventory.Event)
}

// Deps are what a Controller works with. All may be left zero.
type Deps struct {
	// Recorder gets the events; nil: none are recorded.
	Recorder Recorder
	// Refusals remembers refused credentials. Nil: in this Controller alone,
	// which does not survive a restart.
	Refusals Refusals
	// RefusalKey keys the digest under which a refused credential is
	// remembered; at least 32 secret bytes that stay the same across
	// restarts. Required when Refusals is set.
	RefusalKey []byte
	// Log gets details that are no events; nil: discarded. It never gets
	// secrets.
	Log *slog.Logger
	// Now is the clock of breaker and events; nil: time.Now.
	Now func() time.Time
}

// withDefaults fills zero fields in.
func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Timeout, 30*time.Second)
	def(&c.RetryWait, time.Second)
	def(&c.PollInterval, 500*time.Millisecond)
	def(&c.OffTime, 5*time.Second)
	def(&c.CoolDown, time.Minute)
	if c.Attempts == 0 {
		c.Attempts = 3
	}
	if c.BreakAfter == 0 {
		c.BreakAfter = 3
	}
	if c.CipherSuite == 0 {
		c.CipherSuite = 3
	}
	return c
}

// validate checks what can be known without the network.
func (c Config) validate() error {
	for name, d := range map[string]time.Duration{
		"timeout": c.Timeout, "retry wait": c.RetryWait, "poll interval": c.PollInterval,
		"off time": c.OffTime, "cool-down": c.CoolDown,
	} {
		if d < 0 {
			return fmt.Errorf("%s is %s; give a positive duration", name, d)
		}
	}
	if c.Attempts < 0 || c.BreakAfter < 0 {
		return fmt.Errorf("attempts (%d) and breaker threshold (%d) must be positive", c.Attempts, c.BreakAfter)
	}
	switch c.Driver {
	case DriverNone:
		return nil
	case DriverRedfish:
		if len(c.CA) > 0 && c.Fingerprint != "" {
			return fmt.Errorf("both a CA and a pinned fingerprint are given; give one of them")
		}
	case DriverIPMI:
		if len(c.CA) > 0 || c.Fingerprint != "" {
			return fmt.Errorf("IPMI has no certificates, so a CA or fingerprint cannot protect it; remove it or use driver redfish")
		}
		if c.CipherSuite != 3 && c.CipherSuite != 17 {
			return fmt.Errorf("IPMI cipher suite %d is not 3 or 17; others have no encryption or broken integrity", c.CipherSuite)
		}
		if len(c.Username) > 16 || len(c.Password) > 20 {
			return fmt.Errorf("IPMI takes at most 16 bytes of username and 20 bytes of password; these have %d and %d", len(c.Username), len(c.Password))
		}
	default:
		return fmt.Errorf("driver %q is unknown; use redfish, ipmi or none", c.Driver)
	}
	if c.Username == "" || c.Password == "" {
		return fmt.Errorf("driver %s needs a username and a password", c.Driver)
	}
	if strings.ContainsRune(c.Username+string(c.Password), 0) {
		return fmt.Errorf("username or password contains a NUL byte, which no BMC takes")
	}
	return nil
}

// endpoint is a parsed Config.Address.
type endpoint struct {
	host string // IP address without brackets, or DNS name
	port uint16
}

// bracketed is the host as it stands in a URL or before a colon.
func (e endpoint) bracketed() string {
	if strings.Contains(e.host, ":") {
		return "[" + e.host + "]"
	}
	return e.host
}

func (e endpoint) String() string {
	return net.JoinHostPort(e.host, strconv.Itoa(int(e.port)))
}

// parseEndpoint reads Config.Address for a driver.
func parseEndpoint(d Driver, address string) (endpoint, error) {
	e := endpoint{port: 443}
	if d == DriverIPMI {
		e.port = 623
	}
	rest := address
	if scheme, after, found := strings.Cut(address, "://"); found {
		switch {
		case d == DriverRedfish && scheme == "http":
			return e, fmt.Errorf("address %q is plain HTTP, which would show the password to the network; use https://", address)
		case d == DriverRedfish && scheme == "https", d == DriverIPMI && scheme == "ipmi":
		default:
			return e, fmt.Errorf("address %q: scheme %q does not fit driver %s", address, scheme, d)
		}
		u, err := url.Parse(address)
		if err != nil {
			return e, fmt.Errorf("address %q is no URL: %v", address, err)
		}
		if u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
			return e, fmt.Errorf("address %q has more than host and port; give https://host[:port] only, and the credential in its own fields", address)
		}
		rest = strings.TrimSuffix(after, "/")
	}
	e.host = rest
	if a, err := netip.ParseAddr(strings.Trim(rest, "[]")); err == nil {
		e.host = a.String()
		return e, refuseZone(a, address)
	}
	if host, port, err := net.SplitHostPort(rest); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return e, fmt.Errorf("address %q: port %q is not a number from 1 to 65535", address, port)
		}
		e.host, e.port = host, uint16(n)
	}
	if a, err := netip.ParseAddr(e.host); err == nil {
		e.host = a.String()
		return e, refuseZone(a, address)
	}
	if !isHostname(e.host) {
		return e, fmt.Errorf("address %q: %q is neither an IP address nor a host name; give host, host:port or https://host", address, e.host)
	}
	return e, nil
}

// refuseZone keeps scoped addresses out: a zone may hold any text, and neither
// ipmitool nor the Redfish library takes one.
func refuseZone(a netip.Addr, address string) error {
	if a.Zone() == "" {
		return nil
	}
	return fmt.Errorf("address %q has an IPv6 zone; give the BMC a routable or unique local address", address)
}

// isHostname reports whether s has the form of RFC 1123 section 2.1. A leading
// dash is excluded with it, which a command line would take for an option.
func isHostname(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for _, label := range strings.Split(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' {
				return false
			}
		}
	}
	return true
}

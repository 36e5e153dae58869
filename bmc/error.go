package bmc

import (
	"fmt"
	"time"
)

// Call says which call on which BMC an error is about.
type Call struct {
	// Machine is its address in site.hcl; may be empty.
	Machine string
	// Declared is where its bmc block is; may be empty.
	Declared  string
	Driver    Driver
	Address   string
	Operation string
}

func (c Call) String() string {
	who := fmt.Sprintf("BMC %s (%s)", c.Address, c.Driver)
	if c.Address == "" {
		who = "machine"
	}
	if c.Machine != "" {
		who += " of " + c.Machine
	}
	return c.Operation + " at " + who
}

// block is the place to correct what is declared of the BMC.
func (c Call) block() string {
	if c.Declared == "" {
		return "in the machine's bmc block"
	}
	return "in the machine's bmc block at " + c.Declared
}

func (c Call) at() string {
	if c.Declared == "" {
		return ""
	}
	return " (" + c.Declared + ")"
}

// CredentialError says that the BMC refused the username and password, or
// that they lack a privilege.
type CredentialError struct {
	Call
	Username string
	// Remembered: the BMC was not asked, because it refused exactly this
	// credential at Since.
	Remembered bool
	Since      time.Time
	// Privilege: the login worked, but the account may not do this.
	Privilege bool
	Err       error
}

func (e *CredentialError) Error() string {
	switch {
	case e.Remembered:
		return fmt.Sprintf("%s: not tried, because the BMC refused user %q with this password at %s; correct username or password %s (the same credential is not sent again, to avoid locking the account)",
			e.Call, e.Username, e.Since.UTC().Format(time.RFC3339), e.block())
	case e.Privilege:
		return fmt.Sprintf("%s: user %q logged in but may not do this: %v; give the account the Administrator or Operator role", e.Call, e.Username, e.Err)
	}
	return fmt.Sprintf("%s: the BMC refused user %q with this password: %v; correct username or password %s", e.Call, e.Username, e.Err, e.block())
}

// Unwrap returns the cause.
func (e *CredentialError) Unwrap() error { return e.Err }

// UnreachableError says that the BMC did not answer.
type UnreachableError struct {
	Call
	// Until is set when the BMC was not asked, because the breaker is open
	// until then.
	Until time.Time
	Err   error
}

func (e *UnreachableError) Error() string {
	if !e.Until.IsZero() {
		return fmt.Sprintf("%s: not tried before %s, because the last calls found it unreachable: %v", e.Call, e.Until.UTC().Format(time.RFC3339), e.Err)
	}
	return fmt.Sprintf("%s: no answer: %v; check its address%s, its cable and power, and that this host may reach its network", e.Call, e.Err, e.at())
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// UnsupportedError says that the BMC, or this host, cannot do what was asked.
type UnsupportedError struct {
	Call
	Err error
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s: not supported: %v", e.Call, e.Err)
}

// Unwrap returns the cause.
func (e *UnsupportedError) Unwrap() error { return e.Err }

// CertificateError says that the BMC showed a certificate that is not trusted.
// No credential was sent.
type CertificateError struct {
	Call
	// Fingerprint is of the certificate that was shown, in the form that
	// Config.Fingerprint takes.
	Fingerprint string
	// Pinned is the expected fingerprint, when one was configured.
	Pinned string
	Err    error
}

func (e *CertificateError) Error() string {
	if e.Pinned != "" {
		return fmt.Sprintf("%s: its certificate is %s, but %s is pinned; no credential was sent. If the certificate was replaced on purpose, compare the new fingerprint at the BMC itself and pin it", e.Call, e.Fingerprint, e.Pinned)
	}
	return fmt.Sprintf("%s: its certificate is not trusted: %v; no credential was sent. Give the CA that signed it, or compare this fingerprint at the BMC itself and pin it: %s", e.Call, e.Err, e.Fingerprint)
}

// Unwrap returns the cause.
func (e *CertificateError) Unwrap() error { return e.Err }

// ResponseError says that the BMC answered, but with an error or with
// something that makes no sense.
type ResponseError struct {
	Call
	// Uncertain: a power action that must not be repeated was sent, and it
	// is not known whether it was carried out.
	Uncertain bool
	Err       error
}

func (e *ResponseError) Error() string {
	if e.Uncertain {
		return fmt.Sprintf("%s: it was sent but not confirmed, and is not sent again: %v; read the power state to see what became of it", e.Call, e.Err)
	}
	return fmt.Sprintf("%s: %v", e.Call, e.Err)
}

// Unwrap returns the cause.
func (e *ResponseError) Unwrap() error { return e.Err }

// PersonError says that only a person can do this, because the machine has no
// BMC (DriverNone).
type PersonError struct {
	Call
	// Do is what the person is to do, in the imperative.
	Do string
}

func (e *PersonError) Error() string {
	return fmt.Sprintf("%s: the machine has no BMC; %s", e.Call, e.Do)
}

// fault is what a driver reports; the Controller turns it into one of the
// exported errors.
type fault struct {
	kind        faultKind
	fingerprint string
	err         error
	// What a Redfish service answered, where it refused.
	status     int
	complaints []complaint
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

type faultKind int

const (
	faultResponse    faultKind = iota // answered with an error or nonsense
	faultBusy                         // answered "later": 503, no free session
	faultUnreachable                  // no answer
	faultRefused                      // credential refused at login
	faultPrivilege                    // logged in, may not do this
	faultUnsupported
	faultCertificate
	faultPerson
)

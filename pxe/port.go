package pxe

import "fmt"

// PortTakenError says that another program holds a port that Listen needs.
type PortTakenError struct {
	Port  int
	Proto string // "udp" or "tcp"
	// Owner names the program and process id that holds the port, such as
	// "dnsmasq (pid 812)"; empty when it cannot be seen, for want of
	// privilege.
	Owner string
	Err   error
}

func (e *PortTakenError) Error() string {
	owner := e.Owner
	if owner == "" {
		owner = "another program (its owner cannot be seen without root)"
	}
	return fmt.Sprintf("%s port %d is held by %s: stop it, or serve another interface: %v", e.Proto, e.Port, owner, e.Err)
}

// Unwrap returns the bind error.
func (e *PortTakenError) Unwrap() error { return e.Err }

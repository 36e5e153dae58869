package resource

import (
	"fmt"
	"slices"
	"time"
)

// Role is what a token may do. Each role may do what those before it may.
type Role string

// Roles, the weakest first. Public is no token at all.
const (
	RolePublic   Role = ""
	RoleReader   Role = "reader"
	RoleOperator Role = "operator"
	RoleAdmin    Role = "admin"
)

// Roles are the roles that a token can have, the weakest first.
func Roles() []Role { return []Role{RoleReader, RoleOperator, RoleAdmin} }

// ParseRole reads a role's name.
func ParseRole(name string) (Role, error) {
	if r := Role(name); slices.Contains(Roles(), r) {
		return r, nil
	}
	return "", fmt.Errorf("%q is not a role; want reader, operator or admin", name)
}

// Allows reports whether somebody with role r may do what needs role need.
func (r Role) Allows(need Role) bool {
	if need == RolePublic {
		return true
	}
	roles := Roles()
	return slices.Contains(roles, r) && slices.Index(roles, r) >= slices.Index(roles, need)
}

// Token is what is known of an API token; never its secret.
type Token struct {
	// ID is the public part of the token: edge_ID_SECRET.
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Role      Role      `json:"role"`
	CreatedAt time.Time `json:"created_at"`
	// CreatedBy is the id of the token that made it; absent when it was made on
	// the controller's command line.
	CreatedBy string     `json:"created_by,omitempty"`
	ExpiresAt time.Time  `json:"expires_at"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
	// LastUsedAt is exact to the minute.
	LastUsedAt *time.Time `json:"last_used_at,omitempty"`
}

// NewToken is a request for a token.
type NewToken struct {
	Name string `json:"name"`
	Role Role   `json:"role"`
	// TTLSeconds is how long it is valid, at most a year.
	TTLSeconds int64 `json:"ttl_seconds"`
}

// IssuedToken is a new token with its secret, which is shown this once.
type IssuedToken struct {
	Token
	// Bearer is what goes into the Authorization header after "Bearer ".
	Bearer string `json:"bearer"`
}

// AuditEntry is one request that changed something, or was refused to.
type AuditEntry struct {
	ID   int64     `json:"id"`
	Time time.Time `json:"time"`
	// Actor is the id of the token, "local" for a request without one over
	// loopback, or "command-line".
	Actor string `json:"actor"`
	// Name is the token's, or user and host of the command line.
	Name   string `json:"name,omitempty"`
	Role   Role   `json:"role,omitempty"`
	Remote string `json:"remote,omitempty"` // IP address
	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"`
	// Action is the operationId of the OpenAPI document, or the command.
	Action string `json:"action"`
	// Target is what it was about, such as a machine's id; of a change by a BMC, with
	// what was asked, "forced" where it was, and of a command the BMC's host and port.
	Target  string `json:"target,omitempty"`
	Request string `json:"request,omitempty"` // id of the request
	// Status is the HTTP status of the answer; absent when the controller ended
	// before it answered.
	Status     *int       `json:"status,omitempty"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
}

// Session says who is asking.
type Session struct {
	// ID and Name are the token's; absent without one.
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
	// Role is what may be done; absent: nothing.
	Role      Role `json:"role,omitempty"`
	Anonymous bool `json:"anonymous"`
	// CSRF goes into the header X-CSRF-Token of a change with the dashboard's cookie;
	// present only where the request has that.
	CSRF string `json:"csrf,omitempty"`
}

// SignIn exchanges a token for the dashboard's cookie.
type SignIn struct {
	Token string `json:"token"`
}

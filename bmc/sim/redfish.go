package sim

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// RedfishConfig describes a simulated Redfish service with one system.
type RedfishConfig struct {
	Username, Password string
	// What the simulated system says of itself.
	SystemUUID   string
	Serial       string
	Manufacturer string
	Model        string
	// MACs are its Ethernet addresses, colon form.
	MACs []string
	// Sensors are what the chassis measures, shown by its Thermal and Power, or
	// with SensorCollection by the Sensors that replace them.
	Sensors          []Sensor
	SensorCollection bool
	// Hardware is what the system shows of its inside, asked at each request; nil:
	// nothing.
	Hardware func() Hardware
	// Boot is how it takes boot overrides; zero: as DSP0268 has it.
	Boot BootRules
	// MaxSessions is how many sessions may be open; default 4. More are
	// answered with 503, as real controllers do.
	MaxSessions int
	// SessionTimeout ends a session that was not used so long; default 5 min.
	SessionTimeout time.Duration
	// LockAfter wrong passwords in a row lock the account, so that even the
	// right one is refused; default 3. Negative: never.
	LockAfter int
	// Now is the clock of session timeouts; nil: time.Now.
	Now func() time.Time
}

// Redfish is a simulated Redfish service (DSP0266, DSP0268). It is an
// http.Handler; serve it over TLS.
type Redfish struct {
	config  RedfishConfig
	machine Machine
	mux     *http.ServeMux

	mu       sync.Mutex
	sessions map[string]*redfishSession // by token
	nextID   int
	opened   int
	wrong    int // wrong passwords in a row
	refused  int // all refused logins
	fault    Fault
	requests []string
	boots    []BootRequest
	media    []MediaEvent
	inserted string
}

// redfishSession is one open session.
type redfishSession struct {
	id   string
	used time.Time
}

// MediaEvent is one insertion or ejection of virtual media.
type MediaEvent struct {
	Image    string // URL; empty for an ejection
	Inserted bool
}

// Fault makes a service misbehave in one way at a time.
type Fault string

// Faults. Login succeeds under all but those marked "at once".
const (
	FaultNone        Fault = ""
	FaultHang        Fault = "hang"         // at once: no answer until the client gives up
	FaultHangSystem  Fault = "hang system"  // the system's document never comes
	FaultUnavailable Fault = "unavailable"  // at once: 503
	FaultReset       Fault = "reset"        // at once: the connection is cut without an answer
	FaultGarbage     Fault = "garbage"      // the system's document is not JSON
	FaultWrongTypes  Fault = "wrong types"  // the system's document has numbers for strings
	FaultHuge        Fault = "huge"         // the system's document never ends
	FaultManyLinks   Fault = "many links"   // the collection has 20 000 members
	FaultPages       Fault = "pages"        // the collection has a next page, and it and a member are missing
	FaultForeignLink Fault = "foreign link" // the collection's link leads to another host
	FaultRedirect    Fault = "redirect"     // at once: every answer is a redirect to another host
	FaultLostReset   Fault = "lost reset"   // an action is carried out and the connection then cut
	FaultSticky      Fault = "sticky"       // a one-time override is kept as a permanent one
	FaultStuck       Fault = "stuck"        // power actions are accepted and ignored
	FaultEcho        Fault = "echo"         // a refused login is answered with the request's body as message
	FaultNoReset     Fault = "no reset"     // ForceRestart is not among the allowed actions
	FaultSessionLost Fault = "session lost" // all sessions end at the next request that uses one; then none
	FaultNoMedia     Fault = "no media"     // the virtual drive takes floppies only
	FaultLostMedia   Fault = "lost media"   // an insertion is accepted and forgotten
	FaultNoMemory    Fault = "no memory"    // the memory modules are never ready: 503
	FaultHangMemory  Fault = "hang memory"  // the memory modules never come
	FaultForbidden   Fault = "forbidden"    // actions need a privilege that the account lacks
)

// NewRedfish returns a service in front of a machine.
func NewRedfish(c RedfishConfig, m Machine) *Redfish {
	if c.MaxSessions == 0 {
		c.MaxSessions = 4
	}
	if c.SessionTimeout == 0 {
		c.SessionTimeout = 5 * time.Minute
	}
	if c.LockAfter == 0 {
		c.LockAfter = 3
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	r := &Redfish{config: c, machine: m, mux: http.NewServeMux(), sessions: map[string]*redfishSession{}}
	r.routes()
	return r
}

// SetFault switches a fault on; FaultNone switches it off.
func (r *Redfish) SetFault(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
}

// SetPassword changes the account's password and unlocks it.
func (r *Redfish) SetPassword(password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.config.Password, r.wrong = password, 0
}

// Sessions is how many sessions are open now, and how many ever were.
func (r *Redfish) Sessions() (open, ever int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire()
	return len(r.sessions), r.opened
}

// Refused is how many logins were refused.
func (r *Redfish) Refused() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

// Requests returns "METHOD path" of the last requests, oldest first; at most
// 1000 are kept.
func (r *Redfish) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.requests...)
}

// Media returns what was inserted and ejected so far; at most 1000 are kept.
func (r *Redfish) Media() []MediaEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]MediaEvent(nil), r.media...)
}

func (r *Redfish) currentFault() Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fault
}

// ServeHTTP implements http.Handler.
func (r *Redfish) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, req.Method+" "+req.URL.Path)
	if len(r.requests) > 1000 {
		r.requests = r.requests[1:]
	}
	fault := r.fault
	if fault == FaultSessionLost && req.Header.Get("X-Auth-Token") != "" {
		clear(r.sessions)
		r.fault = FaultNone
	}
	r.mu.Unlock()
	w.Header().Set("OData-Version", "4.0")
	w.Header().Set("Cache-Control", "no-cache")
	switch fault {
	case FaultHang:
		<-req.Context().Done()
		return
	case FaultUnavailable:
		w.Header().Set("Retry-After", "1")
		redfishError(w, http.StatusServiceUnavailable, "Base.1.8.ServiceTemporarilyUnavailable", "The service is temporarily unavailable.")
		return
	case FaultReset:
		cut(w)
		return
	case FaultRedirect:
		http.Redirect(w, req, "https://elsewhere.invalid"+req.URL.Path, http.StatusTemporaryRedirect)
		return
	}
	req.Body = http.MaxBytesReader(w, req.Body, 64<<10)
	if !r.public(req) && !r.authenticated(req) {
		redfishError(w, http.StatusUnauthorized, "Base.1.8.NoValidSession", "There is no valid session.")
		return
	}
	r.mux.ServeHTTP(w, req)
}

// cut closes the connection without an answer.
func cut(w http.ResponseWriter) {
	if h, ok := w.(http.Hijacker); ok {
		if conn, _, err := h.Hijack(); err == nil {
			_ = conn.Close()
			return
		}
	}
	// HTTP/2 has no hijacking; aborting the handler resets the stream.
	panic(http.ErrAbortHandler)
}

// public requests need no login (DSP0266 section 13.3.1).
func (r *Redfish) public(req *http.Request) bool {
	path := strings.TrimSuffix(req.URL.Path, "/")
	return path == "/redfish" || path == "/redfish/v1" || req.Method == http.MethodPost && path == sessionsPath
}

// authenticated checks session token or basic credentials.
func (r *Redfish) authenticated(req *http.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire()
	if s := r.sessions[req.Header.Get("X-Auth-Token")]; s != nil {
		s.used = r.config.Now()
		return true
	}
	user, password, ok := req.BasicAuth()
	return ok && r.login(user, password)
}

// login checks a password and counts wrong ones. r.mu is held.
func (r *Redfish) login(user, password string) bool {
	locked := r.config.LockAfter > 0 && r.wrong >= r.config.LockAfter
	if locked || user != r.config.Username || password != r.config.Password {
		r.wrong++
		r.refused++
		return false
	}
	r.wrong = 0
	return true
}

// expire ends sessions that were not used. r.mu is held.
func (r *Redfish) expire() {
	for token, s := range r.sessions {
		if r.config.Now().Sub(s.used) > r.config.SessionTimeout {
			delete(r.sessions, token)
		}
	}
}

// openSession is POST Sessions (DSP0266 section 13.3.4.1).
func (r *Redfish) openSession(w http.ResponseWriter, req *http.Request) {
	raw, err := io.ReadAll(req.Body)
	var body struct{ UserName, Password string }
	if err != nil || json.Unmarshal(raw, &body) != nil {
		redfishError(w, http.StatusBadRequest, "Base.1.8.MalformedJSON", "The request body is not valid JSON.")
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire()
	if !r.login(body.UserName, body.Password) {
		message := "The user name or password is wrong."
		if r.fault == FaultEcho {
			message = string(raw)
		}
		redfishError(w, http.StatusUnauthorized, "Base.1.8.ResourceAtUriUnauthorized", message)
		return
	}
	if len(r.sessions) >= r.config.MaxSessions {
		redfishError(w, http.StatusServiceUnavailable, "Base.1.8.SessionLimitExceeded", "All sessions are in use.")
		return
	}
	random := make([]byte, 16)
	_, _ = rand.Read(random)
	token := hex.EncodeToString(random)
	r.nextID++
	r.opened++
	id := fmt.Sprint(r.nextID)
	r.sessions[token] = &redfishSession{id: id, used: r.config.Now()}
	w.Header().Set("X-Auth-Token", token)
	w.Header().Set("Location", sessionsPath+"/"+id)
	writeJSON(w, http.StatusCreated, sessionDocument(id, r.config.Username))
}

// closeSession is DELETE Sessions/{id}.
func (r *Redfish) closeSession(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for token, s := range r.sessions {
		if s.id == req.PathValue("id") {
			delete(r.sessions, token)
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	http.NotFound(w, req)
}

// object is a JSON object.
type object map[string]any

// writeJSON answers with a document.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// etag is the version of a document.
func etag(v any) string {
	b, _ := json.Marshal(v)
	sum := sha256.Sum256(b)
	return `"` + hex.EncodeToString(sum[:8]) + `"`
}

// redfishError answers with an error document (DSP0266 section 8.6).
func redfishError(w http.ResponseWriter, status int, id, message string) {
	writeJSON(w, status, object{"error": object{
		"code": "Base.1.8.GeneralError", "message": "See ExtendedInfo.",
		"@Message.ExtendedInfo": []object{{"MessageId": id, "Message": message, "Severity": "Critical"}},
	}})
}

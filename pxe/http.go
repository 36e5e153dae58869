package pxe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/pxe/ipxe"
)

// Bounds of the HTTP server. A transfer may take a minute and as long as its
// size takes at slowestRate: below that the client is as good as gone.
const (
	headerTime  = 10 * time.Second
	idleTime    = 2 * time.Minute
	maxHeader   = 32 << 10
	extraTime   = time.Minute
	slowestRate = 32 << 10 // bytes per second
)

// newWeb builds the HTTP server: boot scripts, iPXE programs, assets, and the
// caller's own handlers.
func (s *Server) newWeb() (*http.Server, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /boot/{mac}/script.ipxe", s.serveScript)
	mux.HandleFunc("GET /ipxe/{name}", s.serveProgram)
	mux.HandleFunc("GET /asset/{name}", s.serveAsset)
	for pattern, h := range s.c.Handlers {
		if err := mount(mux, pattern, h); err != nil {
			return nil, err
		}
	}
	s.rangesSeen = newLimiter[rangeKey](1, maxSightings, chainWindow)
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}, nil
}

// mount turns ServeMux's panic about a bad or conflicting pattern into an error.
func mount(mux *http.ServeMux, pattern string, h http.Handler) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("mounting %q: %v", pattern, r)
		}
	}()
	mux.Handle(pattern, h)
	return nil
}

// problem is an answer other than the file.
type problem struct {
	status int
	err    error
}

func (p *problem) Error() string { return p.err.Error() }

// serveScript gives a machine's iPXE its script. The command line in it may
// carry a secret, so it goes only to the address that is leased to the MAC.
func (s *Server) serveScript(w http.ResponseWriter, r *http.Request) {
	addr := clientAddr(r)
	mac, err := inventory.ParseMAC(r.PathValue("mac"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	t := s.begin(w, r, mac, AssetScript)
	script, err := s.script(r.Context(), mac, addr)
	if err != nil {
		t.fail(err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=us-ascii")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(script)))
	t.size = int64(len(script))
	io.WriteString(t, script)
	t.end("")
}

func (s *Server) script(ctx context.Context, mac inventory.MAC, addr netip.Addr) (string, error) {
	if !s.holds(mac, addr) {
		return "", &problem{http.StatusForbidden, fmt.Errorf("%s is not the address of %s", addr, mac)}
	}
	now := s.now()
	s.mu.Lock()
	c := Client{MAC: mac, Stage: StageIPXE}
	if g := s.seen.byMAC[mac]; g != nil {
		c = g.client
		g.chained, g.seen = 0, now
	}
	s.mu.Unlock()
	c.Address, c.WantsScript = addr, true
	if !c.Stage.Netboots() {
		c.Stage = StageIPXE
	}
	answer, err := s.boot(ctx, c)
	if err != nil {
		s.log.Error("deciding what to boot", "mac", mac, "error", err)
		return "", &problem{http.StatusServiceUnavailable, errors.New("no decision, ask again")}
	}
	switch answer.Kind {
	case KindInstall:
		script, err := ipxe.Install(s.resolve(answer.Kernel), s.resolve(answer.Initramfs), answer.CommandLine)
		if err != nil {
			s.log.Error("rendering the boot script", "mac", mac, "error", err)
			return "", &problem{http.StatusInternalServerError, errors.New("the boot script could not be made")}
		}
		return script, nil
	case KindLocal, KindAddressOnly:
		return ipxe.Local(answer.BIOSDrive), nil
	default:
		return "", &problem{http.StatusNotFound, errors.New("not a machine of this site")}
	}
}

// resolve turns an asset's name into its URL and leaves URLs alone.
func (s *Server) resolve(name string) string {
	if _, ok := s.files.asset(name); ok {
		return s.assetURL(name)
	}
	return name
}

// serveProgram gives UEFI HTTP boot its iPXE.
func (s *Server) serveProgram(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	b, ok := s.files.program(name)
	if !ok {
		http.NotFound(w, r)
		return
	}
	mac := s.whose(clientAddr(r))
	t := s.begin(w, r, mac, AssetBootFile)
	w.Header().Set("Content-Type", "application/efi")
	// EDK2 asks for the size by HEAD before it asks for the file.
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	t.size = int64(len(b))
	if r.Method != http.MethodHead {
		_, _ = t.Write(b) // a client that hung up asks again
	}
	t.end("")
	if t.sent == t.size {
		s.loaded(mac, name)
	}
}

// serveAsset gives a registered file, or ranges of it.
func (s *Server) serveAsset(w http.ResponseWriter, r *http.Request) {
	a, ok := s.files.asset(r.PathValue("name"))
	if !ok {
		http.NotFound(w, r)
		return
	}
	t := s.begin(w, r, s.whose(clientAddr(r)), a.Kind)
	t.size = a.Size
	f, err := a.open()
	if err != nil {
		s.log.Error("opening an asset", "asset", a.Name, "error", err)
		t.fail(&problem{http.StatusInternalServerError, errors.New("the file cannot be read")})
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	if a.SHA256 != "" {
		w.Header().Set("ETag", `"`+a.SHA256+`"`)
	}
	limit := extraTime + time.Duration(a.Size/slowestRate)*time.Second
	// The connection may be one that cannot have a deadline (a test's).
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(limit))
	http.ServeContent(t, r, "", time.Time{}, f)
	t.end("")
}

func clientAddr(r *http.Request) netip.Addr {
	p, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap()
}

// rangeKey is one client's fetching of one file by ranges.
type rangeKey struct {
	client netip.Addr
	path   string
}

// transfer is one HTTP answer under way: it counts, and records start and end.
type transfer struct {
	http.ResponseWriter
	s      *Server
	mac    inventory.MAC
	attrs  map[string]string
	began  time.Time
	status int
	sent   int64
	size   int64
	quiet  bool // one of many ranges: the first was recorded
}

// begin records that a fetch starts. An image comes in hundreds of ranges: the
// first one of a client stands for all, and those that fail are recorded.
func (s *Server) begin(w http.ResponseWriter, r *http.Request, mac inventory.MAC, kind AssetKind) *transfer {
	addr := clientAddr(r)
	t := &transfer{ResponseWriter: w, s: s, mac: mac, began: time.Now(), attrs: map[string]string{
		"path": r.URL.Path, "client": addr.String(), "asset": string(kind),
	}}
	if v := r.Header.Get("Range"); v != "" {
		t.attrs["range"] = clipClass([]byte(v))
		t.quiet = !s.rangesSeen.allow(rangeKey{addr, r.URL.Path}, s.now())
	}
	if !t.quiet {
		s.record(mac, inventory.EventHTTPStart, "", maps.Clone(t.attrs))
	}
	return t
}

func (t *transfer) WriteHeader(status int) {
	t.status = status
	t.ResponseWriter.WriteHeader(status)
}

func (t *transfer) Write(b []byte) (int, error) {
	n, err := t.ResponseWriter.Write(b)
	t.sent += int64(n)
	return n, err
}

// ReadFrom keeps net/http's use of sendfile, which a wrapped writer would hide.
func (t *transfer) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(t.ResponseWriter, r)
	t.sent += n
	return n, err
}

// Unwrap lets http.ResponseController find the connection.
func (t *transfer) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// fail answers with an error and records it.
func (t *transfer) fail(err error) {
	status := http.StatusInternalServerError
	if p, ok := errors.AsType[*problem](err); ok {
		status = p.status
	}
	http.Error(t, err.Error(), status)
	t.end(err.Error())
}

func (t *transfer) end(message string) {
	if t.status == 0 {
		t.status = http.StatusOK
	}
	if t.quiet && t.status < http.StatusBadRequest {
		return
	}
	a := maps.Clone(t.attrs)
	a["status"], a["bytes"] = strconv.Itoa(t.status), strconv.FormatInt(t.sent, 10)
	a["duration"] = time.Since(t.began).Round(time.Millisecond).String()
	if t.size > 0 {
		a["size"] = strconv.FormatInt(t.size, 10)
	}
	t.s.record(t.mac, inventory.EventHTTPEnd, message, a)
}

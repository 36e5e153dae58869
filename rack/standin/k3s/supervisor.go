package k3s

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// listen opens the supervisor's port and serves it until the returned server is
// closed. What is not the supervisor's goes to the API server, as in K3s.
func (s *server) listen() (*http.Server, error) {
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(s.tls("client-ca.crt"))
	if err != nil {
		return nil, err
	}
	pool.AppendCertsFromPEM(ca)
	pair, err := tls.LoadX509KeyPair(s.tls("serving-kube-apiserver.crt"), s.tls("serving-kube-apiserver.key"))
	if err != nil {
		return nil, err
	}
	proxied, err := s.apiserver()
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /cacerts", func(w http.ResponseWriter, _ *http.Request) { s.send(w, s.ca) })
	mux.HandleFunc("GET /ping", func(w http.ResponseWriter, _ *http.Request) { s.send(w, []byte("pong")) })
	mux.HandleFunc("GET /v1-k3s/readyz", s.forNode(s.serveReady))
	mux.HandleFunc("GET /v1-k3s/config", s.forNode(s.serveConfig))
	mux.HandleFunc("GET /v1-k3s/apiservers", s.forNode(s.serveServers))
	for _, name := range []string{"serving-kubelet", "client-kubelet", "client-kube-proxy", "client-k3s-controller"} {
		mux.HandleFunc("POST /v1-k3s/"+name+".crt", s.forNode(func(w http.ResponseWriter, r *http.Request) { s.serveCertificate(w, r, name) }))
	}
	mux.HandleFunc("GET /v1-k3s/client-ca.crt", s.forNode(func(w http.ResponseWriter, _ *http.Request) { s.send(w, ca) }))
	mux.HandleFunc("GET /v1-k3s/server-bootstrap", s.forServer(s.serveShared))
	mux.HandleFunc("GET /db/info", s.forServer(s.serveMembers))
	mux.Handle("/", proxied)

	// The API server listens at the same port of another loopback address.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(err, failed)
	}}
	listener, err := config.Listen(context.Background(), "tcp4", net.JoinHostPort(s.get("bind-address", "0.0.0.0"), port))
	if err != nil {
		return nil, fmt.Errorf("opening the supervisor's port: %w", err)
	}
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: time.Minute, ErrorLog: nil,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool, MinVersion: tls.VersionTLS12},
	}
	go func() {
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			s.processes.failed <- fmt.Errorf("serving the supervisor's port: %w", err)
		}
	}()
	return server, nil
}

// apiserver passes requests on to the API server. Who sent a client certificate
// is named by the front proxy's headers, which the API server believes of us.
func (s *server) apiserver() (http.Handler, error) {
	proxy, err := tls.LoadX509KeyPair(s.tls("client-auth-proxy.crt"), s.tls("client-auth-proxy.key"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.ca)
	target := &url.URL{Scheme: "https", Host: net.JoinHostPort(apiserverAddress, port)}
	transport := func(certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)) *http.Transport {
		return &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool, GetClientCertificate: certificate},
			// Connections that are upgraded (exec, port-forward) need HTTP/1.1.
			TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute,
		}
	}
	// The certificate is shown whatever authorities the server names: while it
	// starts it does not name the front proxy's yet, and the connection stays.
	named := transport(func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &proxy, nil })
	anonymous := transport(nil)
	return &httputil.ReverseProxy{
		FlushInterval: -1,
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Header.Get("X-Remote-User") != "" {
				return named.RoundTrip(r)
			}
			return anonymous.RoundTrip(r)
		}),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
			for name := range r.Out.Header {
				if strings.HasPrefix(strings.ToLower(name), "x-remote-") {
					r.Out.Header.Del(name)
				}
			}
			if r.In.TLS != nil && len(r.In.TLS.VerifiedChains) > 0 {
				subject := r.In.TLS.PeerCertificates[0].Subject
				r.Out.Header.Set("X-Remote-User", subject.CommonName)
				for _, group := range subject.Organization {
					r.Out.Header.Add("X-Remote-Group", group)
				}
				r.Out.Header.Del("Authorization")
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "apiserver not ready: "+err.Error(), http.StatusServiceUnavailable)
		},
	}, nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (s *server) send(w http.ResponseWriter, b []byte) {
	if _, err := w.Write(b); err != nil {
		s.log.Debug("answering", "error", err)
	}
}

func (s *server) sendJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log.Debug("answering", "error", err)
	}
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func (s *server) forServer(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "server" || !equal(password, s.token) {
			http.Error(w, "not authorized", http.StatusUnauthorized)
			return
		}
		f(w, r)
	}
}

// forNode admits nodes by the agent token; the server token is good for
// everything that the agent token is.
func (s *server) forNode(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		node := user == "node" && (equal(password, s.agentToken) || equal(password, s.token))
		if !node && (user != "server" || !equal(password, s.token)) {
			http.Error(w, "not authorized", http.StatusUnauthorized)
			return
		}
		f(w, r)
	}
}

func (s *server) serveReady(w http.ResponseWriter, r *http.Request) {
	client := s.ready.Load()
	if client == nil {
		http.Error(w, "runtime core not ready", http.StatusServiceUnavailable)
		return
	}
	if _, err := client.RESTClient().Get().AbsPath("/readyz").DoRaw(r.Context()); err != nil {
		http.Error(w, "apiserver not ready: "+err.Error(), http.StatusInternalServerError)
		return
	}
	s.send(w, []byte("ok"))
}

func (s *server) serveConfig(w http.ResponseWriter, _ *http.Request) { s.sendJSON(w, s.config) }

// serveServers lists the servers of the cluster, for agents' load balancers.
func (s *server) serveServers(w http.ResponseWriter, r *http.Request) {
	client := s.ready.Load()
	if client == nil {
		http.Error(w, "runtime core not ready", http.StatusServiceUnavailable)
		return
	}
	endpoints, err := client.DiscoveryV1().EndpointSlices("default").Get(r.Context(), "kubernetes", meta.GetOptions{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	var all []string
	for _, e := range endpoints.Endpoints {
		for _, a := range e.Addresses {
			all = append(all, net.JoinHostPort(a, port))
		}
	}
	s.sendJSON(w, all)
}

// serveCertificate signs a node's certificate request (DER) when the node proves
// to be the one that first came with its name.
func (s *server) serveCertificate(w http.ResponseWriter, r *http.Request, kind string) {
	name, password := r.Header.Get("K3s-Node-Name"), r.Header.Get("K3s-Node-Password")
	if err := s.checkNode(r.Context(), name, password); err != nil {
		status := http.StatusServiceUnavailable
		if errors.Is(err, errNodePassword) {
			status = http.StatusForbidden
		}
		http.Error(w, err.Error(), status)
		return
	}
	request, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	by, l := "client-ca", leaf{usages: clientUse}
	switch kind {
	case "serving-kubelet":
		by, l = "server-ca", leaf{name: name, hosts: append([]string{name, "127.0.0.1"}, strings.Split(r.Header.Get("K3s-Node-IP"), ",")...), usages: serverUse}
	case "client-kubelet":
		l.name, l.groups = "system:node:"+name, []string{"system:nodes"}
	case "client-kube-proxy":
		l.name = "system:kube-proxy"
	case "client-k3s-controller":
		l.name = controllerUser
	}
	a, err := loadAuthority(s.tls(by))
	if err == nil {
		var certificate []byte
		if certificate, err = a.signRequest(request, l); err == nil {
			s.send(w, certificate)
			return
		}
	}
	http.Error(w, err.Error(), http.StatusBadRequest)
}

var errNodePassword = errors.New("unable to verify hash for node: hash does not match")

// checkNode compares a node's password with that of its first registration, kept
// in secret NODE.node-password.k3s of kube-system.
func (s *server) checkNode(ctx context.Context, name, password string) error {
	client := s.ready.Load()
	if client == nil {
		return errors.New("runtime core not ready")
	}
	if name == "" || password == "" {
		return errors.New("node name or password not set")
	}
	secrets := client.CoreV1().Secrets("kube-system")
	secret := &core.Secret{ObjectMeta: meta.ObjectMeta{Name: name + ".node-password.k3s"}}
	kept, err := secrets.Get(ctx, secret.Name, meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		salt := randomHex(8)
		immutable := true
		secret.Immutable, secret.Data = &immutable, map[string][]byte{"hash": []byte(salt + ":" + passwordHash(salt, password))}
		_, err = secrets.Create(ctx, secret, meta.CreateOptions{})
		return err
	} else if err != nil {
		return err
	}
	salt, hash, _ := strings.Cut(string(kept.Data["hash"]), ":")
	if !equal(hash, passwordHash(salt, password)) {
		return fmt.Errorf("node %s: %w", name, errNodePassword)
	}
	return nil
}

func passwordHash(salt, password string) string {
	sum := sha256.Sum256([]byte(salt + password))
	return hex.EncodeToString(sum[:])
}

// bootstrap is what a joining server receives.
type bootstrap struct {
	Files  map[string][]byte
	Config clusterConfig
}

func (s *server) serveShared(w http.ResponseWriter, _ *http.Request) {
	b := bootstrap{Files: map[string][]byte{}, Config: s.config}
	for _, name := range shared {
		content, err := os.ReadFile(s.path(name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		b.Files[name] = content
	}
	s.sendJSON(w, b)
}

// fetchShared fills this server's directory from the server that it joins.
func (s *server) fetchShared(ctx context.Context, given credential) error {
	s.token = given.password
	ca, err := fetchCA(s.joining, given)
	if err != nil {
		return err
	}
	s.ca = ca
	raw, err := s.ask(ctx, "/v1-k3s/server-bootstrap", credential{user: "server", password: given.password})
	if err != nil {
		return err
	}
	var b bootstrap
	if err := json.Unmarshal(raw, &b); err != nil {
		return fmt.Errorf("reading the bootstrap data: %w", err)
	}
	ours, err := json.Marshal(s.config)
	if err != nil {
		return err
	}
	theirs, err := json.Marshal(b.Config)
	if err != nil {
		return err
	}
	if string(ours) != string(theirs) {
		return fmt.Errorf("critical configuration value mismatch between servers: here %s, there %s", ours, theirs)
	}
	// The server's authority comes last: without it the files are fetched again.
	for _, name := range append(shared[1:], shared[0]) {
		content, ok := b.Files[name]
		if !ok {
			continue
		}
		path := s.path(name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := writeFile(path, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) serveMembers(w http.ResponseWriter, r *http.Request) {
	if s.ready.Load() == nil {
		http.Error(w, "runtime core not ready", http.StatusServiceUnavailable)
		return
	}
	if !s.embedded() {
		http.Error(w, "etcd datastore disabled", http.StatusNotFound)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), etcdLimit)
	defer cancel()
	list, err := s.etcd.client.MemberList(ctx)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	var all []clusterMember
	for _, m := range list.Members {
		if len(m.PeerURLs) > 0 {
			all = append(all, clusterMember{Name: m.Name, PeerURL: m.PeerURLs[0], Clients: m.ClientURLs})
		}
	}
	s.sendJSON(w, all)
}

// ask sends a request to the server that this one joins.
func (s *server) ask(ctx context.Context, path string, c credential) ([]byte, error) {
	return request(ctx, http.MethodGet, s.joining+path, s.ca, c, nil, nil)
}

// statusError is an answer that is not 200.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%d %s: %s", e.status, http.StatusText(e.status), e.text)
}

// request asks a supervisor that proves itself by the cluster's authority.
func request(ctx context.Context, method, address string, ca []byte, c credential, header http.Header, body io.Reader) ([]byte, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		r.Header[name] = values
	}
	r.SetBasicAuth(c.user, c.password)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	response, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %w", address, &statusError{response.StatusCode, strings.TrimSpace(string(b[:min(len(b), 500)]))})
	}
	return b, nil
}

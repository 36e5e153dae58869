package kube_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/kube/kubetest"
)

// hasty is a clock on which pauses are short; its time is the real one.
type hasty struct{}

func (hasty) Now() time.Time                         { return time.Now() }
func (hasty) After(d time.Duration) <-chan time.Time { return time.After(d / 50) }

// faulty opens a cluster through a proxy that fails as fault says: it gets the
// number of each request and answers it itself, or returns false to let it pass.
func faulty(t *testing.T, config kube.Config, fault func(n int64, w http.ResponseWriter, r *http.Request) bool) *kube.Cluster {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(server.CA)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: server.Address})
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
	return behind(t, config, proxy, fault)
}

func behind(t *testing.T, config kube.Config, next http.Handler, fault func(n int64, w http.ResponseWriter, r *http.Request) bool) *kube.Cluster {
	t.Helper()
	var count atomic.Int64
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !fault(count.Add(1), w, r) {
			next.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(front.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	token := "none"
	if server.Server != nil {
		token = server.Token
	}
	config.Kubeconfig = kubetest.Kubeconfig(front.URL, ca, token)
	config.PollInterval = 20 * time.Millisecond
	if config.Clock == nil {
		config.Clock = hasty{}
	}
	c, err := kube.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// cut ends a connection without an answer.
func cut(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

// sink takes an answer and throws it away.
type sink struct{ header http.Header }

func (s sink) Header() http.Header         { return s.header }
func (s sink) Write(b []byte) (int, error) { return len(b), nil }
func (s sink) WriteHeader(int)             {}

func TestWhatAControllerWritesBetweenTwoLooksIsNoDifference(t *testing.T) {
	open(t)
	var applied atomic.Bool
	var looks atomic.Int64
	c := faulty(t, kube.Config{}, func(_ int64, _ http.ResponseWriter, r *http.Request) bool {
		dry := r.Method == http.MethodPatch && r.URL.Query().Has("dryRun") && strings.HasSuffix(r.URL.Path, "/configmaps/busy")
		if applied.Load() && dry && looks.Add(1) == 1 {
			edit(t, configMaps, "between", "busy", `{"metadata":{"annotations":{"a-controller/revision":"1"}}}`)
		}
		return false
	})
	s, opts := set(t, namespace("between")+configMap("between", "busy", "k: v")), options(t, "busy")
	apply(t, c, s, opts)
	applied.Store(true)
	wantNothing(t, diff(t, c, s, opts))
	if n := looks.Load(); n != 2 {
		t.Errorf("the object was looked at %d times; want once more after somebody wrote it", n)
	}
}

// fourTimes lets a request pass that met a fault four times in a row: of requests
// that are sent at once chance decides which meets it, and one is sent six times.
func fourTimes(fault func(n int64, w http.ResponseWriter, r *http.Request) bool) func(n int64, w http.ResponseWriter, r *http.Request) bool {
	var mu sync.Mutex
	row := map[string]int{}
	return func(n int64, w http.ResponseWriter, r *http.Request) bool {
		request := r.Method + " " + r.URL.String()
		mu.Lock()
		spared := row[request] == 4
		mu.Unlock()
		met := !spared && fault(n, w, r)
		mu.Lock()
		defer mu.Unlock()
		if row[request]++; !met {
			row[request] = 0
		}
		return met
	}
}

func TestApplyThroughAFaultyAPIServer(t *testing.T) {
	open(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(server.CA)
	straight := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: server.Address})
	straight.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
	for name, fault := range map[string]func(n int64, w http.ResponseWriter, r *http.Request) bool{
		"too many requests": func(n int64, w http.ResponseWriter, _ *http.Request) bool {
			if n%3 == 0 {
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusTooManyRequests)
			}
			return n%3 == 0
		},
		"internal errors": func(n int64, w http.ResponseWriter, _ *http.Request) bool {
			if n%2 == 0 {
				http.Error(w, "etcdserver: leader changed", http.StatusInternalServerError)
			}
			return n%2 == 0
		},
		"cut connections": func(n int64, w http.ResponseWriter, _ *http.Request) bool {
			if n%3 == 1 {
				cut(w)
			}
			return n%3 == 1
		},
		// The request is carried out, and nobody learns it.
		"lost answers": func(n int64, w http.ResponseWriter, r *http.Request) bool {
			if n%2 == 1 {
				straight.ServeHTTP(sink{http.Header{}}, r)
				cut(w)
			}
			return n%2 == 1
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := faulty(t, kube.Config{}, fourTimes(fault))
			ns := strings.ReplaceAll(name, " ", "-")
			opts := options(t, "step")
			s := set(t, namespace(ns)+configMap(ns, "a", "k: v")+configMap(ns, "b", "k: v")+
				"---\napiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: "+ns+"}\nstringData: {k: v}\n")
			apply(t, c, s, opts)
			wantNothing(t, diff(t, c, s, opts))
			apply(t, c, set(t, namespace(ns)+configMap(ns, "b", "k: w")), opts)
			if _, err := c.Get(t.Context(), "v1", "ConfigMap", ns, "a"); !errors.Is(err, kube.ErrNotFound) {
				t.Errorf("what is declared no longer: %v; want it gone", err)
			}
			if err := c.Remove(t.Context(), kube.Set{}, opts, false); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSilenceIsNotAbsence asks API servers that give no answer to the question.
func TestSilenceIsNotAbsence(t *testing.T) {
	for name, fault := range map[string]func(n int64, w http.ResponseWriter, r *http.Request) bool{
		"429 for ever": func(_ int64, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(429); return true },
		"500 for ever": func(_ int64, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true },
		"503 for an hour": func(_ int64, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(503)
			return true
		},
		"cut for ever":    func(_ int64, w http.ResponseWriter, _ *http.Request) bool { cut(w); return true },
		"silent for ever": func(_ int64, _ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true },
		"some other web page": func(_ int64, w http.ResponseWriter, _ *http.Request) bool {
			fmt.Fprint(w, "<html>Hello!</html>")
			return true
		},
		"an endless answer": func(_ int64, w http.ResponseWriter, r *http.Request) bool { return endless(w, r) },
		"a redirection": func(_ int64, w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := behind(t, kube.Config{RequestTimeout: 500 * time.Millisecond, Attempts: 3}, http.NotFoundHandler(), fault)
			began := time.Now()
			_, err := c.Diff(t.Context(), set(t, configMap("default", "a", "k: v")), options(t, "step"))
			var unreachable *kube.UnreachableError
			if !errors.As(err, &unreachable) || errors.Is(err, kube.ErrNotFound) {
				t.Errorf("Diff = %v; want an UnreachableError, and never ErrNotFound", err)
			}
			if _, err := c.Loss(t.Context(), kube.Set{}, options(t, "step")); !errors.As(err, &unreachable) {
				t.Errorf("Loss = %v; want an UnreachableError", err)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s to give up", took)
			}
		})
	}
}

// TestReachIsBoundedAndTakesAnyAnswer asks servers whether they are there: one
// that stays silent costs a plan the bound and no more, whatever it would be
// asked after that.
func TestReachIsBoundedAndTakesAnyAnswer(t *testing.T) {
	const bound = 300 * time.Millisecond
	for name, c := range map[string]struct {
		fault func(n int64, w http.ResponseWriter, r *http.Request) bool
		there bool
	}{
		"silent": {fault: func(_ int64, _ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }},
		"busy for ever": {fault: func(_ int64, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "600")
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}},
		"cut for ever": {fault: func(_ int64, w http.ResponseWriter, _ *http.Request) bool { cut(w); return true }},
		"busy once": {there: true, fault: func(n int64, w http.ResponseWriter, _ *http.Request) bool {
			if n == 1 {
				w.WriteHeader(http.StatusInternalServerError)
			}
			return n == 1
		}},
		"forbidden": {there: true, fault: func(_ int64, w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			return true
		}},
		"without that object": {there: true, fault: func(int64, http.ResponseWriter, *http.Request) bool { return false }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := kube.Config{ReachTimeout: bound}
			if c.there {
				config.ReachTimeout = 0 // the product's: on a busy machine an answer takes its time
			}
			cluster := behind(t, config, http.NotFoundHandler(), c.fault)
			began := time.Now()
			err := cluster.Reach(t.Context())
			var unreachable *kube.UnreachableError
			if c.there != (err == nil) || err != nil && !errors.As(err, &unreachable) {
				t.Errorf("Reach = %v; want it reached: %t, else an UnreachableError", err, c.there)
			}
			if took := time.Since(began); !c.there && took > bound+10*time.Second {
				t.Errorf("Reach took %s; want %s at most, and what a busy machine adds", took, bound)
			}
		})
	}
}

func endless(w http.ResponseWriter, r *http.Request) bool {
	chunk := make([]byte, 1<<20)
	for r.Context().Err() == nil {
		if _, err := w.Write(chunk); err != nil {
			break
		}
	}
	return true
}

func TestRetryAfterIsFollowedAndBounded(t *testing.T) {
	var pauses []time.Duration
	clock := recording{pauses: &pauses}
	c := behind(t, kube.Config{Attempts: 4, Clock: clock}, http.NotFoundHandler(), func(n int64, w http.ResponseWriter, _ *http.Request) bool {
		switch n {
		case 1:
			w.Header().Set("Retry-After", "7")
		case 2:
			w.Header().Set("Retry-After", "100000")
		}
		if n < 4 {
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}
		fmt.Fprint(w, `{"gitVersion":"v1.34.4"}`)
		return true
	})
	if v, err := c.Version(t.Context()); err != nil || v != "v1.34.4" {
		t.Fatalf("Version = %q, %v; want v1.34.4 at the fourth attempt", v, err)
	}
	for i, want := range [][2]time.Duration{{7 * time.Second, 8 * time.Second}, {30 * time.Second, 31 * time.Second}, {700 * time.Millisecond, 1300 * time.Millisecond}} {
		if pauses[i] < want[0] || pauses[i] > want[1] {
			t.Errorf("pause %d = %s; want between %s and %s", i+1, pauses[i], want[0], want[1])
		}
	}
}

// recording is a clock that notes pauses instead of making them.
type recording struct{ pauses *[]time.Duration }

func (recording) Now() time.Time { return time.Unix(1e9, 0) }
func (r recording) After(d time.Duration) <-chan time.Time {
	*r.pauses = append(*r.pauses, d)
	c := make(chan time.Time, 1)
	c <- time.Unix(1e9, 0)
	return c
}

func TestServerThatIsAnotherIsNotTrusted(t *testing.T) {
	front := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it got a request, and with it the token") }))
	defer front.Close()
	c, err := kube.Open(kube.Config{Kubeconfig: kubetest.Kubeconfig(front.URL, certificate(t), "secret-token"), Clock: hasty{}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Version(t.Context())
	var unreachable *kube.UnreachableError
	if !errors.As(err, &unreachable) || !strings.Contains(err.Error(), "certificate") || strings.Contains(err.Error(), "attempts") || strings.Contains(err.Error(), "secret-token") {
		t.Errorf("Version = %v; want one attempt, and the certificate named", err)
	}
}

func TestCredentialsDoNotFollowARedirection(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("it got a request with %q", r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	c := behind(t, kube.Config{}, http.NotFoundHandler(), func(_ int64, w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	})
	if _, err := c.Version(t.Context()); err == nil {
		t.Error("Version through a redirection succeeded")
	}
	if _, err := c.Diff(t.Context(), set(t, configMap("default", "a", "k: v")), options(t, "step")); err == nil {
		t.Error("Diff through a redirection succeeded")
	}
}

// certificate is one that nobody here has the key of.
func certificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestPodWaitsForItsServiceAccount has a controller manager that does not lead yet:
// the namespace is there, and what every namespace gets is not.
func TestPodWaitsForItsServiceAccount(t *testing.T) {
	open(t)
	var refused atomic.Int64
	c := faulty(t, kube.Config{}, func(_ int64, w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || r.URL.Query().Has("dryRun") || !strings.HasSuffix(r.URL.Path, "/namespaces/accounts/pods/first") || refused.Add(1) > 20 {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
"message": "pods \"first\" is forbidden: error looking up service account accounts/default: serviceaccount \"default\" not found"}`)
		return true
	})
	apply(t, c, set(t, namespace("accounts")+`---
apiVersion: v1
kind: Pod
metadata: {name: first, namespace: accounts}
spec: {containers: [{name: c, image: "x:runs"}]}
`), options(t, "first"))
	if n := refused.Load(); n != 21 {
		t.Errorf("the pod was sent %d times; want until its namespace has the account", n)
	}
}

// TestDeploymentThatWasGivenUpMayWorkNow waits for a Deployment that Kubernetes has
// given up before, and that works two looks later.
func TestDeploymentThatWasGivenUpMayWorkNow(t *testing.T) {
	open(t)
	var looks atomic.Int64
	c := faulty(t, kube.Config{}, func(_ int64, w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/namespaces/default/deployments/given-up") {
			return false
		}
		status := `{"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]}`
		if looks.Add(1) > 2 {
			status = `{"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}`
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "given-up", "namespace": "default", "generation": 1}, "spec": {"replicas": 1}, "status": %s}`, status)
		return true
	})
	if err := c.Wait(t.Context(), set(t, deployment("default", "given-up", "x:runs", 1)), options(t, "given-up")); err != nil {
		t.Errorf("Wait() = %v; want it to wait for what may work now", err)
	}
}

package steps

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/kube/kubetest"
)

// TestSilentClusterIsAskedOnceWhileASiteIsObserved lets an API server take
// requests and answer none: the first step waits, the others know.
func TestSilentClusterIsAskedOnceWhileASiteIsObserved(t *testing.T) {
	var asked atomic.Int64
	var answers atomic.Bool
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if !answers.Load() {
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	cluster, err := kube.Open(kube.Config{Kubeconfig: kubetest.Kubeconfig(server.URL, ca, "none")})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	var d Declared
	reach := func() error {
		// The bound of the product is 15 s; this is about how often, not how long.
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return d.reach(ctx, cluster)
	}
	if err := reach(); err != nil || asked.Load() != 0 {
		t.Errorf("while nothing is observed reach = %v after %d requests; want none: each request has patience of its own", err, asked.Load())
	}
	for observation := int64(1); observation <= 2; observation++ {
		end := d.observe()
		for range 3 {
			if err := reach(); !noAnswer(err) {
				t.Errorf("reach of a silent server = %v; want that it gave no answer", err)
			}
		}
		end()
		if got := asked.Load(); got != observation {
			t.Errorf("after %d observations of three steps the server was asked %d times; want once each", observation, got)
		}
	}
	answers.Store(true)
	defer d.observe()()
	if err := reach(); err != nil {
		t.Errorf("reach of a server that answers again = %v; want nil", err)
	}
	// It answered, and is silent when the objects are asked for.
	d.heard(cluster.Server(), context.DeadlineExceeded)
	if err := reach(); !noAnswer(err) {
		t.Errorf("reach after a step found it silent = %v; want that", err)
	}
}

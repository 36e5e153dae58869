package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/yaml"
)

// configuration is what our step writes for a sink that is asked by HTTP.
func configuration(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "workflows", "addon", "fluentd", "testdata", "http.golden.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	objects := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(b), len(b))
	for {
		var o struct {
			Kind string            `json:"kind"`
			Data map[string]string `json:"data"`
		}
		if err := objects.Decode(&o); err != nil {
			t.Fatal(err)
		}
		if o.Kind == "ConfigMap" {
			return o.Data["fluent.conf"]
		}
	}
}

// sink answers with a status, and keeps what it took.
type sink struct {
	status  int
	records []record
	shown   []string
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.shown = append(s.shown, r.Header.Get("Authorization"))
	if s.status == http.StatusFound {
		w.Header().Set("Location", "/elsewhere")
	}
	w.WriteHeader(s.status)
	if s.status == http.StatusOK {
		// An answer to a request that is no JSON is missed in what was taken.
		_ = json.NewDecoder(r.Body).Decode(&s.records)
	}
}

func start(t *testing.T, to *sink) (s *shipper, log, state string) {
	t.Helper()
	server := httptest.NewServer(to)
	t.Cleanup(server.Close)
	logs, state := t.TempDir(), t.TempDir()
	t.Setenv("AUTHORIZATION", "Bearer it")
	t.Setenv("NODE_NAME", "a")
	text := strings.NewReplacer("/var/log/containers", logs, "/var/lib/edge-provision/fluentd", state, "https://logs.example/ingest", server.URL).Replace(configuration(t))
	path := filepath.Join(state, "fluent.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := newShipper(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(logs, "fluentd-x_edge-logging_fluentd-1.log"), []byte("2026-11-22T10:00:00Z stdout F its own\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return s, filepath.Join(logs, "till_shop_till-1.log"), state
}

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestPartsOfALineAreJoinedByStream(t *testing.T) {
	to := &sink{status: http.StatusOK}
	s, log, _ := start(t, to)
	write(t, log, "10:00 stdout F one\n10:01 stdout P tw\n10:02 stderr P thr\n10:03 stderr F ee\n")
	if err := s.ship(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []record{{Message: "one", Stream: "stdout", Time: "10:00", File: "till_shop_till-1.log", Node: "a", Site: "store-0421"}}; !slices.Equal(to.records, want) {
		t.Errorf("the sink has %+v; want %+v", to.records, want)
	}
	write(t, log, "10:04 stdout F o\n")
	to.records = nil
	if err := s.ship(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range to.records {
		got = append(got, r.Time+" "+r.Stream+" "+r.Message)
	}
	if want := []string{"10:02 stderr three", "10:01 stdout two"}; !slices.Equal(got, want) {
		t.Errorf("the sink has %q; want %q", got, want)
	}
	if !slices.Equal(to.shown, []string{"Bearer it", "Bearer it"}) {
		t.Errorf("the sink was shown %q", to.shown)
	}
}

func TestAnswersAreTakenAndCountedAsFluentdDoes(t *testing.T) {
	to := &sink{}
	s, log, state := start(t, to)
	write(t, log, "10:00 stdout F line\n")
	counted := func(attempts, failures, waiting, queued string) {
		t.Helper()
		w := httptest.NewRecorder()
		s.metrics(w, nil)
		for name, want := range map[string]string{
			"write_count": attempts, "retry_count": failures, "num_errors": failures, "rollback_count": "0", "buffer_queue_length": waiting, "buffer_queue_byte_size": queued,
		} {
			if line := "fluentd_output_status_" + name + `{plugin_id="sink",type="http"} ` + want + ".0\n"; !strings.Contains(w.Body.String(), line) {
				t.Errorf("the metrics are without %q:\n%s", line, w.Body.String())
			}
		}
	}
	counted("0", "0", "0", "0")
	chunk := `[{"message":"line","stream":"stdout","time":"10:00","file":"till_shop_till-1.log","node":"a","site":"store-0421"}]`
	for i, status := range []int{http.StatusInternalServerError, http.StatusTooManyRequests, http.StatusFound} {
		to.status = status
		if err := s.ship(t.Context()); err == nil {
			t.Errorf("ship() to a sink that answers %d = nil; want an error", to.status)
		}
		counted(strconv.Itoa(i+1), strconv.Itoa(i+1), "1", strconv.Itoa(len(chunk)))
	}
	to.status = http.StatusBadRequest
	if err := s.ship(t.Context()); err != nil {
		t.Errorf("ship() to a sink that refuses the chunk = %v; want nil, because it is over", err)
	}
	counted("4", "3", "0", "0")
	kept, err := filepath.Glob(filepath.Join(state, "buffer", "backup", "worker0", "sink", "*.log"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("the backup has %q, %v; want one chunk", kept, err)
	}
	if b, err := os.ReadFile(kept[0]); err != nil || string(b) != chunk {
		t.Errorf("the backup holds %s, %v; want %s", b, err, chunk)
	}
	if err := s.ship(t.Context()); err != nil || len(to.shown) != 4 {
		t.Errorf("ship() = %v, and the sink was asked %d times; want it not asked again", err, len(to.shown))
	}
}

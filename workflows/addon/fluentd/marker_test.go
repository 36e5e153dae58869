package fluentd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/workflows/addon/addontest"
	"github.com/edge-provision/edge-provision/workflows/kube"
)

// counting is a cluster of one node whose Fluentd gives these metrics, the last of them
// for ever.
type counting struct{ metrics []string }

func (c *counting) Apply(context.Context, kube.Set, kube.Options) error        { return nil }
func (c *counting) Remove(context.Context, kube.Set, kube.Options, bool) error { return nil }

func (c *counting) List(_ context.Context, _, kind, namespace, _ string) ([]kube.Object, error) {
	return []kube.Object{kube.Make("v1", kind, namespace, "a", map[string]any{"spec": map[string]any{"nodeName": "a"}})}, nil
}

func (c *counting) WaitFor(context.Context, string, string, string, string, time.Duration, func(kube.Object) (kube.Status, error)) (kube.Object, error) {
	return nil, nil
}

func (c *counting) AskPod(context.Context, string, string, int, string) ([]byte, error) {
	metrics := c.metrics[0]
	if len(c.metrics) > 1 {
		c.metrics = c.metrics[1:]
	}
	return []byte(metrics), nil
}

// counts are metrics as fluent-plugin-prometheus writes them, of two outputs.
func counts(attempts, errors, rollbacks, staged, waiting, queued int) string {
	var b strings.Builder
	for name, n := range map[string]int{
		"write_count": attempts, "retry_count": errors, "num_errors": errors, "rollback_count": rollbacks,
		"buffer_stage_length": staged, "buffer_queue_length": waiting, "buffer_queue_byte_size": queued,
	} {
		metric := "fluentd_output_status_" + name
		fmt.Fprintf(&b, "# TYPE %s gauge\n# HELP %s Current.\n%s{plugin_id=\"sink\",type=\"http\"} %d.0\n%s{plugin_id=\"object:8fc\",type=\"relabel\"} 99.0\n", metric, metric, metric, n, metric)
	}
	return b.String()
}

func TestAMarkerHasArrivedWhenWhatHoldsItIsAcknowledged(t *testing.T) {
	for _, tt := range []struct {
		name string
		// metrics are from before the marker, from when it was read, and from then on
		metrics []string
		lost    string
	}{
		{"the one chunk that waited", []string{counts(5, 1, 0, 0, 0, 0), counts(5, 1, 0, 1, 0, 0), counts(6, 1, 0, 0, 0, 0)}, ""},
		{"it was sent before it was looked for", []string{counts(5, 1, 0, 0, 0, 0), counts(6, 1, 0, 0, 0, 0)}, ""},
		{"after an attempt that failed", []string{counts(5, 1, 0, 0, 0, 0), counts(6, 2, 0, 0, 1, 70), counts(7, 2, 0, 0, 0, 0)}, ""},
		{"the first metrics of a new pod", []string{"", counts(0, 0, 0, 1, 0, 0), counts(1, 0, 0, 0, 0, 0)}, ""},
		{"attempts that fail", []string{counts(5, 1, 0, 0, 0, 0), counts(6, 2, 0, 0, 1, 70), counts(9, 5, 0, 0, 1, 70)}, "has acknowledged 0 chunks"},
		{"acknowledgements that do not come", []string{counts(5, 0, 0, 0, 0, 0), counts(5, 0, 0, 1, 0, 0), counts(8, 3, 3, 0, 1, 70)}, "has acknowledged 0 chunks"},
		{"acknowledgements of something else", []string{counts(5, 0, 0, 0, 0, 0), counts(5, 0, 0, 1, 0, 0), counts(8, 0, 3, 0, 0, 0)}, "has acknowledged 0 chunks"},
		{"an attempt without an end", []string{counts(5, 1, 0, 0, 0, 0), counts(5, 1, 0, 1, 0, 0), counts(6, 1, 0, 0, 0, 70)}, "the last 70 bytes"},
		{"chunks of others", []string{counts(5, 1, 0, 0, 0, 0), counts(5, 1, 0, 3, 1, 70), counts(8, 1, 0, 1, 0, 0)}, "has acknowledged 3 chunks since, and may have the line when it has acknowledged 4"},
		{"nothing was read", []string{counts(5, 1, 0, 0, 0, 0)}, "has acknowledged 0 chunks"},
		{"no metrics", []string{""}, "has acknowledged 0 chunks"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clock := &addontest.Clock{At: time.Unix(0, 0)}
			err := Marker{Cluster: &counting{tt.metrics}, Config: config(), Clock: clock, Say: t.Logf}.Run(t.Context())
			var lost *LostError
			switch {
			case tt.lost == "" && err != nil:
				t.Errorf("Run() = %v; want nil", err)
			case tt.lost != "" && (!errors.As(err, &lost) || !strings.Contains(err.Error(), tt.lost)):
				t.Errorf("Run() = %v; want a LostError with %q", err, tt.lost)
			}
			if waited := clock.At.Sub(time.Unix(0, 0)); waited < readBound {
				t.Errorf("Fluentd was asked %s after the marker was printed; it has read it after %s", waited, readBound)
			}
		})
	}
}

func TestAMetricThatIsNoNumberIsNotTakenForZero(t *testing.T) {
	if _, err := parseProgress([]byte(`fluentd_output_status_write_count{plugin_id="sink",type="http"} many`)); err == nil {
		t.Error("parseProgress of a counter that is no number = nil; want an error")
	}
}

package fluentd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
)

// progress is how far one Fluentd has come with what it sends. Sources:
// fluent-plugin-prometheus, in_prometheus_output_monitor.rb; Fluentd's output.rb and
// buffer.rb.
type progress struct {
	// acknowledged are chunks, and never more than the sink has taken but for those
	// that are under way. Fluentd counts attempts when they begin, and failures apart; of
	// one whose acknowledgement does not come in time it counts two. A chunk that the
	// sink refused for good is not among the failures.
	acknowledged float64
	// waiting are chunks that are being filled or stand in the queue, without the one
	// that is under way.
	waiting float64
	// queued are the bytes of chunks in the queue and under way.
	queued float64
}

// progress asks the Fluentd in a pod.
func (m Marker) progress(ctx context.Context, pod string) (progress, error) {
	metrics, err := m.Cluster.AskPod(ctx, m.Config.InNamespace(), pod, MetricsPort, "/metrics")
	if err != nil {
		return progress{}, fmt.Errorf("asking pod %s for its metrics: %w", pod, err)
	}
	return parseProgress(metrics)
}

// parseProgress reads the metrics of the output in Prometheus' text format. They are
// missing, which is as good as zero, until Fluentd has counted for the first time.
func parseProgress(metrics []byte) (progress, error) {
	values := map[string]float64{}
	text := bufio.NewScanner(bytes.NewReader(metrics))
	for text.Scan() {
		name, rest, _ := strings.Cut(text.Text(), "{")
		labels, value, _ := strings.Cut(rest, "}")
		metric, ours := strings.CutPrefix(name, "fluentd_output_status_")
		if !ours || !strings.Contains(labels, `plugin_id="`+sinkID+`"`) {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			return progress{}, fmt.Errorf("its metric %q is not understood", text.Text())
		}
		values[metric] = n
	}
	return progress{
		acknowledged: values["write_count"] - values["retry_count"] - values["rollback_count"],
		waiting:      values["buffer_stage_length"] + values["buffer_queue_length"],
		queued:       values["buffer_queue_byte_size"],
	}, text.Err()
}

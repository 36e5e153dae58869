package fluentd

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
)

// source is fluent.conf. What it takes from outside is either checked for
// characters that Fluentd would interpret, or comes from the environment.
//
// The format of container logs under containerd is CRI's, where a long line
// comes in parts marked P. concat puts those of one stream together again as they
// were; it removes the field that partial_cri_stream_key names, so that this is one
// that no record has (fluent-plugin-concat, filter_concat.rb). follow_inodes keeps
// the tail of a file that is rotated away. Chunks are acknowledged by the sink
// before they leave the disk; retries have no end, because an uplink may be gone
// for days.
//
// A chunk that the sink refuses for good goes to backup/ below root_dir
// (Fluentd's output.rb, backup_chunk). That is within the buffer's directory, so
// that it counts as what the sink has not acknowledged when an installation is
// removed. Fluentd never removes it; the source exec does, from the oldest on.
var source = template.Must(template.New("fluent.conf").Parse(`<system>
  log_level warn
  root_dir {{.StateDir}}/buffer
</system>

<source>
  @type prometheus
  bind 0.0.0.0
  port {{.MetricsPort}}
</source>
<source>
  @type prometheus_output_monitor
</source>

<source>
  @type tail
  @label @COLLECT
  tag kubernetes.*
  path /var/log/containers/*.log
  exclude_path ["/var/log/containers/fluentd-*_{{.Namespace}}_*.log"]
  pos_file {{.StateDir}}/containers.pos
  read_from_head true
  follow_inodes true
  refresh_interval 5
  <parse>
    @type cri
  </parse>
</source>
<source>
  @type systemd
  @label @COLLECT
  tag k3s
  path /var/log/journal
  matches [{"_SYSTEMD_UNIT":"k3s.service"},{"_SYSTEMD_UNIT":"k3s-agent.service"}]
  read_from_head true
  <storage>
    @type local
    persistent true
    path {{.StateDir}}/journal.json
  </storage>
  <entry>
    fields_strip_underscores true
    fields_lowercase true
  </entry>
</source>
<source>
  @type exec
  @label @NOTHING
  tag rejected
  command {{.Trim}}
  run_interval 10m
  <parse>
    @type none
  </parse>
</source>

<label @NOTHING>
  <match **>
    @type null
  </match>
</label>

<label @COLLECT>
  <filter kubernetes.**>
    @type concat
    key message
    separator ""
    use_partial_cri_logtag true
    partial_cri_logtag_key logtag
    partial_cri_stream_key no_field
    stream_identity_key stream
    flush_interval 5
    timeout_label @SHIP
  </filter>
  <match **>
    @type relabel
    @label @SHIP
  </match>
</label>

<label @SHIP>
  <filter kubernetes.**>
    @type kubernetes_metadata
    skip_labels false
    skip_container_metadata true
    skip_master_url true
  </filter>
{{.Filters}}  <filter **>
    @type record_transformer
    <record>
      site {{.Site}}
      node "#{ENV['NODE_NAME']}"
    </record>
  </filter>
  <match **>
    @id {{.ID}}
{{.Output}}    <buffer>
      @type file
      path {{.StateDir}}/buffer
      total_limit_size {{.Limit}}
      chunk_limit_size 8m
      compress gzip
      flush_mode interval
      flush_interval {{.Flush}}s
      flush_at_shutdown false
      retry_forever true
      retry_type exponential_backoff
      retry_max_interval 5m
      overflow_action {{.Overflow}}
    </buffer>
  </match>
</label>
`))

// rejected are the chunks that the sink has refused for good, and sinkID the name of
// the output, which is in their path and in the labels of its metrics.
const (
	sinkID   = "sink"
	rejected = StateDir + "/buffer/backup/worker0/" + sinkID + "/*.log"
)

// trim is a command that removes rejected chunks but for the newest, as many as have
// this size together. It prints nothing.
func trim(bytes int64) string {
	return fmt.Sprintf("ls -1t %s 2>/dev/null | xargs -r stat -c '%%s %%n' | awk '{ bytes += $1 } bytes > %d { print $2 }' | xargs -r rm -f", rejected, bytes)
}

func (c Config) configuration() string {
	overflow := "block"
	if c.Buffer.DropOldest {
		overflow = "drop_oldest_chunk"
	}
	limit := cmp.Or(c.Buffer.LimitBytes, defaultLimitBytes)
	var b strings.Builder
	err := source.Execute(&b, map[string]any{
		"MetricsPort": MetricsPort, "StateDir": StateDir, "Namespace": c.InNamespace(), "Site": quote(c.Site), "ID": sinkID, "Trim": trim(limit / 4),
		"Filters": c.filters(), "Output": c.output(), "Limit": limit, "Flush": cmp.Or(c.Buffer.FlushSeconds, 10), "Overflow": overflow,
	})
	if err != nil {
		// The template is a constant and gets every value that it names.
		panic(fmt.Sprintf("writing fluent.conf: %v", err))
	}
	return b.String()
}

// quote is a string of Fluentd's configuration in which nothing is evaluated.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// encoded is the data of a Secret. stringData would not do: the server moves it
// to data, and then nobody owns what was applied.
func encoded(m map[string]string) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = base64.StdEncoding.EncodeToString([]byte(v))
	}
	return out
}

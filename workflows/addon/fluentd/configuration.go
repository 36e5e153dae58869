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
// comes in parts marked P that concat puts together again. follow_inodes keeps
// the tail of a file that is rotated away. Chunks are acknowledged by the sink
// before they leave the disk; retries have no end, because an uplink may be gone
// for days.
var source = template.Must(template.New("fluent.conf").Parse(`<system>
  log_level warn
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

<label @COLLECT>
  <filter kubernetes.**>
    @type concat
    key message
    use_partial_cri_logtag true
    partial_cri_logtag_key logtag
    partial_cri_stream_key stream
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
  <filter **>
    @type record_transformer
    <record>
      site {{.Site}}
      node "#{ENV['NODE_NAME']}"
    </record>
  </filter>
  <match **>
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

func (c Config) configuration() string {
	overflow := "block"
	if c.Buffer.DropOldest {
		overflow = "drop_oldest_chunk"
	}
	var b strings.Builder
	err := source.Execute(&b, map[string]any{
		"MetricsPort": MetricsPort, "StateDir": StateDir, "Namespace": c.InNamespace(), "Site": quote(c.Site),
		"Output": c.output(), "Limit": cmp.Or(c.Buffer.LimitBytes, defaultLimitBytes), "Flush": cmp.Or(c.Buffer.FlushSeconds, 10), "Overflow": overflow,
	})
	if err != nil {
		// The template is a constant and gets every value that it names.
		panic(fmt.Sprintf("writing fluent.conf: %v", err))
	}
	return b.String()
}

// output is the beginning of the match section: the kind of sink.
func (c Config) output() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, "    "+format+"\n", args...) }
	if h := c.Sink.HTTP; h != nil {
		line("@type http")
		line("endpoint %s", quote(h.URL))
		line("json_array true")
		line("open_timeout 20")
		line("read_timeout 60")
		line("error_response_as_unrecoverable false")
		if h.CA != "" {
			line("tls_ca_cert_path /etc/fluentd-secret/ca.crt")
		}
		if h.Authorization != "" {
			line(`headers {"Authorization":"#{ENV['AUTHORIZATION']}"}`)
		}
		line("<format>")
		line("  @type json")
		line("</format>")
		return b.String()
	}
	f := c.Sink.Forward
	line("@type forward")
	line("require_ack_response true")
	line("ack_response_timeout 60s")
	line("send_timeout 60s")
	if f.CA != "" {
		line("transport tls")
		line("tls_cert_path /etc/fluentd-secret/ca.crt")
		line("tls_verify_hostname true")
	}
	if f.SharedKey != "" {
		line("<security>")
		line(`  self_hostname "#{ENV['NODE_NAME']}"`)
		line(`  shared_key "#{ENV['SHARED_KEY']}"`)
		line("</security>")
	}
	line("<server>")
	line("  host %s", f.Host)
	line("  port %d", cmp.Or(f.Port, 24224))
	line("</server>")
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

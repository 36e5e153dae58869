package fluentd

import (
	"cmp"
	"fmt"
	"strings"
)

// retried are the answers that say something about the sink, its address or the way
// to it, and nothing about the chunk. Any other that is no success Fluentd takes as
// final (out_http.rb, send_request): a chunk that is malformed or too large would else
// hold up all that come after it. Source of the meanings: RFC 9110, and RFC 6585 for 429.
const retried = "301,302,303,307,308,401,403,404,407,408,425,429,500,502,503,504"

// lines writes indented lines.
type lines struct {
	strings.Builder
	indent string
}

func (l *lines) add(format string, args ...any) { fmt.Fprintf(l, l.indent+format+"\n", args...) }

// filters are those that this kind of sink needs. A record of the journal has its time
// beside its fields, and out_http sends fields alone; CRI's parser keeps it as one.
func (c Config) filters() string {
	if c.Sink.HTTP == nil {
		return ""
	}
	l := lines{indent: "  "}
	l.add("<filter k3s>")
	l.add("  @type record_transformer")
	l.add("  enable_ruby true")
	l.add("  <record>")
	l.add("    time ${time.utc.strftime('%%Y-%%m-%%dT%%H:%%M:%%S.%%NZ')}")
	l.add("  </record>")
	l.add("</filter>")
	return l.String()
}

// output is the beginning of the match section: the kind of sink.
func (c Config) output() string {
	if c.Sink.HTTP != nil {
		return c.Sink.HTTP.output()
	}
	return c.Sink.Forward.output()
}

// output writes the headers as a string that holds JSON: Ruby within a literal {…} is
// evaluated since Fluentd 1.18 only (fluent/fluentd#4580).
func (h *HTTP) output() string {
	l := lines{indent: "    "}
	l.add("@type http")
	l.add("endpoint %s", quote(h.URL))
	l.add("json_array true")
	l.add("open_timeout 20")
	l.add("read_timeout 60")
	l.add("retryable_response_codes %s", retried)
	if h.CA != "" {
		l.add("tls_ca_cert_path /etc/fluentd-secret/ca.crt")
	}
	if h.Authorization != "" {
		l.add(`headers "#{JSON.generate('Authorization' => ENV['AUTHORIZATION'])}"`)
	}
	l.add("<format>")
	l.add("  @type json")
	l.add("</format>")
	return l.String()
}

// output has no heartbeat: Fluentd's own is a connection every second, with TLS's
// handshake, and with one it does not start while the name of the sink cannot be
// resolved (out_forward.rb, configure).
func (f *Forward) output() string {
	l := lines{indent: "    "}
	l.add("@type forward")
	l.add("require_ack_response true")
	l.add("ack_response_timeout 60s")
	l.add("send_timeout 60s")
	l.add("heartbeat_type none")
	l.add("expire_dns_cache 60")
	l.add("compress gzip")
	if f.CA != "" {
		l.add("transport tls")
		l.add("tls_cert_path /etc/fluentd-secret/ca.crt")
		l.add("tls_verify_hostname true")
	}
	if f.SharedKey != "" {
		l.add("<security>")
		l.add(`  self_hostname "#{ENV['NODE_NAME']}"`)
		l.add(`  shared_key "#{ENV['SHARED_KEY']}"`)
		l.add("</security>")
	}
	l.add("<server>")
	l.add("  host %s", f.Host)
	l.add("  port %d", cmp.Or(f.Port, 24224))
	l.add("</server>")
	return l.String()
}

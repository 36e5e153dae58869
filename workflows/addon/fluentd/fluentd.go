// Package fluentd declares log shipping for a site with a thin uplink: on every
// node a Fluentd that reads the containers' logs and those of K3s, keeps what
// cannot be sent on the node's disk up to a bound, and sends it with
// acknowledgement. Upstream's chart is not used: its defaults send to an
// Elasticsearch with a well-known password, parse Docker's format, and call
// themselves healthy while nothing is shipped.
package fluentd

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// Config is what log shipping is set up with.
type Config struct {
	Namespace string // created; edge-logging when empty
	// Site is added to every record.
	Site string
	// Image is fluent/fluentd-kubernetes-daemonset of a version, with the
	// plugins for forward, cri, concat, systemd, kubernetes_metadata and
	// prometheus.
	Image string
	// Preloaded says that the image is on the nodes already.
	Preloaded bool
	Sink      Sink
	Buffer    Buffer
}

// Sink is where records go: one of Forward and HTTP.
type Sink struct {
	Forward *Forward
	HTTP    *HTTP
}

// Forward is Fluentd's own protocol, with acknowledgement of each chunk.
// Source: Fluentd's out_forward and its Forward Protocol Specification v1.
type Forward struct {
	Host string // with CA a name
	Port int    // 24224 when zero
	// CA is the PEM of the authority that the sink's certificate must be signed
	// by. Without it the connection is plain, and Plaintext must say so.
	CA        string
	Plaintext bool
	// SharedKey authenticates this site to the sink; empty: none.
	SharedKey string
}

// HTTP posts records as a JSON array. Source: Fluentd's out_http.
type HTTP struct {
	URL string
	CA  string // PEM; empty: the image's own authorities
	// Authorization is the whole header, such as "Bearer …"; empty: none.
	Authorization string
}

// Buffer bounds what a node keeps while the sink cannot be reached.
type Buffer struct {
	// LimitBytes on the disk of each node; 512 MiB when zero. Fluentd's own
	// default of 64 GB fills a small machine's disk in a long outage.
	LimitBytes int64
	// DropOldest throws away the oldest records when the limit is reached; else
	// reading stops, and the oldest are kept until the container's own log
	// rotation takes what was not read.
	DropOldest bool
	// FlushSeconds between two attempts; 10 when zero.
	FlushSeconds int
}

const (
	defaultNamespace  = "edge-logging"
	defaultLimitBytes = 512 << 20
	// name is that of all objects in the namespace.
	name = "fluentd"
	// MetricsPort serves Fluentd's own metrics in Prometheus' format.
	MetricsPort = 24231
	// StateDir on the node keeps buffers and the positions in log files.
	StateDir = "/var/lib/edge-provision/fluentd"
)

// InNamespace is the namespace of an installation.
func (c Config) InNamespace() string {
	if c.Namespace == "" {
		return defaultNamespace
	}
	return c.Namespace
}

// hostname is what may be written into a configuration without quoting: Ruby is
// evaluated in quoted strings of Fluentd's configuration.
var hostname = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?$`)

// Check says what is wrong with the configuration.
func (c Config) Check() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf("fluentd: "+format, args...)) }
	switch f, h := c.Sink.Forward, c.Sink.HTTP; {
	case (f == nil) == (h == nil):
		add("exactly one sink is needed: forward or http")
	case f != nil:
		if !hostname.MatchString(f.Host) {
			add("%q is no host name or address of a sink", f.Host)
		}
		if f.CA == "" && !f.Plaintext {
			add("logs would cross the uplink in clear: give the sink's `ca`, or say plaintext = true")
		}
		if _, err := netip.ParseAddr(f.Host); err == nil && f.CA != "" {
			// out_forward has then no name to look for in the sink's certificate.
			add("Fluentd verifies the certificate of a sink by its name only: give `host` a name instead of the address %s", f.Host)
		}
		if f.CA != "" && f.Plaintext {
			add("`ca` and plaintext = true exclude each other")
		}
	case h != nil:
		u, err := url.Parse(h.URL)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.ContainsAny(h.URL, "'\\\n#") {
			add("%q is no http or https URL", h.URL)
		}
	}
	if c.Image == "" || strings.HasSuffix(c.Image, ":latest") || !strings.Contains(lastElement(c.Image), ":") && !strings.Contains(c.Image, "@") {
		add("image %q names no version; what runs on a site must not change by itself", c.Image)
	}
	if c.Buffer.LimitBytes != 0 && c.Buffer.LimitBytes < 64<<20 {
		add("a buffer of %d bytes holds fewer than eight chunks; give at least 64 MiB", c.Buffer.LimitBytes)
	}
	return errors.Join(errs...)
}

func lastElement(image string) string { return image[strings.LastIndex(image, "/")+1:] }

// Set is all objects of an installation.
func (c Config) Set() (kube.Set, error) {
	if err := c.Check(); err != nil {
		return kube.Set{}, err
	}
	configuration := c.configuration()
	secrets := c.secrets()
	objects := []kube.Object{
		kube.Make("v1", "Namespace", "", c.InNamespace(), map[string]any{"metadata": map[string]any{"labels": map[string]any{
			// Log files of the node are read from the host.
			"pod-security.kubernetes.io/enforce": "privileged",
		}}}),
		kube.Make("v1", "ServiceAccount", c.InNamespace(), name, nil),
		kube.Make("rbac.authorization.k8s.io/v1", "ClusterRole", "", "edge-provision-fluentd", map[string]any{
			"rules": []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"pods", "namespaces"}, "verbs": []any{"get", "list", "watch"}}},
		}),
		kube.Make("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "", "edge-provision-fluentd", map[string]any{
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edge-provision-fluentd"},
			"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": name, "namespace": c.InNamespace()}},
		}),
		kube.Make("v1", "ConfigMap", c.InNamespace(), name, map[string]any{"data": map[string]any{"fluent.conf": configuration}}),
		kube.Make("v1", "Secret", c.InNamespace(), name, map[string]any{"type": "Opaque", "data": encoded(secrets)}),
		c.daemonSet(digest(configuration, secrets)),
	}
	return kube.NewSet(objects...)
}

// secrets are what the configuration takes from the environment or a file.
func (c Config) secrets() map[string]string {
	out := map[string]string{}
	if f := c.Sink.Forward; f != nil {
		out["ca.crt"], out["shared-key"] = f.CA, f.SharedKey
	}
	if h := c.Sink.HTTP; h != nil {
		out["ca.crt"], out["authorization"] = h.CA, h.Authorization
	}
	for k, v := range out {
		if v == "" {
			delete(out, k)
		}
	}
	return out
}

// digest changes whenever the pods have to start anew. It tells nothing of the
// secrets beside that they changed, because a ConfigMap of unknown content is
// hashed with them.
func digest(configuration string, secrets map[string]string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d %s", len(configuration), configuration)
	for _, k := range sortedKeys(secrets) {
		fmt.Fprintf(h, "%s %d %s", k, len(secrets[k]), secrets[k])
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

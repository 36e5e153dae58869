// Package prometheus declares monitoring for an autonomous site: one Prometheus
// that keeps a few days and evaluates its own alerts, with a node exporter on
// every node and kube-state-metrics, and a thin stream of chosen series to a
// central store when there is one. It runs as a server and not as an agent,
// because an agent evaluates no rules and answers no queries. What the store has not
// taken for two hours does not leave the site any more (Prometheus, remote write
// tuning); the site itself has it for as long as it keeps anything.
package prometheus

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// Config is what monitoring is set up with.
type Config struct {
	Namespace string // created; edge-monitoring when empty
	// Site is a label of every series that leaves the site.
	Site   string
	Images Images
	// Preloaded says that the images are on the nodes already.
	Preloaded bool
	// RetentionDays and RetentionBytes bound what is kept; 5 days and 4 GiB
	// when zero.
	RetentionDays  int
	RetentionBytes int64
	// StorageClass of the volume; "" takes the cluster's default. With Ephemeral
	// there is no volume, and a restart forgets.
	StorageClass string
	Ephemeral    bool
	RemoteWrite  *RemoteWrite
	// Alertmanagers are host:port of those that alerts are sent to.
	Alertmanagers []string
	// Catalog is where edge-provision lists what it serves itself; nil: not
	// scraped.
	Catalog *Catalog
	// Rules are more rule files, each a whole YAML document, by name.
	Rules map[string]string
}

// Images of the parts, each with a version.
type Images struct {
	Prometheus, NodeExporter, KubeStateMetrics string
}

// RemoteWrite sends a reduced set of series over a thin uplink.
type RemoteWrite struct {
	URL string
	CA  string // PEM; empty: the image's own authorities
	// BearerToken authenticates the site; empty: none.
	BearerToken string
	// Keep is a regular expression over series names; empty: what the alerts
	// and a fleet's overview need.
	Keep string
}

// Catalog is edge-provision's own http_sd endpoint.
type Catalog struct {
	URL string // …/v1/prometheus/targets
	CA  string // PEM
	// BearerToken of a reader; empty: none.
	BearerToken string
}

const (
	defaultNamespace = "edge-monitoring"
	name             = "prometheus"
	// Port is where Prometheus answers in its Service.
	Port = 9090
	// secretMount is where files with secrets lie in the pod.
	secretMount = "/etc/prometheus-secret"
)

// InNamespace is the namespace of an installation.
func (c Config) InNamespace() string {
	if c.Namespace == "" {
		return defaultNamespace
	}
	return c.Namespace
}

// Check says what is wrong with the configuration.
func (c Config) Check() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf("prometheus: "+format, args...)) }
	for part, image := range map[string]string{"prometheus": c.Images.Prometheus, "node_exporter": c.Images.NodeExporter, "kube_state_metrics": c.Images.KubeStateMetrics} {
		last := image[strings.LastIndex(image, "/")+1:]
		if !strings.ContainsAny(last, ":@") || strings.HasSuffix(last, ":latest") {
			add("the image of %s, %q, names no version; what runs on a site must not change by itself", part, image)
		}
	}
	if r := c.RemoteWrite; r != nil {
		if err := isURL(r.URL); err != nil {
			add("remote_write: %v", err)
		}
	}
	if r := c.Catalog; r != nil {
		if err := isURL(r.URL); err != nil {
			add("catalog: %v", err)
		}
	}
	if c.RetentionBytes != 0 && c.RetentionBytes < 256<<20 {
		add("retention of %d bytes is less than one block may have; give at least 256 MiB", c.RetentionBytes)
	}
	if c.Ephemeral && c.StorageClass != "" {
		add("ephemeral = true and a storage class exclude each other")
	}
	return errors.Join(errs...)
}

func isURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q is no http or https URL", s)
	}
	return nil
}

// Set is all objects of an installation.
func (c Config) Set() (kube.Set, error) {
	if err := c.Check(); err != nil {
		return kube.Set{}, err
	}
	files, err := c.files()
	if err != nil {
		return kube.Set{}, err
	}
	secrets := c.secrets()
	ns := c.InNamespace()
	data := map[string]any{}
	for k, v := range files {
		data[k] = v
	}
	encoded := map[string]any{}
	for k, v := range secrets {
		encoded[k] = base64.StdEncoding.EncodeToString([]byte(v))
	}
	objects := []kube.Object{
		kube.Make("v1", "Namespace", "", ns, map[string]any{"metadata": map[string]any{"labels": map[string]any{
			// The node exporter looks at the host.
			"pod-security.kubernetes.io/enforce": "privileged",
		}}}),
		kube.Make("v1", "ConfigMap", ns, name, map[string]any{"data": data}),
		kube.Make("v1", "Secret", ns, name, map[string]any{"type": "Opaque", "data": encoded}),
		kube.Make("v1", "Service", ns, name, map[string]any{"spec": map[string]any{
			"selector": selector(name),
			"ports":    []any{map[string]any{"name": "http", "port": int64(Port), "targetPort": int64(Port), "protocol": "TCP"}},
		}}),
		c.server(digest(files, secrets)),
		c.nodeExporter(),
		c.kubeStateMetrics(),
	}
	objects = append(objects, c.rights()...)
	return kube.NewSet(objects...)
}

// secrets are the files that the configuration names.
func (c Config) secrets() map[string]string {
	out := map[string]string{}
	if r := c.RemoteWrite; r != nil {
		out["remote-write-ca.crt"], out["remote-write-token"] = r.CA, r.BearerToken
	}
	if r := c.Catalog; r != nil {
		out["catalog-ca.crt"], out["catalog-token"] = r.CA, r.BearerToken
	}
	for k, v := range out {
		if v == "" {
			delete(out, k)
		}
	}
	return out
}

// digest changes whenever the server has to start anew.
func digest(all ...map[string]string) string {
	h := sha256.New()
	for _, files := range all {
		for _, k := range sortedKeys(files) {
			fmt.Fprintf(h, "%s %d %s", k, len(files[k]), files[k])
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

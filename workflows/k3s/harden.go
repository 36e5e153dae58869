package k3s

import (
	"fmt"
	"slices"
	"strings"
)

// The cis profile follows docs.k3s.io/security/hardening-guide (CIS Kubernetes
// Benchmark, for K3s v1.29 and newer). What the guide leaves to a person is in
// docs/k3s.md.

// sysctls are what kubelet insists on when it protects the kernel's defaults
// (kubernetes/pkg/util/sysctl).
const sysctls = `vm.panic_on_oom=0
vm.overcommit_memory=1
kernel.panic=10
kernel.panic_on_oops=1
`

const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
`

// systemNamespaces hold what needs the host: they are exempt from pod security
// because the restricted standard would keep the cluster from working.
var systemNamespaces = []string{"calico-apiserver", "calico-system", "kube-system", "portworx", "tigera-operator"}

// admission is the configuration of admission plugins. The guide switches
// EventRateLimit on and leaves its limits out; without any the plugin is
// refused by the API server, so there is one for the whole server.
func (c *Config) admission() []byte {
	exempt := slices.Compact(slices.Sorted(slices.Values(slices.Concat(systemNamespaces, c.Unrestricted))))
	return fmt.Appendf(nil, `apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: EventRateLimit
  configuration:
    apiVersion: eventratelimit.admission.k8s.io/v1alpha1
    kind: Configuration
    limits:
    - type: Server
      qps: 5000
      burst: 20000
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults:
      enforce: restricted
      enforce-version: latest
      audit: restricted
      audit-version: latest
      warn: restricted
      warn-version: latest
    exemptions:
      usernames: []
      runtimeClasses: []
      namespaces: [%s]
`, strings.Join(exempt, ", "))
}

// policies let the namespaces that K3s makes talk within themselves, and
// everybody talk to DNS, metrics and the ingress.
func policies() []byte {
	var b strings.Builder
	for _, namespace := range []string{"default", "kube-public", "kube-system"} {
		fmt.Fprintf(&b, `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: edge-cis-within
  namespace: %s
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
  - from:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: %s
`, namespace, namespace)
	}
	for _, open := range []struct{ name, label, value, ports string }{
		{"dns", "k8s-app", "kube-dns", "ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]"},
		{"metrics-server", "k8s-app", "metrics-server", ""},
		{"svclb-traefik", "svccontroller.k3s.cattle.io/svcname", "traefik", ""},
		{"traefik", "app.kubernetes.io/name", "traefik", ""},
	} {
		rule := "{}"
		if open.ports != "" {
			rule = open.ports
		}
		fmt.Fprintf(&b, `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: edge-cis-%s
  namespace: kube-system
spec:
  podSelector:
    matchLabels:
      %s: %s
  policyTypes: [Ingress]
  ingress:
  - %s
`, open.name, open.label, open.value, rule)
	}
	return []byte(b.String())
}

// hardened are the files of the profile.
func (c *Config) hardened(r role) []file {
	out := []file{{Path: sysctlPath, Mode: 0o644, Content: []byte(sysctls)}}
	if r == server {
		out = append(out,
			file{Path: psaPath, Mode: 0o600, Content: c.admission()},
			file{Path: auditPath, Mode: 0o600, Content: []byte(auditPolicy)},
			file{Path: networkPolicy, Mode: 0o600, Content: policies()})
	}
	return out
}

// ciphers are the TLS suites that the guide leaves to kubelet.
var ciphers = []string{
	"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
	"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
	"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
}

// harden adds the settings of the profile to config.yaml.
func harden(set func(key string, value any), r role) {
	set("protect-kernel-defaults", true)
	set("kubelet-arg", []string{
		"streaming-connection-idle-timeout=5m",
		"tls-cipher-suites=" + strings.Join(ciphers, ","),
	})
	if r != server {
		return
	}
	set("secrets-encryption", true)
	set("kube-apiserver-arg", []string{
		"enable-admission-plugins=NodeRestriction,EventRateLimit",
		"admission-control-config-file=" + psaPath,
		"audit-log-path=" + auditLogDir + "/audit.log",
		"audit-policy-file=" + auditPath,
		"audit-log-maxage=30",
		"audit-log-maxbackup=10",
		"audit-log-maxsize=100",
		"service-account-extend-token-expiration=false",
	})
	set("kube-controller-manager-arg", []string{"terminated-pod-gc-threshold=100"})
}

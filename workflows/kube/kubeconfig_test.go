package kube

import (
	"strings"
	"testing"
)

const goodKubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: Q0E=}}]
users: [{name: u, user: {token: s3cret-token}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

func TestKubeconfigMustBeCompleteInItself(t *testing.T) {
	if _, err := readKubeconfig([]byte(goodKubeconfig)); err != nil {
		t.Fatalf("readKubeconfig of a good one = %v", err)
	}
	for name, test := range map[string]struct{ old, new, want string }{
		"no context":       {"current-context: x", "current-context: other", "current-context"},
		"no such cluster":  {"cluster: c, user", "cluster: d, user", "names cluster"},
		"no such user":     {"user: u}", "user: v}", "names user"},
		"plain HTTP":       {"https://", "http://", "not an https URL"},
		"no verification":  {"certificate-authority-data: Q0E=", "insecure-skip-tls-verify: true", "insecure-skip-tls-verify"},
		"no CA":            {"certificate-authority-data: Q0E=", "tls-server-name: x", "certificate-authority-data"},
		"file of a CA":     {"certificate-authority-data: Q0E=", "certificate-authority-data: Q0E=, certificate-authority: /etc/passwd", "names files"},
		"file of a token":  {"token: s3cret-token", "tokenFile: /etc/shadow", "names files"},
		"program":          {"token: s3cret-token", "exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/sh, interactiveMode: Never}", "names a program"},
		"proxy":            {"certificate-authority-data: Q0E=", "certificate-authority-data: Q0E=, proxy-url: http://evil", "proxy-url"},
		"something else":   {"apiVersion: v1", "s3cret-token: [", "no kubeconfig"},
		"another document": {"kind: Config", "kind: Secret", "no kubeconfig"},
	} {
		_, err := readKubeconfig([]byte(strings.Replace(goodKubeconfig, test.old, test.new, 1)))
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret-token") {
			t.Errorf("%s: readKubeconfig = %v; want an error with %q and without the token", name, err, test.want)
		}
	}
}

func FuzzKubeconfig(f *testing.F) {
	f.Add([]byte(goodKubeconfig))
	f.Add([]byte(strings.Replace(goodKubeconfig, "token: s3cret-token", "client-certificate-data: Q0E=, client-key-data: Q0E=", 1)))
	f.Fuzz(func(t *testing.T, content []byte) {
		c, err := readKubeconfig(content)
		if err != nil {
			return
		}
		if c.ExecProvider != nil || c.AuthProvider != nil || c.Insecure || c.BearerTokenFile != "" || c.CertFile != "" || c.KeyFile != "" || c.CAFile != "" {
			t.Errorf("readKubeconfig accepted %q: %v", content, c)
		}
	})
}

package k3s

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// dnsManifest is what stands in for K3s's CoreDNS: the same names, another
// program. It knows services and nothing else.
const dnsManifest = `# Written by k3s-standin at every start: not CoreDNS, see docs/standin.md.
apiVersion: v1
kind: ServiceAccount
metadata: {name: coredns, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: system:coredns}
rules:
- {apiGroups: [""], resources: [services], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: system:coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:coredns}
subjects:
- {kind: ServiceAccount, name: coredns, namespace: kube-system}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      priorityClassName: system-cluster-critical
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}
      containers:
      - name: coredns
        image: docker.io/edge-provision/toolbox:1
        imagePullPolicy: IfNotPresent
        command: [/toolbox, dns, %[1]s]
        ports:
        - {containerPort: 53, name: dns, protocol: UDP}
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 2}
        resources: {requests: {cpu: 10m, memory: 20Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns, kubernetes.io/name: CoreDNS}}
spec:
  clusterIP: %[2]s
  selector: {k8s-app: kube-dns}
  ports:
  - {name: dns, port: 53, protocol: UDP}
`

// writeManifests puts the stand-in's own objects where K3s puts its.
func (s *server) writeManifests() error {
	path := s.path("manifests", "coredns.yaml")
	if slices.Contains(s.values("disable"), "coredns") {
		return removeIfThere(path)
	}
	text := fmt.Sprintf(dnsManifest, s.config.ClusterDomain, strings.Split(s.config.ClusterDNS, ",")[0])
	return writeFile(path, []byte(text), 0o600)
}

// deployManifests applies the files of the manifests directory that are new or
// have changed. Objects of a file that went stay, as in K3s.
func (s *server) deployManifests(ctx context.Context) error {
	paths, err := filepath.Glob(s.path("manifests", "*.y*ml"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		state := fmt.Sprint(info.Size(), info.ModTime())
		if s.deployed[path] == state {
			continue
		}
		cmd := exec.CommandContext(ctx, "/proc/self/exe", "apply", "--server-side", "--force-conflicts", "--field-manager=deploy@k3s-standin", "--kubeconfig="+s.cred("admin"), "-f", path)
		cmd.Args[0] = "kubectl"
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("deploying %s: %w: %s", path, err, strings.TrimSpace(string(out)))
		}
		s.deployed[path] = state
		s.log.Info("Deployed", "manifest", path)
	}
	return nil
}

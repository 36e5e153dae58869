package calico

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// serveScript answers every GET with one line.
const serveScript = "echo ok >/probe/index.html && exec httpd -f -p %d -h /probe"

// askScript asks each address once. A denied packet is dropped, so that only
// time tells; BusyBox's own time limit of wget crashes in some static builds.
const askScript = `{
for ip in $TARGETS; do
  if timeout 5 wget -q -O /dev/null "http://$ip:%d/"; then echo "$ip yes"; else echo "$ip no"; fi
done
if [ -n "$DNS" ]; then
  if timeout 5 nslookup "kubernetes.default.svc.$DOMAIN" "$DNS" >/dev/null; then echo "` + dnsAnswer + ` yes"; else echo "` + dnsAnswer + ` no"; fi
fi
} >/dev/termination-log`

// dnsAnswer names the line about the cluster's DNS.
const dnsAnswer = "dns"

// server is the DaemonSet that answers in one namespace.
func (p Probe) server(namespace string) kube.Object {
	labels := map[string]any{probeLabel: "server"}
	pod := p.pod(fmt.Sprintf(serveScript, probePort))
	container := pod["containers"].([]any)[0].(map[string]any)
	container["readinessProbe"] = map[string]any{"tcpSocket": map[string]any{"port": int64(probePort)}, "periodSeconds": int64(1)}
	return kube.Make("apps/v1", "DaemonSet", namespace, serverName, map[string]any{"spec": map[string]any{
		"selector": map[string]any{"matchLabels": labels},
		"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": pod},
	}})
}

// client is a pod on the node of one server that asks others.
func (p Probe) client(c client, dns string) kube.Object {
	var targets []string
	for _, s := range c.targets {
		targets = append(targets, s.ip)
	}
	pod := p.pod(fmt.Sprintf(askScript, probePort),
		map[string]any{"name": "TARGETS", "value": strings.Join(targets, " ")},
		map[string]any{"name": "DNS", "value": dns},
		map[string]any{"name": "DOMAIN", "value": cmp.Or(p.Domain, "cluster.local")})
	pod["nodeName"] = c.from.node
	pod["restartPolicy"] = "Never"
	return kube.Make("v1", "Pod", c.from.namespace, c.name, map[string]any{
		"metadata": map[string]any{"labels": map[string]any{probeLabel: "client"}},
		"spec":     pod,
	})
}

// pod is a pod that even a namespace with the restricted Pod Security Standard
// admits.
func (p Probe) pod(script string, env ...any) map[string]any {
	return map[string]any{
		"terminationGracePeriodSeconds": int64(0),
		"automountServiceAccountToken":  false,
		"enableServiceLinks":            false,
		"tolerations":                   []any{map[string]any{"operator": "Exists"}},
		"securityContext": map[string]any{
			"runAsNonRoot": true, "runAsUser": int64(65534), "runAsGroup": int64(65534),
			"seccompProfile": map[string]any{"type": "RuntimeDefault"},
		},
		"volumes": []any{map[string]any{"name": "probe", "emptyDir": map[string]any{}}},
		"containers": []any{map[string]any{
			"name": "probe", "image": p.Image, "imagePullPolicy": "IfNotPresent",
			"command":         []any{"sh", "-c", script},
			"env":             env,
			"volumeMounts":    []any{map[string]any{"name": "probe", "mountPath": "/probe"}},
			"securityContext": map[string]any{"allowPrivilegeEscalation": false, "capabilities": map[string]any{"drop": []any{"ALL"}}},
			"resources":       map[string]any{"requests": map[string]any{"cpu": "10m", "memory": "16Mi"}},
		}},
	}
}

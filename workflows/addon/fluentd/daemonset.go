package fluentd

import "github.com/edge-provision/edge-provision/workflows/kube"

// daemonSet runs one Fluentd on every node, also on those whose taints keep
// others away: their logs are wanted most.
func (c Config) daemonSet(digest string) kube.Object {
	labels := map[string]any{"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": kube.Manager}
	pull := "Always"
	if c.Preloaded {
		pull = "IfNotPresent"
	}
	probe := map[string]any{"httpGet": map[string]any{"path": "/metrics", "port": int64(MetricsPort)}, "periodSeconds": int64(10), "timeoutSeconds": int64(5)}
	var env []any
	// By K8S_NODE_NAME the plugin kubernetes_metadata watches the pods of its own node
	// alone (fluent-plugin-kubernetes_metadata_filter, README).
	for _, variable := range []string{"NODE_NAME", "K8S_NODE_NAME"} {
		env = append(env, map[string]any{"name": variable, "valueFrom": map[string]any{"fieldRef": map[string]any{"fieldPath": "spec.nodeName"}}})
	}
	for _, key := range []string{"shared-key", "authorization"} {
		if _, there := c.secrets()[key]; there {
			env = append(env, map[string]any{"name": variable[key], "valueFrom": map[string]any{"secretKeyRef": map[string]any{"name": name, "key": key}}})
		}
	}
	container := map[string]any{
		"name": name, "image": c.Image, "imagePullPolicy": pull,
		"env":           env,
		"ports":         []any{map[string]any{"name": "metrics", "containerPort": int64(MetricsPort), "protocol": "TCP"}},
		"livenessProbe": probe, "readinessProbe": probe,
		// Ruby takes its time to start on a small machine.
		"startupProbe": map[string]any{"httpGet": probe["httpGet"], "periodSeconds": int64(5), "failureThreshold": int64(60)},
		"resources": map[string]any{
			"requests": map[string]any{"cpu": "50m", "memory": "128Mi"}, "limits": map[string]any{"memory": "512Mi"},
		},
		// Log files belong to root.
		"securityContext": map[string]any{"runAsUser": int64(0), "allowPrivilegeEscalation": false},
		"volumeMounts": []any{
			mount("configuration", "/fluentd/etc", true), mount("secret", "/etc/fluentd-secret", true),
			mount("log", "/var/log", true), mount("state", StateDir, false), mount("machine-id", "/etc/machine-id", true),
		},
	}
	return kube.Make("apps/v1", "DaemonSet", c.InNamespace(), name, map[string]any{
		"metadata": map[string]any{"labels": labels},
		"spec": map[string]any{
			"selector":       map[string]any{"matchLabels": map[string]any{"app.kubernetes.io/name": name}},
			"updateStrategy": map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxUnavailable": int64(1)}},
			"template": map[string]any{
				"metadata": map[string]any{
					"labels": labels,
					"annotations": map[string]any{
						"edge-provision.io/configuration": digest,
						"prometheus.io/scrape":            "true", "prometheus.io/port": "24231",
					},
				},
				"spec": map[string]any{
					"serviceAccountName": name, "containers": []any{container},
					"tolerations":                   []any{map[string]any{"operator": "Exists"}},
					"priorityClassName":             "system-node-critical",
					"terminationGracePeriodSeconds": int64(30),
					"volumes": []any{
						map[string]any{"name": "configuration", "configMap": map[string]any{"name": name}},
						map[string]any{"name": "secret", "secret": map[string]any{"secretName": name}},
						hostPath("log", "/var/log", "Directory"), hostPath("state", StateDir, "DirectoryOrCreate"),
						hostPath("machine-id", "/etc/machine-id", "File"),
					},
				},
			},
		},
	})
}

// variable is the environment variable that a secret is read from.
var variable = map[string]string{"shared-key": "SHARED_KEY", "authorization": "AUTHORIZATION"}

func mount(volume, path string, readOnly bool) map[string]any {
	m := map[string]any{"name": volume, "mountPath": path}
	if readOnly {
		m["readOnly"] = true
	}
	return m
}

func hostPath(volume, path, kind string) map[string]any {
	return map[string]any{"name": volume, "hostPath": map[string]any{"path": path, "type": kind}}
}

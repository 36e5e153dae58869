package prometheus

import (
	"cmp"
	"fmt"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// component is the label by which a part is found.
const component = "app.kubernetes.io/name"

func selector(part string) map[string]any { return map[string]any{component: part} }

// nobody is an account without rights inside a container.
func nobody() map[string]any {
	return map[string]any{
		"runAsNonRoot": true, "runAsUser": int64(65534), "runAsGroup": int64(65534), "fsGroup": int64(65534),
		"seccompProfile": map[string]any{"type": "RuntimeDefault"},
	}
}

func confined() map[string]any {
	return map[string]any{
		"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": map[string]any{"drop": []any{"ALL"}},
	}
}

func (c Config) pull() string {
	if c.Preloaded {
		return "IfNotPresent"
	}
	return "Always"
}

// server is Prometheus itself. It is a StatefulSet of one, so that two never
// write to one volume.
func (c Config) server(digest string) kube.Object {
	retention := cmp.Or(c.RetentionBytes, 4<<30)
	container := map[string]any{
		"name": name, "image": c.Images.Prometheus, "imagePullPolicy": c.pull(),
		"args": []any{
			"--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus",
			fmt.Sprintf("--storage.tsdb.retention.time=%dd", cmp.Or(c.RetentionDays, 5)),
			fmt.Sprintf("--storage.tsdb.retention.size=%dB", retention),
		},
		"ports":           []any{map[string]any{"name": "http", "containerPort": int64(Port), "protocol": "TCP"}},
		"readinessProbe":  probe("/-/ready", Port),
		"livenessProbe":   probe("/-/healthy", Port),
		"startupProbe":    startup("/-/ready", Port),
		"securityContext": confined(),
		"resources":       resources("100m", "384Mi", "1536Mi"),
		"volumeMounts": []any{
			mount("configuration", "/etc/prometheus", true), mount("secret", secretMount, true), mount("data", "/prometheus", false),
		},
	}
	volumes := []any{
		map[string]any{"name": "configuration", "configMap": map[string]any{"name": name}},
		map[string]any{"name": "secret", "secret": map[string]any{"secretName": name}},
	}
	spec := map[string]any{
		// A pod of a broken revision is replaced only under Parallel; under the
		// default it would wait for itself to become ready (Kubernetes,
		// StatefulSets, forced rollback).
		"podManagementPolicy": "Parallel",
		"replicas":            int64(1), "serviceName": name, "selector": map[string]any{"matchLabels": selector(name)},
	}
	if c.Ephemeral {
		volumes = append(volumes, map[string]any{"name": "data", "emptyDir": map[string]any{"sizeLimit": fmt.Sprint(retention + retention/2)}})
	} else {
		claim := map[string]any{
			"accessModes": []any{"ReadWriteOnce"},
			// The write-ahead log comes beside what is retained.
			"resources": map[string]any{"requests": map[string]any{"storage": fmt.Sprint(retention + retention/2)}},
		}
		if c.StorageClass != "" {
			claim["storageClassName"] = c.StorageClass
		}
		spec["volumeClaimTemplates"] = []any{map[string]any{
			"apiVersion": "v1", "kind": "PersistentVolumeClaim",
			"metadata": map[string]any{"name": "data"}, "spec": claim,
		}}
	}
	spec["template"] = map[string]any{
		"metadata": map[string]any{"labels": selector(name), "annotations": map[string]any{"edge-provision.io/configuration": digest}},
		"spec": map[string]any{
			"serviceAccountName": name, "securityContext": nobody(), "containers": []any{container}, "volumes": volumes,
			"terminationGracePeriodSeconds": int64(120),
		},
	}
	return kube.Make("apps/v1", "StatefulSet", c.InNamespace(), name, map[string]any{"spec": spec})
}

// nodeExporter looks at every node, from the host's own namespaces.
func (c Config) nodeExporter() kube.Object {
	const part = "node-exporter"
	container := map[string]any{
		"name": part, "image": c.Images.NodeExporter, "imagePullPolicy": c.pull(),
		"args": []any{
			"--path.rootfs=/host", "--web.listen-address=:9100",
			// Pods come and go with mounts and links of their own.
			`--collector.filesystem.mount-points-exclude=^/(dev|proc|sys|run|var/lib/(kubelet|containerd|rancher/k3s/agent))($|/)`,
			`--collector.netclass.ignored-devices=^(cali|veth|vxlan).*$`,
		},
		"ports":           []any{map[string]any{"name": "http", "containerPort": int64(9100), "protocol": "TCP"}},
		"readinessProbe":  probe("/", 9100),
		"securityContext": confined(),
		"resources":       resources("20m", "32Mi", "128Mi"),
		"volumeMounts":    []any{map[string]any{"name": "root", "mountPath": "/host", "readOnly": true, "mountPropagation": "HostToContainer"}},
	}
	return kube.Make("apps/v1", "DaemonSet", c.InNamespace(), part, map[string]any{"spec": map[string]any{
		"selector": map[string]any{"matchLabels": selector(part)},
		"template": map[string]any{
			"metadata": map[string]any{"labels": selector(part)},
			"spec": map[string]any{
				"hostNetwork": true, "hostPID": true, "automountServiceAccountToken": false,
				"securityContext": map[string]any{"runAsNonRoot": true, "runAsUser": int64(65534)},
				"tolerations":     []any{map[string]any{"operator": "Exists"}},
				"containers":      []any{container},
				"volumes":         []any{map[string]any{"name": "root", "hostPath": map[string]any{"path": "/", "type": "Directory"}}},
			},
		},
	}})
}

// tigeraStatus tells kube-state-metrics about the conditions of Calico's
// operator. Source: kube-state-metrics, custom resource state metrics.
const tigeraStatus = `kind: CustomResourceStateMetrics
spec:
  resources:
    - groupVersionKind:
        group: operator.tigera.io
        version: v1
        kind: TigeraStatus
      labelsFromPath:
        name: [metadata, name]
      metrics:
        - name: tigerastatus
          help: Conditions of Calico's operator, 1 when true
          each:
            type: Gauge
            gauge:
              path: [status, conditions]
              labelsFromPath:
                type: [type]
              valueFrom: [status]
`

// kubeStateMetrics turns objects into series.
func (c Config) kubeStateMetrics() kube.Object {
	const part = "kube-state-metrics"
	container := map[string]any{
		"name": part, "image": c.Images.KubeStateMetrics, "imagePullPolicy": c.pull(),
		"args": []any{
			"--resources=nodes,pods,namespaces,deployments,daemonsets,statefulsets,jobs,persistentvolumeclaims,persistentvolumes",
			"--custom-resource-state-config=" + tigeraStatus,
		},
		"ports": []any{
			map[string]any{"name": "http", "containerPort": int64(8080), "protocol": "TCP"},
			map[string]any{"name": "telemetry", "containerPort": int64(8081), "protocol": "TCP"},
		},
		"readinessProbe":  probe("/readyz", 8081),
		"livenessProbe":   probe("/livez", 8080),
		"securityContext": confined(),
		"resources":       resources("10m", "64Mi", "256Mi"),
	}
	return kube.Make("apps/v1", "Deployment", c.InNamespace(), part, map[string]any{"spec": map[string]any{
		"replicas": int64(1), "selector": map[string]any{"matchLabels": selector(part)},
		"template": map[string]any{
			"metadata": map[string]any{"labels": selector(part)},
			"spec":     map[string]any{"serviceAccountName": part, "securityContext": nobody(), "containers": []any{container}},
		},
	}})
}

// rights let the server find and scrape targets, and kube-state-metrics list.
func (c Config) rights() []kube.Object {
	rules := map[string][]any{
		name: {
			rule("", []any{"nodes", "nodes/metrics", "services", "endpoints", "pods"}, "get", "list", "watch"),
			rule("discovery.k8s.io", []any{"endpointslices"}, "get", "list", "watch"),
			map[string]any{"nonResourceURLs": []any{"/metrics"}, "verbs": []any{"get"}},
		},
		"kube-state-metrics": {
			rule("", []any{"nodes", "pods", "namespaces", "persistentvolumeclaims", "persistentvolumes"}, "list", "watch"),
			rule("apps", []any{"deployments", "daemonsets", "statefulsets"}, "list", "watch"),
			rule("batch", []any{"jobs"}, "list", "watch"),
			rule("apiextensions.k8s.io", []any{"customresourcedefinitions"}, "list", "watch"),
			rule("operator.tigera.io", []any{"tigerastatuses"}, "list", "watch"),
		},
	}
	var out []kube.Object
	for _, account := range sortedKeys(rules) {
		role := "edge-provision-" + account
		out = append(out,
			kube.Make("v1", "ServiceAccount", c.InNamespace(), account, nil),
			kube.Make("rbac.authorization.k8s.io/v1", "ClusterRole", "", role, map[string]any{"rules": rules[account]}),
			kube.Make("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "", role, map[string]any{
				"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
				"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": account, "namespace": c.InNamespace()}},
			}))
	}
	return out
}

func rule(group string, kinds []any, verbs ...any) map[string]any {
	return map[string]any{"apiGroups": []any{group}, "resources": kinds, "verbs": verbs}
}

func probe(path string, port int) map[string]any {
	return map[string]any{"httpGet": map[string]any{"path": path, "port": int64(port)}, "periodSeconds": int64(10), "timeoutSeconds": int64(5)}
}

// startup allows for the time that reading the write-ahead log takes after a
// power cut: ten minutes.
func startup(path string, port int) map[string]any {
	out := probe(path, port)
	out["failureThreshold"] = int64(60)
	return out
}

func resources(cpu, memory, limit string) map[string]any {
	return map[string]any{"requests": map[string]any{"cpu": cpu, "memory": memory}, "limits": map[string]any{"memory": limit}}
}

func mount(volume, path string, readOnly bool) map[string]any {
	m := map[string]any{"name": volume, "mountPath": path}
	if readOnly {
		m["readOnly"] = true
	}
	return m
}

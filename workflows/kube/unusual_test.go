package kube_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/kube/chart"
)

// unusual are manifests of forms that the API server completes, orders or rewrites
// by itself: what it made of them is not a difference.
var unusual = map[string]string{
	"numbers and booleans as text": `
apiVersion: v1
kind: ConfigMap
metadata: {name: text, namespace: default, labels: {build: "0123", "on": "true"}, annotations: {port: "8080", empty: "", version: "1e3"}}
data: {port: "8080", "yes": "no", octal: "0777", date: "2026-11-21", long: "12345678901234567890", "null": "null"}
`,
	"a stateful set with claims": `
apiVersion: v1
kind: Service
metadata: {name: db, namespace: default}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 5432}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: default}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}, creationTimestamp: null}
    spec:
      containers:
      - name: db
        image: postgres
        ports: [{containerPort: 5432}]
        resources: {requests: {cpu: 0.5, memory: 1024Mi}, limits: {cpu: "1000m", memory: 1Gi}}
        env: [{name: A, value: ""}, {name: B, value: "1"}, {name: C, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1024Mi}}}
  - apiVersion: v1
    kind: PersistentVolumeClaim
    metadata: {name: log, creationTimestamp: null}
    spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: "1.5Gi"}}}
    status: {}
status: {replicas: 0}
`,
	"quantities and times in other words": `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  progressDeadlineSeconds: 600
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: "25%"}}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 30
      initContainers: [{name: first, image: a, command: [], resources: {}}]
      containers:
      - {name: a, image: a, ports: [{containerPort: 53, protocol: UDP}, {containerPort: 53, protocol: TCP}, {containerPort: 8080}], resources: {limits: {cpu: 100m, memory: "128974848", ephemeral-storage: 129e6}}}
      - {name: b, image: b, livenessProbe: {httpGet: {path: /, port: http}}, securityContext: {}, ports: [{name: http, containerPort: 80}]}
      volumes: [{name: e, emptyDir: {}}, {name: p, projected: {sources: [{serviceAccountToken: {path: t}}, {configMap: {name: text}}]}}, {name: s, secret: {secretName: s, defaultMode: 0400}}]
      tolerations: [{operator: Exists}]
      affinity: {}
      nodeSelector: {}
`,
	"a list with a list inside": `
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: v1
  kind: ServiceAccount
  metadata: {name: listed, namespace: default}
- apiVersion: rbac.authorization.k8s.io/v1
  kind: RoleList
  items:
  - {apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: listed, namespace: default}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}
- apiVersion: rbac.authorization.k8s.io/v1
  kind: RoleBinding
  metadata: {name: listed, namespace: default}
  roleRef: {kind: Role, name: listed, apiGroup: rbac.authorization.k8s.io}
  subjects: [{kind: ServiceAccount, name: listed}, {kind: User, name: somebody, apiGroup: rbac.authorization.k8s.io}]
`,
	"services of all kinds": `
apiVersion: v1
kind: Service
metadata: {name: named, namespace: default}
spec: {selector: {app: web}, ports: [{name: a, port: 80, targetPort: http}, {name: b, port: 81, protocol: UDP}, {name: c, port: 80, protocol: UDP}], sessionAffinity: ClientIP}
---
apiVersion: v1
kind: Service
metadata: {name: node-port, namespace: default}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: default}
spec: {type: ExternalName, externalName: db.example}
---
apiVersion: v1
kind: Service
metadata: {name: balanced, namespace: default}
spec: {type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24], selector: {app: web}, ports: [{port: 443, targetPort: 8443}]}
`,
	"secrets in both forms": `
apiVersion: v1
kind: Secret
metadata: {name: both, namespace: default}
type: Opaque
data: {a: YQ==, c: ""}
stringData: {b: "two\nlines\n", a2: "1"}
---
apiVersion: v1
kind: Secret
metadata: {name: tls, namespace: default}
type: kubernetes.io/tls
stringData: {tls.crt: "", tls.key: ""}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: binary, namespace: default}
binaryData: {x: AAEC/w==}
immutable: true
`,
	"policies and limits": `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: default}
spec: {podSelector: {}, ingress: [], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}], ports: [{port: 53, protocol: UDP}, {port: 8000, endPort: 9000}]}], policyTypes: [Ingress, Egress]}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: q, namespace: default}
spec: {hard: {requests.cpu: "4", requests.memory: 8192Mi, count/deployments.apps: 50}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: l, namespace: default}
spec: {limits: [{type: PersistentVolumeClaim, max: {storage: 2000Gi}, min: {storage: 1Mi}}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: p, namespace: default}
spec: {maxUnavailable: 50%, selector: {matchExpressions: [{key: app, operator: In, values: [web, db]}]}}
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: unusual}
value: 1000
globalDefault: false
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: unusual, annotations: {storageclass.kubernetes.io/is-default-class: "false"}}
provisioner: example.com/none
parameters: {repl: "3"}
volumeBindingMode: WaitForFirstConsumer
`,
	"batch and scaling": `
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: default}
spec: {schedule: "0 3 * * *", timeZone: Etc/UTC, jobTemplate: {spec: {backoffLimit: 2, template: {spec: {restartPolicy: OnFailure, containers: [{name: c, image: x, args: ["--n=1", "2", "true"]}]}}}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: default}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, minReplicas: 1, maxReplicas: 5, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}, {type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 500Mi}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: default}
spec: {rules: [{host: a.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: named, port: {name: a}}}}]}}], tls: [{hosts: [a.example]}]}
`,
	"a definition with defaults and an object of it": `
# Only a comment.
---
# And another, before the object.
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.unusual.example, creationTimestamp: null}
spec:
  group: unusual.example
  names: {kind: Gadget, plural: gadgets}
  scope: Namespaced
  preserveUnknownFields: false
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              size: {type: integer, default: 3}
              port: {x-kubernetes-int-or-string: true}
              ratio: {type: number}
              list: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              parts: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], items: {type: object, required: [name], properties: {name: {type: string}, "on": {type: boolean, default: true}}}}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
status: {acceptedNames: {kind: "", plural: ""}, conditions: [], storedVersions: []}
---
apiVersion: unusual.example/v1
kind: Gadget
metadata: {name: g, namespace: default}
spec: {port: 80, ratio: 1.0, list: [b, a], parts: [{name: second}, {name: first, "on": false}], free: {a: {b: [1, "2", 3.5, null]}}}
---

---
# The end.
`,
	"webhooks and an aggregated API that nobody answers": `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: unusual.example}
webhooks:
- {name: a.unusual.example, admissionReviewVersions: [v1], sideEffects: None, failurePolicy: Ignore, clientConfig: {service: {name: none, namespace: default, path: /v}}, rules: [{apiGroups: [unusual.example], apiVersions: ["*"], operations: [CREATE], resources: ["*"]}]}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1alpha1.away.unusual.example}
spec: {group: away.unusual.example, version: v1alpha1, groupPriorityMinimum: 100, versionPriority: 10, service: {name: none, namespace: default}, insecureSkipTLSVerify: true}
`,
	"admission policies": `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: unusual.example}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [replicasets]}]}
  validations: [{expression: "object.spec.replicas <= 50"}]
`,
}

func TestUnusualManifestsDoNotDifferOnceApplied(t *testing.T) {
	c := open(t)
	for name, manifest := range unusual {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := strings.ToLower(strings.ReplaceAll(name, " ", "-"))
			opts := options(t, "unusual")
			// Nothing answers for the service of an aggregated API.
			opts.Wait = 10 * time.Second
			s := set(t, namespace(ns)+"---\n"+strings.ReplaceAll(manifest, "namespace: default", "namespace: "+ns))
			if d := diff(t, c, s, opts); len(d.Changes) != len(s.Objects) {
				t.Errorf("Diff of %d new objects has %d changes", len(s.Objects), len(d.Changes))
			}
			apply(t, c, s, opts)
			wantNothing(t, diff(t, c, s, opts))
			apply(t, c, s, opts)
			wantNothing(t, diff(t, c, s, opts))
			if err := c.Remove(t.Context(), s, opts, false); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestChartWithEverythingIsOneInstallation applies a chart with a subchart, its own
// definitions and objects of them, and hooks that need what hooks before them
// have made; then another revision of it without some of that; and removes it.
func TestChartWithEverythingIsOneInstallation(t *testing.T) {
	c := open(t)
	pretend(t, "everything")
	opts := options(t, "chart")
	opts.Namespace, opts.NoWait = "everything", false
	var said []string
	opts.Say = func(format string, args ...any) {
		if line := fmt.Sprintf(format, args...); strings.HasPrefix(line, "running the ") {
			said = append(said, line)
		}
	}
	render := func(values map[string]any) kube.Set {
		t.Helper()
		read, err := chart.ReadDir("testdata/everything")
		if err != nil {
			t.Fatal(err)
		}
		r, err := read.Render(t.Context(), chart.Request{Release: "all", Namespace: "everything", KubeVersion: "v1.34.4+k3s1", Values: values})
		if err != nil {
			t.Fatal(err)
		}
		s, err := kube.Join(set(t, namespace("everything")), set(t, string(r.CRDs)), set(t, string(r.Manifests)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := render(nil)
	d := diff(t, c, s, opts)
	if len(d.Changes) != len(s.Objects) {
		t.Errorf("Diff of a new chart has the changes %q; want one for each of %d objects", d.Lines(), len(s.Objects))
	}
	apply(t, c, s, opts)
	if want := []string{
		"running the pre-install hook ServiceAccount/everything/migrate", "running the pre-install hook ConfigMap/everything/migrate", "running the pre-install hook Job/everything/migrate",
		"running the post-install hook Job/everything/seed",
	}; !slices.Equal(said, want) {
		t.Errorf("the installation ran %q; want %q", said, want)
	}
	wantNothing(t, diff(t, c, s, opts))
	for _, o := range []struct {
		apiVersion, kind, name string
		there                  bool
	}{
		{"v1", "ConfigMap", "migrate", false}, // hook-succeeded
		{"batch/v1", "Job", "migrate", true},  // deleted before it is made anew
		{"everything.example/v1", "Recipe", "bread", true},
		{"v1", "ConfigMap", "all-cache", true}, // of the subchart, by its alias
	} {
		if _, err := c.Get(t.Context(), o.apiVersion, o.kind, "everything", o.name); o.there != (err == nil) {
			t.Errorf("after the installation %s/%s: %v; want it there: %t", o.kind, o.name, err, o.there)
		}
	}

	said = nil
	less := render(map[string]any{"cache": map[string]any{"enabled": false}, "kept": false})
	apply(t, c, less, opts)
	if want := []string{"running the pre-upgrade hook Job/everything/migrate"}; !slices.Equal(said, want) {
		t.Errorf("the upgrade ran %q; want %q", said, want)
	}
	wantNothing(t, diff(t, c, less, opts))
	if _, err := c.Get(t.Context(), "v1", "ConfigMap", "everything", "all-cache"); !errors.Is(err, kube.ErrNotFound) {
		t.Errorf("the object of a subchart that is switched off: %v; want it gone", err)
	}
	if err := c.Remove(t.Context(), less, opts, false); err != nil {
		t.Fatal(err)
	}
	// What a chart says is kept is kept, and so are definitions and namespaces.
	for kind, name := range map[string]string{"Secret": "all-password", "Namespace": "everything"} {
		ns := map[string]string{"Secret": "everything"}[kind]
		if _, err := c.Get(t.Context(), "v1", kind, ns, name); err != nil {
			t.Errorf("after the removal %s/%s: %v; want it kept", kind, name, err)
		}
	}
	if _, err := c.Get(t.Context(), "everything.example/v1", "Recipe", "everything", "bread"); !errors.Is(err, kube.ErrNotFound) {
		t.Errorf("after the removal Recipe/bread: %v; want it gone", err)
	}
}

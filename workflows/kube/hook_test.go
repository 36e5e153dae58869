package kube_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/kube/kubetest"
)

// pretend gives the pods of the test's namespace their end, by their image.
func pretend(t *testing.T, namespace string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- server.PretendKubelet(ctx, func(pod kube.Object) kubetest.Outcome {
			containers, _, _ := unstructured.NestedSlice(pod.Object, "spec", "containers")
			image, _ := containers[0].(map[string]any)["image"].(string)
			_, what, _ := strings.Cut(image, ":")
			if pod.GetNamespace() != namespace {
				return ""
			}
			return map[string]kubetest.Outcome{"ok": kubetest.Succeeded, "fails": kubetest.Failed, "runs": kubetest.Running, "hangs": kubetest.Waiting}[what]
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func job(namespace, name, image, annotations string) string {
	return fmt.Sprintf(`---
apiVersion: batch/v1
kind: Job
metadata: {name: %s, namespace: %s, annotations: {%s}}
spec:
  backoffLimit: 0
  template: {spec: {restartPolicy: Never, containers: [{name: main, image: "x:%s"}]}}
`, name, namespace, annotations, image)
}

func TestHooksRunInOrderAndOnlyWhenTheyShould(t *testing.T) {
	c := open(t)
	pretend(t, "hooks")
	opts := options(t, "chart")
	var said []string
	opts.Say = func(format string, args ...any) {
		if line := fmt.Sprintf(format, args...); strings.HasPrefix(line, "running the ") || strings.HasPrefix(line, "applying ConfigMap") || strings.HasPrefix(line, "deleting ConfigMap") {
			said = append(said, line)
		}
	}
	hooks := func(value string) kube.Set {
		return set(t, namespace("hooks")+configMap("hooks", "cm", "k: "+value)+
			job("hooks", "second", "ok", `helm.sh/hook: "pre-install,pre-upgrade", helm.sh/hook-weight: "5"`)+
			job("hooks", "first", "ok", `helm.sh/hook: pre-install, helm.sh/hook-weight: "-5", helm.sh/hook-delete-policy: hook-succeeded`)+
			job("hooks", "after", "ok", `helm.sh/hook: "post-install,post-upgrade"`)+
			job("hooks", "never", "ok", `helm.sh/hook: test`)+
			job("hooks", "neither", "ok", `helm.sh/hook: post-rollback`)+
			job("hooks", "before-the-end", "ok", `helm.sh/hook: pre-delete`)+
			job("hooks", "at-the-end", "ok", `helm.sh/hook: post-delete`))
	}
	expect := func(when string, want ...string) {
		t.Helper()
		if !slices.Equal(said, want) {
			t.Errorf("%s: ran %q; want %q", when, said, want)
		}
		said = nil
	}
	s := hooks("one")
	apply(t, c, s, opts)
	expect("install", "running the pre-install hook Job/hooks/first", "running the pre-install hook Job/hooks/second", "applying ConfigMap/hooks/cm", "running the post-install hook Job/hooks/after")
	jobs := func() []string {
		all, err := c.List(t.Context(), "batch/v1", "Job", "hooks", "")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, o := range all {
			names = append(names, o.GetName())
		}
		slices.Sort(names)
		return names
	}
	if got := jobs(); !slices.Equal(got, []string{"after", "second"}) {
		t.Errorf("jobs after the installation = %v; want first deleted by its policy, and no test or rollback hook", got)
	}
	wantNothing(t, diff(t, c, s, opts))
	apply(t, c, s, opts)
	expect("again")
	edit(t, configMaps, "hooks", "cm", `{"data":{"k":"drift"}}`)
	apply(t, c, s, opts)
	expect("repair of drift", "applying ConfigMap/hooks/cm")
	apply(t, c, hooks("two"), opts)
	expect("upgrade", "running the pre-upgrade hook Job/hooks/second", "applying ConfigMap/hooks/cm", "running the post-upgrade hook Job/hooks/after")
	if err := c.Remove(t.Context(), hooks("two"), opts, false); err != nil {
		t.Fatal(err)
	}
	expect("removal", "running the pre-delete hook Job/hooks/before-the-end", "deleting ConfigMap/hooks/cm", "running the post-delete hook Job/hooks/at-the-end")
	if got := jobs(); len(got) > 0 {
		t.Errorf("jobs after the removal = %v; want none: hooks leave nothing behind", got)
	}
}

func TestHookThatFailsStopsTheInstallation(t *testing.T) {
	c := open(t)
	pretend(t, "hookfails")
	opts := options(t, "chart")
	manifest := func(image string) kube.Set {
		return set(t, namespace("hookfails")+configMap("hookfails", "cm", "k: v")+job("hookfails", "migrate", image, `helm.sh/hook: pre-install`))
	}
	err := c.Apply(t.Context(), manifest("fails"), opts)
	var notReady *kube.NotReadyError
	if !errors.As(err, &notReady) || !notReady.Failed || !strings.Contains(err.Error(), "hook pre-install: Job/hookfails/migrate failed") {
		t.Errorf("Apply = %v; want the hook named and that it failed", err)
	}
	if _, err := c.Get(t.Context(), "v1", "ConfigMap", "hookfails", "cm"); !errors.Is(err, kube.ErrNotFound) {
		t.Errorf("the ConfigMap was applied after a failed pre-install hook (%v)", err)
	}
	if d := diff(t, c, manifest("ok"), opts); d.Installed {
		t.Error("Diff says that it is installed; its hook has failed")
	}
	// The next run begins with the hook again, still as an installation.
	apply(t, c, manifest("ok"), opts)
	wantNothing(t, diff(t, c, manifest("ok"), opts))
}

func TestWaitingNamesWhatDoesNotWork(t *testing.T) {
	c := open(t)
	pretend(t, "waits")
	opts := options(t, "web")
	opts.NoWait, opts.Wait = false, testBound
	s := set(t, namespace("waits")+deployment("waits", "web", "x:runs", 2)+job("waits", "once", "ok", ""))
	apply(t, c, s, opts)
	wantNothing(t, diff(t, c, s, opts))
	if err := c.Wait(t.Context(), s, opts); err != nil {
		t.Errorf("Wait for what works = %v", err)
	}

	broken := set(t, namespace("waits")+deployment("waits", "web", "x:hangs", 2)+job("waits", "once", "ok", ""))
	opts.NoWait = true
	apply(t, c, broken, opts)
	until(t, "a pod of the new image that hangs", func() bool {
		pods, err := other(t).Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("waits").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(pods.Items, func(pod unstructured.Unstructured) bool {
			raw, err := pod.MarshalJSON()
			return err == nil && strings.Contains(string(raw), "ImagePullBackOff")
		})
	})
	opts.NoWait, opts.Wait = false, 2*time.Second
	err := c.Apply(t.Context(), broken, opts)
	var notReady *kube.NotReadyError
	if !errors.As(err, &notReady) || notReady.ID.String() != "Deployment/waits/web" || !strings.Contains(err.Error(), "replicas are updated") && !strings.Contains(err.Error(), "old replicas") ||
		!strings.Contains(err.Error(), "ImagePullBackOff: there is no such image") {
		t.Errorf("Apply of an image that is not there = %v; want the deployment, its replicas and its pod's trouble", err)
	}
	opts.Wait = testBound
	apply(t, c, s, opts)
}

// until asks again and again, for testBound at most, until a condition holds.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(testBound)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in %s: %s", testBound, what)
		}
	}
}

// webhook is a configuration with one webhook that refuses what it is not asked about,
// of the objects in one namespace.
func webhook(name, namespace, group, resource string) string {
	return fmt.Sprintf(`---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: %s}
webhooks:
- name: check.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %s}}
  clientConfig: {service: {name: none, namespace: default}}
  rules: [{apiGroups: [%q], apiVersions: [v1], operations: [CREATE], resources: [%s]}]
`, name, namespace, group, resource)
}

// there reports whether an object is in the cluster.
func there(t *testing.T, c *kube.Cluster, apiVersion, kind, namespace, name string) bool {
	t.Helper()
	_, err := c.Get(t.Context(), apiVersion, kind, namespace, name)
	if err != nil && !errors.Is(err, kube.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

// TestWebhookOnPodsComesAfterTheWorkloadsThatAnswerIt: the API server would ask nobody,
// and refuse the very pods that are to answer.
func TestWebhookOnPodsComesAfterTheWorkloadsThatAnswerIt(t *testing.T) {
	c := open(t)
	pretend(t, "webhooks")
	opts := options(t, "web")
	opts.NoWait, opts.Wait = false, time.Second
	onPods := webhook("webhooks-test", "webhooks", "", "pods")
	err := c.Apply(t.Context(), set(t, namespace("webhooks")+deployment("webhooks", "answers", "x:hangs", 1)+onPods), opts)
	if err == nil || !strings.Contains(err.Error(), "Deployment/webhooks/answers") {
		t.Errorf("Apply with a workload that does not start = %v; want it named", err)
	}
	sent := func() bool {
		return there(t, c, "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "", "webhooks-test")
	}
	if sent() {
		t.Error("the webhook was applied although what answers it does not run")
	}
	opts.Wait = testBound
	apply(t, c, set(t, namespace("webhooks")+deployment("webhooks", "answers", "x:runs", 1)+onPods), opts)
	if !sent() {
		t.Error("the webhook was not applied")
	}
}

// TestWorkloadsGetWhatTheyWaitFor: an operator ends that finds its webhooks not
// configured, and a pod waits for the Secret that another operator makes of a Certificate.
// What the operator itself brings waits until it works.
func TestWorkloadsGetWhatTheyWaitFor(t *testing.T) {
	c := open(t)
	pretend(t, "waitedfor")
	apply(t, c, set(t, crd("certificates", "Certificate", "Namespaced", "")), options(t, "others"))
	opts := options(t, "operator")
	opts.NoWait, opts.Wait = false, time.Second
	manifest := func(image string) kube.Set {
		return set(t, namespace("waitedfor")+deployment("waitedfor", "operator", image, 1)+webhook("waitedfor-test", "waitedfor", "example.org", "things")+
			crd("owns", "Own", "Namespaced", "")+custom("Own", "waitedfor", "o", "mode: fast")+custom("Certificate", "waitedfor", "c", "mode: fast"))
	}
	err := c.Apply(t.Context(), manifest("x:hangs"), opts)
	if err == nil || !strings.Contains(err.Error(), "Deployment/waitedfor/operator") {
		t.Errorf("Apply with an operator that does not start = %v; want it named", err)
	}
	for _, o := range []struct {
		apiVersion, kind, namespace, name string
		want                              bool
	}{
		{"admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "", "waitedfor-test", true},
		{"example.com/v1", "Certificate", "waitedfor", "c", true},
		{"example.com/v1", "Own", "waitedfor", "o", false},
	} {
		if got := there(t, c, o.apiVersion, o.kind, o.namespace, o.name); got != o.want {
			t.Errorf("before the operator works %s is there: %t; want %t", o.kind, got, o.want)
		}
	}
	opts.Wait = testBound
	apply(t, c, manifest("x:runs"), opts)
	if !there(t, c, "example.com/v1", "Own", "waitedfor", "o") {
		t.Error("what the operator brings was not applied")
	}
	wantNothing(t, diff(t, c, manifest("x:runs"), opts))
}

// TestDefinitionOfAHookStays: with it all objects of its kind would go, at each upgrade.
func TestDefinitionOfAHookStays(t *testing.T) {
	c := open(t)
	opts := options(t, "hooked")
	manifest := func(value, mark string) kube.Set {
		hook := strings.Replace(crd("hookeds", "Hooked", "Namespaced", ""), "metadata: {name: ",
			`metadata: {annotations: {helm.sh/hook: "pre-install,pre-upgrade", helm.sh/hook-delete-policy: "before-hook-creation,hook-succeeded", mark: `+mark+`}, name: `, 1)
		return set(t, hook+configMap("default", "hooked", "k: "+value))
	}
	definition := func() kube.Object {
		t.Helper()
		o, err := c.Get(t.Context(), "apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "hookeds.example.com")
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	apply(t, c, manifest("one", "old"), opts)
	first := definition()
	apply(t, c, set(t, custom("Hooked", "default", "precious", "mode: fast")), options(t, "user"))
	rewrite := `{"metadata":{"labels":null}}`
	edit(t, schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}, "", "hookeds.example.com", rewrite)
	apply(t, c, manifest("two", "new"), opts)
	if now := definition(); now.GetUID() != first.GetUID() || now.GetAnnotations()["mark"] != "new" {
		t.Errorf("after the upgrade the definition has UID %s and mark %q; want %s and the new mark", now.GetUID(), now.GetAnnotations()["mark"], first.GetUID())
	}
	if !there(t, c, "example.com/v1", "Hooked", "default", "precious") {
		t.Error("an object of the hook's kind is gone after the upgrade")
	}

	// Another step's is not taken.
	err := c.Apply(t.Context(), manifest("one", "theirs"), options(t, "hooked-elsewhere"))
	if err == nil || !strings.Contains(err.Error(), "hookeds.example.com is there and is not of this step") {
		t.Errorf("Apply of another step with the same hook = %v; want a refusal", err)
	}
}

// TestRemovalThatIsCutOffComesToItsEnd: its hooks find the namespace that they are in, and
// those that have run do not run again without what they need.
func TestRemovalThatIsCutOffComesToItsEnd(t *testing.T) {
	c := open(t)
	pretend(t, "cutoff")
	opts := options(t, "chart")
	var said []string
	opts.Say = func(format string, args ...any) {
		line := fmt.Sprintf(format, args...)
		if strings.HasPrefix(line, "running the ") || strings.HasPrefix(line, "deleting ") {
			said = append(said, line)
		}
	}
	manifest := func(end string) kube.Set {
		return set(t, namespace("cutoff")+"---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: mine, namespace: cutoff}\n"+
			strings.Replace(job("cutoff", "before", "ok", `helm.sh/hook: pre-delete`), "restartPolicy", "serviceAccountName: mine, restartPolicy", 1)+
			job("cutoff", "after", end, `helm.sh/hook: post-delete`))
	}
	remove := func(end string, data bool, fails string, want ...string) {
		t.Helper()
		said = nil
		err := c.Remove(t.Context(), manifest(end), opts, data)
		if fails == "" && err != nil || fails != "" && (err == nil || !strings.Contains(err.Error(), fails)) {
			t.Errorf("Remove = %v; want %q", err, fails)
		}
		if !slices.Equal(said, want) {
			t.Errorf("Remove: %q; want %q", said, want)
		}
	}
	const before, account, after = "running the pre-delete hook Job/cutoff/before", "deleting ServiceAccount/cutoff/mine", "running the post-delete hook Job/cutoff/after"
	const ended, ending, all = "deleting Job/cutoff/before", "deleting Job/cutoff/after", "deleting Namespace/cutoff"
	apply(t, c, manifest("ok"), opts)
	remove("fails", true, "Job/cutoff/after failed", before, account, after)
	remove("ok", false, "", after, ended, ending)
	// The namespace is kept, and nothing else is left to be told.
	remove("ok", true, "", all)
	// What is applied again is removed as at the first time.
	apply(t, c, manifest("ok"), opts)
	remove("ok", true, "", before, account, after, ended, ending, all)
}

// TestJobThatKubernetesRemovesAfterItsEndIsDone, and is not made anew until it is declared
// otherwise.
func TestJobThatKubernetesRemovesAfterItsEndIsDone(t *testing.T) {
	c := open(t)
	pretend(t, "expires")
	opts := options(t, "chart")
	opts.NoWait, opts.Wait = false, testBound
	manifest := func(mark string) kube.Set {
		return set(t, namespace("expires")+configMap("expires", "cm", "k: v")+strings.ReplaceAll(
			job("expires", "once", "ok", "mark: "+mark)+job("expires", "hook", "ok", `helm.sh/hook: post-install`),
			"backoffLimit: 0", "backoffLimit: 0\n  ttlSecondsAfterFinished: 0"))
	}
	apply(t, c, manifest("one"), opts)
	until(t, "the Job is gone", func() bool { return !there(t, c, "batch/v1", "Job", "expires", "once") })
	wantNothing(t, diff(t, c, manifest("one"), opts))
	apply(t, c, manifest("one"), opts)
	edit(t, configMaps, "expires", "cm", `{"data":{"k":"drift"}}`)
	apply(t, c, manifest("one"), opts)
	opts.Wait = time.Second
	if err := c.Wait(t.Context(), manifest("one"), opts); err != nil {
		t.Errorf("Wait for a Job that has ended and gone = %v", err)
	}
	if err := c.Wait(t.Context(), manifest("two"), opts); err == nil || !strings.Contains(err.Error(), "Job/expires/once") {
		t.Errorf("Wait for a Job that was not applied = %v; want it named", err)
	}
	if lines := diff(t, c, manifest("two"), opts).Lines(); !slices.Equal(lines, []string{"Job/expires/once: create"}) {
		t.Errorf("Diff of a Job that is declared otherwise = %q; want it created", lines)
	}
	opts.Wait = testBound
	apply(t, c, manifest("two"), opts)
	if err := c.Remove(t.Context(), manifest("two"), opts, true); err != nil {
		t.Fatal(err)
	}
}

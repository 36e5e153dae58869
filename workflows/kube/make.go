package kube

import "k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

// Make builds an object from its content, which it takes over, and from what
// names it. An empty namespace names none.
func Make(apiVersion, kind, namespace, name string, content map[string]any) Object {
	if content == nil {
		content = map[string]any{}
	}
	o := &unstructured.Unstructured{Object: content}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetName(name)
	if namespace != "" {
		o.SetNamespace(namespace)
	}
	return o
}

package calico

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// Statuses are the TigeraStatus objects that an installation of this package
// waits for.
var Statuses = []string{"calico", "apiserver"}

// Ready reads one TigeraStatus. Available must be true, Progressing and Degraded
// false; the reason and message of the condition that is not so are the error.
// Source: operator.tigera.io/v1 TigeraStatus.
func Ready(status kube.Object) error {
	conditions, _, err := unstructured.NestedSlice(status.Object, "status", "conditions")
	if err != nil {
		return fmt.Errorf("TigeraStatus %s: %w", status.GetName(), err)
	}
	want := map[string]string{"Available": "True", "Progressing": "False", "Degraded": "False"}
	var wrong []string
	for _, name := range sortedKeys(want) {
		i := slices.IndexFunc(conditions, func(c any) bool {
			m, ok := c.(map[string]any)
			return ok && m["type"] == name
		})
		if i < 0 {
			wrong = append(wrong, name+" is not reported yet")
			continue
		}
		condition := conditions[i].(map[string]any)
		if condition["status"] != want[name] {
			wrong = append(wrong, fmt.Sprintf("%s is %v%s", name, condition["status"], because(condition)))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("TigeraStatus %s: %s", status.GetName(), strings.Join(wrong, "; "))
	}
	return nil
}

// Degraded reports whether the operator has given up on something, which
// waiting does not mend.
func Degraded(status kube.Object) bool {
	conditions, _, _ := unstructured.NestedSlice(status.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(c any) bool {
		m, ok := c.(map[string]any)
		return ok && m["type"] == "Degraded" && m["status"] == "True"
	})
}

// because is the reason and message of a condition.
func because(condition map[string]any) string {
	reason, _ := condition["reason"].(string)
	message, _ := condition["message"].(string)
	text := strings.TrimSpace(strings.Trim(reason+": "+message, ": "))
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

package site

import (
	"fmt"
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"
)

// TestSecretOutputsOfStepsStaySecret refers to an output that its type says is
// secret, before and after it is known.
func TestSecretOutputsOfStepsStaySecret(t *testing.T) {
	const text = `
site "shop" {}
machine "m" {
  address = "172.22.0.2"
  ssh {
    user     = "root"
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPzZ6AeRNVi0qGB3IKcfO3fWqN4HEmBMFpyVBBYM5y6M"
  }
}
workflow "w" {
  step "k3s" "c" {
    servers = [machine.m]
    binary {
      source = "k3s"
      sha256 = "00"
    }
  }
}
output "endpoint" {
  value = workflow.w.step.k3s.c.endpoint
}
output "access" {
  value = "config: ${workflow.w.step.k3s.c.kubeconfig}"
%s}
`
	if _, diags := loadText(t, fmt.Sprintf(text, ""), testOptions()); !diags.HasErrors() || !strings.Contains(diags.Error(), "Sensitive value in output") {
		t.Errorf("Load() = %v; want the output refused that would show a kubeconfig", diags)
	}
	s := mustLoad(t, fmt.Sprintf(text, "  sensitive = true\n"), testOptions())
	known := Known{Steps: map[string]cty.Value{"workflow.w.step.k3s.c": cty.ObjectVal(map[string]cty.Value{
		"kubeconfig": cty.StringVal("hunter2"), "endpoint": cty.StringVal("https://172.22.0.2:6443"),
	})}}
	values, diags := s.OutputValues(known)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if !IsSensitive(values["access"]) || strings.Contains(Text(values["access"]), "hunter2") {
		t.Errorf("access = %s; want it sensitive", Text(values["access"]))
	}
	if IsSensitive(values["endpoint"]) {
		t.Error("endpoint is sensitive; want only what its type says")
	}
}

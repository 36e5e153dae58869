package ansible

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

func TestWhatAMachineSaysOfItselfIsNoTemplate(t *testing.T) {
	const hostile = `{{ lookup('pipe', 'touch /tmp/owned') }}`
	list, err := New([]Host{{
		Machine: inventory.Machine{ID: uuid.Max, Site: "shop", Serial: hostile, HostKey: hostile},
		Facts: &inventory.Facts{
			System: &inventory.System{Product: hostile},
			Memory: &inventory.Memory{Bytes: 1<<53 + 1},
			Disks:  []inventory.Disk{{Model: hostile}, {Model: hostile}},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	vars, err := list.Host("machine-" + uuid.Max.String())
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(vars)
	if err != nil {
		t.Fatal(err)
	}
	marked := `{"__ansible_unsafe":"` + hostile + `"}`
	if got := strings.Count(string(out), marked); got != 5 || strings.Count(string(out), "{{") != 5 {
		t.Errorf("variables = %s\nwant each of 5 texts of the machine as %s", out, marked)
	}
	if !strings.Contains(string(out), `"bytes":9007199254740993`) {
		t.Errorf("variables = %s; want the bytes of memory exactly", out)
	}
}

package probe

import (
	"encoding/json"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
)

// The machine that runs the tests is a real one, whatever it lacks.
func TestCollectReadsThisMachine(t *testing.T) {
	facts, err := Collect(t.Context(), Machine(inventory.MAC{}))
	if err != nil {
		t.Logf("some parts were not readable: %v", err)
	}
	text, err := json.MarshalIndent(facts, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if facts.CPU == nil || facts.CPU.Threads == 0 || facts.Memory == nil || facts.Memory.Bytes == 0 || facts.Kernel == nil {
		t.Errorf("Collect of this machine = %s; want CPU, memory and kernel", text)
	}
}

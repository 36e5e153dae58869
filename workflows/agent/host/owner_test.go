package host

import (
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows/agent"
)

func TestOwnerOfAnInstalledDiskIsFound(t *testing.T) {
	i := newInstalled(t)
	h := i.host(func(c *Config) { c.Mounter = i })
	look := func() *inventory.Owner {
		t.Helper()
		disks, err := i.disks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for n := range disks {
			disks[n].Signatures = []string{"ext4", "gpt"}
		}
		h.FindOwners(t.Context(), disks)
		if i.mounts != 0 {
			t.Errorf("%d partitions are still mounted", i.mounts)
		}
		return disks[0].Owner
	}
	if got := look(); got != nil {
		t.Errorf("owner of a disk without identity = %+v; want none", got)
	}
	var want agent.Identity
	result := i.configure(func(c *agent.Configure) { want = c.Identity })
	if result.Outcome != agent.OutcomeOK {
		t.Fatalf("configure = %+v", result.Error)
	}
	got := look()
	if got == nil || got.Catalog != want.Catalog || got.Address != want.Address {
		t.Errorf("owner = %+v; want %+v", got, want)
	}
	i.put(IdentityFile, "not JSON")
	if got := look(); got != nil {
		t.Errorf("owner of a damaged identity = %+v; want none", got)
	}
}

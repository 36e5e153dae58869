package workflows_test

import (
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
)

const catalog = "0198c0de-0000-7000-8000-000000000001"

// head is the part of a site that every case here shares.
const head = `
site "store" {}

network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
  gateway   = "172.22.0.1"
  dhcp {
    mode  = "server"
    range = "172.22.0.100-172.22.0.199"
  }
}

image "os" {
  distribution = "debian"
  release      = "bookworm"
}
`

// planCase is one site, what was seen of it, and what has to follow.
type planCase struct {
	name string
	text string
	// see gives what was observed.
	see  func(s *site.Site) workflows.Observation
	opts workflows.BuildOptions
	want map[string]workflows.Kind
	// says are parts of what a person must read.
	says []string
}

// one sees the machine a alone.
func one(v workflows.MachineView) func(*site.Site) workflows.Observation {
	return func(*site.Site) workflows.Observation {
		return observation(map[string]workflows.MachineView{"machine.a": v})
	}
}

// blind is a machine whose agent could not look for disks.
func blind() workflows.MachineView {
	v := known()
	v.Facts.Disks = nil
	return v
}

// firmware is how a machine booted.
func firmware(v workflows.MachineView, mode string) workflows.MachineView {
	v.Facts.Firmware = &inventory.Firmware{Mode: mode}
	return v
}

// was sees machine a as it was installed, then changed.
func was(change func(*workflows.MachineView)) func(*site.Site) workflows.Observation {
	return func(s *site.Site) workflows.Observation {
		v := installed(s, "machine.a")
		change(&v)
		return observation(map[string]workflows.MachineView{"machine.a": v})
	}
}

func seen(v workflows.MachineView, change func(*workflows.MachineView)) func(*site.Site) workflows.Observation {
	change(&v)
	return one(v)
}

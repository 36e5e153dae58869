# Tills that install themselves. Whoever plugs a till in at the counter and
# switches it on has done all there is to do: it netboots, reports what it is,
# enters the class "till", becomes the next free one of the three machines, is
# installed, and is given its name on the screen. `edge-provision serve` does
# that, two tills at a time.

site "counter" {}

network "floor" {
  interface = "eth1"
  cidr      = "172.26.0.0/24"
  gateway   = "172.26.0.1"
  unknown   = "discover"

  dhcp {
    mode  = "server"
    range = "172.26.0.100-172.26.0.199"
    lease = "1h"
  }
}

image "till" {
  distribution = "debian"
  release      = "bookworm"
  packages     = ["openssh-server"]
}

# Small machines with one solid disk. Other machines that netboot here are
# recorded and left alone.
class "till" {
  match = facts.memory.bytes >= GiB(2) && length(facts.disks) == 1 && all([for d in facts.disks : !d.rotational])

  # Saying so is the consent to install a machine without being asked. A disk
  # that carries anything still needs wipe = true, or a person.
  react {
    provision = machine.till
    workflow  = workflow.greeting
    at_once   = 2
    per_hour  = 10
  }
}

# A class can be there only to be asked for:
# edge-provision inventory query 'contains(machine.classes, "old_firmware")'
class "old_firmware" {
  match = facts.bios.version == "1.0" || facts.bios.version == "1.1"
}

machine "till" {
  for_each = { left = 11, middle = 12, right = 13 }

  match   = class.till
  network = network.floor
  address = cidrhost(network.floor.cidr, each.value)
  image   = image.till
}

workflow "greeting" {
  step "file" "motd" {
    for_each = machine.till

    hosts   = each.value
    path    = "/etc/motd"
    content = "This is till ${each.key}.\n"
  }
}

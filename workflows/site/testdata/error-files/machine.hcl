site "bad" {}
network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
  gateway   = "172.22.0.1"
  dhcp {
    range = "172.22.0.100-172.22.0.199"
  }
}
network "static" {
  interface = "eth2"
  cidr      = "172.23.0.0/24"
}
image "os" {
  distribution = "debian"
  release      = "bookworm"
}
machine "first" {
  mac     = "52:54:00:00:00:01"
  network = network.edge
  address = "172.22.0.11"
  bmc {
    driver   = "redfish"
    address  = "172.22.1.11"
    username = "admin"
    password = "emulated"
  }
}
machine "again" {
  mac     = "5254.0000.0001"  # ERROR: MAC used twice | machine.first
  network = network.edge
  address = "172.22.0.11"     # ERROR: Address used twice | machine.first
  hostname = "first"          # ERROR: Hostname used twice | machine.first
  bmc {
    driver   = "ipmi"
    address  = "172.22.1.11:623" # ERROR: BMC used twice | machine.first
    username = "admin"
    password = "emulated"
  }
}
machine "upper" {
  mac     = "52-54-00-00-00-0A"
  network = network.edge
  address = "172.22.0.150" # WARNING: Reservation inside the pool
}
machine "lower" {
  mac     = "52:54:00:00:00:0a" # ERROR: MAC used twice | machine.upper
  network = network.edge
  address = "10.0.0.1" # ERROR: Address outside its network | 10.0.0.1
}
machine "gateway" {
  mac     = "52:54:00:00:00:0b"
  network = network.edge
  address = "172.22.0.1" # ERROR: Address used twice | gateway
}
machine "nowhere" { # ERROR: Missing identity && Missing network
}
machine "both" {
  mac     = "52:54:00:00:00:0c"
  match   = facts.memory.bytes > 1 # ERROR: Both mac and match
  network = network.edge
}
machine "junk" {
  mac      = "52:54:00:00:00"    # ERROR: Invalid MAC address
  network  = network.edge
  address  = "172.22.0.300"      # ERROR: Invalid address
  hostname = "Under_Score"       # ERROR: Invalid hostname
  boot_timeout = "soon"          # ERROR: Invalid duration
  wipe     = "perhaps"           # ERROR: Wrong type
  imgae    = image.os            # ERROR: Unsupported argument | Did you mean "image"?
}
machine "six" {
  mac     = "52:54:00:00:00:0d"
  network = network.edge
  address = "2001:db8::5" # ERROR: IPv6 not supported
}
machine "unknown" {
  mac     = "52:54:00:00:00:0e"
  network = network.egde # ERROR: Unknown reference | Did you mean "edge"?
  image   = image.so     # ERROR: Unknown reference | There is only "os".
}
machine "quoted" {
  mac     = "52:54:00:00:00:0f"
  network = "edge" # ERROR: Wrong type | network.edge without quotes
  image   = network.edge # ERROR: Wrong type
}
machine "unaddressed" { # ERROR: Machine without address
  mac     = "52:54:00:00:00:10"
  network = network.static
}
machine "bmcs" {
  for_each = {
    a = { driver = "redfsh", address = "https://172.22.1.1" }
  }
  mac     = "52:54:00:00:00:11"
  network = network.edge
  bmc {
    driver = each.value.driver # ERROR: Unknown choice | Did you mean "redfish"?
  }
}
machine "amt" {
  mac     = "52:54:00:00:00:12"
  network = network.edge
  bmc {
    driver = "amt" # ERROR: Not supported in this version
  }
}
machine "plain" {
  mac     = "52:54:00:00:00:13"
  network = network.edge
  bmc { # ERROR: Missing required argument | "password"
    driver      = "redfish"
    address     = "http://172.22.1.9" # ERROR: Invalid BMC address | https
    username    = "admin"
    fingerprint = "aa:bb" # ERROR: Invalid fingerprint
    ca_cert     = "ca.pem" # ERROR: Invalid certificate
  }
}
machine "inside" {
  mac     = "52:54:00:00:00:14"
  network = network.edge
  bmc {
    driver   = "ipmi"
    address  = "172.22.0.120" # ERROR: BMC address inside the pool
    username = "admin"
    password = "emulated"
  }
}
machine "itself" {
  mac     = "52:54:00:00:00:15"
  network = network.edge
  address = "172.22.0.15"
  bmc {
    driver   = "ipmi"
    address  = "172.22.0.15" # ERROR: Address used twice | itself
    username = "admin"
    password = "emulated"
  }
}
machine "weak" {
  mac     = "52:54:00:00:00:25"
  network = network.edge
  bmc {
    driver       = "ipmi"
    address      = "172.23.0.25"
    username     = "admin"
    password     = "emulated"
    cipher_suite = 1 # ERROR: Unknown choice | not a cipher suite
  }
}
machine "tls" {
  mac     = "52:54:00:00:00:26"
  network = network.edge
  bmc {
    driver       = "redfish"
    address      = "https://172.23.0.26"
    username     = "admin"
    password     = "emulated"
    cipher_suite = 17 # ERROR: Needless argument
  }
}
machine "adopted" {
  address = "10.1.1.1"
  image   = image.os # ERROR: Adopted machine
  ssh {
    user = "Root!" # ERROR: Invalid name
    port = 0       # ERROR: Number out of range
  }
}
machine "diskless" {
  mac     = "52:54:00:00:00:16"
  network = network.edge
  root_disk { # ERROR: Root disk without image
    select = "smalest" # ERROR: Unknown choice | Did you mean "smallest"?
  }
}
machine "emulated" {
  mac     = "52:54:00:00:00:17"
  network = network.edge
  rack {
    firmware   = "bios"
    pxe        = "native"       # ERROR: Unsupported firmware
    boot_order = ["net", "disk"] # ERROR: Unknown choice
    disk {
      bus   = "ide" # ERROR: Unknown choice | It is one of
      block = 1024  # ERROR: Unknown choice | 512 or 4096
    }
    nic {
      mac = "52:54:00:00:00:18" # ERROR: Rack contradicts the machine
    }
  }
}
machine "user" {
  mac     = "52:54:00:00:00:19"
  network = network.edge
  user "Ops" { # ERROR: Invalid name
    authorized_keys = ["not a key"] # ERROR: Invalid SSH key
  }
}

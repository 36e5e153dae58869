site "bad" {}
network "outside" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
  gateway   = "172.23.0.1" # ERROR: Address outside its network | 172.23.0.1
}
network "overlap" {
  interface = "eth2"
  cidr      = "172.22.0.128/25" # ERROR: Overlapping networks | network.outside
}
network "broadcast" {
  interface = "eth2"         # ERROR: Interface used twice
  cidr      = "172.24.0.0/24"
  gateway   = "172.24.0.255" # ERROR: Address not usable | broadcast
}
network "network" {
  interface = "eth3"
  cidr      = "172.25.0.0/24"
  gateway   = "172.25.0.0" # ERROR: Address not usable | network address
}
network "range" {
  interface = "eth4"
  cidr      = "172.26.0.0/24"
  gateway   = "172.26.0.1"
  dns       = ["172.26.0.10"]
  dhcp {
    range = "172.26.0.1-172.26.0.20" # ERROR: Range includes the gateway && Range includes a server | DNS
  }
}
network "backwards" {
  interface = "eth5"
  cidr      = "172.27.0.0/24"
  dhcp {
    range = "172.27.0.20-172.27.0.10" # ERROR: Invalid range | before its start
    lease = "1s"                      # ERROR: Duration out of range
    mode  = "sever"                   # ERROR: Unknown choice | Did you mean "server"?
  }
}
network "leaves" {
  interface = "eth6"
  cidr      = "172.28.0.0/24"
  dhcp {
    range = "172.28.0.200-172.28.1.20" # ERROR: Address outside its network
  }
}
network "six" {
  interface = "eth7"
  cidr      = "2001:db8::/64" # ERROR: IPv6 not supported
  dns       = ["2001:db8::1"] # ERROR: IPv6 not supported
}
network "bits" {
  interface = "eth8"
  cidr      = "172.29.0.1/24" # ERROR: Invalid network | 172.29.0.0/24
}
network "tiny" {
  interface = "an-interface-of-too-many-letters" # ERROR: Invalid interface name
  cidr      = "172.30.0.0/31"                    # ERROR: Invalid network | 8 to 30
}
network "proxy" {
  interface = "eth9"
  cidr      = "172.31.0.0/24"
  dhcp {
    mode  = "proxy"
    range = "172.31.0.10-172.31.0.20" # ERROR: Range without server
  }
}
network "text" {
  interface = "eth10"
  cidr      = "not a network"      # ERROR: Invalid network
  gateway   = "192.168.1.1/24"     # ERROR: Invalid address | write "192.168.1.1"
  domain    = "under_score.example" # ERROR: Invalid domain
  dhcp {
    range = "all" # ERROR: Invalid range
  }
  dhcp { # ERROR: Duplicate block
  }
}
network "discover" {
  interface = "eth11"
  cidr      = "192.168.7.0/24"
  unknown   = "discover" # ERROR: Discovery without range
}
network "off" {
  interface = "eth12"
  cidr      = "192.168.8.0/24"
  unknown   = "discover" # ERROR: Discovery without DHCP
  dhcp {
    mode = "off"
  }
}
network "incomplete" { # ERROR: Missing required argument | interface && Missing required argument | "cidr"
}
network "misspelt" {
  gatway     = "192.168.9.1" # ERROR: Unsupported argument | Did you mean "gateway"?
  interface  = "eth13"
  cidr       = "192.168.9.0/24"
  dchp { # ERROR: Unsupported block type | Did you mean "dhcp"?
  }
}

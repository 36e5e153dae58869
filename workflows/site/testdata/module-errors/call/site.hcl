site "bad" {}
network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
}
module "missing" { # ERROR: Missing required argument
}
module "away" {
  source = "git::https://example.org/m" # ERROR: Invalid module source
}
module "absolute" {
  source = "/etc" # ERROR: Invalid module source
}
module "computed" {
  source = "./${network.edge.name}" # ERROR: Invalid module source
}
module "nowhere" {
  source = "./nowhere" # ERROR: Unreadable module
}
module "file" {
  source = "./ok/m.hcl" # ERROR: Unreadable module
}
module "ok" {
  source  = "./ok"
  size    = "seven"     # ERROR: Invalid variable value
  colour  = "red"       # ERROR: Unsupported argument
  network = network.egde # ERROR: Unknown reference
  block {               # ERROR: Unsupported block type
  }
}
module "ok" { # ERROR: Duplicate block
  source = "./ok"
}
module "short" { # ERROR: Missing required argument
  source = "./ok"
}
module "refused" {
  source  = "./ok"
  size    = 70
  network = network.edge
}
module "closed" {
  source = "./closed"
}
module "unparsed" {
  source = "./broken"
}
module "each" {
  source   = "./ok"
  for_each = ["a"]         # ERROR: Wrong type
  network  = local.nothing # ERROR: Unknown reference
}
output "references" {
  value = [
    module.ok.sise,        # ERROR: Unknown reference
    module.okay.size,      # ERROR: Unknown reference
    module.nowhere.size,
    module.unparsed.size,
    module.each["a"].size,
    network.edgy,          # ERROR: Unknown reference
  ]
}

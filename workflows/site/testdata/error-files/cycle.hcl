site "bad" {}
locals {
  a = local.b # ERROR: Dependency cycle | local.b refers to local.c
  b = local.c + 1
  c = local.a
  self = [for x in local.self : x] # ERROR: Dependency cycle | local.self refers to local.self
}

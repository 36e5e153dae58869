site "bad" {}
machine "m" {
  address = "10.0.0.1"
  ssh {
  }
}
workflow "w" {
  step "file" "a" {
    hosts      = machine.m
    path       = "/a"
    content    = "a"
    depends_on = [step.file.c] # ERROR: Dependency cycle | workflow.w.step.file.a refers to workflow.w.step.file.c
  }
  step "file" "b" {
    hosts   = machine.m
    path    = "/b"
    content = step.file.a.sha256
  }
  step "file" "c" {
    hosts   = machine.m
    path    = "/c"
    content = local.through
  }
}
locals {
  through = workflow.w.step.file.b.sha256
}

# Written by `edge-provision bundle build`, and held against the site and the bundle.
# Keep it beside the site, in version control; change it with `bundle build --update`.
format_version = 1

artifact "file" "https://github.com/k3s-io/k3s/releases/download/v1.36.3+k3s1/k3s" {
  digest  = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
  bytes   = 70
  used_by = ["workflow.platform.step.k3s.cluster"]
}

artifact "image" "docker.io/calico/node:v3.32.1" {
  source = "images/node.tar"
  digest = "sha256:2222222222222222222222222222222222222222222222222222222222222222"
  bytes  = 9
}

site "bad" {}
image "both" {
  distribution = "debian"
  release      = "bookworm"
  source       = "disk.img" # ERROR: Two kinds of image
}
image "neither" { # ERROR: Incomplete image | either built
}
image "no-release" { # ERROR: Incomplete image | release
  distribution = "debian"
  packages     = ["Open SSH"] # ERROR: Invalid package name
  kernel       = "cluod"      # ERROR: Unknown choice | Did you mean "cloud"?
  kernel_args  = ["a b"]      # ERROR: Invalid kernel argument
  apt_sources  = ["http://x"] # ERROR: Invalid package source
  size         = 5            # ERROR: Number out of range | GiB
}
image "no-digest" { # ERROR: Incomplete image | digest
  source = "disk.qcow2"
}
image "bad-digest" {
  source   = "ftp://host/disk.img" # ERROR: Unsupported source
  digest   = "sha256:1234"         # ERROR: Invalid digest
  firmware = ["efi"]               # ERROR: Unknown choice | Did you mean "uefi"?
}
image "no-format" {
  source = "disk" # ERROR: Incomplete image | format
  digest = "sha256:8a3f5f6c0b1e4d7792c60d1e5a9b48f3c27d06e1b9f45a830c6d2e7f91b4a056"
}
image "other" {
  distribution = "debain"   # ERROR: Unknown choice | Did you mean "debian"?
  architecture = "arm64"    # ERROR: Unknown choice
  release      = "Bookworm" # ERROR: Incomplete image
}

variable "source" { # ERROR: Reserved name
}
site "inner" { # ERROR: Site block in a module
}

required_version = ">= 9" # ERROR: Unsupported program version
site "later" {
  syntax_of_the_future = true
}

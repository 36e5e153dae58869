site "bad" {
  labels = # ERROR: Invalid expression
}

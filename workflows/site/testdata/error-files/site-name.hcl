site "Store 0421" { # ERROR: Invalid name
}

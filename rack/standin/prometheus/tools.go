//go:build tools

// Package prometheus pins the real Prometheus that tests run; build.sh builds it.
package prometheus

import _ "github.com/prometheus/prometheus/cmd/prometheus"

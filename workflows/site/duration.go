package site

import (
	"time"

	"github.com/edge-provision/edge-provision/inventory/query"
)

// ParseDuration reads what time.ParseDuration reads, and days: "7d", "1d12h".
// A negative duration is refused.
func ParseDuration(s string) (time.Duration, error) { return query.ParseDuration(s) }

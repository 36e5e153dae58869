package query

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ParseDuration reads what time.ParseDuration reads, and days: "7d", "1d12h".
// A negative duration is refused.
func ParseDuration(s string) (time.Duration, error) {
	bad := func() error {
		return fmt.Errorf("%s is not a duration: it is a number with a unit, such as \"90s\", \"30m\", \"1h30m\" or \"7d\"", quote(s))
	}
	rest, total := s, time.Duration(0)
	if days, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, bad()
		}
		total, rest = time.Duration(n)*24*time.Hour, after
		if rest == "" {
			return total, nil
		}
	}
	span, err := time.ParseDuration(rest)
	if err != nil || span < 0 || total+span < 0 {
		return 0, bad()
	}
	return total + span, nil
}

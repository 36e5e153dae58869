package steps

import (
	"testing"
	"time"
)

func TestPlanWaitsForAllBMCsTogether(t *testing.T) {
	var p patience
	first := time.Now()
	for _, tt := range []struct{ after, want time.Duration }{
		{0, planBMCFacts}, {15 * time.Second, 5 * time.Second}, {planBMCFacts, 0}, {time.Minute, planBMCFacts - time.Minute},
	} {
		if got := p.left(first.Add(tt.after)); got != tt.want {
			t.Errorf("left %s after the first = %s; want %s", tt.after, got, tt.want)
		}
	}
}

package workflows

import (
	"strings"
	"testing"
)

func TestClassesAreShownAndAreNoPartOfWhatIsApproved(t *testing.T) {
	p := Plan{Site: "shop", Actions: []Action{{Address: "machine.till", Kind: KindInstall}}}
	was := p.Digest()
	p.Classes = []ClassView{{Name: "till", Machines: 1, Reactions: []string{"machine.till: queued; waits for its turn"}}, {Name: "old"}}
	if got := p.Digest(); got != was {
		t.Errorf("Digest() with classes = %s; want %s as without", got, was)
	}
	var out strings.Builder
	if err := p.Print(&out, PrintOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"    class till: 1 machine\n      machine.till: queued; waits for its turn\n", "    class old: 0 machines\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("Print() =\n%s\nwant %q", out.String(), want)
		}
	}
}

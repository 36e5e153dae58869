// Package class decides which classes of a site a machine is in, and what starts
// because of it. It is pure: it is told what there is and what time it is, and
// says what to do; workflows/steps does it.
//
// A machine is reacted to once for each class and definition of the class. What
// was kept of that decides together with what is observed now, so that a
// controller that was killed at any moment goes on where it stopped.
package class

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/query"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Of lists the names of the classes that a machine is in, sorted. Nil facts are
// those of a machine that was not inspected.
func Of(classes []*site.Class, m inventory.Machine, f *inventory.Facts) ([]string, error) {
	var out []string
	doc := query.NewDoc(m, f)
	for _, c := range classes {
		result, err := c.Match.Eval(doc)
		if err != nil {
			return nil, fmt.Errorf("%s: evaluating its match: %w", c.Address, err)
		}
		if result == query.True {
			out = append(out, c.Name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Digester makes digests that nobody without its key can guess a value at.
type Digester interface {
	Digest(name string, value []byte) string
}

// Digest names the rules of classes: with another digest each machine has to be
// looked at again. keys is asked only about a rule with a sensitive value.
func Digest(classes []*site.Class, keys Digester) string {
	var rules []string
	for _, c := range classes {
		rules = append(rules, c.Name, matchDigest(c, keys))
	}
	return digest(rules...)
}

func matchDigest(c *site.Class, keys Digester) string {
	return c.Match.Digest(func(form []byte) string { return keys.Digest("match of a class", form) })
}

func digest(parts ...string) string {
	sum := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(sum, "%d:%s", len(p), p)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil))
}

// Rule is what a class starts.
type Rule struct {
	Class  string
	Digest string
	// Former is the digest that programs gave the same definition which digested
	// a rule as it is shown: see Renew.
	Former string
	// Machines is the name of the machines that may be installed; empty: none
	// are. Provision are their addresses.
	Machines  string
	Provision []string
	Workflow  string // address; empty: none
	AtOnce    int
	PerHour   int
}

// Rules are those of the classes that start something, in their order. The digest
// is over what is started and when, not over how many at a time; another
// instance of the machines that are provisioned does not change it.
func Rules(classes []*site.Class, keys Digester) []Rule {
	var out []Rule
	for _, c := range classes {
		if c.React == nil {
			continue
		}
		r := Rule{Class: c.Name, Machines: c.React.Machines, Provision: c.React.Provision, Workflow: c.React.Workflow, AtOnce: c.React.AtOnce, PerHour: c.React.PerHour}
		r.Digest = digest(c.Name, matchDigest(c, keys), r.Machines, r.Workflow)
		r.Former = digest(c.Name, c.Match.String(), r.Machines, r.Workflow)
		out = append(out, r)
	}
	return out
}

// provisions reports whether the rule may install an address.
func (r Rule) provisions(address string) bool { return slices.Contains(r.Provision, address) }

// Member is a machine of the site.
type Member struct {
	Machine uuid.UUID
	Classes []string
	// Address is what it is in site.hcl; empty: nothing.
	Address string
	// Installed says that this catalog installed it, and no other machine, as
	// that, or that it runs by itself and is only reached.
	Installed bool
	// Taken says that the catalog holds an installation at the address which is
	// not this machine's: an apply would take the machine for installed.
	Taken bool
}

// Renew gives kept reactions that bear the former digest of a rule its digest. A
// machine that was reacted to before this program came is then not reacted to
// again, and is when the rule is edited after. renewed are the rules for which
// there was such a reaction.
func Renew(rules []Rule, kept []inventory.Reaction) (out []inventory.Reaction, renewed []Rule) {
	out = slices.Clone(kept)
	for _, rule := range rules {
		known := map[uuid.UUID]bool{}
		for _, r := range kept {
			if r.Class == rule.Class && r.Digest == rule.Digest {
				known[r.Machine] = true
			}
		}
		count := 0
		for i, r := range out {
			// What was kept twice, by programs of both kinds, stays as it is.
			if r.Class == rule.Class && r.Digest == rule.Former && !known[r.Machine] {
				out[i].Digest = rule.Digest
				count++
			}
		}
		if count > 0 {
			renewed = append(renewed, rule)
		}
	}
	return out, renewed
}

// key is what a machine is reacted to once for.
type key struct {
	machine       uuid.UUID
	class, digest string
}

// Due lists the reactions that are to be kept because a machine is in a class, in
// the order in which the machines came. One that has nothing left to do is done
// from the start.
func Due(siteName string, rules []Rule, members []Member, kept []inventory.Reaction) []inventory.Reaction {
	known := map[key]bool{}
	for _, r := range kept {
		known[key{r.Machine, r.Class, r.Digest}] = true
	}
	var out []inventory.Reaction
	for _, m := range members {
		for _, rule := range rules {
			if !slices.Contains(m.Classes, rule.Class) || known[key{m.Machine, rule.Class, rule.Digest}] {
				continue
			}
			if rule.Workflow == "" && m.Address != "" && !rule.provisions(m.Address) {
				continue // it is declared as something else, and stays that
			}
			r := inventory.Reaction{Site: siteName, Machine: m.Machine, Class: rule.Class, Digest: rule.Digest, State: inventory.ReactionQueued}
			if rule.Workflow == "" && m.Installed {
				r.State, r.Address, r.Reason = inventory.ReactionDone, m.Address, "it is installed already"
			}
			out = append(out, r)
		}
	}
	return out
}

// Move is what to do about a kept reaction.
type Move struct {
	Reaction inventory.Reaction
	// To is started, queued (to keep Reason), or how it ends.
	To     inventory.ReactionState
	Reason string
	// Address and Rule are of what is started.
	Address string
	Rule    Rule
}

// maxAttempts bounds how often a reaction is started that is cut off each time:
// what it starts may be what kills the controller.
const maxAttempts = 3

// Decide says what to do now, in the order of arrival. running are the reactions
// that are under way in this process: any other that is started was cut off, and
// goes on.
func Decide(now time.Time, rules []Rule, members []Member, kept []inventory.Reaction, running map[int64]bool) []Move {
	d := decision{now: now, members: map[uuid.UUID]Member{}, rules: map[string]Rule{}, active: map[string]int{}, lately: map[string]int{}}
	for _, m := range members {
		d.members[m.Machine] = m
	}
	for _, r := range rules {
		d.rules[r.Class] = r
	}
	for _, r := range kept {
		if r.State == inventory.ReactionStarted {
			d.active[r.Class]++
		}
		if r.StartedAt.After(now.Add(-time.Hour)) {
			d.lately[r.Class]++
		}
	}
	for _, r := range kept {
		switch {
		case r.State == inventory.ReactionStarted && !running[r.ID]:
			d.resume(r)
		case r.State == inventory.ReactionQueued:
			d.admit(r)
		}
	}
	return d.moves
}

type decision struct {
	now     time.Time
	rules   map[string]Rule
	members map[uuid.UUID]Member
	active  map[string]int // started, by class
	lately  map[string]int // started within the hour, by class
	moves   []Move
}

func (d *decision) end(r inventory.Reaction, to inventory.ReactionState, reason string) {
	d.moves = append(d.moves, Move{Reaction: r, To: to, Reason: reason})
}

// resume goes on with what was cut off, as what the machine is now. It has its
// place already, and holds it.
func (d *decision) resume(r inventory.Reaction) {
	rule, m := d.rules[r.Class], d.members[r.Machine]
	over := func(to inventory.ReactionState, reason string) {
		d.active[r.Class]--
		d.end(r, to, reason)
	}
	// What is recorded at the address that it was started as, it may have
	// recorded itself.
	taken := rule.takes(m) && m.Address != r.Address
	lapsed := rule.lapsed(r, m)
	if lapsed == "" && !taken {
		lapsed = rule.obstacle(m)
	}
	switch {
	case lapsed != "":
		over(inventory.ReactionDropped, "it was cut off, and "+lapsed)
	case taken:
		over(inventory.ReactionRefused, takenText(m.Address))
	case r.Attempts >= maxAttempts:
		over(inventory.ReactionFailed, fmt.Sprintf("the controller ended %d times while it was under way; `edge-provision apply` continues it", r.Attempts))
	default:
		d.moves = append(d.moves, Move{Reaction: r, To: inventory.ReactionStarted, Address: m.Address, Rule: rule})
	}
}

// admit starts what waits, when nothing stands against it.
func (d *decision) admit(r inventory.Reaction) {
	rule, m := d.rules[r.Class], d.members[r.Machine]
	lapsed := rule.lapsed(r, m)
	switch {
	case lapsed != "":
		d.end(r, inventory.ReactionDropped, lapsed)
	case rule.takes(m):
		d.end(r, inventory.ReactionRefused, takenText(m.Address))
	default:
		if why := rule.obstacle(m); why != "" {
			d.moves = append(d.moves, Move{Reaction: r, To: inventory.ReactionQueued, Reason: why})
			return
		}
		if d.active[r.Class] >= rule.AtOnce || d.lately[r.Class] >= rule.PerHour {
			return
		}
		d.active[r.Class]++
		d.lately[r.Class]++
		d.moves = append(d.moves, Move{Reaction: r, To: inventory.ReactionStarted, Address: m.Address, Rule: rule})
	}
}

// lapsed is why a reaction is no business of its class any more; empty while it
// is. The rule is the one that the class has now, zero for none; so is m for a
// machine that is not there.
func (r Rule) lapsed(kept inventory.Reaction, m Member) string {
	switch {
	case r.Class == "":
		return "the class starts nothing any more"
	case r.Digest != kept.Digest:
		return "the class has been changed since"
	case !slices.Contains(m.Classes, kept.Class):
		return "the machine left the class"
	}
	return ""
}

// Lapsed is why what a move started must not go on, by the rules and the machine
// as they are now; empty while it may. A machine that is not there is zero.
func (m Move) Lapsed(rules []Rule, now Member) string {
	var rule Rule
	for _, r := range rules {
		if r.Class == m.Reaction.Class {
			rule = r
		}
	}
	if lapsed := rule.lapsed(m.Reaction, now); lapsed != "" {
		return lapsed
	}
	switch {
	case now.Address == "":
		return "the machine is not " + m.Address + " any more"
	case now.Address != m.Address:
		return fmt.Sprintf("the machine is %s now, and not %s any more", now.Address, m.Address)
	case m.Rule.provisions(m.Address) && !rule.provisions(m.Address):
		return "the class does not provision " + m.Address + " any more"
	}
	return ""
}

// takes reports whether the rule would install a machine at an address where
// another one's installation is recorded.
func (r Rule) takes(m Member) bool { return m.Taken && r.provisions(m.Address) }

// takenText says what a person does about that.
func takenText(address string) string {
	return fmt.Sprintf("the catalog holds an installation of %s that is not this machine's: `edge-provision destroy --forget --target '%s'` forgets it; then `edge-provision apply` installs this one", address, address)
}

// obstacle is why the work cannot start on a machine now; empty when it can.
func (r Rule) obstacle(m Member) string {
	switch {
	case r.Machines != "" && m.Address == "":
		return fmt.Sprintf("%s has %d places, and other machines have taken them; declare one more", r.Machines, len(r.Provision))
	case m.Address == "":
		return "it is no machine of site.hcl, so that no step works on it"
	case m.Taken && !r.provisions(m.Address):
		return "the catalog holds an installation of " + m.Address + " that is not this machine's, and the class does not provision it"
	case !m.Installed && !r.provisions(m.Address):
		return m.Address + " is not installed yet, and the class does not provision it"
	}
	return ""
}

// Preview is what a class starts, or would start, for one machine.
type Preview struct {
	Class   string
	Machine uuid.UUID
	Address string
	// State is empty for what is not kept yet.
	State inventory.ReactionState
	// Text says what is started, or why it is not, in a few words.
	Text string
}

// Previews says what would be done now if somebody served the site: about every
// machine of a class that starts something, but for those that are done.
func Previews(now time.Time, siteName string, rules []Rule, members []Member, kept []inventory.Reaction) []Preview {
	due := Due(siteName, rules, members, kept)
	all := slices.Clone(kept)
	for i, r := range due {
		r.ID = -1 - int64(i) // no kept one has it
		all = append(all, r)
	}
	moves := map[int64]Move{}
	for _, m := range Decide(now, rules, members, all, nil) {
		moves[m.Reaction.ID] = m
	}
	current := map[string]Rule{}
	for _, r := range rules {
		current[r.Class] = r
	}
	var out []Preview
	for _, r := range all {
		if rule, ok := current[r.Class]; !ok || rule.Digest != r.Digest || r.State == inventory.ReactionDone || r.State == inventory.ReactionDropped {
			continue
		}
		p := Preview{Class: r.Class, Machine: r.Machine, Address: r.Address, Text: r.Reason}
		if r.ID > 0 {
			p.State = r.State
		}
		if !r.State.Final() {
			switch m := moves[r.ID]; {
			case r.State == inventory.ReactionStarted && r.Reason != "": // which it waits for
			case m.To == inventory.ReactionStarted:
				p.Address, p.Text = m.Address, m.Rule.work(m.Address)
			case m.Reason != "":
				p.Text = m.Reason
			default:
				p.Text = "waits for its turn"
			}
		}
		out = append(out, p)
	}
	return out
}

// work says what the rule does for a machine.
func (r Rule) work(address string) string {
	var parts []string
	if r.provisions(address) {
		parts = append(parts, "provisions "+address)
	}
	if r.Workflow != "" {
		parts = append(parts, "runs "+r.Workflow+" on "+address)
	}
	return strings.Join(parts, " and ")
}

// Steps are the steps of a workflow that can run now because of a machine: they
// wait for it, at whatever distance, and every machine that they wait for is
// installed.
func Steps(s *site.Site, workflow, address string, installed func(address string) bool) []string {
	below := map[string][]string{}
	for _, e := range s.Graph().Edges {
		below[e.From] = append(below[e.From], e.To)
	}
	var out []string
	for _, w := range s.Workflows {
		if w.Address != workflow {
			continue
		}
		for _, step := range w.Steps {
			closure := reach(below, step.Address)
			ready := closure[address]
			for _, m := range s.Machines {
				ready = ready && (!closure[m.Address] || installed(m.Address))
			}
			if ready {
				out = append(out, step.Address)
			}
		}
	}
	return out
}

// reach is everything that an address waits for.
func reach(below map[string][]string, from string) map[string]bool {
	seen := map[string]bool{}
	todo := []string{from}
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, next := range below[at] {
			if !seen[next] {
				seen[next] = true
				todo = append(todo, next)
			}
		}
	}
	return seen
}

package k3s

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
)

// scene is everything that was seen at one moment.
type scene struct {
	seen []*observation
	// members is what a live server says of the nodes; nil when none answers.
	members map[string]member
	// live are the machines whose API server answered.
	live []string
	// silent says of each declared server why its API did not answer, or was not
	// asked; nil when it did.
	silent []error
}

// need is what has to be done to a node, in the order in which needs outweigh
// each other.
type need int

const (
	nothing need = iota
	settle       // files or objects that K3s takes up while it runs
	restart
	start
	upgrade
	enter // joins the cluster, or begins it
)

// target is one declared node: what it should have, and what it lacks.
type target struct {
	*observation
	self   self
	files  []file
	digest string
	need   need
	// member is the node as the cluster knows it; nil when it does not.
	member *member
	// swap says that the binary is put in place without an upgrade, and expect
	// which version is to run after what is done next.
	swap   bool
	expect Version
	// missing are the paths of files and images to write, stale of those to
	// remove.
	missing, stale []string
	// replaces says that the cluster knows the name from a machine that this
	// one is not.
	replaces bool
	// relabel says that labels or taints differ; uncordon that a cordon of
	// ours is left over.
	relabel, uncordon bool
	changes           []string
}

func (t *target) change(n need, format string, args ...any) {
	t.need = max(t.need, n)
	t.changes = append(t.changes, fmt.Sprintf(format, args...))
}

// decision is what is to be done to a cluster.
type decision struct {
	targets []*target
	tokens  Tokens
	// fresh says that no server had tokens and the cluster begins.
	fresh bool
	// leavers are nodes that came by us and are no longer declared.
	leavers []member
	// snapshots are the declared ones that have not been taken.
	snapshots []string
	// upgrading says that some node's program is replaced.
	upgrading bool
}

// empty reports whether everything is as declared.
func (d *decision) empty() bool { return len(d.changes()) == 0 }

// changes are lines for a person.
func (d *decision) changes() []string {
	var out []string
	for _, t := range d.targets {
		for _, c := range t.changes {
			out = append(out, t.node.Machine+": "+c)
		}
	}
	for _, m := range d.leavers {
		out = append(out, fmt.Sprintf("node %s is no longer declared: it is drained and removed from the cluster", m.Name))
	}
	for _, s := range d.snapshots {
		out = append(out, fmt.Sprintf("the snapshot %q has not been taken", s))
	}
	return out
}

// decide compares what was seen with what is declared. It asks nobody and
// changes nothing; fresh are the tokens of a cluster that begins.
func (c *Cluster) decide(s scene, fresh Tokens) (*decision, error) {
	if err := c.refusals(s); err != nil {
		return nil, err
	}
	servers := s.seen[:len(c.Servers)]
	d := &decision{}
	d.tokens, d.fresh = c.tokens(servers, fresh)
	ca := cluster(s.seen)
	for i, o := range s.seen {
		t := &target{observation: o}
		t.self = self{node: o.node, role: o.role, tokens: d.tokens, ca: ca, join: c.join(s, i)}
		var err error
		if t.files, err = c.files(t.self); err != nil {
			return nil, err
		}
		t.digest = digest(c.Binary.SHA256, t.files)
		if m, ok := s.members[o.node.Name]; ok {
			t.member = &m
		}
		c.compare(t, s)
		d.upgrading = d.upgrading || t.need == upgrade
		d.targets = append(d.targets, t)
	}
	for _, name := range slices.Sorted(maps.Keys(s.members)) {
		m := s.members[name]
		declared := slices.ContainsFunc(c.all(), func(n Node) bool { return n.Name == name })
		if m.Owner == c.Owner && !declared {
			d.leavers = append(d.leavers, m)
		}
	}
	for _, name := range c.Snapshots.Named {
		if !taken(name, servers) {
			d.snapshots = append(d.snapshots, name)
		}
	}
	return d, nil
}

// refusals finds what must not go on, whatever is asked for.
func (c *Cluster) refusals(s scene) error {
	var errs []error
	clusters := map[string][]string{}
	joined := 0
	for _, o := range s.seen {
		other := agent
		if o.role == agent {
			other = server
		}
		if _, has := o.files[other.unitPath()]; has {
			errs = append(errs, refuse("%s is a K3s %s and is declared as %s: a node does not change what it is. Take it out of the step, apply, and put it back",
				o.node.Machine, other, o.role))
		}
		if o.ca != "" && o.joined {
			clusters[o.ca] = append(clusters[o.ca], o.node.Machine)
		}
		if o.joined && o.role == server {
			joined++
		}
		if behind := -o.skew.Round(time.Second); !o.joined && (behind > maxSkew || behind < -maxSkew) {
			where := "behind"
			if behind < 0 {
				behind, where = -behind, "ahead of"
			}
			errs = append(errs, refuse("%s: its clock is %s %s this controller's. Certificates would not be valid there; set the clock, and see that it has a time server (ntp of its network)",
				o.node.Machine, behind, where))
		}
		if o.joined && o.started.Fixed != "" && o.started.Fixed != c.fixed() {
			errs = append(errs, refuse("%s: the cluster was made with %s, and %s is declared: K3s cannot change that later. Declare it as it was, or destroy the cluster first",
				o.node.Machine, o.started.Fixed, c.fixed()))
		}
		errs = append(errs, c.checkAddress(o.node.Machine, o.node.IP))
		for _, n := range o.networks {
			errs = append(errs, c.checkNetwork(o.node.Machine, n))
		}
		if o.joined && o.files[binaryPath].SHA256 != c.Binary.SHA256 {
			if from := runs(o, s.members); from != (Version{}) {
				errs = append(errs, wrapRefusal(o.node.Machine, CheckUpgrade(from, c.Version)))
			}
		}
	}
	errs = append(errs, c.checkEncryption(s.seen[:len(c.Servers)]))
	if len(clusters) > 1 {
		var text []string
		for _, machines := range clusters {
			text = append(text, strings.Join(machines, ", "))
		}
		slices.Sort(text)
		errs = append(errs, refuse("the machines are in different clusters: %s. Decide which one is to stay, and uninstall K3s from the others", strings.Join(text, "; and ")))
	}
	if c.Recorded && joined == 0 {
		errs = append(errs, refuse("the catalog knows of this cluster, and no declared server has its data. A new cluster would be empty, so none is begun. "+
			"Bring a server with its disk back, or restore a snapshot by hand (k3s server --cluster-reset); to begin anew, run `edge-provision destroy -target=%s` first", c.Owner))
	}
	return errors.Join(errs...)
}

// fixed are the settings that K3s cannot change later
// (docs.k3s.io/cli/server, "Critical Configuration Values").
func (c *Config) fixed() string {
	return fmt.Sprintf("cluster_cidr %s and service_cidr %s", c.ClusterCIDR, c.ServiceCIDR)
}

func wrapRefusal(machine string, err error) error {
	if err == nil {
		return nil
	}
	return refuse("%s: %s", machine, err)
}

// checkNetwork refuses a network of a machine that is also one of the cluster.
func (c *Config) checkNetwork(machine string, n netip.Prefix) error {
	for _, own := range []struct {
		what   string
		prefix netip.Prefix
	}{{"cluster_cidr", c.ClusterCIDR}, {"service_cidr", c.ServiceCIDR}} {
		if own.prefix.Overlaps(n) && n.Bits() > 0 {
			return refuse("%s is on network %s, which overlaps with the %s %s: what is sent to the one would end up in the other. Set %s to a network that the site does not use",
				machine, n, own.what, own.prefix, own.what)
		}
	}
	return nil
}

// runs is the version that a node runs; zero when nobody tells.
func runs(o *observation, members map[string]member) Version {
	if v, err := ParseVersion(members[o.node.Name].Version); err == nil {
		return v
	}
	return o.version
}

// tokens are those that the cluster has; of different ones, those that most
// servers have. A cluster that begins has those that its servers were prepared
// with, the last known ones, or fresh ones.
func (c *Cluster) tokens(servers []*observation, fresh Tokens) (Tokens, bool) {
	pick := func(of func(Tokens) string) string {
		votes := map[string]int{}
		best := ""
		for _, joined := range []bool{true, false} {
			for _, o := range servers {
				if t := of(o.tokens); t != "" && o.joined == joined {
					if votes[t]++; votes[t] > votes[best] {
						best = t
					}
				}
			}
			if best != "" {
				break
			}
		}
		return best
	}
	first := func(of func(Tokens) string) (string, bool) {
		if t := pick(of); t != "" {
			return t, false
		}
		if t := of(c.Known); t != "" {
			return shortToken(t), false
		}
		return of(fresh), true
	}
	var t Tokens
	var a, b bool
	t.Server, a = first(func(t Tokens) string { return t.Server })
	t.Agent, b = first(func(t Tokens) string { return t.Agent })
	return t, a || b
}

// cluster is the digest of the CA of the cluster that the machines are in.
func cluster(seen []*observation) string {
	for _, o := range seen {
		if o.joined && o.ca != "" {
			return o.ca
		}
	}
	return ""
}

// join decides how node i is, or came, in. What a member came in with is kept as
// long as it names a declared server.
func (c *Cluster) join(s scene, i int) join {
	o := s.seen[i]
	servers := s.seen[:len(c.Servers)]
	if o.joined && o.join != nil {
		if o.join.Init && o.role == server {
			return *o.join
		}
		for _, other := range servers {
			if other != o && other.node.IP == o.join.Server {
				return *o.join
			}
		}
	}
	for _, alive := range []bool{true, false} {
		for _, other := range servers {
			if other != o && other.joined && (!alive || slices.Contains(s.live, other.node.Machine)) {
				return join{Server: other.node.IP}
			}
		}
	}
	// Nobody else has a cluster: the first server begins it, the others join
	// the first.
	first := servers[0]
	if o == first || o.joined && o.role == server {
		return join{Init: true}
	}
	return join{Server: first.node.IP}
}

// compare finds what a node lacks.
func (c *Cluster) compare(t *target, s scene) {
	c.compareFiles(t)
	installed := t.files[0].Path
	_, has := t.observation.files[installed]
	u := t.units[t.role.unit()]
	binary := t.observation.files[binaryPath].SHA256
	t.expect = c.Version
	switch {
	case !t.joined:
		// What is missing on a machine that has nothing goes without saying.
		t.changes = nil
		how := "joins the cluster as " + map[role]string{server: "a server", agent: "an agent"}[t.role]
		if t.self.join.Init {
			how = "begins the cluster"
		}
		what := "is not installed"
		if has {
			what = "was prepared and never got ready"
		}
		t.change(enter, "K3s %s %s: it %s", c.Version, what, how)
	case !u.running() && binary != c.Binary.SHA256 && (t.version == Version{} || t.version == c.Version):
		// Nothing runs that could be upgraded, and what there is is no
		// release that could be started first.
		t.swap = true
		t.change(start, "%s is missing or damaged, and %s.service is %s", binaryPath, t.role.unit(), state(u))
	case !u.running():
		if binary != c.Binary.SHA256 {
			t.expect = t.version
		}
		t.change(start, "%s.service is %s", t.role.unit(), state(u))
	case binary != c.Binary.SHA256:
		from := "another binary"
		if v := runs(t.observation, s.members); v != (Version{}) && v != c.Version {
			from = v.String()
		}
		t.change(upgrade, "runs %s, declared is %s", from, c.Version)
	case t.started.Digest != t.digest && len(t.missing) == 0:
		t.change(restart, "was not restarted, or not seen to get ready, since its files were changed")
	}
	if t.joined && u.Enabled != "enabled" && u.Load == "loaded" {
		t.change(settle, "%s.service does not start with the machine", t.role.unit())
	}
	c.compareMember(t, s)
}

// state says how a unit is not running.
func state(u unit) string {
	switch {
	case u.Load == "masked":
		return "masked"
	case u.Active == "failed":
		return "failed"
	case u.Active == "":
		return "missing"
	}
	return "stopped"
}

// compareFiles finds files that are not as they should be.
func (c *Cluster) compareFiles(t *target) {
	want := map[string]bool{}
	for _, f := range t.files {
		want[f.Path] = true
		got, ok := t.observation.files[f.Path]
		n := restart
		if f.live() {
			n = settle
		}
		switch {
		case !ok:
			t.change(n, "%s is missing", f.Path)
		case got.SHA256 != f.sum():
			t.change(n, "%s has other content", f.Path)
		case got.Mode != f.Mode:
			t.change(n, "%s has mode %04o instead of %04o", f.Path, got.Mode, f.Mode)
		case got.UID != 0 || got.GID != 0:
			if c.root != nil {
				continue // a test that does not run as root
			}
			t.change(n, "%s belongs to %d:%d instead of root", f.Path, got.UID, got.GID)
		default:
			continue
		}
		t.missing = append(t.missing, f.Path)
	}
	for _, image := range c.Images {
		p := imagePath(image)
		want[p] = true
		if got, ok := t.observation.files[p]; !ok || got.SHA256 != image.SHA256 {
			n := settle
			if c.Version.Major == 1 && c.Version.Minor < 32 {
				// Before v1.32 images were imported at start only.
				n = restart
			}
			t.change(n, "the images of %s are missing", image.Source)
			t.missing = append(t.missing, p)
		}
	}
	for _, l := range links {
		// As K3s's install script, only where nothing else has the name.
		if _, file := t.observation.files[l]; !t.links[l] && !file && !slices.Contains(t.commands, path.Base(l)) {
			t.change(settle, "%s is missing", l)
			t.missing = append(t.missing, l)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(t.observation.files)) {
		image := strings.HasPrefix(p, imagesDir+"/"+imagePrefix)
		if !want[p] && (image || slices.Contains(t.started.Files, p)) {
			n := restart
			if image || (file{Path: p}).live() {
				n = settle
			}
			t.change(n, "%s is no longer declared", p)
			t.stale = append(t.stale, p)
		}
	}
}

// compareMember finds what the cluster knows wrong about a node.
func (c *Cluster) compareMember(t *target, s scene) {
	if s.members == nil {
		return
	}
	m := t.member
	switch {
	case m == nil && t.joined && t.need < restart:
		t.change(restart, "node %s is not in the cluster", t.node.Name)
	case m != nil && !t.joined:
		t.replaces = true
		t.change(enter, "takes the place of the node %s that the cluster knows, which is removed first", t.node.Name)
	}
	if m == nil || t.replaces {
		return
	}
	if m.Cordoned {
		t.uncordon = true
		if t.need != upgrade {
			t.change(settle, "is still cordoned by an upgrade that was cut off")
		}
	}
	for _, d := range append(c.labelChanges(t.node, m), ownerChanges(c.Owner, t.node, m)...) {
		t.relabel = true
		t.change(settle, "%s", d)
	}
}

// applied is what was last set on a node.
type applied struct {
	Labels []string `json:"labels,omitempty"`
	Taints []string `json:"taints,omitempty"`
}

func appliedOf(n Node) applied {
	return applied{Labels: slices.Sorted(maps.Keys(n.Labels)), Taints: slices.Sorted(slices.Values(n.Taints))}
}

// ownerChanges says whether a node has yet to be marked as ours. That is not a
// change that anybody has to see, unless the node was another's.
func ownerChanges(owner string, n Node, m *member) []string {
	if m.Owner == owner && m.Machine == n.Machine {
		return nil
	}
	return []string{"its node is not marked as this step's"}
}

// labelChanges are the differences of labels and taints; those that nobody
// declared and that we did not set are left alone.
func (c *Cluster) labelChanges(n Node, m *member) []string {
	var before applied
	// What cannot be read was not ours.
	_ = json.Unmarshal([]byte(m.Applied), &before)
	var out []string
	for _, k := range slices.Sorted(maps.Keys(n.Labels)) {
		if got, ok := m.Labels[k]; !ok || got != n.Labels[k] {
			out = append(out, fmt.Sprintf("label %s is not %q", k, n.Labels[k]))
		}
	}
	for _, k := range before.Labels {
		if _, still := n.Labels[k]; !still {
			out = append(out, fmt.Sprintf("label %s is no longer declared", k))
		}
	}
	have := map[string]bool{}
	for _, t := range m.Taints {
		have[taintText(t)] = true
	}
	for _, t := range n.Taints {
		if !have[t] {
			out = append(out, fmt.Sprintf("taint %s is missing", t))
		}
	}
	for _, t := range before.Taints {
		if !slices.Contains(n.Taints, t) {
			out = append(out, fmt.Sprintf("taint %s is no longer declared", t))
		}
	}
	return out
}

// waves is the order in which nodes are changed: what stands in one wave is
// changed at the same time, and a wave begins when the one before is ready.
// Stopped servers are started together, because one alone has no majority; what
// makes a server unavailable happens one at a time; agents come after servers.
func (d *decision) waves() [][]*target {
	var starts []*target
	var waves [][]*target
	of := func(r role, n need) []*target {
		var out []*target
		for _, t := range d.targets {
			if t.role == r && t.need == n {
				out = append(out, t)
			}
		}
		return out
	}
	each := func(ts []*target) {
		for _, t := range ts {
			waves = append(waves, []*target{t})
		}
	}
	if starts = of(server, start); len(starts) > 0 {
		waves = append(waves, starts)
	}
	restarts, upgrades := of(server, restart), of(server, upgrade)
	// Nobody can join through a server that runs with other critical settings.
	each(slices.DeleteFunc(slices.Concat(restarts, upgrades), func(t *target) bool { return !t.differs() }))
	joins := of(server, enter)
	// Who begins the cluster comes before who joins it.
	slices.SortStableFunc(joins, func(a, b *target) int {
		switch {
		case a.self.join.Init == b.self.join.Init:
			return 0
		case a.self.join.Init:
			return -1
		}
		return 1
	})
	each(joins)
	each(slices.DeleteFunc(restarts, (*target).differs))
	each(slices.DeleteFunc(upgrades, (*target).differs))
	if agents := slices.Concat(of(agent, start), of(agent, enter), of(agent, restart)); len(agents) > 0 {
		waves = append(waves, agents)
	}
	each(of(agent, upgrade))
	return waves
}

package k3s

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// Report is the answer of an inspection.
type Report struct {
	// Unreachable says who could not be asked; the rest says nothing then.
	Unreachable string
	// Absent says that no declared machine has data of a cluster.
	Absent bool
	// Changes are lines of what Apply would do; empty: nothing.
	Changes []string
}

// Inspect looks and changes nothing. What must not go on as declared is a
// *RefusedError.
func (c *Cluster) Inspect(ctx context.Context) (Report, error) {
	s, clients, err := c.survey(ctx)
	if err != nil {
		return Report{}, err
	}
	if errs := s.unreachable(); len(errs) > 0 {
		return Report{Unreachable: errors.Join(errs...).Error()}, nil
	}
	d, err := c.decide(s, Tokens{Server: "unknown", Agent: "unknown"})
	if err != nil {
		return Report{}, err
	}
	r := Report{Absent: true, Changes: d.changes()}
	for _, o := range s.seen {
		r.Absent = r.Absent && !o.joined
	}
	if len(clients) == 0 && !r.Absent && len(r.Changes) == 0 {
		// Everything is in place and running, and nobody answers.
		r.Unreachable = "the servers run K3s, and no API server answers: " + s.silence()
	}
	return r, nil
}

// silence says why servers' APIs did not answer.
func (s scene) silence() string {
	var why []string
	for _, err := range s.silent {
		if err != nil {
			why = append(why, err.Error())
		}
	}
	return strings.Join(why, "; ")
}

// unreachable are the reasons of machines that could not be asked.
func (s scene) unreachable() []error {
	var errs []error
	for _, o := range s.seen {
		if o.err != nil {
			errs = append(errs, o.err)
		}
	}
	return errs
}

// survey looks at all machines and at the cluster. The clients are of servers
// that answer, in the declared order.
func (c *Cluster) survey(ctx context.Context) (scene, []*live, error) {
	s := scene{seen: c.observe(ctx)}
	if ctx.Err() != nil {
		return s, nil, context.Cause(ctx)
	}
	found := make([]*live, len(c.Servers))
	s.silent = make([]error, len(c.Servers))
	var wg sync.WaitGroup
	for i, o := range s.seen[:len(c.Servers)] {
		if s.silent[i] = o.unasked(); s.silent[i] != nil {
			continue
		}
		wg.Go(func() {
			cl, err := c.client(ctx, o)
			if err != nil {
				s.silent[i] = err
				return
			}
			found[i] = &live{client: cl, machine: o.node.Machine, node: o.node}
		})
	}
	wg.Wait()
	var clients []*live
	for _, l := range found {
		if l == nil {
			continue
		}
		clients = append(clients, l)
		s.live = append(s.live, l.machine)
	}
	var err error
	for _, l := range clients {
		if s.members, err = l.members(ctx); err == nil {
			break
		}
	}
	// A machine that was joining when it was looked at may be a node by now: who is
	// looked at again is not taken for another in its place.
	for i, o := range s.seen {
		if _, known := s.members[o.node.Name]; known && o.err == nil && !o.joined && o.units[o.role.unit()].running() {
			s.seen[i] = c.observeOne(ctx, o.node, o.role)
		}
	}
	return s, clients, err
}

// unasked is why a server's API is not asked; nil: it is.
func (o *observation) unasked() error {
	u := o.units[server.unit()]
	switch {
	case o.err != nil:
		return o.err
	case !o.joined:
		return fmt.Errorf("%s: it has no data of a cluster", o.node.Machine)
	case !u.running():
		return fmt.Errorf("%s: %s.service is %s; see on it: journalctl -u %[2]s.service", o.node.Machine, server.unit(), state(u))
	}
	return nil
}

// live is a server that answers.
type live struct {
	*client
	machine string
	node    Node
}

// client makes a client of one server and asks it whether it is ready. That it
// gives no answer is known after requestTimeout, however many questions that
// takes: a plan asks each server of a cluster that may be silent.
func (c *Cluster) client(ctx context.Context, o *observation) (*client, error) {
	h, err := c.host(ctx, o.node.Machine)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	f, err := h.read(ctx, kubeconfigPath)
	if err != nil {
		return nil, err
	}
	a, err := kubeconfig(f, endpoint(o.node.IP), c.Owner)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.node.Machine, err)
	}
	a.agentToken = o.tokens.Agent
	cl, err := c.connect(ctx, a)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return cl, cl.ready(ctx)
}

// kubeconfig turns the one that a server keeps for itself into one that works
// from elsewhere.
func kubeconfig(content []byte, endpoint, name string) (access, error) {
	config, err := clientcmd.Load(content)
	if err != nil {
		return access{}, fmt.Errorf("reading %s: %w", kubeconfigPath, err)
	}
	for _, cluster := range config.Clusters {
		cluster.Server = endpoint
	}
	b, err := clientcmd.Write(*config)
	if err != nil {
		return access{}, fmt.Errorf("writing the kubeconfig of %s: %w", name, err)
	}
	return access{endpoint: endpoint, kubeconfig: b}, nil
}

// Apply makes the cluster as declared, from wherever it stands, and returns what
// others need of it. It goes in passes: it looks, does the first thing that is
// due, and looks again.
func (c *Cluster) Apply(ctx context.Context) (Outputs, error) {
	fresh, err := newTokens()
	if err != nil {
		return Outputs{}, err
	}
	last := ""
	for range 8 + 6*len(c.all()) {
		s, clients, err := c.surveyPatiently(ctx)
		if err != nil {
			return Outputs{}, err
		}
		late, err := c.reachable(&s)
		if err != nil {
			return Outputs{}, err
		}
		d, err := c.decide(s, fresh)
		if err != nil {
			return Outputs{}, err
		}
		if d.empty() {
			if late != nil {
				return Outputs{}, late
			}
			return c.outputs(ctx, s, clients, d)
		}
		now := strings.Join(d.changes(), "\n")
		if now == last {
			return Outputs{}, fmt.Errorf("this was done and is not so: %s; something else changes it too", strings.Join(d.changes(), "; "))
		}
		last = now
		if err := c.pass(ctx, s, clients, d); err != nil {
			return Outputs{}, errors.Join(err, late)
		}
	}
	return Outputs{}, errors.New("the cluster does not settle; something else changes it at the same time")
}

// patience is how long servers that run K3s may be silent, as they are for some
// seconds after a member of etcd has come or gone.
const patience = 2 * time.Minute

// surveyPatiently surveys until a server answers, where one should: one runs
// that has the cluster's data, and none has yet to be started.
func (c *Cluster) surveyPatiently(ctx context.Context) (s scene, clients []*live, err error) {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	last := c.wait(bounded, 2*time.Second, func(context.Context) error {
		// Not under the bound: a survey that has begun is finished.
		if s, clients, err = c.survey(ctx); err != nil || len(clients) > 0 {
			return err
		}
		runs := false
		for _, o := range s.seen[:len(c.Servers)] {
			up := o.units[server.unit()].running()
			if o.err != nil || o.joined && !up {
				return nil
			}
			runs = runs || o.joined && up
		}
		if runs {
			return errors.New("no API server answers")
		}
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return s, nil, context.Cause(ctx)
	case err == nil && last != nil && len(s.unreachable()) == 0:
		// They have been silent for long: what they say is shown, and what is
		// due may still mend it.
		c.say("no API server answers: %s", s.silence())
	}
	return s, clients, err
}

// reachable drops agents that cannot be asked, and returns why; the others do
// not wait for them. A server that cannot be asked stops everything: it may have
// the cluster's data.
func (c *Cluster) reachable(s *scene) (late error, err error) {
	var errs []error
	for _, o := range s.seen[:len(c.Servers)] {
		if o.err != nil {
			errs = append(errs, o.err)
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("nothing was changed, because a server may have data of the cluster and could not be asked: %w", errors.Join(errs...))
	}
	var kept []*observation
	for _, o := range s.seen {
		if o.err != nil {
			errs = append(errs, o.err)
			continue
		}
		kept = append(kept, o)
	}
	s.seen = kept
	return errors.Join(errs...), nil
}

// pass does the first thing that is due.
func (c *Cluster) pass(ctx context.Context, s scene, clients []*live, d *decision) error {
	w := &work{Cluster: c, scene: s, clients: clients, decision: d}
	if waves := d.waves(); len(waves) > 0 {
		wave := waves[0]
		if wave[0].need == upgrade {
			if err := w.beforeUpgrade(ctx); err != nil {
				return err
			}
		}
		return each(wave, func(t *target) error { return w.node(ctx, t) })
	}
	var settling []*target
	for _, t := range d.targets {
		if t.need == settle {
			settling = append(settling, t)
		}
	}
	if len(settling) > 0 {
		return each(settling, func(t *target) error { return w.node(ctx, t) })
	}
	for _, m := range d.leavers {
		if err := w.leave(ctx, m); err != nil {
			return err
		}
	}
	for _, name := range d.snapshots {
		if err := w.snapshot(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// parallel bounds how many machines are worked on at once: each may be sent a
// few hundred megabytes.
const parallel = 4

// each does something to targets at the same time, and to all of them.
func each(ts []*target, do func(t *target) error) error {
	errs := make([]error, len(ts))
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for i, t := range ts {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := do(t); err != nil {
				errs[i] = fmt.Errorf("%s: %w", t.node.Machine, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// work is one pass under way.
type work struct {
	*Cluster
	scene
	clients  []*live
	decision *decision
}

// api is a server that answers, another than the machine's own where there is
// one: what takes a server down is not asked of that server.
func (w *work) api(machine string) (*client, error) {
	for _, l := range w.clients {
		if l.machine != machine {
			return l.client, nil
		}
	}
	for _, l := range w.clients {
		return l.client, nil
	}
	return nil, errors.New("no API server of the cluster answers")
}

// outputs are taken from a cluster that is as declared.
func (c *Cluster) outputs(ctx context.Context, s scene, clients []*live, d *decision) (Outputs, error) {
	if len(clients) == 0 {
		return Outputs{}, fmt.Errorf("no API server answers: %s", s.silence())
	}
	first := clients[0]
	h, err := c.host(ctx, first.machine)
	if err != nil {
		return Outputs{}, err
	}
	defer h.Close()
	f, err := h.read(ctx, kubeconfigPath)
	if err != nil {
		return Outputs{}, err
	}
	a, err := kubeconfig(f, endpoint(first.node.IP), c.Owner)
	if err != nil {
		return Outputs{}, err
	}
	ca := cluster(s.seen)
	out := Outputs{
		Kubeconfig:  string(a.kubeconfig),
		ServerToken: fullToken(ca, "server", d.tokens.Server), AgentToken: fullToken(ca, "node", d.tokens.Agent),
		Version: c.Version.String(), Nodes: map[string]string{},
		ClusterCIDR: c.ClusterCIDR, ServiceCIDR: c.ServiceCIDR, Endpoint: a.endpoint,
	}
	for _, t := range d.targets {
		out.Nodes[t.node.Machine] = t.node.Name
		if t.role == server {
			out.Endpoints = append(out.Endpoints, endpoint(t.node.IP))
		}
	}
	return out, nil
}

// verifyFor is how long a cluster that was just ready may say otherwise. A server
// answers 500 or 503 for some seconds while etcd makes another member a voter,
// or while the API server ends what it does after its start.
const verifyFor = time.Minute

// Verify asks the cluster from outside: every node is in it, with the declared
// version, and every server answers. It asks again for as long as verifyFor.
func (c *Cluster) Verify(ctx context.Context) error {
	until := c.Clock.Now().Add(verifyFor)
	for {
		err := c.verify(ctx)
		var refused *RefusedError
		if err == nil || errors.As(err, &refused) || !c.Clock.Now().Before(until) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: last seen: %w", context.Cause(ctx), err)
		case <-c.Clock.After(2 * time.Second):
		}
	}
}

// verify asks once.
func (c *Cluster) verify(ctx context.Context) error {
	s, clients, err := c.survey(ctx)
	if err != nil {
		return err
	}
	if errs := s.unreachable(); len(errs) > 0 {
		return errors.Join(errs...)
	}
	if len(clients) != len(c.Servers) {
		return fmt.Errorf("%d of %d servers answer: %s", len(clients), len(c.Servers), s.silence())
	}
	var errs []error
	for _, n := range c.all() {
		m, ok := s.members[n.Name]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("%s: the cluster has no node %s; it has %s", n.Machine, n.Name, strings.Join(slices.Sorted(maps.Keys(s.members)), ", ")))
		case m.Version != c.Version.String():
			errs = append(errs, fmt.Errorf("%s: node %s says that it runs %s; declared is %s", n.Machine, n.Name, m.Version, c.Version))
		case c.CNI == Flannel && !m.Ready:
			errs = append(errs, fmt.Errorf("%s: node %s is not Ready", n.Machine, n.Name))
		}
	}
	return errors.Join(errs...)
}

// newTokens makes the tokens of a new cluster: 256 random bits each.
func newTokens() (Tokens, error) {
	var b [64]byte
	if _, err := rand.Read(b[:]); err != nil {
		return Tokens{}, fmt.Errorf("making tokens: %w", err)
	}
	return Tokens{Server: hex.EncodeToString(b[:32]), Agent: hex.EncodeToString(b[32:])}, nil
}

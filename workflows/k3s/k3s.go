// Package k3s installs K3s on machines over SSH, natively: without the install
// script, without the internet. It makes one cluster of one or three servers
// with embedded etcd and any number of agents, keeps it as declared, upgrades
// it, and takes it away.
//
// What a crash means where. Nothing is remembered between runs but what is on
// the machines; every run looks first and goes on from there.
//
//	on a machine there is                   it may be                     the next run
//	----------------------------------------------------------------------------------------------
//	nothing                                 untouched by us               stages and joins it
//	k3s.edge-new, *.edge-…                  an upload was cut             uploads it again, whole
//	files, no data directory of etcd        prepared, never started       starts it, as prepared
//	  (server) or kubelet certificate
//	  (agent)
//	data, unit not active                   power was lost in a join, or  starts it and waits until it is ready;
//	                                        somebody stopped it           K3s itself completes a begun join
//	data, no or another "started" mark      files were changed, and the   restarts it once
//	                                        restart not seen to succeed
//	data, "started" mark of these files     finished                      leaves it alone
//	node cordoned with our annotation       an upgrade was cut            upgrades it if it is not, uncordons it
//
// A first server begins a new cluster only when the catalog has none on record
// and no declared server has data of one. Its tokens are made before that and
// are in its env file before K3s first starts, so that they are read back and
// not made again.
package k3s

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/remote"
)

// Config declares one cluster and says how to reach its machines.
type Config struct {
	// Owner is the address of the step that declares the cluster, in marks
	// and errors.
	Owner string
	// Version is the release, such as v1.36.3+k3s1.
	Version Version
	// Servers are one or three, in the declared order; Agents any number.
	Servers, Agents []Node
	// Binary is the k3s executable, Images are air-gap tarballs.
	Binary artifact.Ref
	Images []artifact.Ref
	// ClusterCIDR and ServiceCIDR are DefaultClusterCIDR and
	// DefaultServiceCIDR when not valid.
	ClusterCIDR, ServiceCIDR netip.Prefix
	// TLSSAN are further names and addresses of the API in its certificate.
	TLSSAN []string
	// Disable are packaged components that are not wanted: traefik, servicelb,
	// metrics-server, local-storage, coredns.
	Disable []string
	// CNI is Flannel when empty. FlannelBackend is K3s's own default, vxlan,
	// when empty.
	CNI            CNI
	FlannelBackend string
	// Profile is how the cluster is hardened; none when empty.
	Profile Profile
	// Unrestricted are namespaces that the pod security of the cis profile
	// exempts, beside those of the system.
	Unrestricted []string
	Snapshots    Snapshots
	// Registries is the text of registries.yaml; it may hold passwords.
	Registries string
	// Replace are names of nodes whose old hardware somebody has said to be
	// gone, though it still answers.
	Replace []string
	// DrainTimeout bounds the eviction of one node's pods; 5 minutes when zero.
	DrainTimeout time.Duration
	// StartTimeout bounds how long one node may take to get ready, images
	// imported; 15 minutes when zero.
	StartTimeout time.Duration
	// Recorded says that the catalog knows of this cluster: it is never begun
	// a second time.
	Recorded bool
	// Known are the tokens of the last success, where they are still known;
	// what the servers have wins.
	Known Tokens

	Hosts     Hosts
	Artifacts Artifacts
	Clock     Clock
	// Say reports a line of progress.
	Say func(format string, args ...any)

	// In tests root gives a prefix to every path on a machine, and connect
	// replaces the way to the API server.
	root    func(machine string) string
	connect func(ctx context.Context, a access) (*client, error)
}

// Defaults of K3s itself (docs.k3s.io/cli/server, "Networking").
var (
	DefaultClusterCIDR = netip.MustParsePrefix("10.42.0.0/16")
	DefaultServiceCIDR = netip.MustParsePrefix("10.43.0.0/16")
)

// CNI is who connects pods.
type CNI string

// Pod networks. With Calico and NoCNI nodes stay NotReady until something
// brings them a network.
const (
	Flannel CNI = "flannel"
	Calico  CNI = "calico"
	NoCNI   CNI = "none"
)

// Profile is a set of hardening measures.
type Profile string

// CIS is the CIS benchmark as far as K3s's hardening guide goes
// (docs.k3s.io/security/hardening-guide).
const CIS Profile = "cis"

// Node is one machine's part in the cluster.
type Node struct {
	// Machine is its address in site.hcl, Name its node's name.
	Machine, Name string
	// IP is where the other nodes reach it; when not valid, the address that
	// it is reached at over SSH is used.
	IP     netip.Addr
	Labels map[string]string
	// Taints have the form key=value:effect or key:effect.
	Taints []string
}

// Snapshots says when etcd is saved.
type Snapshots struct {
	// Schedule is a cron expression; K3s's own, every 12 hours, when empty.
	Schedule string
	// Retention is how many scheduled snapshots are kept; K3s's own, 5, when
	// zero.
	Retention int
	// Named are snapshots on demand: each is taken once.
	Named []string
}

// Tokens admit nodes to the cluster; they are as sensitive as its data.
type Tokens struct {
	// Server is admin-equivalent and the passphrase of the bootstrap data;
	// Agent admits agents only. Both are in the short form, without the
	// digest of the CA.
	Server, Agent string
}

// Hosts opens SSH connections by machine address. An implementation verifies
// host keys and never trusts on first use. The caller closes the host.
type Hosts interface {
	Host(ctx context.Context, machine string) (*remote.Host, error)
}

// Artifacts hands out verified files. The caller closes the file.
type Artifacts interface {
	Open(ctx context.Context, ref artifact.Ref) (*os.File, error)
}

// Clock is the time that waits are measured by.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// RefusedError says that something must not be done as declared; no repetition
// mends it.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

func refuse(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// Outputs is what other steps need of a cluster that runs.
type Outputs struct {
	// Kubeconfig is the administrator's, with the address of a server that
	// answers.
	Kubeconfig string
	// Tokens are in the full form, with the digest of the CA.
	ServerToken, AgentToken string
	Version                 string
	// Nodes maps machine addresses to node names.
	Nodes                    map[string]string
	ClusterCIDR, ServiceCIDR netip.Prefix
	// Endpoint is the API of a server that answers; Endpoints are those of all
	// servers, in the declared order.
	Endpoint  string
	Endpoints []string
}

// Cluster is a declared cluster.
type Cluster struct{ Config }

// New checks what can be checked without asking anybody.
func New(c Config) (*Cluster, error) {
	if !c.ClusterCIDR.IsValid() {
		c.ClusterCIDR = DefaultClusterCIDR
	}
	if !c.ServiceCIDR.IsValid() {
		c.ServiceCIDR = DefaultServiceCIDR
	}
	if c.CNI == "" {
		c.CNI = Flannel
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = 5 * time.Minute
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = 15 * time.Minute
	}
	if c.connect == nil {
		c.connect = connect
	}
	c.Servers, c.Agents = slices.Clone(c.Servers), slices.Clone(c.Agents)
	for _, nodes := range [][]Node{c.Servers, c.Agents} {
		for i := range nodes {
			nodes[i].Taints = canonicalTaints(nodes[i].Taints)
		}
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return &Cluster{c}, nil
}

func (c *Config) check() error {
	if err := CheckServers(len(c.Servers)); err != nil {
		return err
	}
	if c.ClusterCIDR.Overlaps(c.ServiceCIDR) {
		return refuse("the cluster CIDR %s and the service CIDR %s overlap; pods and services need networks of their own", c.ClusterCIDR, c.ServiceCIDR)
	}
	if c.Binary.SHA256 == "" {
		return errors.New("the K3s binary has no digest")
	}
	names, machines := map[string]string{}, map[string]bool{}
	for _, n := range c.all() {
		if n.Name != strings.ToLower(n.Name) || n.Name == "" {
			return refuse("%s: %q cannot be the name of a node; a node's name is written in lower case", n.Machine, n.Name)
		}
		if other, taken := names[n.Name]; taken {
			return refuse("%s and %s have the same host name %q; nodes of a cluster need different ones", other, n.Machine, n.Name)
		}
		if machines[n.Machine] {
			return refuse("%s is declared twice; a machine is a server or an agent, once", n.Machine)
		}
		names[n.Name], machines[n.Machine] = n.Machine, true
		if err := c.checkAddress(n.Machine, n.IP); err != nil {
			return err
		}
	}
	return nil
}

// CheckServers refuses numbers of servers that survive less than fewer would.
func CheckServers(n int) error {
	switch n {
	case 1, 3:
		return nil
	case 0:
		return refuse("a cluster needs a server; name one machine or three as servers")
	case 2:
		return refuse("a cluster with two servers stops when either of them does, which is worse than one alone: etcd needs more than half of its members. " +
			"Name one server or three; the other machine can be an agent")
	}
	return refuse("a cluster of %d servers is not supported; name one server or three, and the other machines as agents", n)
}

// checkAddress refuses a machine whose address lies among those of pods or
// services: traffic to it would never leave a node.
func (c *Config) checkAddress(machine string, ip netip.Addr) error {
	for _, n := range []struct {
		what   string
		prefix netip.Prefix
	}{{"cluster_cidr", c.ClusterCIDR}, {"service_cidr", c.ServiceCIDR}} {
		if ip.IsValid() && n.prefix.Contains(ip) {
			return refuse("%s has address %s, which lies in the %s %s: nodes could not reach it. Set %s to a network that the site does not use",
				machine, ip, n.what, n.prefix, n.what)
		}
	}
	return nil
}

// all are the declared nodes, servers first.
func (c *Config) all() []Node { return slices.Concat(c.Servers, c.Agents) }

func (c *Config) say(format string, args ...any) {
	if c.Say != nil {
		c.Say(format, args...)
	}
}

// wait asks every interval until ask says yes, says that it is final, or ctx
// ends; the error then tells what was seen last.
func (c *Config) wait(ctx context.Context, interval time.Duration, ask func(ctx context.Context) error) error {
	for {
		err := ask(ctx)
		var refused *RefusedError
		if err == nil || errors.As(err, &refused) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: last seen: %w", context.Cause(ctx), err)
		case <-c.Clock.After(interval):
		}
	}
}

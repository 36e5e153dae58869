//go:build e2e

package scenario

import (
	"context"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/edge-provision/edge-provision/workflows/addon/calico"
	"github.com/edge-provision/edge-provision/workflows/kube"
)

// tunnel gives a loopback address that leads to an address of the lab's network,
// as seen from the controller's place in it.
func (c *cluster) tunnel(to netip.AddrPort) string {
	c.t.Helper()
	ctx := c.t.Context()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { c.join(ctx, near, to) })
		}
	})
	// The test's context has ended by then, and its connections with it.
	c.t.Cleanup(func() {
		if err := l.Close(); err != nil {
			c.t.Error(err)
		}
		running.Wait()
	})
	return l.Addr().String()
}

// join carries bytes both ways until either side ends, or the context.
func (c *cluster) join(ctx context.Context, near net.Conn, to netip.AddrPort) {
	defer near.Close()
	far, err := c.lab.Dial(ctx, "tcp", to.String())
	if err != nil {
		return // which whoever asked sees as an end of the connection
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
	var back sync.WaitGroup
	back.Go(func() {
		defer near.Close()
		_, _ = io.Copy(near, far)
	})
	_, _ = io.Copy(far, near)
	far.Close()
	back.Wait()
}

// open is the cluster as a step has it, asked at host i.
func (c *cluster) open(i int) *kube.Cluster {
	c.t.Helper()
	const local = "https://127.0.0.1:6443"
	kubeconfig := c.on(i, "cat /etc/rancher/k3s/k3s.yaml")
	if strings.Count(kubeconfig, local) != 1 {
		c.t.Fatalf("the kubeconfig of %s does not name %s once", c.lab.Hosts[i].Name, local)
	}
	address := c.tunnel(netip.AddrPortFrom(c.lab.Hosts[i].Address, 6443))
	out, err := kube.Open(kube.Config{Kubeconfig: []byte(strings.Replace(kubeconfig, local, "https://"+address, 1))})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(out.Close)
	return out
}

// openLimit is how long a data plane may take to forget policies that are gone.
const openLimit = 3 * time.Minute

// crossing is a line of the calico step's probe about a connection that must not be.
var crossing = regexp.MustCompile(`a pod of (\S+) on (\S+) reaches a pod of (\S+) on (\S+), which it must not: it is another tenant`)

// tenantsMeet demands that what verifies the calico step fails, because a pod of
// one tenant reaches one of another on another node.
func (c *cluster) tenantsMeet(tenants ...string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), openLimit)
	defer cancel()
	isTenant := map[string]bool{}
	for _, name := range tenants {
		isTenant[name] = true
	}
	began := time.Now()
	looked := began
	probe := calico.Probe{
		Cluster: c.open(0), Tenants: tenants, Image: busyBox, Say: c.t.Logf,
		Owner: kube.Owner{Catalog: "scenario", Address: "workflow.scenario.step.calico.network"},
		// What is wrong after one round of questions is not asked again: it is to
		// stay wrong.
		Now: func() time.Time { looked = looked.Add(time.Hour); return looked },
	}
	for {
		err := probe.Run(ctx)
		if err != nil {
			for _, m := range crossing.FindAllStringSubmatch(err.Error(), -1) {
				if isTenant[m[1]] && isTenant[m[3]] && m[1] != m[3] && m[2] != m[4] {
					c.t.Logf("without policies the probe failed after %.1f s: %v", time.Since(began).Seconds(), err)
					return
				}
			}
		}
		if ctx.Err() != nil {
			c.t.Fatalf("%s after the policies were deleted the probe says %v; want it to name a pod of a tenant that reaches one of another on another node", openLimit, err)
		}
		c.t.Logf("the probe does not see the tenants meet yet: %v", err)
	}
}

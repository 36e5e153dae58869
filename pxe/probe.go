package pxe

import (
	"context"
	"net/netip"
)

// ForeignServer is another DHCP server that answered a probe.
type ForeignServer struct {
	// Address is its server identifier (option 54), or the address it
	// answered from when it sent none.
	Address netip.Addr
	// Proxy is set for one that offered no address (a proxyDHCP server).
	Proxy bool
	// Offered is the address it offered; zero for a proxy.
	Offered netip.Addr
	// BootFile is the boot file it offered, if any.
	BootFile string
}

// Probe asks for an address on the interface, from a random locally
// administered MAC and without ever taking one, and returns the DHCP servers
// that answered within three seconds, sorted by address. It needs CAP_NET_RAW. A server that
// answers only machines it knows is not found.
func Probe(ctx context.Context, iface string) ([]ForeignServer, error) { return nil, nil }

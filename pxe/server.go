package pxe

import (
	"context"
	"net/netip"

	"github.com/edge-provision/edge-provision/inventory"
)

// Server serves one network. Make it with Listen.
type Server struct{ c Config }

// Listen checks c, reads the leases, binds every socket and returns a Server
// that has not answered anything yet. A port that another program holds is a
// *PortTakenError; an interface without address in c.Prefix wraps ErrNoAddress.
func Listen(ctx context.Context, c Config) (*Server, error) { return &Server{c: c}, nil }

// Serve answers until ctx ends, and then returns nil with all sockets closed
// and no goroutine left. Any other return is an error.
func (s *Server) Serve(ctx context.Context) error { <-ctx.Done(); return nil }

// Close releases the sockets of a Server that is not going to be served.
func (s *Server) Close() error { return nil }

// Register makes a file fetchable by HTTP (with ranges) and returns its URL.
// A second registration of the same name replaces the first.
func (s *Server) Register(a Asset) (url string, err error) { return "", nil }

// URL is the root of the HTTP server, such as "http://172.22.0.1:8480".
func (s *Server) URL() string { return "" }

// Reload reads the reservations again, after the site changed.
func (s *Server) Reload(ctx context.Context) error { return nil }

// MACOf returns the MAC to which addr is leased, or which answers for addr on
// the link where another server leases addresses (proxy mode).
func (s *Server) MACOf(addr netip.Addr) (inventory.MAC, bool) { return inventory.MAC{}, false }

// AddressOf returns the address that is leased to mac, in server mode.
func (s *Server) AddressOf(mac inventory.MAC) (netip.Addr, bool) { return netip.Addr{}, false }

// Sockets are the sockets of a Server.
type Sockets struct{}

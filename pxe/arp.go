package pxe

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// An address of the pool is asked for twice before it is offered, 150 ms
// apart, and is free after 300 ms of silence. RFC 5227 section 2.1.1 would take
// up to nine seconds; the firmware's first DISCOVER waits one (iPXE) to four
// (EDK2) for its offer.
const (
	arpProbes   = 2
	arpInterval = 150 * time.Millisecond
)

// arp asks who holds an address on the link.
type arp struct {
	conn FrameConn
	mac  func() inventory.MAC // of the interface

	mu      sync.Mutex
	waiting map[netip.Addr]chan inventory.MAC
}

func newARP(conn FrameConn, mac func() inventory.MAC) *arp {
	return &arp{conn: conn, mac: mac, waiting: map[netip.Addr]chan inventory.MAC{}}
}

// serve reads ARP until the socket is closed.
func (a *arp) serve() error {
	return receiveFrames(a.conn, func(_ inventory.MAC, b []byte) {
		mac, addr, ok := parseARP(b)
		if !ok {
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if c := a.waiting[addr]; c != nil {
			select {
			case c <- mac:
			default:
			}
		}
	})
}

// occupant returns the MAC that uses addr on the link. A frame that cannot be
// sent counts as silence: DECLINE is the client's own second line.
func (a *arp) occupant(ctx context.Context, addr netip.Addr) (mac inventory.MAC, used bool) {
	c := make(chan inventory.MAC, 1)
	a.mu.Lock()
	if a.waiting[addr] != nil {
		a.mu.Unlock()
		return mac, false
	}
	a.waiting[addr] = c
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.waiting, addr)
		a.mu.Unlock()
	}()
	request := arpRequest(a.mac(), addr)
	tick := time.NewTicker(arpInterval)
	defer tick.Stop()
	for range arpProbes {
		if err := a.conn.WriteFrame(broadcastMAC, request); err != nil {
			return mac, false
		}
		select {
		case mac = <-c:
			return mac, true
		case <-tick.C:
		case <-ctx.Done():
			return mac, false
		}
	}
	return mac, false
}

// arpRequest is an ARP probe (RFC 5227 section 1.1): the sender's address is
// all zeroes, so that nobody's cache learns anything from it.
func arpRequest(from inventory.MAC, addr netip.Addr) []byte {
	b := make([]byte, 28)
	copy(b, []byte{0, 1, 8, 0, 6, 4, 0, 1})
	copy(b[8:], from[:])
	copy(b[24:], addr.AsSlice())
	return b
}

// parseARP returns the sender of an ARP message for Ethernet and IPv4 (RFC 826).
func parseARP(b []byte) (mac inventory.MAC, addr netip.Addr, ok bool) {
	if len(b) < 28 || binary.BigEndian.Uint32(b) != 0x00010800 || b[4] != 6 || b[5] != 4 {
		return mac, addr, false
	}
	addr = addrOf(b[14:18])
	return inventory.MAC(b[8:14]), addr, addr.IsValid()
}

// neighbor looks addr up in the kernel's own ARP table.
func neighbor(iface string, addr netip.Addr) (inventory.MAC, bool) {
	f, err := os.Open("/proc/net/arp")
	if err != nil {
		return inventory.MAC{}, false
	}
	defer f.Close()
	return parseNeighbors(f, iface, addr)
}

// parseNeighbors reads the form of /proc/net/arp (proc(5)): address, hardware
// type, flags, MAC, mask, device.
func parseNeighbors(r io.Reader, iface string, addr netip.Addr) (mac inventory.MAC, ok bool) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 6 || f[0] != addr.String() || f[5] != iface || f[2] == "0x0" {
			continue
		}
		mac, err := inventory.ParseMAC(f[3])
		return mac, err == nil
	}
	return mac, false
}

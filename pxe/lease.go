package pxe

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// offerTime is how long an offered address is kept for the client that was
// offered it. A client chooses among offers within ten seconds (RFC 2131
// section 4.4.1 leaves the time to the client; EDK2 waits up to 32 s).
const offerTime = 60 * time.Second

// Reasons for which a Pool has no address for a client.
var (
	// ErrPoolExhausted says that every address of the dynamic range is taken.
	ErrPoolExhausted = errors.New("the dynamic range has no free address")
	// ErrAddressHeld says that the reserved address is leased to another MAC
	// or quarantined.
	ErrAddressHeld = errors.New("the reserved address is held")
)

// Pool decides which address a client gets. It knows no socket, no store and
// no clock, and is not safe for concurrent use. A client is its MAC, whatever
// client identifier it sends: firmware, iPXE, installer and system of one
// machine send four different ones and must get one address.
type Pool struct {
	c        PoolConfig
	reserved map[inventory.MAC]Reservation
	owner    map[netip.Addr]inventory.MAC // reserved address → MAC
	byMAC    map[inventory.MAC]*binding
	byAddr   map[netip.Addr]*binding
	offers   map[inventory.MAC]offer
	offered  map[netip.Addr]inventory.MAC
	bad      map[netip.Addr]time.Time // quarantined until
}

// PoolConfig is what a Pool needs to know of a network.
type PoolConfig struct {
	Network    string
	Prefix     netip.Prefix
	Range      []Range
	Excluded   []netip.Addr // never leased: server, gateway
	LeaseTime  time.Duration
	Quarantine time.Duration
}

type binding struct {
	addr  netip.Addr
	lease inventory.Lease
}

func (b *binding) active(now time.Time) bool {
	return b != nil && b.lease.State == inventory.LeaseActive && now.Before(b.lease.Expires)
}

type offer struct {
	addr    netip.Addr
	expires time.Time
}

// NewPool returns a Pool that honours the reservations and what the store kept.
// Of two leases of one address the one that started later counts.
func NewPool(c PoolConfig, reservations []Reservation, kept []inventory.Lease) (*Pool, error) {
	p := &Pool{
		c:       c,
		byMAC:   map[inventory.MAC]*binding{},
		byAddr:  map[netip.Addr]*binding{},
		offers:  map[inventory.MAC]offer{},
		offered: map[netip.Addr]inventory.MAC{},
		bad:     map[netip.Addr]time.Time{},
	}
	for _, r := range c.Range {
		if !c.Prefix.Contains(r.First) || !c.Prefix.Contains(r.Last) || r.Last.Less(r.First) {
			return nil, fmt.Errorf("range %s-%s does not lie in %s from first to last", r.First, r.Last, c.Prefix)
		}
	}
	if err := p.Reserve(reservations); err != nil {
		return nil, err
	}
	kept = slices.Clone(kept)
	slices.SortStableFunc(kept, func(a, b inventory.Lease) int { return a.Starts.Compare(b.Starts) })
	for _, l := range kept {
		addr, err := netip.ParseAddr(l.Address)
		if err != nil {
			return nil, fmt.Errorf("kept lease of %s on %s: %w", l.MAC, l.Network, err)
		}
		if l.State == inventory.LeaseDeclined {
			p.bad[addr] = l.Expires
			continue
		}
		p.bind(addr, l)
	}
	return p, nil
}

// Reserve replaces the reservations. Leases that contradict them end by
// themselves: an address is taken from nobody who holds it.
func (p *Pool) Reserve(reservations []Reservation) error {
	reserved := make(map[inventory.MAC]Reservation, len(reservations))
	owner := make(map[netip.Addr]inventory.MAC, len(reservations))
	for _, r := range reservations {
		if !p.usable(r.Address) {
			return fmt.Errorf("address %s of %s cannot be given to a machine on %s", r.Address, r.MAC, p.c.Prefix)
		}
		if other, taken := owner[r.Address]; taken && other != r.MAC {
			return fmt.Errorf("address %s is reserved for both %s and %s", r.Address, other, r.MAC)
		}
		if other, twice := reserved[r.MAC]; twice && other.Address != r.Address {
			return fmt.Errorf("%s has two reserved addresses, %s and %s", r.MAC, other.Address, r.Address)
		}
		reserved[r.MAC], owner[r.Address] = r, r.MAC
	}
	p.reserved, p.owner = reserved, owner
	return nil
}

// usable reports whether addr may be given to any machine of the network at all.
func (p *Pool) usable(addr netip.Addr) bool {
	if !addr.Is4() || !p.c.Prefix.Contains(addr) || slices.Contains(p.c.Excluded, addr) {
		return false
	}
	// RFC 3021: a /31 has neither network nor broadcast address.
	return p.c.Prefix.Bits() >= 31 || addr != p.c.Prefix.Masked().Addr() && addr != broadcastOf(p.c.Prefix)
}

func (p *Pool) inRange(addr netip.Addr) bool {
	for _, r := range p.c.Range {
		if !addr.Less(r.First) && !r.Last.Less(addr) {
			return true
		}
	}
	return false
}

// bind makes addr the address of l.MAC, and of no other MAC.
func (p *Pool) bind(addr netip.Addr, l inventory.Lease) {
	if old := p.byMAC[l.MAC]; old != nil && p.byAddr[old.addr] == old {
		delete(p.byAddr, old.addr)
	}
	if old := p.byAddr[addr]; old != nil {
		delete(p.byMAC, old.lease.MAC)
	}
	b := &binding{addr: addr, lease: l}
	p.byMAC[l.MAC], p.byAddr[addr] = b, b
}

// free reports whether addr could be leased to mac now: nobody else holds it,
// was just offered it, or has it reserved, and it is not quarantined.
func (p *Pool) free(mac inventory.MAC, addr netip.Addr, now time.Time) bool {
	if !p.usable(addr) || now.Before(p.bad[addr]) {
		return false
	}
	if owner, reserved := p.owner[addr]; reserved && owner != mac {
		return false
	}
	if holder, held := p.offered[addr]; held && holder != mac && now.Before(p.offers[holder].expires) {
		return false
	}
	b := p.byAddr[addr]
	return b == nil || b.lease.MAC == mac || !b.active(now)
}

// Offer chooses the address for a DISCOVER and keeps it for mac for a minute.
// probe says that the address must be asked for on the wire before it is
// offered; if somebody answers, call Conflict and Offer again.
func (p *Pool) Offer(mac inventory.MAC, wanted netip.Addr, now time.Time) (addr netip.Addr, probe bool, err error) {
	if r, ok := p.reserved[mac]; ok {
		if !p.free(mac, r.Address, now) {
			return netip.Addr{}, false, fmt.Errorf("%w: %s", ErrAddressHeld, r.Address)
		}
		p.hold(mac, r.Address, now)
		return r.Address, false, nil
	}
	if b := p.byMAC[mac]; b.active(now) && p.pooled(mac, b.addr, now) {
		p.hold(mac, b.addr, now)
		return b.addr, false, nil
	}
	if o, ok := p.offers[mac]; ok && now.Before(o.expires) && p.pooled(mac, o.addr, now) {
		p.hold(mac, o.addr, now)
		return o.addr, false, nil
	}
	if b := p.byMAC[mac]; b != nil && p.pooled(mac, b.addr, now) {
		p.hold(mac, b.addr, now)
		return b.addr, true, nil
	}
	if p.pooled(mac, wanted, now) {
		p.hold(mac, wanted, now)
		return wanted, true, nil
	}
	addr, err = p.choose(mac, now)
	if err != nil {
		return netip.Addr{}, false, err
	}
	p.hold(mac, addr, now)
	return addr, true, nil
}

func (p *Pool) pooled(mac inventory.MAC, addr netip.Addr, now time.Time) bool {
	return p.inRange(addr) && p.free(mac, addr, now)
}

// choose takes the first address that was never leased, else the one whose
// lease ended first: a machine that was off for a week finds its address again
// for as long as possible.
func (p *Pool) choose(mac inventory.MAC, now time.Time) (netip.Addr, error) {
	var oldest *binding
	for _, r := range p.c.Range {
		for a := r.First; a.IsValid() && !r.Last.Less(a); a = a.Next() {
			if !p.free(mac, a, now) {
				continue
			}
			b := p.byAddr[a]
			if b == nil {
				return a, nil
			}
			if oldest == nil || b.lease.Expires.Before(oldest.lease.Expires) {
				oldest = b
			}
		}
	}
	if oldest == nil {
		return netip.Addr{}, ErrPoolExhausted
	}
	return oldest.addr, nil
}

func (p *Pool) hold(mac inventory.MAC, addr netip.Addr, now time.Time) {
	p.Forget(mac)
	if prev, ok := p.offered[addr]; ok {
		p.Forget(prev)
	}
	p.offers[mac], p.offered[addr] = offer{addr, now.Add(offerTime)}, mac
}

// Forget drops what was offered to mac, as when it chose another server.
func (p *Pool) Forget(mac inventory.MAC) {
	if o, ok := p.offers[mac]; ok {
		delete(p.offered, o.addr)
		delete(p.offers, mac)
	}
}

// Conflict quarantines an address that somebody on the wire uses.
func (p *Pool) Conflict(addr netip.Addr, now time.Time) {
	p.bad[addr] = now.Add(p.c.Quarantine)
	if mac, ok := p.offered[addr]; ok {
		p.Forget(mac)
	}
}

// RequestState is the client's state of RFC 2131 section 4.3.2.
type RequestState string

// States in which a client sends REQUEST.
const (
	StateSelecting  RequestState = "selecting"
	StateInitReboot RequestState = "init-reboot"
	StateRenewing   RequestState = "renewing" // or rebinding
)

// Verdict is the answer to a REQUEST.
type Verdict string

// Verdicts.
const (
	VerdictAck    Verdict = "ack"
	VerdictNak    Verdict = "nak"
	VerdictSilent Verdict = "silent"
)

// Request judges a REQUEST of mac for addr. With VerdictAck the address is
// bound to mac from now on, before anything is on disk: a lease whose commit
// failed half-way may be there after a crash, so nobody else gets it. The
// caller commits the lease and sends the ACK only then.
func (p *Pool) Request(mac inventory.MAC, addr netip.Addr, state RequestState, now time.Time) (Verdict, inventory.Lease, string) {
	verdict, reason := p.judge(mac, addr, state, now)
	if verdict != VerdictAck {
		return verdict, inventory.Lease{}, reason
	}
	l := inventory.Lease{
		Network: p.c.Network, MAC: mac, Address: addr.String(), Hostname: p.reserved[mac].Hostname,
		Starts: now, Expires: now.Add(p.c.LeaseTime), State: inventory.LeaseActive,
	}
	p.Forget(mac)
	p.bind(addr, l)
	return VerdictAck, l, ""
}

func (p *Pool) judge(mac inventory.MAC, addr netip.Addr, state RequestState, now time.Time) (Verdict, string) {
	if !p.c.Prefix.Contains(addr) {
		return VerdictNak, fmt.Sprintf("%s is not on this network (%s)", addr, p.c.Prefix)
	}
	r, isReserved := p.reserved[mac]
	b := p.byMAC[mac]
	switch {
	case isReserved && r.Address != addr:
		return VerdictNak, fmt.Sprintf("%s is declared with address %s", mac, r.Address)
	case isReserved && !p.free(mac, addr, now):
		return VerdictNak, fmt.Sprintf("%s is held by another machine or quarantined", addr)
	case isReserved:
		return VerdictAck, ""
	}
	ok := p.pooled(mac, addr, now)
	switch state {
	case StateSelecting:
		if o, had := p.offers[mac]; ok && had && o.addr == addr || ok && b != nil && b.addr == addr {
			return VerdictAck, ""
		}
		return VerdictNak, fmt.Sprintf("%s was not offered to %s", addr, mac)
	case StateInitReboot:
		switch {
		case b == nil:
			// RFC 2131 section 4.3.2: without a record the server must
			// remain silent; another server may know better.
			return VerdictSilent, "no record of this client"
		case ok && b.addr == addr:
			return VerdictAck, ""
		}
		return VerdictNak, fmt.Sprintf("%s is not the address of %s", addr, mac)
	default:
		// A client that renews what nobody else holds uses it right now:
		// after a lost catalog it is better adopted than thrown off.
		if ok {
			return VerdictAck, ""
		}
		return VerdictNak, fmt.Sprintf("%s is not the address of %s", addr, mac)
	}
}

// Decline handles a DECLINE: mac found addr in use. The address is quarantined
// and the lease to be committed returned; ok is false when mac had no claim to addr.
func (p *Pool) Decline(mac inventory.MAC, addr netip.Addr, now time.Time) (l inventory.Lease, ok bool) {
	b := p.byMAC[mac]
	bound := b != nil && b.addr == addr
	if o, had := p.offers[mac]; !bound && !(had && o.addr == addr) {
		return inventory.Lease{}, false
	}
	p.Conflict(addr, now)
	if bound {
		delete(p.byMAC, mac)
		delete(p.byAddr, addr)
	}
	return inventory.Lease{
		Network: p.c.Network, MAC: mac, Address: addr.String(),
		Starts: now, Expires: now.Add(p.c.Quarantine), State: inventory.LeaseDeclined,
	}, true
}

// Release ends the lease of mac; the address stays remembered for it. ok is
// false when there was no such lease.
func (p *Pool) Release(mac inventory.MAC, addr netip.Addr, now time.Time) (l inventory.Lease, ok bool) {
	b := p.byMAC[mac]
	if !b.active(now) || b.addr != addr {
		return inventory.Lease{}, false
	}
	b.lease.State, b.lease.Expires = inventory.LeaseReleased, now
	return b.lease, true
}

// MACOf returns who holds addr.
func (p *Pool) MACOf(addr netip.Addr, now time.Time) (inventory.MAC, bool) {
	if b := p.byAddr[addr]; b.active(now) {
		return b.lease.MAC, true
	}
	return inventory.MAC{}, false
}

// AddressOf returns the address that mac holds.
func (p *Pool) AddressOf(mac inventory.MAC, now time.Time) (netip.Addr, bool) {
	if b := p.byMAC[mac]; b.active(now) {
		return b.addr, true
	}
	return netip.Addr{}, false
}

// broadcastOf is the last address of an IPv4 prefix.
func broadcastOf(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(a)
}

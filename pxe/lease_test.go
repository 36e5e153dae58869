package pxe

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func poolConfig() PoolConfig {
	return PoolConfig{
		Network: "edge", Prefix: testPrefix,
		Range:     []Range{{netip.MustParseAddr("172.22.77.100"), netip.MustParseAddr("172.22.77.102")}},
		Excluded:  []netip.Addr{testServer},
		LeaseTime: time.Hour, Quarantine: 10 * time.Minute,
	}
}

var (
	macA = mustMAC("52:54:00:00:00:0a")
	macB = mustMAC("52:54:00:00:00:0b")
	macC = mustMAC("52:54:00:00:00:0c")
	macD = mustMAC("52:54:00:00:00:0d")
)

// poolStory runs a pool through a story of one line per step and returns what
// happened, so that a test reads as the conversation does.
func poolStory(t *testing.T, p *Pool, story string) string {
	t.Helper()
	macs := map[string]inventory.MAC{"a": macA, "b": macB, "c": macC, "d": macD}
	now := noon
	var out strings.Builder
	for line := range strings.Lines(story) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		addr := netip.Addr{}
		if len(f) > 2 {
			addr = netip.MustParseAddr("172.22." + f[2])
		}
		switch f[0] {
		case "wait":
			d, err := time.ParseDuration(f[1])
			if err != nil {
				t.Fatal(err)
			}
			now = now.Add(d)
		case "discover":
			got, probe, err := p.Offer(macs[f[1]], addr, now)
			fmt.Fprintf(&out, "%s: %s probe=%t %v\n", strings.Join(f, " "), got, probe, err)
		case "select", "reboot", "renew":
			state := map[string]RequestState{"select": StateSelecting, "reboot": StateInitReboot, "renew": StateRenewing}[f[0]]
			v, l, reason := p.Request(macs[f[1]], addr, state, now)
			fmt.Fprintf(&out, "%s: %s %s%s\n", strings.Join(f, " "), v, l.Address, reason)
		case "decline":
			_, ok := p.Decline(macs[f[1]], addr, now)
			fmt.Fprintf(&out, "%s: %t\n", strings.Join(f, " "), ok)
		case "release":
			_, ok := p.Release(macs[f[1]], addr, now)
			fmt.Fprintf(&out, "%s: %t\n", strings.Join(f, " "), ok)
		case "conflict":
			p.Conflict(netip.MustParseAddr("172.22."+f[1]), now)
		default:
			t.Fatalf("unknown step %q", line)
		}
	}
	return out.String()
}

func TestPool(t *testing.T) {
	reservedA := []Reservation{{MAC: macA, Address: netip.MustParseAddr("172.22.77.11")}}
	tests := []struct {
		name     string
		reserved []Reservation
		kept     []inventory.Lease
		story    string
		want     string
	}{
		{
			name: "a reservation is offered without a probe and acknowledged", reserved: reservedA,
			story: "discover a 77.200\nselect a 77.11",
			want:  "discover a 77.200: 172.22.77.11 probe=false <nil>\nselect a 77.11: ack 172.22.77.11\n",
		},
		{
			name: "a reserved machine's REQUEST is good without an offer, as after our restart", reserved: reservedA,
			story: "select a 77.11",
			want:  "select a 77.11: ack 172.22.77.11\n",
		},
		{
			name: "a reserved machine that asks for another address is refused", reserved: reservedA,
			story: "reboot a 77.100\nrenew a 77.100",
			want: "reboot a 77.100: nak 52:54:00:00:00:0a is declared with address 172.22.77.11\n" +
				"renew a 77.100: nak 52:54:00:00:00:0a is declared with address 172.22.77.11\n",
		},
		{
			name: "nobody else gets a reserved address", reserved: reservedA,
			story: "discover b 77.11\nrenew b 77.11",
			want:  "discover b 77.11: 172.22.77.100 probe=true <nil>\nrenew b 77.11: nak 172.22.77.11 is not the address of 52:54:00:00:00:0b\n",
		},
		{
			name:  "two clients get two addresses, each the same again",
			story: "discover a\ndiscover b\ndiscover a\nselect a 77.100\nselect b 77.101\ndiscover a\ndiscover b",
			want: "discover a: 172.22.77.100 probe=true <nil>\ndiscover b: 172.22.77.101 probe=true <nil>\ndiscover a: 172.22.77.100 probe=false <nil>\n" +
				"select a 77.100: ack 172.22.77.100\nselect b 77.101: ack 172.22.77.101\n" +
				"discover a: 172.22.77.100 probe=false <nil>\ndiscover b: 172.22.77.101 probe=false <nil>\n",
		},
		{
			name:  "an offer that nobody took is free again after a minute",
			story: "discover a\ndiscover b\ndiscover c\ndiscover d\nwait 61s\ndiscover d",
			want: "discover a: 172.22.77.100 probe=true <nil>\ndiscover b: 172.22.77.101 probe=true <nil>\ndiscover c: 172.22.77.102 probe=true <nil>\n" +
				"discover d: invalid IP probe=false the dynamic range has no free address\ndiscover d: 172.22.77.100 probe=true <nil>\n",
		},
		{
			name:  "an address that was not offered is refused",
			story: "discover a\nselect b 77.100\nselect a 77.101",
			want: "discover a: 172.22.77.100 probe=true <nil>\nselect b 77.100: nak 172.22.77.100 was not offered to 52:54:00:00:00:0b\n" +
				"select a 77.101: nak 172.22.77.101 was not offered to 52:54:00:00:00:0a\n",
		},
		{
			name:  "INIT-REBOOT: unknown is met with silence, the wrong network with NAK, the own address with ACK",
			story: "reboot a 77.100\nreboot a 99.5\ndiscover a\nselect a 77.100\nreboot a 77.100\nreboot a 77.101",
			want: "reboot a 77.100: silent no record of this client\nreboot a 99.5: nak 172.22.99.5 is not on this network (172.22.77.0/24)\n" +
				"discover a: 172.22.77.100 probe=true <nil>\nselect a 77.100: ack 172.22.77.100\nreboot a 77.100: ack 172.22.77.100\n" +
				"reboot a 77.101: nak 172.22.77.101 is not the address of 52:54:00:00:00:0a\n",
		},
		{
			name:  "a declined address is quarantined for everybody, and only its holder can decline it",
			story: "discover a\nselect a 77.100\ndecline b 77.100\ndecline a 77.100\ndiscover a\ndiscover b 77.100\nwait 11m\ndiscover c",
			want: "discover a: 172.22.77.100 probe=true <nil>\nselect a 77.100: ack 172.22.77.100\ndecline b 77.100: false\ndecline a 77.100: true\n" +
				"discover a: 172.22.77.101 probe=true <nil>\ndiscover b 77.100: 172.22.77.102 probe=true <nil>\ndiscover c: 172.22.77.100 probe=true <nil>\n",
		},
		{
			name: "a reserved address that was declined is not replaced by another", reserved: reservedA,
			story: "discover a\ndecline a 77.11\ndiscover a\nselect a 77.11\nwait 11m\ndiscover a",
			want: "discover a: 172.22.77.11 probe=false <nil>\ndecline a 77.11: true\ndiscover a: invalid IP probe=false the reserved address is held: 172.22.77.11\n" +
				"select a 77.11: nak 172.22.77.11 is held by another machine or quarantined\ndiscover a: 172.22.77.11 probe=false <nil>\n",
		},
		{
			name:  "a conflict found on the wire leads to the next address",
			story: "discover a\nconflict 77.100\ndiscover a",
			want:  "discover a: 172.22.77.100 probe=true <nil>\ndiscover a: 172.22.77.101 probe=true <nil>\n",
		},
		{
			name:  "a released or expired address is remembered while there are others, and goes to the first to want it when there are none",
			story: "discover a\nselect a 77.100\nrelease a 77.100\ndiscover b\nselect b 77.101\nwait 2h\ndiscover c\nselect c 77.102\ndiscover d\nselect d 77.100\ndiscover a",
			want: "discover a: 172.22.77.100 probe=true <nil>\nselect a 77.100: ack 172.22.77.100\nrelease a 77.100: true\n" +
				"discover b: 172.22.77.101 probe=true <nil>\nselect b 77.101: ack 172.22.77.101\n" +
				"discover c: 172.22.77.102 probe=true <nil>\nselect c 77.102: ack 172.22.77.102\n" +
				"discover d: 172.22.77.100 probe=true <nil>\nselect d 77.100: ack 172.22.77.100\ndiscover a: 172.22.77.101 probe=true <nil>\n",
		},
		{
			name:  "a lease kept on disk is honoured after a restart",
			kept:  []inventory.Lease{{Network: "edge", MAC: macB, Address: "172.22.77.100", Starts: noon, Expires: noon.Add(time.Hour), State: inventory.LeaseActive}},
			story: "discover a 77.100\nrenew a 77.100\nrenew b 77.100",
			want: "discover a 77.100: 172.22.77.101 probe=true <nil>\nrenew a 77.100: nak 172.22.77.100 is not the address of 52:54:00:00:00:0a\n" +
				"renew b 77.100: ack 172.22.77.100\n",
		},
		{
			name: "a reserved address that somebody else still leases is withheld until that lease ends", reserved: reservedA,
			kept:  []inventory.Lease{{Network: "edge", MAC: macB, Address: "172.22.77.11", Starts: noon, Expires: noon.Add(time.Hour), State: inventory.LeaseActive}},
			story: "discover a\nwait 61m\ndiscover a",
			want:  "discover a: invalid IP probe=false the reserved address is held: 172.22.77.11\ndiscover a: 172.22.77.11 probe=false <nil>\n",
		},
		{
			name:  "quarantine survives a restart",
			kept:  []inventory.Lease{{Network: "edge", MAC: macB, Address: "172.22.77.100", Starts: noon, Expires: noon.Add(time.Minute), State: inventory.LeaseDeclined}},
			story: "discover a\nwait 2m\ndiscover b",
			want:  "discover a: 172.22.77.101 probe=true <nil>\ndiscover b: 172.22.77.100 probe=true <nil>\n",
		},
		{
			name:  "a client that renews after the catalog was lost keeps its address",
			story: "renew a 77.102\ndiscover b 77.102",
			want:  "renew a 77.102: ack 172.22.77.102\ndiscover b 77.102: 172.22.77.100 probe=true <nil>\n",
		},
		{
			name:  "the server's, the network's and the broadcast address belong to nobody",
			story: "renew a 77.1\nrenew a 77.0\nrenew a 77.255",
			want: "renew a 77.1: nak 172.22.77.1 is not the address of 52:54:00:00:00:0a\nrenew a 77.0: nak 172.22.77.0 is not the address of 52:54:00:00:00:0a\n" +
				"renew a 77.255: nak 172.22.77.255 is not the address of 52:54:00:00:00:0a\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := NewPool(poolConfig(), tt.reserved, tt.kept)
			if err != nil {
				t.Fatal(err)
			}
			if got := poolStory(t, p, tt.story); got != tt.want {
				t.Errorf("story went\n%swant\n%s", got, tt.want)
			}
		})
	}
}

func TestPoolRefusesContradictions(t *testing.T) {
	at := netip.MustParseAddr
	tests := []struct {
		name string
		r    []Reservation
		want string
	}{
		{"two machines, one address", []Reservation{{MAC: macA, Address: at("172.22.77.11")}, {MAC: macB, Address: at("172.22.77.11")}}, "reserved for both"},
		{"one machine, two addresses", []Reservation{{MAC: macA, Address: at("172.22.77.11")}, {MAC: macA, Address: at("172.22.77.12")}}, "two reserved addresses"},
		{"outside the network", []Reservation{{MAC: macA, Address: at("172.22.78.11")}}, "cannot be given"},
		{"the server's own", []Reservation{{MAC: macA, Address: testServer}}, "cannot be given"},
	}
	for _, tt := range tests {
		if _, err := NewPool(poolConfig(), tt.r, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("NewPool(%s) = %v; want an error with %q", tt.name, err, tt.want)
		}
	}
	c := poolConfig()
	c.Range = []Range{{at("172.22.77.9"), at("172.22.77.2")}}
	if _, err := NewPool(c, nil, nil); err == nil {
		t.Error("NewPool accepted a range that ends before it begins")
	}
}

// TestPoolNeverLeasesTwice plays thousands of random packets against pools
// that crash and restart from what was committed, with commits that fail, and
// holds the promise after every step: no address has two living leases.
func TestPoolNeverLeasesTwice(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		macs := []inventory.MAC{macA, macB, macC, macD, mustMAC("52:54:00:00:00:0e")}
		reserved := []Reservation{{MAC: macA, Address: netip.MustParseAddr("172.22.77.101")}}
		disk := map[inventory.MAC]inventory.Lease{}
		acked := map[string]inventory.Lease{} // address → the lease its client believes in
		restart := func() *Pool {
			var kept []inventory.Lease
			for _, l := range disk {
				kept = append(kept, l)
			}
			p, err := NewPool(poolConfig(), reserved, kept)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		p, now := restart(), noon
		for step := range 400 {
			mac := macs[r.IntN(len(macs))]
			addr := netip.AddrFrom4([4]byte{172, 22, 77, byte(99 + r.IntN(5))})
			now = now.Add(time.Duration(r.IntN(600)) * time.Second)
			switch r.IntN(8) {
			case 0, 1, 2:
				if a, _, err := p.Offer(mac, addr, now); err == nil {
					addr = a
				} else if !errors.Is(err, ErrPoolExhausted) && !errors.Is(err, ErrAddressHeld) {
					t.Fatal(err)
				}
				fallthrough
			case 3, 4:
				state := []RequestState{StateSelecting, StateInitReboot, StateRenewing}[r.IntN(3)]
				v, l, _ := p.Request(mac, addr, state, now)
				if v != VerdictAck {
					break
				}
				// A client that asks for an address uses no other.
				maps.DeleteFunc(acked, func(a string, b inventory.Lease) bool { return b.MAC == mac && a != l.Address })
				switch r.IntN(4) {
				case 0: // the commit failed and left nothing: no ACK
				case 1: // the commit's answer was lost, and the lease is there: no ACK
					disk[mac] = l
				default:
					disk[mac] = l
					if other, ok := acked[l.Address]; ok && other.MAC != mac && now.Before(other.Expires) {
						t.Fatalf("seed %d step %d: %s leased to %s while %s has it until %s", seed, step, l.Address, mac, other.MAC, other.Expires)
					}
					acked[l.Address] = l
				}
			case 5:
				if l, ok := p.Decline(mac, addr, now); ok {
					disk[mac] = l
					if acked[addr.String()].MAC == mac {
						delete(acked, addr.String())
					}
				}
			case 6:
				if l, ok := p.Release(mac, addr, now); ok {
					disk[mac] = l
					if acked[addr.String()].MAC == mac {
						delete(acked, addr.String())
					}
				}
			case 7:
				p = restart()
			}
		}
	}
}

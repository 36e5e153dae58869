package pxe

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// bootFile is what a DHCP reply says about booting. The zero value says nothing.
type bootFile struct {
	// name is a TFTP file name or an http URL.
	name string
	// class is the vendor class of the reply: firmware that asked as
	// HTTPClient takes only an answer that says the same (UEFI 2.10 section
	// 24.7.3.1), and a proxyDHCP answer must say PXEClient.
	class string
	// direct makes firmware load the file at once, without a boot menu or a
	// search for boot servers.
	direct bool
	// noProxyWait spares iPXE its wait for a ProxyDHCP offer (3 s).
	noProxyWait bool
}

// bootSite is what bootFor needs to know of this server.
type bootSite struct {
	url      string // root of the HTTP server
	chainROM bool
	proxy    bool
	// chained is how often the machine was just given an iPXE program
	// without coming back as that iPXE.
	chained int
}

// maxChain is how often in a row a machine is given an iPXE program that never
// shows up (refused by Secure Boot, hung, or a firmware that starts over)
// before it is sent to its next boot device for chainWindow.
const (
	maxChain    = 3
	chainWindow = 10 * time.Minute
)

// bootFor decides what a client that netboots is told to load. reason says why
// it is told nothing.
//
// A finished machine (KindLocal) is not left without a boot file: firmware
// would keep trying for a minute (EDK2) or stop for ever (some BIOSes). It
// gets iPXE and a script that goes back to the boot manager, or to the disk.
func bootFor(c Client, http bool, a Answer, s bootSite) (b bootFile, reason string) {
	if a.Kind != KindLocal && a.Kind != KindInstall {
		return bootFile{}, ""
	}
	script := bootFile{name: scriptURL(s.url, c.MAC), noProxyWait: true}
	if s.proxy {
		script.class, script.direct = "PXEClient", true
	}
	switch c.Stage {
	case StageIPXE:
		return script, ""
	case StageROMIPXE:
		// s.chained: it was given ours and still calls itself iPXE, as an
		// operator's own program may.
		if http && (!s.chainROM || s.chained > 0) {
			return script, ""
		}
	case StageBIOS, StageUEFI, StageHTTPBoot:
	default:
		return bootFile{}, ""
	}
	arch := c.Arch
	if !c.HasArch {
		arch = ArchBIOS
	}
	name, ok := program(arch)
	if !ok {
		return bootFile{}, fmt.Sprintf("no boot program for %s", arch)
	}
	if s.chained >= maxChain {
		return bootFile{}, fmt.Sprintf("%s was loaded %d times and never asked for its script", name, s.chained)
	}
	b = bootFile{name: name}
	switch {
	case c.Stage == StageHTTPBoot:
		b.name, b.class = s.url+"/ipxe/"+name, "HTTPClient"
	case s.proxy:
		b.class, b.direct = "PXEClient", true
	}
	b.noProxyWait = c.Stage == StageROMIPXE
	return b, ""
}

// scriptURL is where a machine's iPXE finds its script. It fits the 127 bytes
// of a DHCP message's file field.
func scriptURL(root string, mac inventory.MAC) string {
	return root + "/boot/" + mac.String() + "/script.ipxe"
}

// sighting is the last boot of one machine, kept in memory.
type sighting struct {
	client  Client
	kind    Kind // of the last answer
	seen    time.Time
	chained int       // programs given since the last script
	loaded  time.Time // when the last of them was
}

// sightings remembers machines that were admitted lately. It is bounded; the
// owner guards it with a lock.
type sightings struct {
	byMAC  map[inventory.MAC]*sighting
	byAddr map[netip.Addr]inventory.MAC
}

// maxSightings bounds the machines that are remembered at once; a network of
// more admitted machines forgets some of them early.
const maxSightings = 8192

func newSightings() *sightings {
	return &sightings{byMAC: map[inventory.MAC]*sighting{}, byAddr: map[netip.Addr]inventory.MAC{}}
}

// saw records that c asked now.
func (t *sightings) saw(c Client, now time.Time) *sighting {
	g := t.byMAC[c.MAC]
	if g == nil {
		for mac, old := range t.byMAC {
			if len(t.byMAC) < maxSightings {
				break
			}
			delete(t.byAddr, old.client.Address)
			delete(t.byMAC, mac)
		}
		g = &sighting{}
		t.byMAC[c.MAC] = g
	}
	if g.client.Address != c.Address {
		delete(t.byAddr, g.client.Address)
	}
	g.client, g.seen = c, now
	if c.Address.IsValid() {
		t.byAddr[c.Address] = c.MAC
	}
	return g
}

// chainedNow is how many programs the machine took in a row, lately.
func (g *sighting) chainedNow(now time.Time) int {
	if now.Sub(g.loaded) > chainWindow {
		return 0
	}
	return g.chained
}

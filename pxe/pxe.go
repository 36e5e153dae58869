// Package pxe answers machines that boot from the network: DHCP (or proxyDHCP
// beside somebody else's server), TFTP and HTTP, on one interface.
//
// One boot is one conversation, and this package is the whole of it:
//
//	firmware            DHCP DISCOVER/OFFER/REQUEST/ACK   dhcp.go lease.go boot.go
//	firmware            boot file by TFTP or HTTP          tftp.go http.go
//	our iPXE            DHCP again, then its script        boot.go http.go ipxe/
//	iPXE                kernel + initramfs by HTTP         http.go
//	installer's agent   DHCP once more, then its own API   Config.Handlers
//
// What address a machine gets (Pool, lease.go) and what it is told to boot
// (bootReply, boot.go) are decided by code that knows no socket. Who is
// admitted, and what a machine boots, is not decided here at all: the Booter
// says so. Leases are kept by the Leases store; an ACK leaves only after the
// store said that the lease is on disk.
package pxe

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/pxe/ipxe"
)

// Booter decides what a machine boots.
//
// Boot is called several times in one boot: for each DISCOVER and REQUEST of
// the firmware, of iPXE and of the installer, and once more when iPXE fetches
// its script. It must be safe for concurrent use, return within a second, have
// no effect that repeats badly, and answer the same until the machine's state
// changes. A one-use token may be minted only for Client.WantsScript, which is
// the one call whose command line is handed out, and then only to the address
// leased to that MAC. An error makes the packet unanswered; the machine will
// ask again.
type Booter interface {
	Boot(ctx context.Context, c Client) (Answer, error)
}

// Leases is the durable store of one network's leases. It must be safe for
// concurrent use.
type Leases interface {
	// Reservations returns the declared addresses of the network. It is
	// called by Listen and by Server.Reload.
	Reservations(ctx context.Context) ([]Reservation, error)
	// Leases returns every lease kept for the network, expired and declined
	// ones too. It is called once, by Listen.
	Leases(ctx context.Context, network string) ([]inventory.Lease, error)
	// Commit stores l, replacing what was kept for the same network and MAC.
	// It must return nil only when l is on disk and
	// would survive a power cut: the ACK leaves on its word. It must not
	// wait behind event writes.
	Commit(ctx context.Context, l inventory.Lease) error
}

// Recorder takes the flight recorder's events. Record must not block: an
// implementation that is behind drops, and counts what it dropped.
type Recorder interface {
	Record(e inventory.Event)
}

// Reservation is an address that belongs to one MAC.
type Reservation struct {
	MAC      inventory.MAC
	Address  netip.Addr
	Hostname string // sent as option 12; may be empty
}

// Client is what is known of a machine at the moment it asks.
type Client struct {
	MAC inventory.MAC
	// Arch is the client architecture of RFC 4578 section 2.1 (option 93);
	// it is meaningless where HasArch is false.
	Arch    Arch
	HasArch bool
	// Stage is the program that asks.
	Stage Stage
	// UUID is the SMBIOS system UUID of option 97 as inventory.Option97UUID
	// reads it; firmware does not agree on its byte order, so compare with
	// inventory.SameUUID. Zero when absent or junk.
	UUID uuid.UUID
	// Address is the address that is leased or about to be leased to the
	// MAC, or the one it asks from; zero while unknown (proxy mode).
	Address netip.Addr
	// Relay is the relay agent's address (giaddr), zero on the local link.
	Relay netip.Addr
	// VendorClass and UserClass are options 60 and 77, at most 255 bytes.
	VendorClass string
	UserClass   string
	// WantsScript is set for the one call of a boot whose answer's kernel
	// command line is handed to the machine: its address was verified to be
	// the one leased to the MAC.
	WantsScript bool
}

// Stage is the program on the machine that asks.
type Stage string

// Stages of one boot, in the order in which they occur.
const (
	StageBIOS     Stage = "bios"     // BIOS PXE option ROM
	StageUEFI     Stage = "uefi"     // UEFI's own PXE client
	StageHTTPBoot Stage = "httpboot" // UEFI HTTP boot (vendor class HTTPClient)
	StageROMIPXE  Stage = "ipxe"     // an iPXE that is not ours: a NIC's ROM, QEMU's
	StageIPXE     Stage = "ours"     // our iPXE
	StageAgent    Stage = "agent"    // the installer, vendor class AgentVendorClass
	StageOS       Stage = "os"       // anything else
)

// Netboots reports whether the stage asks for something to boot, or is our
// installer: the only askers that a discovery policy may admit undeclared.
func (s Stage) Netboots() bool { return s != StageOS && s != "" }

// AgentVendorClass is the option 60 that the installer's DHCP client sends.
const AgentVendorClass = "edge-agent"

// Kind says what is done with a client.
type Kind string

// Kinds of answers. The zero Kind is KindIgnore.
const (
	// KindIgnore: the client is not ours; it gets nothing at all.
	KindIgnore Kind = "ignore"
	// KindAddressOnly: an address (in server mode) and nothing to boot.
	KindAddressOnly Kind = "address"
	// KindLocal: an address, and a netboot is sent back to the machine's own
	// disk. A finished or merely recorded machine gets this for ever.
	KindLocal Kind = "local"
	// KindInstall: an address and the installer.
	KindInstall Kind = "install"
)

// Answer is what a client is told.
type Answer struct {
	Kind Kind
	// Kernel and Initramfs are the names of registered assets, or absolute
	// http URLs. Used with KindInstall, when Client.WantsScript is set.
	Kernel    string
	Initramfs string
	// CommandLine is the kernel's command line; it may carry a one-use
	// token. One line of printable ASCII without "${".
	CommandLine string
	// BIOSDrive is the INT 13h number of the installed disk, for KindLocal
	// on a BIOS machine; zero is 0x80, the first.
	BIOSDrive uint8
	// Reason is recorded with KindIgnore; a short phrase for a person.
	Reason string
}

// Mode says how the network's DHCP is served.
type Mode string

// Modes of Config.
const (
	ModeOff    Mode = "off"    // no DHCP answer; TFTP and HTTP are served
	ModeProxy  Mode = "proxy"  // proxyDHCP: boot answers only, beside another DHCP server
	ModeServer Mode = "server" // addresses and boot answers
)

// Range is an inclusive range of IPv4 addresses.
type Range struct {
	First, Last netip.Addr
}

// Config says what to serve. Interface, Network, Prefix and Booter are
// required; Leases and Range belong to ModeServer.
type Config struct {
	// Site is the site's name, set in each Event.
	Site string
	// Network is the network's name in site.hcl; leases are kept under it.
	Network string
	// Interface is the one interface that is served. Nothing is received
	// from or sent to any other.
	Interface string
	// Prefix is the network's IPv4 prefix.
	Prefix netip.Prefix
	// Address is this host's address on Interface. Zero: the first one of
	// the interface that lies in Prefix.
	Address netip.Addr
	// Mode is ModeOff when empty.
	Mode Mode
	// Range is the dynamic pool for machines without a reservation. May be empty.
	Range []Range
	// Gateway, DNS, NTP and Domain are handed to clients in ModeServer.
	Gateway netip.Addr
	DNS     []netip.Addr
	NTP     []netip.Addr
	Domain  string
	// LeaseTime is the length of a lease, 1 h when zero; at least 1 min.
	LeaseTime time.Duration
	// QuarantineTime is how long a declined or conflicting address is not
	// given out, 10 min when zero.
	QuarantineTime time.Duration
	// HTTPPort is the TCP port of the HTTP server, DefaultHTTPPort when zero.
	HTTPPort uint16
	// Handlers are mounted on the HTTP server beside the boot files; keys are
	// http.ServeMux patterns. "/boot/", "/asset/" and "/ipxe/" are taken.
	Handlers map[string]http.Handler
	// IPXE replaces embedded iPXE programs by an operator's own.
	IPXE ipxe.Overrides
	// ChainROM makes a ROM's iPXE load ours even when it could fetch the
	// script itself. For ROMs that are too old or broken.
	ChainROM bool

	Booter   Booter
	Leases   Leases
	Recorder Recorder // nil: events are dropped

	Logger *slog.Logger     // nil: discard
	Now    func() time.Time // nil: time.Now
	// Sockets replaces the sockets that Listen would bind; for tests.
	Sockets *Sockets
}

// DefaultHTTPPort is the TCP port of the HTTP server.
const DefaultHTTPPort = 8480

// ErrNoAddress says that the interface has no IPv4 address in the network's
// prefix.
var ErrNoAddress = errors.New("no address in the network")

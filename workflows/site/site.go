// Package site reads site.hcl: what one place should be. It decodes, evaluates
// and validates, and prints what it found; it never opens a connection, asks a
// BMC or writes a file. A wish is kept here, an observation in inventory, and a
// decision in workflows: the three never share a struct.
//
// Load goes through a site in passes, each of which only stops the next where
// going on would add noise: files are read and bounded (source.go), parsed and
// sorted into blocks (parse.go), variables get their values (variable.go), then
// every block is evaluated on demand in the order its references ask for
// (evaluate.go), decoded (network.go, image.go, machine.go, workflow.go), and at
// last compared with the others (validate.go). What a module block calls goes
// through the same passes with values of its own (module.go).
//
// Every error is an hcl.Diagnostic with the line it is about, all of them are
// returned, and what was decoded keeps its ranges, so that a BMC that refuses a
// password an hour later still points at a line of site.hcl.
package site

import (
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/query"
)

// Site is one place as it is declared.
type Site struct {
	Decl
	// Name is the label of the site block, an RFC 1123 label.
	Name   string
	Labels map[string]string
	// RequiredVersion is the version constraint as written, such as
	// ">= 0.1, < 2"; empty when the site states none.
	RequiredVersion string
	// Stack names the set of versions that the steps are held to, such as
	// "2026.11"; empty: none.
	Stack string
	// StackAllow are pairs of components, such as "calico/k3s", that may have
	// versions which nobody has said to work together.
	StackAllow []string
	// TrustedKeys are those whose signature makes a bundle good for this site,
	// as text: "ed25519:" and base 64.
	TrustedKeys []string
	Networks    []*Network
	Images      []*Image
	Machines    []*Machine
	Workflows   []*Workflow
	// Classes are in file order.
	Classes []*Class
	Outputs []*Output
	// Users get an account on every machine that is imaged.
	Users []User
	// Moved are the renames that the site declares, in file order.
	Moved []Moved
	// Dir is the directory of the sources; relative paths (Image.Source,
	// RackDisk.Source) are meant from there.
	Dir string
	// Files are the sources, for the snippets of diagnostics.
	Files map[string]*hcl.File

	module *module
}

// Decl says where in the sources something was declared.
type Decl struct {
	// DeclRange is the header of the block.
	DeclRange hcl.Range
	// Ranges holds the expression of each attribute that was written, by its
	// name. Attributes of nested blocks are kept by the nested struct.
	Ranges map[string]hcl.Range
}

// Range is where the attribute was written, or the block's header when the
// attribute has its default.
func (d Decl) Range(attribute string) hcl.Range {
	if r, ok := d.Ranges[attribute]; ok {
		return r
	}
	return d.DeclRange
}

// Network is one Ethernet segment that machines are provisioned on.
type Network struct {
	Decl
	Address   string // network.edge
	Name      string
	Key       string // of for_each, or the number of count; else empty
	Interface string // the controller's interface on this segment, such as eth1
	CIDR      netip.Prefix
	Gateway   netip.Addr   // zero: none is announced
	DNS       []netip.Addr // empty: none is announced
	NTP       []netip.Addr
	Domain    string
	DHCP      DHCP
	// Unknown is what to do with a client that the site does not declare.
	Unknown UnknownPolicy
}

// ID names the network among all of the site, also beside one of the same name
// in a module: edge, edge["a"], module.M.network.edge. Leases are kept under it.
func (n *Network) ID() string { return strings.TrimPrefix(n.Address, "network.") }

// DHCP is the dhcp block of a network.
type DHCP struct {
	Decl
	Mode DHCPMode
	// First and Last bound the dynamic pool, both included; zero when there
	// is none, which is right for proxy and off, and for a server that only
	// knows reservations.
	First, Last netip.Addr
	Lease       time.Duration
}

// DHCPMode is how a network's clients get their addresses.
type DHCPMode string

// DHCP modes. A network without a dhcp block is served (DHCPServer) with
// reservations only.
const (
	DHCPServer DHCPMode = "server" // we give addresses and boot answers
	DHCPProxy  DHCPMode = "proxy"  // another server gives addresses, we give boot answers
	DHCPOff    DHCPMode = "off"    // we answer nothing
)

// UnknownPolicy is what happens to undeclared clients.
type UnknownPolicy string

// Policies for undeclared clients.
const (
	UnknownIgnore   UnknownPolicy = "ignore"
	UnknownDiscover UnknownPolicy = "discover"
)

// Image is a bootable disk: either built from packages (Distribution is set) or
// imported (Source is set), never both.
type Image struct {
	Decl
	Address      string // image.edge-os
	Name         string
	Key          string
	Architecture string // GOARCH form; default amd64

	Distribution string // debian
	Release      string // bookworm
	Packages     []string
	Kernel       Kernel
	KernelArgs   []string // appended to the kernel command line
	SizeBytes    int64    // of the raw disk; 0: as small as the content allows
	APTSources   []string // one-line sources.list entries; empty: the builder's default

	Source   string // path, file or http(s) URL
	Digest   string // sha256: and 64 hexadecimal digits, of the file at Source
	Format   ImageFormat
	Firmware []string // modes the image boots in: bios, uefi
}

// Imported reports whether the image comes from a file instead of packages.
func (i *Image) Imported() bool { return i.Source != "" }

// Kernel chooses Debian's kernel flavour.
type Kernel string

// Kernels. The cloud kernel is smaller but has no driver for AHCI, e1000e or
// IPMI, so it is right for virtual machines only.
const (
	KernelGeneric Kernel = "generic"
	KernelCloud   Kernel = "cloud"
)

// ImageFormat is how an imported image is stored.
type ImageFormat string

// Formats of imported images.
const (
	FormatRaw   ImageFormat = "raw"
	FormatQCOW2 ImageFormat = "qcow2"
	FormatZstd  ImageFormat = "zst" // zstd over raw
)

// Machine is one declared physical computer.
type Machine struct {
	Decl
	Address string // machine.node["a"]
	Name    string // node
	Key     string // a; empty without for_each and count
	Labels  map[string]string
	// Hostname is an RFC 1123 label, unique in the site; default NAME-KEY.
	Hostname string
	// MAC is zero when Match is set: exactly one of them is.
	MAC   inventory.MAC
	Match *query.Expr
	// Class is set when Match is that of a class: the machine is then the first
	// of the class that is none else, and not the only one that matches.
	Class *Class
	// Network is the segment it boots from; nil only for an adopted machine.
	Network *Network
	// IP is the address it will have; zero: one from the pool, or whatever
	// the foreign DHCP server gives.
	IP netip.Addr
	// Image is nil for a machine that is only discovered, or adopted.
	Image *Image
	// BMC is never nil; its Driver is none when the site declares no bmc.
	BMC      *BMC
	Require  []Require
	RootDisk RootDisk
	// Wipe is the site's consent to erase disks that carry a signature.
	Wipe bool
	// ConsoleShell puts a shell on the installer's console.
	ConsoleShell bool
	// BootTimeout bounds the way from power-on to the agent's first report.
	BootTimeout time.Duration
	// Users are the site's users with the machine's own added or replaced.
	Users []User
	// SSH is set for an adopted machine: reached, never powered or imaged.
	SSH *SSH
	// Rack is how the virtual rack emulates it; nil: not declared.
	Rack *Rack
}

// Adopted reports whether the machine is only reached over SSH.
func (m *Machine) Adopted() bool { return m.SSH != nil }

// BMC is the controller that a machine is powered through.
type BMC struct {
	Decl
	Driver BMCDriver
	// Address is a URL for redfish (https://host[:port]) and host[:port] for
	// ipmi (default port 623).
	Address  string
	Username string
	Password Secret
	// CACert is a PEM bundle that signs the BMC's certificate; Fingerprint is
	// the SHA-256 of the certificate itself, 64 hexadecimal digits in lower
	// case. Without either the certificate must be signed by a CA that this
	// host trusts.
	CACert      string
	Fingerprint string
	// CipherSuite is what protects a session of ipmi, 3 or 17 (IPMI 2.0 table
	// 22-20); 0 for redfish.
	CipherSuite int
}

// BMCDriver names a protocol.
type BMCDriver string

// BMC drivers.
const (
	BMCRedfish BMCDriver = "redfish"
	BMCIPMI    BMCDriver = "ipmi"
	BMCNone    BMCDriver = "none"
)

// Require is a condition over facts; one that is not true is refused in plan.
type Require struct {
	Decl
	Condition *query.Expr
	Message   string
}

// RootDisk says which disk the image is written to. The zero value means the
// only disk: a machine with two then needs a match.
type RootDisk struct {
	Decl
	// Match is nil when every disk is a candidate.
	Match *query.Expr
	// Select decides between several candidates.
	Select DiskSelect
}

// DiskSelect decides between several disks that match.
type DiskSelect string

// Ways to select a disk.
const (
	SelectOnly     DiskSelect = ""         // exactly one must match
	SelectSmallest DiskSelect = "smallest" // the smallest; two of one size are refused
)

// User is an account on imaged machines.
type User struct {
	Decl
	Name           string
	AuthorizedKeys []string // authorized_keys lines
	Sudo           bool     // without a password, since the account has none
}

// SSH is how an adopted machine is reached.
type SSH struct {
	Decl
	Host    string // name or address; default: the machine's address
	Port    int    // default 22
	User    string // default root
	Sudo    bool   // commands and files are root's, by sudo without a password
	HostKey string // authorized_keys form; empty: it is not connected to, only asked for its key
}

// Workflow is a graph of steps.
type Workflow struct {
	Decl
	Address string // workflow.platform
	Name    string
	Steps   []*Step
}

// Step is one typed step of a workflow.
type Step struct {
	Decl
	Address  string // workflow.platform.step.ssh.setup
	Workflow string // platform
	Type     string // ssh
	Name     string // setup
	Key      string
	// DependsOn are the addresses of the steps and machines it waits for:
	// those it refers to and those of depends_on; sorted.
	DependsOn []string
	// Timeout bounds one attempt; 0: the step type's default.
	Timeout time.Duration
	Retry   Retry
	// When is the condition's value as far as declarations tell; true
	// without one. Evaluate it again with StepWhen before running.
	When      cty.Value
	OnFailure OnFailure
	// Inputs is the decoded body as far as declarations tell, in the shape of
	// the StepType's Spec, with marks. A machine, network or image in it has
	// only the attributes that name it (id, kind, name, key, hostname, wipe),
	// so that it is known from the start and does not change with facts.
	// Evaluate it again with StepInputs before running.
	Inputs cty.Value

	block *stepBlock
	each  eachValue
}

// Retry is how often a failed step is tried again.
type Retry struct {
	Attempts int           // in all; 1: no retry
	Backoff  time.Duration // before the second attempt; doubled after each
}

// OnFailure is what a step's failure does to the rest of the workflow.
type OnFailure string

// Reactions to a failed step.
const (
	OnFailureStop     OnFailure = "stop"     // start nothing new, let the rest finish
	OnFailureContinue OnFailure = "continue" // only its dependents are blocked
	OnFailureRollback OnFailure = "rollback" // undo in reverse what this run created
)

// Output is a value that apply prints when it is done.
type Output struct {
	Decl
	Name        string
	Description string
	Sensitive   bool
	// Value is as far as declarations tell; see OutputValues.
	Value cty.Value
}

// Moved renames a thing: what the catalog knows under From belongs to To.
type Moved struct {
	Decl
	From, To string
}

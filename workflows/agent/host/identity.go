package host

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/netip"
	"path"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/workflows/agent"
)

// IdentityFile is where an installed system says whose it is.
const IdentityFile = "etc/edge-provision/identity.json"

// personal is what is made on the machine.
type personal struct {
	hostKey   string // authorized_keys form
	machineID string
}

// personalize writes a machine's identity into a system made by imagebuilder.
func (t *tree) personalize(c agent.Configure) (personal, error) {
	var p personal
	var err error
	for _, step := range []func() error{
		func() error { return t.network(c) },
		func() error { return t.names(c) },
		func() error { return t.clock(c.NTP) },
		func() error { p.machineID, err = t.machineID(); return err },
		func() error { p.hostKey, err = t.hostKey(c.Hostname); return err },
		func() error { return t.rootKeys(c.RootKeys) },
		func() error {
			for _, u := range c.Users {
				if err := t.user(u); err != nil {
					return err
				}
			}
			return nil
		},
		// Last: what claims to be this machine is it entirely.
		func() error { return t.identity(c.Identity) },
	} {
		if err := step(); err != nil {
			return personal{}, err
		}
	}
	return p, nil
}

func (t *tree) identity(id agent.Identity) error {
	text, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the identity: %w", err)
	}
	return t.write(file{name: IdentityFile, data: append(text, '\n'), mode: 0o644})
}

// names writes the host's own name and those it knows without DNS.
func (t *tree) names(c agent.Configure) error {
	full := c.Hostname
	if c.Domain != "" {
		full += "." + c.Domain
	}
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	own := "127.0.1.1" // Debian's, for a host without a fixed address
	if prefix, err := netip.ParsePrefix(c.Network.Address); err == nil && !c.Network.DHCP {
		own = prefix.Addr().String()
	}
	hosts.WriteString(own + "\t" + full)
	if full != c.Hostname {
		hosts.WriteString(" " + c.Hostname)
	}
	hosts.WriteString("\n")
	for _, h := range c.Hosts {
		if h.Address != own && len(h.Names) > 0 {
			hosts.WriteString(h.Address + "\t" + strings.Join(h.Names, " ") + "\n")
		}
	}
	if err := t.write(file{name: "etc/hosts", data: []byte(hosts.String()), mode: 0o644}); err != nil {
		return err
	}
	return t.write(file{name: "etc/hostname", data: []byte(c.Hostname + "\n"), mode: 0o644})
}

// networkd is where Debian and its kin keep systemd-networkd.
var networkd = []string{"usr/lib/systemd/systemd-networkd", "lib/systemd/systemd-networkd"}

// network configures systemd-networkd, matched by MAC: names of ports change
// with firmware and kernels.
func (t *tree) network(c agent.Configure) error {
	if !t.present(networkd[0]) && !t.present(networkd[1]) {
		return failing(agent.CodeImageContract, "the image lacks systemd-networkd, by which its address would be set")
	}
	n := c.Network
	var unit strings.Builder
	fmt.Fprintf(&unit, "# Written by edge-provision when the machine was installed.\n[Match]\nMACAddress=%s\nType=ether\n\n", n.MAC)
	if n.MTU != 0 {
		fmt.Fprintf(&unit, "[Link]\nMTUBytes=%d\n\n", n.MTU)
	}
	// Whatever says who it is, and not only routers: edge-agent reads from networkd
	// what was heard between two looks.
	unit.WriteString("[Network]\nLLDP=yes\n")
	if n.DHCP {
		unit.WriteString("DHCP=ipv4\n")
	} else {
		fmt.Fprintf(&unit, "Address=%s\n", n.Address)
		if n.Gateway != "" {
			fmt.Fprintf(&unit, "Gateway=%s\n", n.Gateway)
		}
	}
	for _, d := range n.DNS {
		fmt.Fprintf(&unit, "DNS=%s\n", d)
	}
	if len(n.Search) > 0 {
		fmt.Fprintf(&unit, "Domains=%s\n", strings.Join(n.Search, " "))
	}
	if n.DHCP {
		// The lease must be found again by our own server, which knows
		// machines by MAC.
		unit.WriteString("\n[DHCPv4]\nClientIdentifier=mac\n")
	}
	if err := t.write(file{name: "etc/systemd/network/05-edge-provision.network", data: []byte(unit.String()), mode: 0o644}); err != nil {
		return err
	}
	for _, link := range []struct{ unit, wanted string }{
		{"systemd-networkd.service", "multi-user.target.wants"},
		{"systemd-networkd.socket", "sockets.target.wants"},
		{"systemd-networkd-wait-online.service", "network-online.target.wants"},
	} {
		if err := t.symlink("/lib/systemd/system/"+link.unit, path.Join("etc/systemd/system", link.wanted, link.unit)); err != nil {
			return err
		}
	}
	return t.resolver(n)
}

// resolver writes resolv.conf, unless systemd-resolved does that from what
// networkd knows.
func (t *tree) resolver(n agent.NetworkConfig) error {
	resolved := t.present("usr/lib/systemd/systemd-resolved") || t.present("lib/systemd/systemd-resolved")
	if resolved || len(n.DNS) == 0 {
		return nil
	}
	var text strings.Builder
	text.WriteString("# Written by edge-provision when the machine was installed.\n")
	for _, d := range n.DNS {
		fmt.Fprintf(&text, "nameserver %s\n", d)
	}
	if len(n.Search) > 0 {
		fmt.Fprintf(&text, "search %s\n", strings.Join(n.Search, " "))
	}
	return t.write(file{name: "etc/resolv.conf", data: []byte(text.String()), mode: 0o644})
}

// timesyncd is where Debian and its kin keep systemd-timesyncd, a package of its own
// in Debian since 11.
var timesyncd = []string{"usr/lib/systemd/systemd-timesyncd", "lib/systemd/systemd-timesyncd"}

// clock points chrony or systemd-timesyncd to the site's time servers.
func (t *tree) clock(servers []string) error {
	if len(servers) == 0 {
		return nil
	}
	if t.exists("etc/chrony") {
		var text strings.Builder
		for _, s := range servers {
			fmt.Fprintf(&text, "server %s iburst\n", s)
		}
		// Debian's chrony.conf reads this directory (chrony.conf(5), sourcedir).
		return t.write(file{name: "etc/chrony/sources.d/edge-provision.sources", data: []byte(text.String()), mode: 0o644})
	}
	if !t.present(timesyncd[0]) && !t.present(timesyncd[1]) {
		return failing(agent.CodeImageContract, "the image has neither chrony nor systemd-timesyncd, so nothing on the machine would ask the declared time servers (%s): "+
			"add the package systemd-timesyncd or chrony to the image, or say no ntp in its network", strings.Join(servers, ", "))
	}
	text := "[Time]\nNTP=" + strings.Join(servers, " ") + "\n"
	return t.write(file{name: "etc/systemd/timesyncd.conf.d/edge-provision.conf", data: []byte(text), mode: 0o644})
}

// machineID makes a new machine-id(5).
func (t *tree) machineID() (string, error) {
	var id [16]byte
	rand.Read(id[:]) // never fails, see crypto/rand
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	text := hex.EncodeToString(id[:])
	if err := t.write(file{name: "etc/machine-id", data: []byte(text + "\n"), mode: 0o444}); err != nil {
		return "", err
	}
	if t.present("var/lib/dbus/machine-id") {
		// A file of its own would be another identity.
		return text, t.symlink("/etc/machine-id", "var/lib/dbus/machine-id")
	}
	return text, nil
}

// hostKey makes the machine's SSH host key; others that the image may have
// brought are removed, for everybody who has the image has them.
func (t *tree) hostKey(hostname string) (string, error) {
	names, err := t.list("etc/ssh")
	if err != nil {
		return "", err
	}
	for _, n := range names {
		if strings.HasPrefix(n, "ssh_host_") {
			if err := t.remove(path.Join("etc/ssh", n)); err != nil {
				return "", err
			}
		}
	}
	private, public, err := makeHostKey(hostname)
	if err != nil {
		return "", err
	}
	if err := t.write(file{name: "etc/ssh/ssh_host_ed25519_key", data: private, mode: 0o600}); err != nil {
		return "", err
	}
	if err := t.write(file{name: "etc/ssh/ssh_host_ed25519_key.pub", data: []byte(public + " root@" + hostname + "\n"), mode: 0o644}); err != nil {
		return "", err
	}
	return public, nil
}

func makeHostKey(hostname string) (private []byte, public string, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", fmt.Errorf("making the SSH host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, "root@"+hostname)
	if err != nil {
		return nil, "", fmt.Errorf("making the SSH host key: %w", err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, "", fmt.Errorf("making the SSH host key: %w", err)
	}
	return pem.EncodeToMemory(block), string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(sshPub))), nil
}

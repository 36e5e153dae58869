package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// SSH reaches the machines of a site with the controller's key. It implements
// Hosts and Machines.
type SSH struct {
	Site    *site.Site
	Catalog *store.Store
	Signer  ssh.Signer
	// Foresight is what the site would make of the machines; nil: it is recorded.
	Foresight *Foresight
	// Dial opens TCP connections; net.Dialer when nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// errNeverInstalled says that there is no host key to verify a machine by.
var errNeverInstalled = errors.New("it was never installed by this catalog, so that its SSH host key is not known")

// Host implements Hosts.
func (s *SSH) Host(ctx context.Context, address string) (*remote.Host, error) {
	for _, m := range s.Site.Machines {
		if m.Address == address {
			return s.dial(ctx, m)
		}
	}
	return nil, workflows.GiveUp(fmt.Errorf("%s is not declared in this site", address))
}

func (s *SSH) dial(ctx context.Context, m *site.Machine) (*remote.Host, error) {
	c, err := s.config(ctx, m)
	if err != nil {
		return nil, err
	}
	return remote.Dial(ctx, c)
}

// config says how a machine is reached.
func (s *SSH) config(ctx context.Context, m *site.Machine) (remote.Config, error) {
	c := remote.Config{Name: m.Address, Signer: s.Signer, Dial: s.Dial}
	if m.Adopted() {
		c.User, c.Sudo, c.HostKey = m.SSH.User, m.SSH.Sudo, m.SSH.HostKey
		c.Address = net.JoinHostPort(m.SSH.Host, strconv.Itoa(m.SSH.Port))
		return c, nil
	}
	record, err := loadRecord(ctx, s.Catalog, s.Site.Name, s.Foresight.recorded(m.Address))
	if err != nil {
		return c, err
	}
	if record == nil {
		return c, workflows.GiveUp(fmt.Errorf("%s: %w", m.Address, errNeverInstalled))
	}
	ip, err := s.address(ctx, m, record)
	if err != nil {
		return c, err
	}
	c.HostKey, c.Address = record.HostKey, net.JoinHostPort(ip, "22")
	return c, nil
}

// address is where an installed machine is reached: the address it was
// installed with, or the one it has leased.
func (s *SSH) address(ctx context.Context, m *site.Machine, record *workflows.InstallRecord) (string, error) {
	if record.Address != "" {
		return record.Address, nil
	}
	row, err := s.Foresight.Machine(ctx, s.Catalog, s.Site.Name, m.Address)
	if err != nil {
		return "", err
	}
	for _, mac := range row.MACs {
		lease, err := s.Catalog.LeaseOf(ctx, m.Network.ID(), mac)
		if err == nil {
			return lease.Address, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", &remote.UnreachableError{
		Host: m.Address, Address: "(unknown)",
		Err: errors.New("it has no declared address and no lease from us; declare `address` for it"),
	}
}

// Machine implements Machines.
func (s *SSH) Machine(ctx context.Context, address string) (MachineInfo, error) {
	i := slices.IndexFunc(s.Site.Machines, func(m *site.Machine) bool { return m.Address == address })
	if i < 0 {
		return MachineInfo{}, workflows.GiveUp(fmt.Errorf("%s is not declared in this site", address))
	}
	m := s.Site.Machines[i]
	info := MachineInfo{Hostname: m.Hostname, IP: m.IP}
	if m.Adopted() {
		// A name instead of an address stays unknown here: it is for whoever
		// connects to resolve it.
		info.IP, _ = netip.ParseAddr(m.SSH.Host)
	}
	record, err := loadRecord(ctx, s.Catalog, s.Site.Name, s.Foresight.recorded(address))
	if err != nil {
		return info, err
	}
	if record != nil && !m.Adopted() {
		info.RootDisk = &record.Disk
		if ip, err := s.address(ctx, m, record); err == nil {
			info.IP, _ = netip.ParseAddr(ip)
		}
	}
	row, err := s.Foresight.Machine(ctx, s.Catalog, s.Site.Name, address)
	if errors.Is(err, fs.ErrNotExist) {
		return info, nil
	}
	if err != nil {
		return info, err
	}
	info.Facts, err = InspectedFacts(ctx, s.Catalog, row.ID)
	return info, err
}

// loadRecord returns what was last installed at an address; nil for nothing.
func loadRecord(ctx context.Context, catalog *store.Store, siteName, address string) (*workflows.InstallRecord, error) {
	applied, err := catalog.Applied(ctx, siteName, address)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r workflows.InstallRecord
	if err := json.Unmarshal(applied.Outputs, &r); err != nil {
		return nil, fmt.Errorf("reading what was installed at %s: the catalog's record is damaged: %w", address, err)
	}
	return &r, nil
}

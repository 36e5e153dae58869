package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/pxe"
	"github.com/edge-provision/edge-provision/workflows/dispatch"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Bootstrap is what the installer is told on its kernel command line.
type Bootstrap struct {
	// Kernel and Initramfs are names of assets of the network's HTTP server.
	Kernel, Initramfs string
	// Controller is the URL of the agents' API on this network, and Pin the
	// SHA-256 of its public key.
	Controller, Pin string
	// Console are the kernel's console= arguments.
	Console []string
}

// Booter decides what a machine boots: the installer when a run wants it there,
// its own disk in every other case. It implements pxe.Booter for one network.
type Booter struct {
	catalog  *store.Store
	dispatch *dispatch.Server
	wanted   *Wanted

	mu        sync.Mutex
	site      *site.Site
	network   *site.Network
	bootstrap Bootstrap
}

// NewBooter returns the Booter of one network. Until SetBootstrap is called no
// machine is sent to the installer.
func NewBooter(s *site.Site, n *site.Network, catalog *store.Store, d *dispatch.Server, w *Wanted) *Booter {
	return &Booter{site: s, network: n, catalog: catalog, dispatch: d, wanted: w}
}

// SetBootstrap says what the installer is and where it reports to.
func (b *Booter) SetBootstrap(s Bootstrap) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bootstrap = s
}

// Use decides by another version of the site from now on.
func (b *Booter) Use(s *site.Site, n *site.Network) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.site, b.network = s, n
}

// now is the site, and its network, that is decided by.
func (b *Booter) now() (*site.Site, *site.Network) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.site, b.network
}

// Wanted is the set of machines that a run wants in the installer. It is the
// only thing that ever sends a declared machine there.
type Wanted struct {
	mu       sync.Mutex
	machines map[uuid.UUID]bool
	leaving  map[uuid.UUID]chan struct{} // closed when it was told to leave
}

// NewWanted returns an empty set.
func NewWanted() *Wanted {
	return &Wanted{machines: map[uuid.UUID]bool{}, leaving: map[uuid.UUID]chan struct{}{}}
}

// Join puts a machine into the set that may be in the installer already. While it
// is being told to leave, that is waited for: a run must not give work to an agent
// that is about to restart.
func (w *Wanted) Join(ctx context.Context, id uuid.UUID) error {
	w.mu.Lock()
	w.machines[id] = true
	gone := w.leaving[id]
	w.mu.Unlock()
	if gone == nil {
		return nil
	}
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Leave is called before a machine is told to leave the installer, and left when
// that has been done; ok is false while a run wants it there.
func (w *Wanted) Leave(id uuid.UUID) (left func(), ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.machines[id] || w.leaving[id] != nil {
		return nil, false
	}
	gone := make(chan struct{})
	w.leaving[id] = gone
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.leaving, id)
		close(gone)
	}, true
}

// Set puts a machine into the set, or takes it out.
func (w *Wanted) Set(id uuid.UUID, in bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.machines[id] = in
}

// Has reports whether a run wants the machine in the installer.
func (w *Wanted) Has(id uuid.UUID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.machines[id]
}

// Boot implements pxe.Booter.
func (b *Booter) Boot(ctx context.Context, c pxe.Client) (pxe.Answer, error) {
	m, err := b.catalog.MachineByMAC(ctx, c.MAC)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return b.unknown(ctx, c)
	case err != nil:
		return pxe.Answer{}, fmt.Errorf("looking up %s: %w", c.MAC, err)
	case b.wanted.Has(m.ID):
		return b.install(ctx, c, m)
	case m.Address == "" && !b.discovers():
		return pxe.Answer{Kind: pxe.KindIgnore, Reason: "known, but not declared in this site"}, nil
	case m.Address == "" && m.State == inventory.StateDiscovered:
		return b.discover(ctx, c, m)
	}
	return pxe.Answer{Kind: pxe.KindLocal}, nil
}

// unknown answers a MAC that the catalog has never seen.
func (b *Booter) unknown(ctx context.Context, c pxe.Client) (pxe.Answer, error) {
	if !b.discovers() {
		return pxe.Answer{Kind: pxe.KindIgnore, Reason: "not declared in this site"}, nil
	}
	if !c.Stage.Netboots() {
		return pxe.Answer{Kind: pxe.KindIgnore, Reason: "not declared, and does not ask to netboot"}, nil
	}
	declared, _ := b.now()
	m, _, err := b.catalog.Observe(ctx, declared.Name, store.Observation{MACs: []inventory.MAC{c.MAC}})
	if err != nil {
		return pxe.Answer{}, fmt.Errorf("recording %s: %w", c.MAC, err)
	}
	return b.discover(ctx, c, m)
}

// discover sends an undeclared machine to the installer until its facts are
// known, and to its own disk from then on.
func (b *Booter) discover(ctx context.Context, c pxe.Client, m inventory.Machine) (pxe.Answer, error) {
	facts, err := b.catalog.Facts(ctx, m.ID)
	if err != nil {
		return pxe.Answer{}, fmt.Errorf("reading the facts of %s: %w", c.MAC, err)
	}
	if _, inspected := facts[inventory.SourceAgent]; inspected {
		return pxe.Answer{Kind: pxe.KindLocal}, nil
	}
	return b.install(ctx, c, m)
}

// install hands out the installer. A token is minted for the one call whose
// command line reaches the machine.
func (b *Booter) install(ctx context.Context, c pxe.Client, m inventory.Machine) (pxe.Answer, error) {
	b.mu.Lock()
	boot := b.bootstrap
	b.mu.Unlock()
	if boot.Kernel == "" {
		// The installer is still being built: the firmware asks again.
		return pxe.Answer{Kind: pxe.KindAddressOnly}, nil
	}
	a := pxe.Answer{Kind: pxe.KindInstall, Kernel: boot.Kernel, Initramfs: boot.Initramfs}
	if !c.WantsScript {
		return a, nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return pxe.Answer{}, fmt.Errorf("naming a boot of %s: %w", c.MAC, err)
	}
	token, err := b.dispatch.MintToken(ctx, m.ID, c.MAC, id.String())
	if err != nil {
		return pxe.Answer{}, fmt.Errorf("minting a token for %s: %w", c.MAC, err)
	}
	args := []string{
		"edge.url=" + boot.Controller, "edge.pin=" + boot.Pin,
		"edge.token=" + token, "edge.boot=" + id.String(), "BOOTIF=01-" + strings.ReplaceAll(c.MAC.String(), ":", "-"),
		"panic=60",
	}
	args = append(args, boot.Console...)
	declared, _ := b.now()
	if d := declared.MachineByAddress(m.Address); d != nil && d.ConsoleShell {
		args = append(args, "edge.shell=1")
	}
	a.CommandLine = strings.Join(args, " ")
	return a, nil
}

// discovers reports whether undeclared machines are to be looked at.
func (b *Booter) discovers() bool {
	_, network := b.now()
	return network.Unknown == site.UnknownDiscover
}

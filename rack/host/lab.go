// Package host runs hosts without emulating hardware: systemd-nspawn containers
// that start systemd from an image of imagebuilder, are reached over SSH, and
// share a network that has no way out. It is for tests of what happens on
// machines after they have been imaged. The machine itself, its firmware and its
// kernel are rack's matter: all hosts here share the kernel, the clock and the
// memory of the machine that runs them.
package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/imagebuilder"
)

// Config says what lab to start.
type Config struct {
	// Name tells this lab's network namespace, links and control groups from
	// others': 1–8 lower-case letters and digits. Zero: a random one. What a
	// killed lab of the same name has left is removed first.
	Name string
	// Hosts is how many hosts to make, 1 to 100; zero: 1. They have the network's
	// addresses 11, 12, ….
	Hosts int
	// Names are the hosts' names, one for each, RFC 1123 labels; nil: node-1,
	// node-2, ….
	Names []string
	// Network is the only network, IPv4 and /25 or larger; zero: 172.24.0.0/24.
	// Address 1 is the controller's and the hosts' default gateway: packets for
	// anywhere else end there.
	Network netip.Prefix
	// Image is what the hosts' root starts from; see Image.
	Image imagebuilder.Artifact
	// RootBytes is the size of each host's root file system, ext4 in a sparse
	// file; zero: 16 GiB.
	RootBytes int64
	// Dir holds everything that the lab writes, about 0.5 GB a host at first. It
	// must be empty or not exist, and is removed by Close. Zero: a temporary
	// directory.
	Dir string
	// AuthorizedKeys may log in as root, one line of sshd's authorized_keys each.
	AuthorizedKeys []string
	// DiskBytes are the sizes of the disks that each host has beside its root,
	// multiples of 512: sparse files behind loop devices. See Host.Disks.
	DiskBytes []int64
	// Console is a directory that keeps what the hosts' consoles print, one file
	// a host, for after a failure; zero: it is thrown away with Dir.
	Console string
	// Log receives what the lab does; nil: nothing.
	Log *slog.Logger
}

// Lab is a running lab. Its methods may be called from several goroutines, but
// not two at once for one host.
type Lab struct {
	// Namespace is the network namespace, as `ip netns` knows it. Commands of
	// Command run in it.
	Namespace string
	// Network and Controller are the network and the lab's own address on it.
	Network    netip.Prefix
	Controller netip.Addr
	Hosts      []*Host

	config  Config
	sink    *Sink
	release func() error // of the machine's settings
	closing sync.Once
	closed  error
}

// bootLimit is how long a host may take until SSH answers: it takes 1–3 s when
// the machine is idle.
const bootLimit = 90 * time.Second

// maxHosts is what the addresses from 11 on in a /25 are enough for.
const maxHosts = 100

var (
	labName  = regexp.MustCompile(`^[a-z0-9]{1,8}$`)
	hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = "l" + strings.ToLower(rand.Text()[:7])
	}
	if c.Hosts == 0 {
		c.Hosts = 1
	}
	if c.Names == nil {
		for i := range min(c.Hosts, maxHosts) {
			c.Names = append(c.Names, fmt.Sprintf("node-%d", i+1))
		}
	}
	if !c.Network.IsValid() {
		c.Network = netip.MustParsePrefix("172.24.0.0/24")
	}
	if c.RootBytes == 0 {
		c.RootBytes = 16 << 30
	}
	c.Network = c.Network.Masked()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case !labName.MatchString(c.Name):
		return c, fmt.Errorf("lab name %q is not 1–8 lower-case letters and digits", c.Name)
	case c.Hosts < 1 || c.Hosts > maxHosts:
		return c, fmt.Errorf("a lab has 1 to %d hosts, not %d", maxHosts, c.Hosts)
	case len(c.Names) != c.Hosts:
		return c, fmt.Errorf("a lab of %d hosts was given %d names", c.Hosts, len(c.Names))
	case !c.Network.Addr().Is4() || c.Network.Bits() > 25:
		return c, fmt.Errorf("network %s is not IPv4 with room for %d hosts", c.Network, maxHosts)
	case c.RootBytes < 1<<30 || c.RootBytes%(1<<20) != 0:
		return c, fmt.Errorf("a root of %d bytes is not a multiple of 1 MiB from 1 GiB on", c.RootBytes)
	case c.Image.Manifest == nil:
		return c, errors.New("a lab needs the image that its hosts start from: see Image")
	}
	for i, name := range c.Names {
		// It becomes a directory, too.
		if !hostName.MatchString(name) || slices.Contains(c.Names[:i], name) {
			return c, fmt.Errorf("host name %q is not an RFC 1123 label in lower case, or used twice", name)
		}
	}
	for _, n := range c.DiskBytes {
		if n <= 0 || n%512 != 0 {
			return c, fmt.Errorf("a disk of %d bytes is not a positive multiple of 512", n)
		}
	}
	if c.Dir == "" {
		dir, err := os.MkdirTemp("", "edge-lab-")
		if err != nil {
			return c, fmt.Errorf("making the lab's directory: %w", err)
		}
		c.Dir = dir
		return c, nil
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return c, fmt.Errorf("finding the lab's directory: %w", err)
	}
	c.Dir = dir
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return c, fmt.Errorf("the lab's directory %s is not empty, and Close would remove it: name another", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return c, fmt.Errorf("making the lab's directory: %w", err)
	}
	return c, nil
}

// Start starts the hosts and returns when SSH answers on each. It needs root.
// When it fails nothing is left. Labs of several programs may live at a time: the
// one that ends last restores the machine's settings as the first found them.
func Start(ctx context.Context, config Config) (_ *Lab, err error) {
	if err := checkPrograms(); err != nil {
		return nil, err
	}
	config, err = config.withDefaults()
	if err != nil {
		return nil, err
	}
	held, err := machineSettings.hold(config.Name)
	if err != nil {
		return nil, fmt.Errorf("starting lab %s: %w", config.Name, errors.Join(err, os.RemoveAll(config.Dir)))
	}
	l := &Lab{
		Namespace:  "edge-lab-" + config.Name,
		Network:    config.Network,
		Controller: addressOf(config.Network, 1),
		config:     config,
		release:    held.release,
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("starting lab %s: %w", config.Name, errors.Join(err, l.Close()))
		}
	}()
	if err := l.sweep(ctx); err != nil {
		return nil, err
	}
	if err := l.unpack(ctx); err != nil {
		return nil, err
	}
	if err := l.addNetwork(ctx); err != nil {
		return nil, err
	}
	for i := range config.Hosts {
		h := &Host{Name: config.Names[i], Address: addressOf(config.Network, 11+i), lab: l}
		l.Hosts = append(l.Hosts, h)
		if err := h.renew(); err != nil {
			return nil, err
		}
	}
	return l, l.each(func(h *Host) error { return h.boot(ctx) })
}

// each runs f for every host at the same time.
func (l *Lab) each(f func(h *Host) error) error {
	errs := make([]error, len(l.Hosts))
	var wg sync.WaitGroup
	for i, h := range l.Hosts {
		wg.Go(func() { errs[i] = f(h) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Command is a command that runs in the lab's network namespace, with the
// machine's own file systems and control groups: the controller under test, for
// one. ctx kills it.
func (l *Lab) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"--net=" + namespacePath(l.Namespace), "--"}
	if l.sink != nil {
		enter = append(enter, "unshare", "--mount", "--propagation", "private", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, l.sink.resolver)
	}
	return exec.CommandContext(ctx, "nsenter", append(append(enter, name), args...)...)
}

// Exec runs a command inside host i, not over SSH: what a person at its console
// would do. The output is both streams; the error has its end.
func (l *Lab) Exec(ctx context.Context, i int, name string, args ...string) ([]byte, error) {
	return l.Hosts[i].exec(ctx, name, args...)
}

// Stop shuts host i down in an orderly way, and returns when it is off. A host
// that is off stays so.
func (l *Lab) Stop(ctx context.Context, i int) error { return l.Hosts[i].stop(ctx) }

// Kill is a power cut: every process of host i ends at once. What the host had
// handed to the kernel stays on its disks, as with a battery-backed cache: a
// power cut that loses writes needs an emulated machine.
func (l *Lab) Kill(ctx context.Context, i int) error { return l.Hosts[i].kill(ctx) }

// Boot starts host i, which Stop, Kill or Replace have switched off, and returns
// when SSH answers.
func (l *Lab) Boot(ctx context.Context, i int) error { return l.Hosts[i].boot(ctx) }

// Replace puts new hardware in the place of host i: the same name and address,
// but a fresh root of the image, another SSH host key, other disks, and other
// serial numbers of them. The host's power is cut before; the new one is off
// until Boot.
func (l *Lab) Replace(ctx context.Context, i int) error {
	h := l.Hosts[i]
	if err := h.kill(ctx); err != nil {
		return err
	}
	if err := h.remove(); err != nil {
		return err
	}
	return h.renew()
}

// closeLimit bounds the end of a lab's processes, which the kernel ends at once
// unless a disk does not answer.
const closeLimit = time.Minute

// Close ends every host and removes everything that Start made. A second call
// does nothing and returns what the first returned.
func (l *Lab) Close() error {
	l.closing.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
		defer cancel()
		var errs []error
		errs = append(errs, l.each(func(h *Host) error { return h.kill(ctx) }))
		errs = append(errs, l.sink.close(), l.removeNetwork(ctx), l.release(), l.keepConsoles(), os.RemoveAll(l.config.Dir))
		if err := errors.Join(errs...); err != nil {
			l.closed = fmt.Errorf("closing lab %s: %w", l.config.Name, err)
		}
	})
	return l.closed
}

// Host is one host of a lab.
type Host struct {
	Name    string
	Address netip.Addr
	// HostKey is the SSH host key; Replace changes it.
	HostKey ssh.PublicKey
	// Disks are names in the host's /dev/disk/by-id, in the order of
	// Config.DiskBytes. They are there while the host runs.
	Disks []string

	lab     *Lab
	serials []string
	running *running
}

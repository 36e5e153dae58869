// Package host runs hosts without emulating hardware: systemd-nspawn containers
// that start systemd from an image of imagebuilder, are reached over SSH, and
// share a network that has no way out. It is for tests of what happens on
// machines after they have been imaged; the machine itself, its firmware and its
// kernel are rack's matter: all hosts here share the kernel of the machine.
package host

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os/exec"

	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/imagebuilder"
)

// Config says what lab to start.
type Config struct {
	// Name tells this lab's network namespace, links and control groups from
	// others': 1–8 lower-case letters and digits. Zero: a random one.
	Name string
	// Hosts is how many hosts to make, 1 to 100; zero: 1. They are called
	// node-1, node-2, … and have the network's addresses 11, 12, ….
	Hosts int
	// Network is the only network; zero: 172.24.0.0/24. Address 1 is the
	// controller's.
	Network netip.Prefix
	// Image is what the hosts' root starts from; see Image.
	Image imagebuilder.Artifact
	// Dir holds everything that the lab writes. It must not be on overlayfs or
	// tmpfs, and its content is removed by Close. Zero: a temporary directory.
	Dir string
	// AuthorizedKeys may log in as root, one line of sshd's authorized_keys each.
	AuthorizedKeys []string
	// DiskBytes are the sizes of the disks that each host has beside its root:
	// loop devices, see Host.Disks.
	DiskBytes []int64
	// Log receives what the lab does; nil: nothing.
	Log *slog.Logger
}

// Lab is a running lab.
type Lab struct {
	// Namespace is the network namespace, as `ip netns` knows it. Commands of
	// Command run in it.
	Namespace string
	// Network and Controller are the network and the lab's own address on it.
	Network    netip.Prefix
	Controller netip.Addr
	Hosts      []*Host

	config Config
}

// Host is one host of a lab.
type Host struct {
	Name    string
	Address netip.Addr
	// HostKey is the SSH host key; Replace changes it.
	HostKey ssh.PublicKey
	// Disks are device paths inside the host, as /dev/loop3, in the order of
	// Config.DiskBytes.
	Disks []string
}

// Start starts the hosts and returns when SSH answers on each. It needs root.
// When it fails nothing is left.
func Start(ctx context.Context, config Config) (*Lab, error) {
	return nil, errNotYet
}

// Command is a command that runs in the lab's network namespace, with the
// machine's own file systems and control groups: the controller under test.
func (l *Lab) Command(ctx context.Context, name string, args ...string) *exec.Cmd { return nil }

// Exec runs a command inside host i, not over SSH: for what a person at its
// console would do. The output is both streams; the error has its end.
func (l *Lab) Exec(ctx context.Context, i int, name string, args ...string) ([]byte, error) {
	return nil, errNotYet
}

// Stop shuts host i down in an orderly way, and returns when it is off.
func (l *Lab) Stop(ctx context.Context, i int) error { return errNotYet }

// Kill is a power cut: every process of host i ends at once, and what was not
// yet written to its root is lost only as far as the kernel had not received it.
func (l *Lab) Kill(ctx context.Context, i int) error { return errNotYet }

// Boot starts host i, which Stop, Kill or Replace have switched off, and returns
// when SSH answers.
func (l *Lab) Boot(ctx context.Context, i int) error { return errNotYet }

// Replace puts new hardware in the place of host i: the same name and address,
// but a fresh root of the image, another host key and empty disks. The new host
// is off until Boot.
func (l *Lab) Replace(ctx context.Context, i int) error { return errNotYet }

// Close ends every host and removes everything that Start made.
func (l *Lab) Close() error { return errNotYet }

var errNotYet = errors.New("labs cannot be started yet")

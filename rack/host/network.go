package host

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// bridge is the lab's only switch. Its name is the namespace's own matter.
const bridge = "br0"

// namespacePath is where iproute2 keeps a namespace (ip-netns(8)).
func namespacePath(name string) string { return filepath.Join("/run/netns", name) }

// addressOf is the nth address of an IPv4 network.
func addressOf(network netip.Prefix, n int) netip.Addr {
	base := network.Addr().As4()
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(base[:])+uint32(n))
	return netip.AddrFrom4(a)
}

func ip(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "ip", args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	return nil
}

// addNetwork makes the namespace and its bridge. Nothing forwards between it and
// the machine's own network: there is no link between the two.
func (l *Lab) addNetwork(ctx context.Context) error {
	for _, args := range [][]string{
		{"netns", "add", l.Namespace},
		{"-n", l.Namespace, "link", "set", "dev", "lo", "up"},
		{"-n", l.Namespace, "link", "add", "name", bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"},
		{"-n", l.Namespace, "address", "add", netip.PrefixFrom(l.Controller, l.Network.Bits()).String(), "brd", "+", "dev", bridge},
		{"-n", l.Namespace, "link", "set", "dev", bridge, "up"},
	} {
		if err := ip(ctx, args...); err != nil {
			return fmt.Errorf("making the lab's network: %w", err)
		}
	}
	return nil
}

func (l *Lab) removeNetwork(ctx context.Context) error {
	var errs []error
	// A process of somebody else's inside would keep the links alive with the
	// namespace.
	for _, n := range []struct{ namespace, link string }{{l.sinkNamespace(), sinkLink}, {l.Namespace, bridge}} {
		if _, err := os.Lstat(namespacePath(n.namespace)); errors.Is(err, os.ErrNotExist) {
			continue
		}
		if ip(ctx, "-n", n.namespace, "link", "show", "dev", n.link) == nil {
			errs = append(errs, ip(ctx, "-n", n.namespace, "link", "delete", "dev", n.link))
		}
		errs = append(errs, ip(ctx, "netns", "delete", n.namespace))
	}
	return errors.Join(errs...)
}

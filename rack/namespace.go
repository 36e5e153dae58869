package rack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// namespaceName is the name of a site's network namespace.
func namespaceName(site string) string { return "edge-" + site }

// namespacePath is where iproute2 keeps a namespace (ip-netns(8)).
func namespacePath(name string) string { return filepath.Join("/run/netns", name) }

// ip runs iproute2's ip; batch, if any, is its standard input.
func ip(ctx context.Context, batch []string, args ...string) error {
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.Stdin = strings.NewReader(strings.Join(batch, "\n") + "\n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	return nil
}

func addNamespace(ctx context.Context, name string) error {
	return ip(ctx, nil, "netns", "add", name)
}

func namespaceExists(name string) bool {
	_, err := os.Lstat(namespacePath(name))
	return err == nil
}

// removeNamespace removes the links, which a stranger inside would otherwise
// keep alive together with the namespace, and then the namespace's name.
func removeNamespace(ctx context.Context, name string) error {
	if !namespaceExists(name) {
		return nil
	}
	var links []net.Interface
	err := inNamespace(name, func() error {
		var err error
		links, err = net.Interfaces()
		return err
	})
	// A file that is no namespace any more (a host that died) has no links.
	if err == nil {
		for _, l := range links {
			if l.Flags&net.FlagLoopback == 0 {
				if err := ip(ctx, nil, "-n", name, "link", "delete", "dev", l.Name); err != nil {
					return err
				}
			}
		}
	}
	return ip(ctx, nil, "netns", "delete", name)
}

// addLinks builds the bridges and taps of the spec in its namespace, and puts
// the BMCs' addresses on the loopback.
func addLinks(ctx context.Context, s Spec) error {
	batch := linkBatch(s)
	return ip(ctx, batch, "-n", namespaceName(s.Name), "-batch", "-")
}

// linkBatch is the input of ip -batch, one command a line. There is no default
// route, on purpose.
func linkBatch(s Spec) []string {
	batch := []string{"link set dev lo up"}
	bridges := map[string]string{}
	for _, n := range s.Networks {
		bridges[n.Name] = n.Interface
		batch = append(batch,
			// A bridge without an address of its own takes its ports', and
			// so would change it while machines have it in their caches.
			fmt.Sprintf("link add name %s address %s type bridge stp_state 0 forward_delay 0 mcast_snooping 0", n.Interface, bridgeMAC(s.Name, n.Interface)),
			fmt.Sprintf("link set dev %s up", n.Interface),
			fmt.Sprintf("address add %s brd + dev %s", n.HostAddress, n.Interface))
	}
	for i, m := range s.Machines {
		for j, n := range m.NICs {
			batch = append(batch,
				fmt.Sprintf("tuntap add dev %s mode tap", tap(i, j)),
				fmt.Sprintf("link set dev %s master %s up", tap(i, j), bridges[n.Network]))
		}
	}
	seen := map[string]bool{}
	for _, m := range s.Machines {
		a := m.BMC.Address.Addr().String()
		if m.BMC.Driver == BMCNone || seen[a] {
			continue
		}
		seen[a] = true
		batch = append(batch, fmt.Sprintf("address add %s/32 dev lo", a))
	}
	return batch
}

// bridgeMAC is a locally administered address that is the same every time, so
// that machines that outlive the controller still know it.
func bridgeMAC(site, link string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(site + "\x00" + link))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2 // individual, local (IEEE 802, section 8.2)
	return mac
}

// inNamespace runs f on an OS thread that is inside the network namespace.
func inNamespace(name string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		stuck, err := visitNamespace(name, f)
		if !stuck {
			// Otherwise the runtime ends the thread with this goroutine, so
			// that nothing else runs inside by accident.
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// visitNamespace runs f inside and comes back. still says that the thread could
// not leave.
func visitNamespace(name string, f func() error) (still bool, err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return false, fmt.Errorf("opening our own network namespace: %w", err)
	}
	defer home.Close()
	there, err := os.Open(namespacePath(name))
	if err != nil {
		return false, fmt.Errorf("opening network namespace %s: %w", name, err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return false, fmt.Errorf("entering network namespace %s: %w", name, err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return true, errors.Join(err, fmt.Errorf("leaving network namespace %s: %w", name, back))
	}
	return false, err
}

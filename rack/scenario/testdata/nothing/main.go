// Command nothing is process 1 of the floor that netboots are measured against:
// it loads the network card's driver, takes its address from the kernel command
// line and makes one HTTP request.
package main

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if err := ask(); err != nil {
		fmt.Println("nothing:", err)
	}
	// Process 1 must not end: the kernel would panic over it.
	select {}
}

func ask() error {
	if err := os.MkdirAll("/proc", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	modules, err := filepath.Glob("/modules/*") // sorted: what is needed comes first
	if err != nil {
		return err
	}
	for _, m := range modules {
		if err := load(m); err != nil {
			return fmt.Errorf("loading %s: %w", m, err)
		}
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	var address netip.Prefix
	var url string
	for word := range strings.FieldsSeq(string(line)) {
		if v, ok := strings.CutPrefix(word, "floor.address="); ok {
			if address, err = netip.ParsePrefix(v); err != nil {
				return err
			}
		}
		if v, ok := strings.CutPrefix(word, "floor.url="); ok {
			url = v
		}
	}
	if err := raise(address); err != nil {
		return fmt.Errorf("setting %s: %w", address, err)
	}
	r, err := http.Get(url)
	if err != nil {
		return err
	}
	return r.Body.Close()
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// raise gives the address to the first interface that is not the loopback.
func raise(address netip.Prefix) error {
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(socket)
		if err := set(socket, i.Name, unix.SIOCSIFADDR, address.Addr().AsSlice()); err != nil {
			return err
		}
		if err := set(socket, i.Name, unix.SIOCSIFNETMASK, net.CIDRMask(address.Bits(), 32)); err != nil {
			return err
		}
		up, err := unix.NewIfreq(i.Name)
		if err != nil {
			return err
		}
		up.SetUint16(unix.IFF_UP)
		return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, up)
	}
	return fmt.Errorf("no network card among %d interfaces", len(all))
}

func set(socket int, name string, request uint, address []byte) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := r.SetInet4Addr(address); err != nil {
		return err
	}
	return unix.IoctlIfreq(socket, request, r)
}

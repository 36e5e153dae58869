package pxe

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// PortTakenError says that another program holds a port that Listen needs.
type PortTakenError struct {
	Port  int
	Proto string // "udp" or "tcp"
	// Owner names the program and process id that holds the port, such as
	// "dnsmasq (pid 812)"; empty when it cannot be seen, for want of
	// privilege.
	Owner string
	Err   error
}

func (e *PortTakenError) Error() string {
	owner := e.Owner
	if owner == "" {
		owner = "another program (its owner cannot be seen without root)"
	}
	return fmt.Sprintf("%s port %d is held by %s: stop it, or serve another interface: %v", e.Proto, e.Port, owner, e.Err)
}

// Unwrap returns the bind error.
func (e *PortTakenError) Unwrap() error { return e.Err }

// portOwner names the processes that hold a port, as "dnsmasq (pid 812)", by
// the sockets that /proc/net lists for this network namespace and the open
// files of all processes. It is empty when that cannot be seen.
func portOwner(proc, proto string, port uint16) string {
	inodes := map[string]bool{}
	for _, table := range []string{proto, proto + "6"} {
		b, err := os.ReadFile(filepath.Join(proc, "net", table))
		if err != nil {
			continue
		}
		for _, inode := range socketInodes(string(b), proto, port) {
			inodes["socket:["+inode+"]"] = true
		}
	}
	if len(inodes) == 0 {
		return ""
	}
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	var owners []string
	for _, dir := range dirs {
		if holdsAny(filepath.Join(dir, "fd"), inodes) {
			name, _ := os.ReadFile(filepath.Join(dir, "comm"))
			owners = append(owners, fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), filepath.Base(dir)))
		}
	}
	return strings.Join(owners, ", ")
}

// socketInodes reads the form of /proc/net/udp and tcp (proc(5)): the second
// column is address:port in hexadecimal, the fourth the state, the tenth the inode.
func socketInodes(table, proto string, port uint16) (inodes []string) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 10 {
			continue
		}
		_, hex, ok := strings.Cut(f[1], ":")
		n, err := strconv.ParseUint(hex, 16, 16)
		const listening = "0A"
		if !ok || err != nil || uint16(n) != port || proto == "tcp" && f[3] != listening {
			continue
		}
		inodes = append(inodes, f[9])
	}
	return inodes
}

func holdsAny(fdDir string, sockets map[string]bool) bool {
	fds, err := os.ReadDir(fdDir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(fdDir, fd.Name())); err == nil && sockets[to] {
			return true
		}
	}
	return false
}

package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Dial connects from the controller's place in the lab's network. address must
// be IP:port.
func (l *Lab) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := l.inside(func() error {
		var err error
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens in the lab's network; address must be IP:port, as the
// controller's address and port 0.
func (l *Lab) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var listener net.Listener
	err := l.inside(func() error {
		var err error
		listener, err = (&net.ListenConfig{}).Listen(ctx, network, address)
		return err
	})
	return listener, err
}

// inside runs f on a thread that is in the lab's network namespace. The thread
// ends with f: nothing else ever runs on it.
func (l *Lab) inside(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		namespace, err := os.Open(namespacePath(l.Namespace))
		if err != nil {
			result <- fmt.Errorf("opening network namespace %s: %w", l.Namespace, err)
			return
		}
		defer namespace.Close()
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("entering network namespace %s: %w", l.Namespace, err)
			return
		}
		result <- f()
	}()
	return <-result
}

// sysctls are settings of the whole machine that a host's systemd and kubelet
// change. Those of networks belong to each namespace.
var sysctls = []string{
	"fs/inotify/max_user_instances", "fs/inotify/max_user_watches", "fs/protected_fifos", "fs/protected_hardlinks", "fs/protected_regular", "fs/protected_symlinks",
	"kernel/core_pattern", "kernel/keys/root_maxbytes", "kernel/keys/root_maxkeys", "kernel/panic", "kernel/panic_on_oops", "kernel/pid_max", "kernel/printk", "kernel/sysrq",
	"vm/max_map_count", "vm/overcommit_memory", "vm/panic_on_oom",
}

// keepSysctls notes the settings, to be restored by Close.
func (l *Lab) keepSysctls() error {
	for _, name := range sysctls {
		path := filepath.Join("/proc/sys", name)
		before, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return fmt.Errorf("reading setting %s: %w", name, err)
		}
		l.restore = append(l.restore, func() error {
			now, err := os.ReadFile(path)
			if err == nil && string(now) == string(before) {
				return nil
			}
			if err := os.WriteFile(path, before, 0o644); err != nil {
				return fmt.Errorf("restoring setting %s to %s: %w", name, strings.TrimSpace(string(before)), err)
			}
			return nil
		})
	}
	return nil
}

// inotify are limits per user that the hosts' users, all root, share: a host with
// a node's programs takes about 25 instances, and the kernel's own limit is 128.
var inotify = map[string]int{"fs/inotify/max_user_instances": 8192, "fs/inotify/max_user_watches": 524288}

// raiseInotify raises the limits, which keepSysctls has noted.
func raiseInotify() error {
	for name, want := range inotify {
		path := filepath.Join("/proc/sys", name)
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading setting %s: %w", name, err)
		}
		if have, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && have >= want {
			continue
		}
		if err := os.WriteFile(path, []byte(strconv.Itoa(want)), 0o644); err != nil {
			return fmt.Errorf("raising setting %s to %d: %w", name, want, err)
		}
	}
	return nil
}

// sweep removes what a killed lab of this name has left: control groups and the
// network namespace. Its processes ended with it.
func (l *Lab) sweep(ctx context.Context) error {
	if err := removeCgroups(l.Namespace + "-*"); err != nil {
		return err
	}
	return l.removeNetwork(ctx)
}

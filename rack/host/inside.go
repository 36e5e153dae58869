package host

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Dial connects from the controller's place in the lab's network. address must
// be IP:port.
func (l *Lab) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := inside(l.Namespace, func() error {
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
	err := inside(l.Namespace, func() error {
		var err error
		listener, err = (&net.ListenConfig{}).Listen(ctx, network, address)
		return err
	})
	return listener, err
}

// inside runs f on a thread that is in a network namespace. The thread ends with
// f: nothing else ever runs on it.
func inside(name string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		namespace, err := os.Open(namespacePath(name))
		if err != nil {
			result <- fmt.Errorf("opening network namespace %s: %w", name, err)
			return
		}
		defer namespace.Close()
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("entering network namespace %s: %w", name, err)
			return
		}
		result <- f()
	}()
	return <-result
}

// sweep removes what a killed lab of this name has left: control groups and the
// network namespace. Its processes ended with it.
func (l *Lab) sweep(ctx context.Context) error {
	if err := removeCgroups(l.Namespace + "-*"); err != nil {
		return err
	}
	return l.removeNetwork(ctx)
}

package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Supervisor is the service manager that started this process, spoken to as
// sd_notify(3) describes; the zero value is none, to which everything may be told.
type Supervisor struct {
	address string
	// watchdog is how long the manager waits for a sign of life; zero: it does not.
	watchdog time.Duration
}

// NewSupervisor reads what a service manager put into the environment, as
// os.LookupEnv gives it: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
func NewSupervisor(lookup func(string) (string, bool)) (Supervisor, error) {
	var s Supervisor
	s.address, _ = lookup("NOTIFY_SOCKET")
	text, ok := lookup("WATCHDOG_USEC")
	if pid, given := lookup("WATCHDOG_PID"); !ok || given && pid != strconv.Itoa(os.Getpid()) {
		return s, nil
	}
	microseconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || microseconds <= 0 {
		return s, fmt.Errorf("WATCHDOG_USEC=%q is not a positive number of microseconds", text)
	}
	s.watchdog = time.Duration(microseconds) * time.Microsecond
	return s, nil
}

// Tell sends assignments such as READY=1. It does nothing where there is no
// manager.
func (s Supervisor) Tell(assignments ...string) error {
	if s.address == "" {
		return nil
	}
	name := s.address
	if name[0] != '/' && name[0] != '@' {
		return fmt.Errorf("telling the service manager: NOTIFY_SOCKET=%q is neither a path nor an abstract socket", name)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
		return errors.Join(err, conn.Close())
	}
	_, err = conn.Write([]byte(strings.Join(assignments, "\n")))
	if err := errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	return nil
}

// notifyTimeout bounds a datagram to a manager that does not read.
const notifyTimeout = 2 * time.Second

// Ready says that everything is bound and answers.
func (s Supervisor) Ready(status string) error { return s.Tell("READY=1", "STATUS="+oneLine(status)) }

// Reloading says that the configuration is being read again; Ready says that
// this is over. systemd wants the time on CLOCK_MONOTONIC with it, for units of
// Type=notify-reload.
func (s Supervisor) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("reading the monotonic clock: %w", err)
	}
	return s.Tell("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000))
}

// Stopping says that the process is on its way to its end.
func (s Supervisor) Stopping(status string) error {
	return s.Tell("STOPPING=1", "STATUS="+oneLine(status))
}

// Status says in a line what the process is doing.
func (s Supervisor) Status(status string) error { return s.Tell("STATUS=" + oneLine(status)) }

// Extend says in a line how far the process has come, and that the manager is to
// wait for it that much longer from now on, however long it is to wait by its
// configuration. systemd takes this since version 236.
func (s Supervisor) Extend(d time.Duration, status string) error {
	return s.Tell(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds()), "STATUS="+oneLine(status))
}

// oneLine keeps a status from being read as further assignments.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// Watch gives a sign of life at half the time that the manager waits, for as long
// as alive says so, until ctx ends. It returns at once where none is wanted.
func (s Supervisor) Watch(ctx context.Context, alive func(context.Context) error, failed func(error)) {
	if s.watchdog == 0 || s.address == "" {
		return
	}
	ticker := time.NewTicker(s.watchdog / 2)
	defer ticker.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, s.watchdog/4)
		err := alive(bounded)
		cancel()
		if err == nil {
			err = s.Tell("WATCHDOG=1")
		}
		if err != nil && ctx.Err() == nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Sockets are listening sockets that a service manager handed over.
type Sockets struct {
	// API listens on TCP, Control on a Unix socket; nil where none came.
	API     net.Listener
	Control *net.UnixListener
}

// Names of the sockets in FileDescriptorName= of systemd.socket(5). A socket with
// another name is known by its family.
const (
	SocketAPI     = "api"
	SocketControl = "control"
)

// firstSocket is the number of the first file descriptor that is handed over.
const firstSocket = 3

// maxSockets bounds what a manager may hand over: we know what to do with two.
const maxSockets = 16

// Inherited takes the sockets that a service manager handed over, as
// sd_listen_fds(3) describes: LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, read as
// os.LookupEnv gives them. One that nobody has a use for is an error.
func Inherited(lookup func(string) (string, bool)) (Sockets, error) {
	var s Sockets
	pid, ok := lookup("LISTEN_PID")
	if !ok || pid != strconv.Itoa(os.Getpid()) {
		return s, nil // none, or for another process
	}
	text, _ := lookup("LISTEN_FDS")
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxSockets {
		return s, fmt.Errorf("LISTEN_FDS=%q is not a number of sockets", text)
	}
	var names []string
	if list, ok := lookup("LISTEN_FDNAMES"); ok {
		names = strings.Split(list, ":")
	}
	for i := range n {
		fd := firstSocket + i
		unix.CloseOnExec(fd)
		name := "unknown"
		if i < len(names) {
			name = names[i]
		}
		if err := s.take(os.NewFile(uintptr(fd), name), name); err != nil {
			return s, errors.Join(fmt.Errorf("socket %d (%s) from the service manager: %w", fd, name, err), s.Close())
		}
	}
	return s, nil
}

// take makes a listener of a file and puts it where it belongs.
func (s *Sockets) take(f *os.File, name string) error {
	l, err := net.FileListener(f) // a duplicate
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("it does not listen: %w", err)
	}
	switch l := l.(type) {
	case *net.TCPListener:
		if s.API == nil && name != SocketControl {
			s.API = l
			return nil
		}
	case *net.UnixListener:
		if s.Control == nil && name != SocketAPI {
			l.SetUnlinkOnClose(false) // it is the manager's, and stays
			s.Control = l
			return nil
		}
	}
	return errors.Join(errors.New("there is no use for it: one TCP socket for the API and one Unix socket for commands are taken"), l.Close())
}

// Close closes what was not used.
func (s Sockets) Close() error {
	var errs []error
	if s.API != nil {
		errs = append(errs, s.API.Close())
	}
	if s.Control != nil {
		errs = append(errs, s.Control.Close())
	}
	return errors.Join(errs...)
}

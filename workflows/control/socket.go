package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxPath is how long the path of a Unix socket can be: sun_path of unix(7) has
// 108 bytes, the last of them zero.
const MaxPath = 107

// Bounds of a connection.
const (
	// dialTimeout bounds connecting, which a living daemon of this host does at once.
	dialTimeout = 5 * time.Second
	// writeTimeout bounds one message to a side that does not read: a terminal
	// that was stopped with Ctrl-S fills the socket and then waits this long.
	writeTimeout = time.Minute
)

// ServedError says that another daemon listens already.
type ServedError struct{ Path string }

// Error implements error.
func (e *ServedError) Error() string {
	return fmt.Sprintf("%s: another process listens there", e.Path)
}

// Listen binds the socket at path, for its owner alone (mode 0600). The socket
// of a process that has ended is replaced; where one listens the error is
// *ServedError. The caller closes the listener, which removes the socket.
func Listen(path string) (*net.UnixListener, error) {
	if len(path) > MaxPath {
		return nil, fmt.Errorf("%s: the path of a Unix socket has at most %d bytes, and this one has %d; choose a shorter one", path, MaxPath, len(path))
	}
	address := &net.UnixAddr{Name: path, Net: "unix"}
	l, err := net.ListenUnix("unix", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := removeStale(address); err != nil {
			return nil, err
		}
		l, err = net.ListenUnix("unix", address)
	}
	if err != nil {
		return nil, fmt.Errorf("listening for commands: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for commands: %w", err), l.Close())
	}
	return l, nil
}

// removeStale removes a socket that nobody listens on.
func removeStale(address *net.UnixAddr) error {
	info, err := os.Lstat(address.Name)
	if err == nil && info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is not a socket, and stands where commands are listened for", address.Name)
	}
	conn, err := net.DialTimeout("unix", address.Name, dialTimeout)
	switch {
	case err == nil:
		return errors.Join(&ServedError{address.Name}, conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(address.Name)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return fmt.Errorf("looking whether somebody listens at %s: %w", address.Name, err)
}

// Path is the socket of a site in a directory that belongs to the daemon's user.
func Path(dir, site string) string { return filepath.Join(dir, "serve-"+site+".sock") }

// Conn is one conversation. Send may be called from several goroutines, Receive
// from one.
type Conn struct {
	c  *net.UnixConn
	mu sync.Mutex
}

// Dial connects to a daemon of this user, or of root, and returns what it says
// of itself. An error for which errors.Is(err, fs.ErrNotExist) or
// errors.Is(err, syscall.ECONNREFUSED) holds says that nobody listens.
func Dial(ctx context.Context, path string) (*Conn, Hello, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, Hello{}, err
	}
	c := &Conn{c: conn.(*net.UnixConn)}
	var hello Hello
	err = c.expectUser()
	if err == nil {
		hello, err = c.greeted()
	}
	if err != nil {
		return nil, hello, errors.Join(fmt.Errorf("connecting to %s: %w", path, err), c.Close())
	}
	return c, hello, nil
}

// greeted reads the daemon's hello.
func (c *Conn) greeted() (Hello, error) {
	var hello Hello
	if err := c.c.SetReadDeadline(time.Now().Add(dialTimeout)); err != nil {
		return hello, err
	}
	m, err := c.Receive()
	if err != nil {
		return hello, err
	}
	if m.Kind != KindHello {
		return hello, fmt.Errorf("it began with a message of kind %q", m.Kind)
	}
	if err := m.Into(&hello); err != nil {
		return hello, err
	}
	if hello.Version != Version {
		return hello, fmt.Errorf("it is %s and speaks version %d of the protocol, this program version %d: start it again with the same release", hello.Program, hello.Version, Version)
	}
	return hello, c.c.SetReadDeadline(time.Time{})
}

// Send writes one message.
func (c *Conn) Send(kind Kind, data any) error {
	m, err := New(kind, data)
	if err != nil {
		return err
	}
	return c.SendMessage(m)
}

// SendMessage writes one message that was made before.
func (c *Conn) SendMessage(m Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return Write(c.c, m)
}

// Receive waits for the next message; io.EOF where the other side has closed.
func (c *Conn) Receive() (Message, error) { return Read(c.c) }

// Gone reports whether the other side has closed its end, as its process does when it
// ends; what it has sent before can be received all the same.
func (c *Conn) Gone() (bool, error) {
	raw, err := c.c.SyscallConn()
	if err != nil {
		return false, err
	}
	var (
		ready  = []unix.PollFd{{Events: unix.POLLRDHUP}}
		polled error
	)
	err = raw.Control(func(fd uintptr) {
		ready[0].Fd = int32(fd)
		for polled = unix.EINTR; polled == unix.EINTR; {
			_, polled = unix.Poll(ready, 0)
		}
	})
	if err := errors.Join(err, polled); err != nil {
		return false, fmt.Errorf("looking whether the other side is there: %w", err)
	}
	return ready[0].Revents != 0, nil
}

// Close ends the conversation.
func (c *Conn) Close() error { return c.c.Close() }

// Process is the id of the process at the other side.
func (c *Conn) Process() (int, error) {
	peer, err := c.peer()
	if err != nil {
		return 0, err
	}
	return int(peer.Pid), nil
}

// peer is who the kernel says is at the other side (SO_PEERCRED, unix(7)).
func (c *Conn) peer() (*unix.Ucred, error) {
	raw, err := c.c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var (
		peer    *unix.Ucred
		peerErr error
	)
	err = raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, peerErr); err != nil {
		return nil, fmt.Errorf("finding out who is there: %w", err)
	}
	return peer, nil
}

// expectUser refuses a peer that is neither this user nor root.
func (c *Conn) expectUser() error {
	peer, err := c.peer()
	if err != nil {
		return err
	}
	if uid := os.Geteuid(); !slices.Contains([]uint32{0, uint32(uid)}, peer.Uid) {
		return fmt.Errorf("user %d is neither user %d nor root", peer.Uid, uid)
	}
	return nil
}

// maxConns bounds how many conversations there are at once.
const maxConns = 32

// Bounds of the pause before a client is accepted again after that failed; it
// doubles each time. They are those of net/http.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// requestTimeout bounds how long a client may take to say what it wants.
const requestTimeout = 10 * time.Second

// Serve hands the conversations of a listener, each with its request, to handle
// until ctx ends. Then it closes the listener, ends the conversations and waits
// for them. Whoever is not this user or root is not talked to. refused is told of
// such, of clients that make no sense, and of each time that none could be accepted,
// which is tried again.
func Serve(ctx context.Context, l *net.UnixListener, hello Hello, handle func(context.Context, *Conn, Message), refused func(error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	slots := make(chan struct{}, maxConns)
	var conns sync.WaitGroup
	defer conns.Wait()
	pause := time.Duration(0)
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if conn != nil {
				conn.Close()
			}
			cancel()
			return nil
		}
		switch {
		case errors.Is(err, net.ErrClosed):
			cancel()
			return fmt.Errorf("listening for commands: %w", err)
		case err != nil:
			// Such as too many open files (EMFILE): it passes, and the conversations
			// that there are go on.
			pause = min(max(2*pause, minAcceptPause), maxAcceptPause)
			refused(fmt.Errorf("accepting a client, tried again in %s: %w", pause, err))
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		select {
		case slots <- struct{}{}:
		default:
			refused(fmt.Errorf("%d conversations are under way; another one was refused", maxConns))
			conn.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			c := &Conn{c: conn}
			defer c.Close()
			// Who has not said yet what it wants holds up no end.
			unwanted := context.AfterFunc(ctx, func() { c.Close() })
			request, err := c.accept(hello)
			switch {
			case !unwanted():
			case err != nil:
				refused(err)
			default:
				handle(ctx, c, request)
			}
		})
	}
}

// accept greets a client and reads what it wants.
func (c *Conn) accept(hello Hello) (Message, error) {
	if err := c.expectUser(); err != nil {
		return Message{}, err
	}
	if err := c.Send(KindHello, hello); err != nil {
		return Message{}, err
	}
	if err := c.c.SetReadDeadline(time.Now().Add(requestTimeout)); err != nil {
		return Message{}, err
	}
	m, err := c.Receive()
	if err != nil {
		return m, err
	}
	if m.Kind != KindRequest {
		return m, fmt.Errorf("a client began with a message of kind %q", m.Kind)
	}
	return m, c.c.SetReadDeadline(time.Time{})
}

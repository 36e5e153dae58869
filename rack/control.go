package rack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// controlName is the supervisor's socket in the state directory, which only
// root may enter.
const controlName = "control.sock"

// controlTimeout bounds one control conversation, the slowest of which ends a
// machine and starts it.
const controlTimeout = startTimeout + endTimeout

// maxControlMessage bounds what either side reads.
const maxControlMessage = 4 << 20

// errNotRunning says that no supervisor answers.
var errNotRunning = errors.New("no supervisor answers")

// controlRequest is the one JSON value that a client sends; controlReply the
// one it gets.
type controlRequest struct {
	Verb    string      `json:"verb"` // status, power, boot, swap, stop
	Machine string      `json:"machine,omitempty"`
	Power   PowerAction `json:"power,omitempty"`
	Boot    BootClass   `json:"boot,omitempty"`
	Slot    int         `json:"slot,omitempty"`
	Disk    *Disk       `json:"disk,omitempty"`
}

type controlReply struct {
	Error  string  `json:"error,omitempty"`
	Status *Status `json:"status,omitempty"`
}

// atControl calls f with a path of the control socket that is short enough for
// sockaddr_un's 108 bytes, however deep the state directory is.
func atControl(stateDir string, f func(path string) error) error {
	fd, err := unix.Open(stateDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("opening state directory %s: %w", stateDir, fs.ErrNotExist)
	} else if err != nil {
		return fmt.Errorf("opening state directory %s: %w", stateDir, err)
	}
	return errors.Join(f(fmt.Sprintf("/proc/self/fd/%d/%s", fd, controlName)), unix.Close(fd))
}

// askSupervisor has one conversation.
func askSupervisor(ctx context.Context, stateDir string, q controlRequest) (controlReply, error) {
	var reply controlReply
	err := atControl(stateDir, func(path string) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if err != nil {
			return fmt.Errorf("%w at %s: %w", errNotRunning, filepath.Join(stateDir, controlName), err)
		}
		defer conn.Close()
		stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
		defer stop()
		if err := conn.SetDeadline(time.Now().Add(controlTimeout)); err != nil {
			return err
		}
		if err := json.NewEncoder(conn).Encode(q); err != nil {
			return fmt.Errorf("asking the supervisor: %w", err)
		}
		if err := json.NewDecoder(io.LimitReader(conn, maxControlMessage)).Decode(&reply); err != nil {
			return fmt.Errorf("reading the supervisor's answer: %w", errors.Join(err, ctx.Err()))
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNotRunning) {
		err = fmt.Errorf("%w: %w", errNotRunning, err)
	}
	if err == nil && reply.Error != "" {
		err = errors.New(reply.Error)
	}
	return reply, err
}

// controlServer answers on the control socket.
type controlServer struct {
	listener net.Listener
	answer   func(context.Context, controlRequest) controlReply
}

// listenControl binds the socket; one left by a crash is replaced.
func listenControl(stateDir string, answer func(context.Context, controlRequest) controlReply) (*controlServer, error) {
	s := &controlServer{answer: answer}
	path := filepath.Join(stateDir, controlName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing an old control socket: %w", err)
	}
	err := atControl(stateDir, func(short string) error {
		l, err := net.Listen("unix", short)
		if err != nil {
			return fmt.Errorf("listening on %s: %w", path, err)
		}
		// The short path means nothing once its descriptor is closed.
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		s.listener = l
		return nil
	})
	return s, err
}

// serve answers until ctx ends.
func (s *controlServer) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.listener.Close() })
	defer stop()
	var conversations sync.WaitGroup
	defer conversations.Wait()
	for {
		conn, err := s.listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting on the control socket: %w", err)
		}
		conversations.Go(func() { s.converse(ctx, conn) })
	}
}

func (s *controlServer) converse(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(controlTimeout)); err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var q controlRequest
	reply := controlReply{}
	if err := json.NewDecoder(io.LimitReader(conn, maxControlMessage)).Decode(&q); err != nil {
		reply.Error = fmt.Sprintf("reading the request: %v", err)
	} else {
		reply = s.answer(ctx, q)
	}
	// Whoever hung up does not want to know.
	_ = json.NewEncoder(conn).Encode(reply)
}

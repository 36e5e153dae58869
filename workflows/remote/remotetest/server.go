// Package remotetest has an SSH server for tests: it runs real commands and
// keeps real files on this machine, with the rights of the test.
package remotetest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// Server is an SSH server on loopback that admits one key.
type Server struct {
	// Address is host:port.
	Address string
	// HostKey is in authorized_keys form.
	HostKey string
	// Silent makes it accept commands and never answer, as a machine does whose
	// power was cut.
	Silent bool
	// Env is added to the environment of commands.
	Env []string
	// Rewrite changes a command line before it is run, so that a machine's
	// absolute paths stay inside of the test's folder; nil changes nothing.
	Rewrite func(line string) string
	// Files are what SFTP finds, by their absolute paths; nil: this machine's.
	Files map[string]string

	mu       sync.Mutex
	commands []string
}

// NewSigner makes a key.
func NewSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// Start starts a server that ends with the test. The caller may set the fields
// of options before; nil means the defaults.
func Start(t testing.TB, user ssh.PublicKey, options *Server) *Server {
	t.Helper()
	s := options
	if s == nil {
		s = &Server{}
	}
	host := NewSigner(t)
	s.HostKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(host.PublicKey())))
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(user.Marshal()) {
			return nil, errors.New("another key")
		}
		return &ssh.Permissions{}, nil
	}}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Address = l.Addr().String()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() { s.serve(conn, config) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return s
}

// Commands are the command lines that were run, in order.
func (s *Server) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.commands...)
}

func (s *Server) serve(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	var wg sync.WaitGroup
	defer wg.Wait()
	for c := range channels {
		if c.ChannelType() != "session" {
			_ = c.Reject(ssh.UnknownChannelType, "only sessions")
			continue
		}
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		wg.Go(func() { s.session(channel, requests) })
	}
}

func (s *Server) session(channel ssh.Channel, requests <-chan *ssh.Request) {
	var running *exec.Cmd
	ended := make(chan struct{})
	for r := range requests {
		switch {
		case s.Silent:
			continue
		case r.Type == "exec" && running == nil && len(r.Payload) >= 4:
			line := string(r.Payload[4:])
			s.mu.Lock()
			s.commands = append(s.commands, line)
			s.mu.Unlock()
			running = s.command(line, channel)
			err := running.Start()
			_ = r.Reply(err == nil, nil)
			go func() {
				defer close(ended)
				report(channel, running.Wait())
			}()
		case r.Type == "subsystem":
			_ = r.Reply(true, nil)
			server, err := s.files(channel)
			if err == nil {
				go func() {
					_ = server.Serve()
					channel.Close()
				}()
			}
		default:
			_ = r.Reply(false, nil)
		}
	}
	if running != nil {
		// The session was closed from the other end: so is its process group.
		_ = syscall.Kill(-running.Process.Pid, syscall.SIGKILL)
		<-ended
	}
}

// files serves the machine's files.
func (s *Server) files(channel io.ReadWriteCloser) (interface{ Serve() error }, error) {
	if s.Files == nil {
		return sftp.NewServer(channel)
	}
	return sftp.NewRequestServer(channel, sftp.Handlers{FileGet: made(s.Files), FileList: made(s.Files)}), nil
}

// made are files that there are in memory alone, to be read.
type made map[string]string

// Fileread implements sftp.FileReader.
func (m made) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	content, ok := m[r.Filepath]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return strings.NewReader(content), nil
}

// Filelist implements sftp.FileLister.
func (m made) Filelist(r *sftp.Request) (sftp.ListerAt, error) { return m.Lstat(r) }

// Lstat implements sftp.LstatFileLister.
func (m made) Lstat(r *sftp.Request) (sftp.ListerAt, error) {
	content, ok := m[r.Filepath]
	if !ok {
		return nil, fs.ErrNotExist
	}
	info, err := fs.Stat(fstest.MapFS{"file": {Data: []byte(content), Mode: 0o644}}, "file")
	return one{info}, err
}

// one is a listing of one file.
type one struct{ fs.FileInfo }

// ListAt implements sftp.ListerAt.
func (o one) ListAt(to []fs.FileInfo, offset int64) (int, error) {
	if offset > 0 || len(to) == 0 {
		return 0, io.EOF
	}
	to[0] = o.FileInfo
	return 1, nil
}

func (s *Server) command(line string, channel ssh.Channel) *exec.Cmd {
	if s.Rewrite != nil {
		line = s.Rewrite(line)
	}
	c := exec.Command("sh", "-c", line)
	c.Env = append(c.Environ(), s.Env...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Stdout, c.Stderr = channel, channel.Stderr()
	in, err := c.StdinPipe()
	if err == nil {
		go func() {
			_, _ = io.Copy(in, channel)
			in.Close()
		}()
	}
	return c
}

// report tells how a command ended (RFC 4254 section 6.10) and closes the
// channel.
func report(channel ssh.Channel, err error) {
	defer channel.Close()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status, ok := exit.Sys().(syscall.WaitStatus)
		if ok && status.Signaled() {
			name := map[syscall.Signal]string{syscall.SIGKILL: "KILL", syscall.SIGTERM: "TERM"}[status.Signal()]
			_, _ = channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
				Name       string
				Core       bool
				Text, Lang string
			}{Name: name}))
			return
		}
		_, _ = channel.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, uint32(exit.ExitCode())))
		return
	}
	_, _ = channel.SendRequest("exit-status", false, make([]byte, 4))
}

package control_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/workflows/control"
)

// manager is a socket such as systemd's, and the environment that names it.
func manager(t *testing.T, more map[string]string) (*net.UnixConn, func(string) (string, bool)) {
	t.Helper()
	path := filepath.Join(filepath.Dir(socketPath(t)), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := l.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return l, func(name string) (string, bool) {
		if name == "NOTIFY_SOCKET" {
			return path, true
		}
		v, ok := more[name]
		return v, ok
	}
}

func told(t *testing.T, l *net.UnixConn) string {
	t.Helper()
	b := make([]byte, 4096)
	n, err := l.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestTheServiceManagerIsTold(t *testing.T) {
	l, env := manager(t, nil)
	s, err := control.NewSupervisor(env)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tell func() error
		want string
	}{
		{func() error { return s.Ready("Serving\nREADY=0") }, "READY=1\nSTATUS=Serving READY=0"},
		{func() error { return s.Status("one run") }, "STATUS=one run"},
		{func() error { return s.Extend(time.Minute, "9 of 10") }, "EXTEND_TIMEOUT_USEC=60000000\nSTATUS=9 of 10"},
		{func() error { return s.Stopping("bye") }, "STOPPING=1\nSTATUS=bye"},
	} {
		if err := c.tell(); err != nil {
			t.Fatal(err)
		}
		if got := told(t, l); got != c.want {
			t.Errorf("the manager was told %q; want %q", got, c.want)
		}
	}
	if err := s.Reloading(); err != nil {
		t.Fatal(err)
	}
	microseconds, found := strings.CutPrefix(told(t, l), "RELOADING=1\nMONOTONIC_USEC=")
	if n, err := strconv.ParseInt(microseconds, 10, 64); !found || err != nil || n <= 0 {
		t.Errorf("MONOTONIC_USEC = %q, %v; want the monotonic time", microseconds, err)
	}
	if err := (control.Supervisor{}).Ready("nobody there"); err != nil {
		t.Errorf("Ready without a manager = %v; want nothing done", err)
	}
}

func TestASignOfLifeComesOnlyFromTheLiving(t *testing.T) {
	l, env := manager(t, map[string]string{"WATCHDOG_USEC": "40000", "WATCHDOG_PID": strconv.Itoa(os.Getpid())})
	s, err := control.NewSupervisor(env)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	looked := 0
	failures := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Watch(ctx, func(context.Context) error {
			looked++
			if looked == 2 {
				return errors.New("the catalog hangs")
			}
			return nil
		}, func(err error) { failures <- err })
	}()
	for range 2 {
		if got := told(t, l); got != "WATCHDOG=1" {
			t.Errorf("the manager was told %q; want WATCHDOG=1", got)
		}
	}
	if err := <-failures; err == nil || !strings.Contains(err.Error(), "hangs") {
		t.Errorf("failure = %v; want the one between the signs", err)
	}
	cancel()
	<-done
	for name, env := range map[string]map[string]string{
		"for another process": {"WATCHDOG_USEC": "40000", "WATCHDOG_PID": "1"},
		"not wanted":          {},
	} {
		_, lookup := manager(t, env)
		s, err := control.NewSupervisor(lookup)
		if err != nil {
			t.Fatal(err)
		}
		s.Watch(t.Context(), func(context.Context) error { t.Errorf("%s: alive was asked", name); return nil }, func(error) {})
	}
	if _, err := control.NewSupervisor(func(name string) (string, bool) { return "-1", name == "WATCHDOG_USEC" }); err == nil {
		t.Error("NewSupervisor(WATCHDOG_USEC=-1) = nil; want it refused")
	}
}

// TestMain is also the process that sockets are handed to.
func TestMain(m *testing.M) {
	if os.Getenv("CONTROL_TEST_INHERIT") != "" {
		os.Exit(inherit())
	}
	os.Exit(m.Run())
}

// inherit says what it was handed. The test cannot know this process's id before
// it runs, as systemd does between fork and exec.
func inherit() int {
	lookup := func(name string) (string, bool) {
		if name == "LISTEN_PID" && os.Getenv("LISTEN_PID") == "" {
			return strconv.Itoa(os.Getpid()), true
		}
		return os.LookupEnv(name)
	}
	s, err := control.Inherited(lookup)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if s.API != nil {
		fmt.Println("api", s.API.Addr())
	}
	if s.Control != nil {
		fmt.Println("control", s.Control.Addr())
	}
	if err := s.Close(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func TestSocketsAreInherited(t *testing.T) {
	path := socketPath(t)
	unix, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	var files []*os.File
	for _, l := range []interface{ File() (*os.File, error) }{tcp, unix} {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	api, command := "api "+tcp.Addr().String()+"\n", "control "+path+"\n"
	for name, c := range map[string]struct {
		files []*os.File
		env   []string
		want  string
		fails bool
	}{
		"by name":         {files, []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=api:control"}, api + command, false},
		"by family":       {[]*os.File{files[1], files[0]}, []string{"LISTEN_FDS=2"}, api + command, false},
		"the API alone":   {files[:1], []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=api"}, api, false},
		"for another":     {files, []string{"LISTEN_FDS=2", "LISTEN_PID=1"}, "", false},
		"no number":       {files, []string{"LISTEN_FDS=many"}, "not a number", true},
		"no socket":       {[]*os.File{null}, []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=api"}, "does not listen", true},
		"a wrong name":    {files[:1], []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=control"}, "no use for it", true},
		"two of a family": {[]*os.File{files[0], files[0]}, []string{"LISTEN_FDS=2"}, "no use for it", true},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append([]string{"CONTROL_TEST_INHERIT=1"}, c.env...)
			cmd.ExtraFiles = c.files
			out, err := cmd.Output()
			if (err != nil) != c.fails || c.fails && !strings.Contains(string(out), c.want) || !c.fails && string(out) != c.want {
				t.Errorf("inherited %q, %v; want %q", out, err, c.want)
			}
		})
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the manager's socket is gone: %v", err)
	}
}

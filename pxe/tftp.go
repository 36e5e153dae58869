package pxe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/pin/tftp/v3"

	"github.com/edge-provision/edge-provision/inventory"
)

// TFTP moves the first stage alone (1 MB at most): lock-step makes it slow on
// links with delay. A packet is repeated after tftpTimeout, tftpRetries times,
// which is also the longest a silent client can hold a transfer.
const (
	tftpTimeout   = time.Second
	tftpRetries   = 6
	tftpPerClient = 4
	tftpInAll     = 256
	// tftpBlock is what fits an Ethernet frame beside the IP, UDP and TFTP
	// headers: fragments are what the weakest firmware cannot put together.
	tftpBlock = 1500 - headers - 4
	// maxTFTPName bounds a file name in events.
	maxTFTPName = 128
)

// autoScript is what an iPXE started over TFTP looks for beside itself, and
// does without.
const autoScript = "autoexec.ipxe"

// Errors that are sent to the client, hence short.
var (
	errNoFile   = errors.New("file not found")
	errBusy     = errors.New("too many transfers")
	errStranger = errors.New("not for this network")
	errStopping = errors.New("server is stopping")
)

// serveTFTP serves the table of programs until ctx ends. There is no way from
// a file name to the file system.
func (s *Server) serveTFTP(ctx context.Context) error {
	under := newGauge[netip.Addr](tftpPerClient, tftpInAll)
	t := tftp.NewServer(func(name string, to io.ReaderFrom) error {
		addr := remoteOf(to)
		if !s.net.prefix.Contains(addr.Addr()) {
			return errStranger
		}
		if !under.enter(addr.Addr()) {
			return errBusy
		}
		defer under.leave(addr.Addr())
		return s.sendFile(ctx, name, to, addr)
	}, nil)
	t.SetTimeout(tftpTimeout)
	t.SetRetries(tftpRetries)
	t.SetBlockSize(tftpBlock)
	t.SetBackoff(func(int) time.Duration { return 0 })
	stop := context.AfterFunc(ctx, t.Shutdown)
	defer stop()
	err := t.Serve(s.sock.TFTP)
	if ctx.Err() != nil {
		t.Shutdown()
	}
	return err
}

func remoteOf(to io.ReaderFrom) netip.AddrPort {
	if t, ok := to.(tftp.OutgoingTransfer); ok {
		a := t.RemoteAddr()
		p := a.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// cleanName is the name that firmware means: some put a slash in front, some
// send what follows the name in their buffer (0xff or a space).
func cleanName(name string) string {
	name = strings.TrimLeft(name, "/\\")
	if i := strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
		name = name[:i]
	}
	if len(name) > maxTFTPName {
		name = name[:maxTFTPName]
	}
	return name
}

// sendFile sends one file and records how that went. Firmware asks for a
// file's size first by starting a transfer that it aborts at once.
func (s *Server) sendFile(ctx context.Context, name string, to io.ReaderFrom, addr netip.AddrPort) error {
	name = cleanName(name)
	mac := s.whose(addr.Addr())
	attrs := func() map[string]string {
		return map[string]string{"file": name, "client": addr.Addr().String()}
	}
	content, ok := s.files.program(name)
	if !ok && name == autoScript {
		return errNoFile
	}
	if !ok {
		a := attrs()
		a["error"] = errNoFile.Error()
		s.record(mac, inventory.EventTFTPError, "asked for a file that is not served", a)
		return errNoFile
	}
	s.record(mac, inventory.EventTFTPStart, "", attrs())
	began := time.Now()
	r := &countingReader{ctx: ctx, r: bytes.NewReader(content)}
	if t, ok := to.(tftp.OutgoingTransfer); ok {
		t.SetSize(int64(len(content)))
	}
	_, err := to.ReadFrom(r)
	a := attrs()
	a["bytes"], a["size"] = strconv.FormatInt(r.n, 10), strconv.Itoa(len(content))
	a["duration"] = time.Since(began).Round(time.Millisecond).String()
	switch {
	case err == nil:
		s.record(mac, inventory.EventTFTPEnd, "", a)
		s.loaded(mac, name)
	case r.n == 0 && !timedOut(err):
		a["size_only"] = "true"
		s.record(mac, inventory.EventTFTPEnd, "asked for the size alone", a)
	default:
		a["error"] = clipClass([]byte(err.Error()))
		s.record(mac, inventory.EventTFTPError, "the transfer broke off", a)
	}
	return err
}

func timedOut(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout()
}

// loaded notes that a machine took an iPXE program. A second one without a
// script in between means that the first never ran, or ran and came back.
func (s *Server) loaded(mac inventory.MAC, file string) {
	s.mu.Lock()
	g := s.seen.byMAC[mac]
	if g == nil {
		s.mu.Unlock()
		return
	}
	now := s.now()
	g.chained, g.loaded = g.chainedNow(now)+1, now
	count := g.chained
	s.mu.Unlock()
	if count > 1 {
		s.record(mac, inventory.EventBootLoop, "loaded the boot program again without having asked for its script",
			map[string]string{"file": file, "count": strconv.Itoa(count)})
	}
}

// countingReader counts what was handed over, and ends with the context.
type countingReader struct {
	ctx context.Context
	r   io.Reader
	n   int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, errStopping
	}
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

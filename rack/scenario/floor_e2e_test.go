//go:build e2e

package scenario

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/edge-provision/edge-provision/imagebuilder"
	"github.com/edge-provision/edge-provision/imagebuilder/cpio"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/pxe"
	"github.com/edge-provision/edge-provision/rack"
)

// The floors are what the parts of the main job take when they do nothing of
// what edge-provision promises, on the same machine in the same run.

// Where the floors listen, and the network that they boot from; pair.hcl's.
const (
	floorServer    = "172.22.0.1:8500"
	floorInterface = "eth1"
)

var floorNetwork = netip.MustParsePrefix("172.22.0.0/24")

// listen binds the floors' HTTP server inside the rack.
func (l *lab) listen(handler http.HandlerFunc) *http.Server {
	l.t.Helper()
	var listener net.Listener
	err := l.rack.Enter(func() (err error) {
		listener, err = net.Listen("tcp", floorServer)
		return err
	})
	if err != nil {
		l.t.Fatalf("listening in the rack = %v", err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: handler}
	go func() { _ = server.Serve(listener) }()
	return server
}

// floorOfNetboot is the time from power-on to the first HTTP request of an init
// that does nothing else, over the same firmware, DHCP, iPXE and kernel.
func (l *lab) floorOfNetboot(address string, boot floorBoot) time.Duration {
	l.t.Helper()
	asked := make(chan time.Time, 1)
	server := l.listen(func(http.ResponseWriter, *http.Request) {
		select {
		case asked <- time.Now():
		default:
		}
	})
	defer server.Close()
	stop := l.netboot(boot)
	defer stop()

	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	if err := l.rack.BootOnce(ctx, address, rack.BootNetwork); err != nil {
		l.t.Fatalf("BootOnce = %v", err)
	}
	began := time.Now()
	l.power(address, rack.PowerOn)
	defer l.power(address, rack.PowerOff)
	select {
	case at := <-asked:
		return at.Sub(began)
	case <-time.After(settleLimit):
		l.t.Fatalf("%s did not make its HTTP request in %s", address, settleLimit)
		return 0
	}
}

// floorBoot is what the floor's netboot serves; the process that does it gets
// it as JSON.
type floorBoot struct {
	Site              string
	MAC               inventory.MAC
	IP                netip.Addr
	Kernel, Initramfs string // paths
}

// floorVariable carries a floorBoot.
const floorVariable = "EDGE_FLOOR_BOOT"

// netboot serves one machine with the floor's init until stop is called. It is
// done by a process inside the rack, because TFTP opens a socket for each
// transfer.
func (l *lab) netboot(boot floorBoot) (stop func()) {
	l.t.Helper()
	config, err := json.Marshal(boot)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	cmd := l.rack.Command(ctx, os.Args[0], "-test.run", "^TestServeTheFloor$", "-test.v")
	cmd.Env = append(os.Environ(), floorVariable+"="+string(config))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		l.t.Fatalf("serving the floor's netboot = %v", err)
	}
	ready := false
	for lines := bufio.NewScanner(out); !ready && lines.Scan(); {
		ready = strings.Contains(lines.Text(), floorReady)
	}
	if !ready {
		cancel()
		l.t.Fatalf("serving the floor's netboot ended before it began: %v", cmd.Wait())
	}
	return func() {
		cancel()
		// It ends by being killed.
		_ = cmd.Wait()
	}
}

// floorReady is what the serving process says when it answers.
const floorReady = "the floor's netboot is served"

// TestServeTheFloor is no test: it serves the floor's netboot for the test that
// runs it inside a rack, until it is killed.
func TestServeTheFloor(t *testing.T) {
	config := os.Getenv(floorVariable)
	if config == "" {
		t.Skip("a part of TestMeasureTheMainJob")
	}
	var boot floorBoot
	if err := json.Unmarshal([]byte(config), &boot); err != nil {
		t.Fatal(err)
	}
	only := onlyOne{mac: boot.MAC, ip: boot.IP, line: fmt.Sprintf("console=ttyS0 quiet floor.address=%s/%d floor.url=http://%s/", boot.IP, floorNetwork.Bits(), floorServer)}
	server, err := pxe.Listen(t.Context(), pxe.Config{
		Site: boot.Site, Network: "edge", Interface: floorInterface, Prefix: floorNetwork, Mode: pxe.ModeServer, Booter: only, Leases: only,
	})
	if err != nil {
		t.Fatalf("serving the floor's netboot = %v", err)
	}
	for _, a := range []pxe.Asset{
		{Name: "vmlinuz", Kind: pxe.AssetKernel, Path: boot.Kernel},
		{Name: "initramfs", Kind: pxe.AssetInitramfs, Path: boot.Initramfs},
	} {
		info, err := os.Stat(a.Path)
		if err != nil {
			t.Fatal(err)
		}
		a.Size = info.Size()
		if _, err := server.Register(a); err != nil {
			t.Fatalf("serving the floor's netboot = %v", err)
		}
	}
	fmt.Println(floorReady)
	if err := server.Serve(t.Context()); err != nil {
		t.Fatalf("serving the floor's netboot = %v", err)
	}
}

// onlyOne boots one machine and forgets its lease.
type onlyOne struct {
	mac  inventory.MAC
	ip   netip.Addr
	line string
}

func (o onlyOne) Boot(_ context.Context, c pxe.Client) (pxe.Answer, error) {
	if c.MAC != o.mac {
		return pxe.Answer{Kind: pxe.KindIgnore, Reason: "not the machine of the floor"}, nil
	}
	return pxe.Answer{Kind: pxe.KindInstall, Kernel: "vmlinuz", Initramfs: "initramfs", CommandLine: o.line}, nil
}

func (o onlyOne) Reservations(context.Context) ([]pxe.Reservation, error) {
	return []pxe.Reservation{{MAC: o.mac, Address: o.ip}}, nil
}

func (o onlyOne) Leases(context.Context, string) ([]inventory.Lease, error) { return nil, nil }

func (o onlyOne) Commit(context.Context, inventory.Lease) error { return nil }

// nothing is an initramfs with the driver of the rack's network cards and an
// init that makes one HTTP request. It returns its path.
func (l *lab) nothing(installer imagebuilder.Installer) string {
	l.t.Helper()
	program := filepath.Join(l.dir, "nothing")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./testdata/nothing")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		l.t.Fatalf("building the floor's init = %v, %s", err, out)
	}
	init, err := os.ReadFile(program)
	if err != nil {
		l.t.Fatal(err)
	}
	modules, err := driver(installer, "virtio_pci", "virtio_net")
	if err != nil {
		l.t.Fatalf("finding the driver of the network card = %v", err)
	}
	var archive bytes.Buffer
	compressor, err := zstd.NewWriter(&archive, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		l.t.Fatal(err)
	}
	w := cpio.NewWriter(compressor, 1)
	err = w.WriteHeader(cpio.Header{Name: "dev/console", Mode: cpio.ModeCharacter | 0o600, Major: 5, Minor: 1})
	err = errors.Join(err, w.File("init", 0o755, init))
	for i, m := range modules {
		err = errors.Join(err, w.File(fmt.Sprintf("modules/%02d.ko", i), 0o644, m))
	}
	if err := errors.Join(err, w.Close(), compressor.Close()); err != nil {
		l.t.Fatalf("packing the floor's initramfs = %v", err)
	}
	name := filepath.Join(l.dir, "nothing.initramfs")
	if err := os.WriteFile(name, archive.Bytes(), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return name
}

// driver is what the installer's initramfs has of some modules and all that they
// need, in the order in which they must be loaded.
func driver(installer imagebuilder.Installer, names ...string) ([][]byte, error) {
	f, err := os.Open(installer.Initramfs.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	plain, err := zstd.NewReader(f)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	root := "lib/modules/" + installer.KernelRelease + "/"
	files := map[string][]byte{} // by path below root
	for archive := cpio.NewReader(plain); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if name, ok := strings.CutPrefix(h.Name, root); ok && h.Mode&cpio.ModeKind == cpio.ModeFile {
			if files[name], err = io.ReadAll(archive); err != nil {
				return nil, err
			}
		}
	}
	needs := map[string][]string{}
	named := map[string]string{}
	for line := range strings.Lines(string(files["modules.dep"])) {
		file, rest, _ := strings.Cut(line, ":")
		needs[file] = strings.Fields(rest)
		named[strings.TrimSuffix(path.Base(file), ".ko")] = file
	}
	var order []string
	for _, n := range names {
		file, ok := named[n]
		if !ok {
			return nil, fmt.Errorf("the installer has no module %s", n)
		}
		// depmod(8) lists what must be loaded first last.
		wanted := append([]string{file}, needs[file]...)
		slices.Reverse(wanted)
		for _, w := range wanted {
			if !slices.Contains(order, w) {
				order = append(order, w)
			}
		}
	}
	var content [][]byte
	for _, file := range order {
		content = append(content, files[file])
	}
	return content, nil
}

// floorOfWrite has the installed machine itself fetch the frames over plain HTTP
// and write them, without any digest, to its second disk.
func (l *lab) floorOfWrite(ip, frames string) time.Duration {
	l.t.Helper()
	server := l.listen(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, frames) })
	defer server.Close()
	r := l.want(0, l.ssh(ip, `bash -c '
		set -e -o pipefail
		disk=/dev/$(lsblk -ndo NAME,SERIAL | grep OLD- | cut -d" " -f1)
		began=$(date +%s%N)
		exec 3<>/dev/tcp/172.22.0.1/8500
		printf "GET /frames HTTP/1.0\r\n\r\n" >&3
		while IFS= read -r header <&3 && [ "$header" != $'"'\r'"' ]; do :; done
		zstd -dcq <&3 | dd of=$disk bs=4M iflag=fullblock oflag=direct conv=sparse,fsync status=none
		echo $(( $(date +%s%N) - began ))'`))
	took, err := strconv.ParseInt(strings.TrimSpace(r.stdout), 10, 64)
	if err != nil {
		l.t.Fatalf("reading the time of the plain write = %v", err)
	}
	return time.Duration(took)
}

// floorOfBoot is the time from power-on to SSH of a machine that only boots its
// disk.
func (l *lab) floorOfBoot(address, ip string) time.Duration {
	l.t.Helper()
	l.power(address, rack.PowerOff)
	began := time.Now()
	l.power(address, rack.PowerOn)
	l.eventually("SSH from the disk", settleLimit, func() bool {
		var conn net.Conn
		// A longer wait would sit through the pauses of TCP's own retries.
		err := l.rack.Enter(func() (err error) {
			conn, err = net.DialTimeout("tcp", ip, time.Second)
			return err
		})
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
	return time.Since(began)
}

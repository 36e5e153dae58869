//go:build e2e

package scenario

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory/timeline"
	"github.com/edge-provision/edge-provision/rack"
	"github.com/edge-provision/edge-provision/workflows"
)

// TestMeasureTheMainJob prints where the time of one machine goes, from
// powered off to SSH, for each kind of firmware alone, against floors taken on
// the same machine in the same run; how long an unchanged image takes to be
// found; and the sizes of what is shipped. The report goes to the file that
// EDGE_BENCH names. It asserts nothing
// about time: `make bench` runs it.
func TestMeasureTheMainJob(t *testing.T) {
	if os.Getenv("EDGE_BENCH") == "" {
		t.Skip("a measurement, not a test: run by make bench")
	}
	report, err := os.Create(os.Getenv("EDGE_BENCH"))
	if err != nil {
		t.Fatalf("making the report = %v", err)
	}
	defer report.Close()
	l := newLab(t, "pair.hcl")
	image := l.image("image.edge-os")
	began := time.Now()
	l.image("image.edge-os")
	fmt.Fprintf(report, "\nunchanged image build and installer    %6.1f s\n", time.Since(began).Seconds())
	l.raw(image) // the second disks of the site start with it
	for _, p := range []string{"edge-provision", "edge-agent"} {
		fmt.Fprintf(report, "%-38s %s\n", p, workflows.FormatBytes(l.size(filepath.Join(filepath.Dir(l.bin), p))))
	}
	l.raise(l.site)
	nodes := map[string]string{"uefi": "172.22.0.11", "bios": "172.22.0.12"}
	for _, key := range []string{"uefi", "bios"} {
		address := `machine.node["` + key + `"]`
		l.want(0, l.apply("--target", address, l.site))
		var trace timeline.Timeline
		if err := json.Unmarshal([]byte(l.must(commandLimit, "trace", "--json", address).stdout), &trace); err != nil {
			t.Fatalf("reading the trace of %s = %v", address, err)
		}
		last := trace.Attempts[len(trace.Attempts)-1]
		fmt.Fprintf(report, "\n%s, one machine, %s image:\n", key, workflows.FormatBytes(image.Manifest.RawBytes))
		took := map[timeline.Name]time.Duration{}
		for _, p := range last.Phases {
			took[p.Name] = p.Duration()
			fmt.Fprintf(report, "  %-12s %6.1f s   %6.1f s since power-on\n", p.Name, p.Duration().Seconds(), p.Ended.Sub(last.Began).Seconds())
		}
		ip := nodes[key] + ":22"
		write := l.floorOfWrite(ip, image.FramesPath)
		boot := l.floorOfBoot(address, ip)
		ours := took[timeline.PhaseReboot] + took[timeline.PhaseSSH]
		fmt.Fprintf(report, "  write is %.2f × of fetch | zstd -d | dd oflag=direct conv=sparse on the same machine (%.1f s)\n",
			took[timeline.PhaseWrite].Seconds()/write.Seconds(), write.Seconds())
		fmt.Fprintf(report, "  reboot to SSH is %.2f × of power-on to SSH from the disk alone (%.1f s)\n", ours.Seconds()/boot.Seconds(), boot.Seconds())
		l.power(address, rack.PowerOff)
	}
}

// floorOfWrite has the installed machine itself fetch the frames over plain HTTP
// and write them, without any digest, to its second disk.
func (l *lab) floorOfWrite(ip, frames string) time.Duration {
	l.t.Helper()
	var listener net.Listener
	err := l.rack.Enter(func() (err error) {
		listener, err = net.Listen("tcp", "172.22.0.1:8500")
		return err
	})
	if err != nil {
		l.t.Fatalf("listening in the rack = %v", err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, frames)
	})}
	go func() { _ = server.Serve(listener) }()
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

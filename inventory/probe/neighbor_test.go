package probe

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

var heardAt = time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC)

// remembering is what systemd-networkd leaves of frames.
func remembering(frames ...[]byte) []byte {
	var out []byte
	for _, f := range frames {
		out = append(binary.LittleEndian.AppendUint64(out, uint64(len(f))), f...)
	}
	return out
}

// announcement is a captured frame.
func announcement(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("lldp", "testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	frame, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// twoPorts is a machine with eno1, which has a link, eno2, which has none, and
// things that are no ports.
func twoPorts(files map[string][]byte) Source {
	root := fstest.MapFS{}
	for name, text := range map[string]string{
		"eno1/type": "1", "eno1/address": "52:54:00:04:21:01", "eno1/ifindex": "2", "eno1/carrier": "1", "eno1/device/vendor": "0x8086",
		"eno2/type": "1", "eno2/address": "52:54:00:04:21:02", "eno2/ifindex": "3", "eno2/carrier": "0", "eno2/device/vendor": "0x8086",
		"br0/type": "1", "br0/address": "52:54:00:04:21:01", "br0/carrier": "1",
		"lo/type": "772", "lo/carrier": "1",
	} {
		root["sys/class/net/"+name] = &fstest.MapFile{Data: []byte(text + "\n")}
	}
	for name, content := range files {
		root[name] = &fstest.MapFile{Data: content, ModTime: heardAt}
	}
	return Source{FS: root, Now: func() time.Time { return heardAt.Add(10 * time.Second) }}
}

func TestPortsThatAreListenedOn(t *testing.T) {
	if got := Linked(twoPorts(nil)); !slices.Equal(got, []string{"eno1"}) {
		t.Errorf("Linked() = %q; want the one port with a link", got)
	}
}

func TestNeighborsOfPorts(t *testing.T) {
	mac := inventory.MAC{0x52, 0x54, 0, 4, 0x21, 1}
	permanent := inventory.MAC{0x52, 0x54, 0, 4, 0x21, 0xff}
	summit := inventory.Neighbor{MAC: mac, Chassis: "00:01:30:f9:ad:a0", Port: "1/1", PortDescription: "Summit300-48-Port 1001", System: "Summit300-48", VLAN: 488}
	live := inventory.Neighbor{Chassis: "sw-1", Port: "7"}
	const networkd = "run/systemd/netif/lldp/2"
	frame := announcement(t, "extreme-summit300")
	hear := func(neighbors []inventory.Neighbor, err error) func(context.Context, string) ([]inventory.Neighbor, error) {
		return func(_ context.Context, port string) ([]inventory.Neighbor, error) {
			if port != "eno1" {
				return nil, nil
			}
			return neighbors, err
		}
	}
	for name, test := range map[string]struct {
		files map[string][]byte
		more  func(*Source)
		want  []inventory.Neighbor
		err   string
	}{
		"nobody heard anything":              {},
		"systemd-networkd heard it":          {files: map[string][]byte{networkd: remembering(frame)}, want: []inventory.Neighbor{summit}},
		"long ago, by its clock":             {files: map[string][]byte{networkd: remembering(frame)}, more: func(s *Source) { s.Now = func() time.Time { return heardAt.Add(2 * time.Minute) } }},
		"and a frame that is none":           {files: map[string][]byte{networkd: remembering([]byte("nonsense"), frame, frame[:20])}, want: []inventory.Neighbor{summit}},
		"several, of which some may be gone": {files: map[string][]byte{networkd: remembering(frame, announcement(t, "cumulus-swp13"))}},
		"and a length that cannot be":        {files: map[string][]byte{networkd: append(remembering(frame), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1)}, want: []inventory.Neighbor{summit}},
		"of a port that is no more":          {files: map[string][]byte{"run/systemd/netif/lldp/9": remembering(frame)}},
		"it is heard now": {
			more: func(s *Source) { s.Heard = hear([]inventory.Neighbor{live}, nil) }, want: []inventory.Neighbor{{MAC: mac, Chassis: "sw-1", Port: "7"}},
		},
		"what is heard now counts first": {
			files: map[string][]byte{networkd: remembering(frame)}, want: []inventory.Neighbor{{MAC: mac, Chassis: "sw-1", Port: "7"}},
			more: func(s *Source) { s.Heard = hear([]inventory.Neighbor{live}, nil) },
		},
		"a port is known by its permanent address": {
			more: func(s *Source) {
				s.Heard = hear([]inventory.Neighbor{live}, nil)
				s.Port = func(string) (Port, error) { return Port{PermanentMAC: permanent}, nil }
			},
			want: []inventory.Neighbor{{MAC: permanent, Chassis: "sw-1", Port: "7"}},
		},
		"who may not listen says so": {more: func(s *Source) { s.Heard = hear(nil, errors.New("operation not permitted")) }, err: "operation not permitted"},
		"and need not when it was heard": {
			files: map[string][]byte{networkd: remembering(frame)}, want: []inventory.Neighbor{summit},
			more: func(s *Source) { s.Heard = hear(nil, errors.New("operation not permitted")) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			src := twoPorts(test.files)
			if test.more != nil {
				test.more(&src)
			}
			got, err := Neighbors(t.Context(), src)
			if !slices.Equal(got, test.want) || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("Neighbors() = %+v, %v; want %+v, %q", got, err, test.want, test.err)
			}
			if remembers := Remembers(src, "eno1"); remembers != (slices.Contains(test.want, summit) || name == "what is heard now counts first") {
				t.Errorf("Remembers(eno1) = %t", remembers)
			}
		})
	}
}

func TestWhoMayNotListenHearsItOnce(t *testing.T) {
	src := twoPorts(nil)
	src.Heard = func(_ context.Context, port string) ([]inventory.Neighbor, error) {
		return nil, &fs.PathError{Op: "listen", Path: port, Err: fs.ErrPermission}
	}
	if _, err := Neighbors(t.Context(), src); err == nil || strings.Count(err.Error(), "permission") != 1 {
		t.Errorf("Neighbors() = %v; want one complaint for two ports", err)
	}
}

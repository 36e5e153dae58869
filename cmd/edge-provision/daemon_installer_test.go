package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/pxe"
	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/bundle"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// floor is a site that a daemon in this process serves with the real services, and
// its machine, which a run wants in the installer.
type floor struct {
	t       *testing.T
	daemon  *daemon
	station *station
	key     string // that its bundles are trusted by
	path    string
	said    *transcript // by serve
}

const floorSite = `
site "plant" {
  trusted_keys = ["KEY"]
}
network "lan" {
  interface = "none0"
  cidr      = "PREFIX"
  dhcp { mode = "server" }
}
machine "till" {
  mac     = "52:54:00:04:21:07"
  network = network.lan
  address = "ADDRESS"
}
`

// newFloor serves the site; own is the content of the installer that serve has
// built, empty where it has none.
func newFloor(t *testing.T, own string) *floor {
	t.Helper()
	dir := t.TempDir()
	key, public, err := bundle.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	base := netip.AddrFrom4([4]byte{127, byte(64 + os.Getpid()%128), byte(network.Add(1)), 0})
	f := &floor{t: t, key: string(key), path: filepath.Join(dir, "site.hcl"), said: &transcript{}}
	text := strings.NewReplacer("KEY", public.String(), "PREFIX", base.String()+"/24", "ADDRESS", base.Next().Next().String()).Replace(floorSite)
	if err := os.WriteFile(f.path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f.station = &station{t: t, mac: inventory.MAC{0x52, 0x54, 0, 4, 0x21, 7}, cable: newCable()}
	f.daemon = daemonOn(t, dir, f.path, f.station.sockets)
	d := f.daemon
	d.app.stderr = f.said
	if own != "" {
		asset := func(name string, kind pxe.AssetKind) pxe.Asset {
			return pxe.Asset{Name: name + "-own", Kind: kind, Content: []byte(name + " " + own), Size: int64(len(name + " " + own))}
		}
		d.installer = steps.Installer{Kernel: asset("kernel", pxe.AssetKernel), Initramfs: asset("initramfs", pxe.AssetInitramfs)}
		if err := d.service.Boot(d.installer); err != nil {
			t.Fatal(err)
		}
	}
	row, err := d.catalog.MachineByAddress(t.Context(), "plant", "machine.till")
	if err != nil {
		t.Fatal(err)
	}
	d.wanted.Set(row.ID, true)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.service.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v; want nil after its context ended", err)
		}
	})
	return f
}

// bundle writes a bundle of the site with an installer of this content.
func (f *floor) bundle(content string) string {
	f.t.Helper()
	key, err := bundle.ParseKey([]byte(f.key))
	if err != nil {
		f.t.Fatal(err)
	}
	store, err := artifact.New(artifact.Config{Dir: f.t.TempDir()})
	if err != nil {
		f.t.Fatal(err)
	}
	path := filepath.Join(f.t.TempDir(), "site.bundle")
	_, _, err = writeBundle(f.t.Context(), store, bundle.Spec{Site: "plant", Key: key, Files: []bundle.File{
		{Kind: bundle.KindInstaller, Name: installerKernel, Content: []byte("kernel " + content)},
		{Kind: bundle.KindInstaller, Name: installerInitramfs, Content: []byte("initramfs " + content)},
	}}, path)
	if err != nil {
		f.t.Fatal(err)
	}
	return path
}

// boots wants the machine to boot the installer of a content.
func (f *floor) boots(want string) {
	f.t.Helper()
	f.station.lease(byOurIPXE)
	var got []string
	for _, word := range strings.Fields(f.station.get(f.station.script)) {
		if strings.HasPrefix(word, "http") && strings.Contains(word, "/asset/") {
			got = append(got, f.station.get(word))
		}
	}
	if text := strings.Join(got, ", "); text != "kernel "+want+", initramfs "+want {
		f.t.Errorf("the machine boots %q; want the installer %q", text, want)
	}
}

// A version that is refused late, because a run has begun meanwhile, must not have
// machines boot its installer; and one without a bundle has them boot serve's own.
func TestMachinesBootTheInstallerOfTheVersionThatIsServed(t *testing.T) {
	f := newFloor(t, "own")
	d := f.daemon
	f.boots("own")
	file := f.bundle("bundled")
	t.Run("a client's", func(t *testing.T) {
		run, w := clientOf(t, d, request{Sources: sources{Bundle: file}})
		other := &daemonRun{command: "destroy"}
		d.mu.Lock()
		d.running = other
		d.mu.Unlock()
		if err := d.serveFor(t.Context(), w); !errors.Is(err, errRunBegan) {
			t.Errorf("serveFor() = %v; want it refused: another run has begun", err)
		}
		d.mu.Lock()
		d.running, d.due = run, false
		d.mu.Unlock()
		f.boots("own")
		d.world.tell = func(p steps.Progress) {
			if p.Phase == "verify" {
				t.Errorf("the bundle is read whole again for serve: %+v; want that of the run taken over", p)
			}
		}
		if err := d.serveFor(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		f.boots("bundled")
	})
	// The client's run has ended, and what it has opened is served on.
	bundled := d.current()
	if err := bundled.bundle.Verify(t.Context(), nil); err != nil {
		t.Errorf("the bundle that is served cannot be read when the run has ended: %v", err)
	}
	d.reload(t.Context())
	f.boots("own")
	d.reload(t.Context())
	if err := bundled.bundle.Verify(t.Context(), nil); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("reading a bundle that nobody uses any more = %v; want it closed", err)
	}
	if want := fmt.Sprintf("Serving site plant as it is now in %s.", d.path); !strings.Contains(f.said.String(), want) {
		t.Errorf("serve says %q; want %q", f.said, want)
	}
}

// A serve that began with a bundle has built no installer, and needs none: there is no
// version without a bundle for it.
func TestEveryVersionOfAServeWithABundleHasItsInstaller(t *testing.T) {
	f := newFloor(t, "")
	d := f.daemon
	d.app.supply.bundle = f.bundle("bundled")
	d.reload(t.Context())
	f.boots("bundled")
	t.Run("a client's without one", func(t *testing.T) {
		_, w := clientOf(t, d, request{})
		if err := d.serveFor(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		f.boots("bundled")
	})
	t.Run("a client's with another", func(t *testing.T) {
		_, w := clientOf(t, d, request{Sources: sources{Bundle: f.bundle("brought")}})
		if err := d.serveFor(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		f.boots("brought")
	})
	d.reload(t.Context())
	f.boots("bundled")
	d.app.supply.bundle = f.bundle("newer")
	d.reload(t.Context())
	f.boots("newer")
}

package steps_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/dispatch"
	"github.com/edge-provision/edge-provision/workflows/keyring"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/remote/remotetest"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// shop is a site with one machine that is emulated without a processor: a
// simulated BMC, the real agent's loop over the real protocol, and once it is
// installed a real SSH server. Only the disk and the firmware are the test's.
type shop struct {
	t        *testing.T
	site     *site.Site
	machine  *site.Machine
	catalog  *store.Store
	dispatch *dispatch.Server
	keys     *keyring.Keyring
	wanted   *steps.Wanted
	prov     *steps.Provisioner
	computer *computer
	bmc      *bmc.Controller
	redfish  *sim.Redfish // behind bmc
	row      inventory.Machine
	said     *said
}

// said collects progress.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) tell(p steps.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, p.Phase+": "+p.Message)
}

func (s *said) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

const shopSite = `
site "store" {}
network "floor" {
  interface = "eth1"
  cidr      = "172.24.0.0/24"
  dhcp {
    mode  = "server"
    range = "172.24.0.100-172.24.0.250"
  }
}
image "os" {
  distribution = "debian"
  release      = "bookworm"
}
machine "a" {
  mac     = "52:54:00:00:00:01"
  network = network.floor
  address = "172.24.0.11"
  image   = image.os
  bmc {
    BMC
  }
}
`

var shopMAC = inventory.MAC{0x52, 0x54, 0, 0, 0, 1}

// computer is the machine. What it netboots is the agent's loop; from its disk it
// "runs" an SSH server, if something was installed there.
type computer struct {
	sim.Memory
	shop   *shop
	agent  func(boot string) *agent.Loop
	facts  inventory.Facts
	first  func(*inventory.Facts) // changes the facts of the next report alone; may be nil
	server *remotetest.Server
	signer ssh.Signer

	mu      sync.Mutex
	boots   int
	end     context.CancelFunc // of the agent's loop
	ended   chan struct{}
	tasks   []agent.Task
	fail    []agent.Result // of the next write tasks
	deaf    bool           // does not netboot whatever it is told
	written bool           // the disk carries an image
	ready   bool           // the disk has its identity too
	up      bool           // runs from its disk
}

// Do implements sim.Machine.
func (c *computer) Do(ctx context.Context, a sim.Action) error {
	before := len(c.Boots())
	err := c.Memory.Do(ctx, a)
	boots := c.Boots()
	c.halt()
	if on, _ := c.Power(ctx); on && len(boots) > before {
		c.start(boots[len(boots)-1].Device)
	}
	return err
}

// halt ends whatever runs.
func (c *computer) halt() {
	c.mu.Lock()
	end, ended := c.end, c.ended
	c.end, c.up = nil, false
	c.mu.Unlock()
	if end != nil {
		end()
		<-ended
	}
}

func (c *computer) start(from sim.Device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if from != sim.PXE || c.deaf || !c.shop.wanted.Has(c.shop.row.ID) {
		c.up = c.ready
		return
	}
	c.boots++
	loop := c.agent(fmt.Sprintf("boot-%d", c.boots))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	c.end, c.ended = cancel, ended
	go func() {
		ending, _ := loop.Run(ctx)
		c.mu.Lock()
		c.up = ending == agent.EndReboot && c.ready
		c.mu.Unlock()
		close(ended)
		if ending == agent.EndPoweroff {
			_ = c.Memory.Do(ctx, sim.Off)
		}
	}()
}

// Execute implements agent.Executor on the machine's only disk.
func (c *computer) Execute(_ context.Context, task agent.Task, report func(agent.Progress) error) agent.Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tasks = append(c.tasks, task)
	switch task.Kind {
	case agent.KindWrite:
		if err := report(agent.Progress{Phase: agent.PhaseBegin}); err != nil {
			return agent.Result{Outcome: agent.OutcomeRefused, Error: &agent.Failure{Code: agent.CodeFetch, Message: err.Error()}}
		}
		if len(c.fail) > 0 {
			r := c.fail[0]
			c.fail = c.fail[1:]
			return r
		}
		c.written = true
		return agent.Result{Outcome: agent.OutcomeOK, Write: &agent.WriteResult{Bytes: 1 << 20}}
	case agent.KindConfigure:
		if !c.written {
			return agent.Result{Outcome: agent.OutcomeFailed, Error: &agent.Failure{Code: agent.CodeInternal, Message: "nothing was written"}}
		}
		c.ready = true
		return agent.Result{Outcome: agent.OutcomeOK, Configure: &agent.ConfigureResult{HostKey: c.server.HostKey}}
	}
	return agent.Result{Outcome: agent.OutcomeFailed, Error: &agent.Failure{Code: agent.CodeInternal, Message: "not expected here"}}
}

// Host implements steps.Hosts.
func (c *computer) Host(ctx context.Context, address string) (*remote.Host, error) {
	c.mu.Lock()
	up := c.up
	c.mu.Unlock()
	if !up {
		return nil, &remote.UnreachableError{Host: address, Address: c.server.Address, Err: errors.New("connection refused")}
	}
	return remote.Dial(ctx, remote.Config{Name: address, Address: c.server.Address, HostKey: c.server.HostKey, Signer: c.signer})
}

// BMC implements steps.Powers.
func (c *computer) BMC(string) (*bmc.Controller, error) { return c.shop.bmc, nil }

// Publish implements steps.ImageSource: nobody fetches from it here.
func (c *computer) Publish(context.Context, *site.Image, *site.Network) (steps.Published, error) {
	return steps.Published{Digest: imageDigest, ManifestURL: "/m", FramesURL: "/f"}, nil
}

const imageDigest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

// hurried is the system's clock with short pauses.
type hurried struct{ workflows.SystemClock }

func (hurried) After(d time.Duration) <-chan time.Time { return time.After(d / 100) }

// newShop opens a shop; without a BMC somebody has to press the button.
func newShop(t *testing.T, withBMC bool) *shop {
	t.Helper()
	s := &shop{t: t, wanted: steps.NewWanted(), said: &said{}, catalog: storetest.Open(t, store.Config{Path: filepath.Join(t.TempDir(), "catalog.db")})}
	block := `driver = "none"`
	if withBMC {
		block = "driver = \"redfish\"\n    address = \"https://172.24.1.11\"\n    username = \"admin\"\n    password = \"correct-horse\""
	}
	var err error
	if s.row, err = s.catalog.Declare(t.Context(), "store", "machine.a", shopMAC); err != nil {
		t.Fatal(err)
	}
	s.open(strings.ReplaceAll(shopSite, "BMC", block))
	if withBMC {
		s.openBMC()
	}
	return s
}

// open makes everything of a shop but its BMC, for a site with one machine.
func (s *shop) open(text string) {
	s.t.Helper()
	var err error
	if s.site, err = load(s.t, text); err != nil {
		s.t.Fatal(err)
	}
	s.machine = s.site.Machines[0]
	s.openComputer()
	s.serveAgents()
	s.prov = &steps.Provisioner{
		Site: s.site, Catalog: s.catalog, Dispatch: s.dispatch, Wanted: s.wanted, Powers: s.computer, Hosts: s.computer,
		Clock: hurried{}, Images: s.computer, ControllerKey: "ssh-ed25519 AAAA", Fence: 7, Tell: s.said.tell,
	}
}

// openComputer makes the machine: its facts, and the SSH server it has once it is
// installed, which calls itself by the declared hostname.
func (s *shop) openComputer() {
	bin := s.t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "hostname"), []byte("#!/bin/sh\necho "+s.machine.Hostname+"\n"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	signer := remotetest.NewSigner(s.t)
	s.computer = &computer{shop: s, signer: signer, facts: inventory.Facts{
		SchemaVersion: inventory.SchemaVersion,
		System:        &inventory.System{Serial: "7XK2Q93", UUID: "4c4c4544-0042-3010-8042-b4c04f4d3232"},
		NICs:          []inventory.NIC{{Name: "eth0", MAC: shopMAC}},
		Disks:         []inventory.Disk{{Name: "sda", Serial: "D1", Bytes: 64 << 30, Signatures: []string{}}},
	}}
	s.computer.server = remotetest.Start(s.t, signer.PublicKey(), &remotetest.Server{Env: []string{"PATH=" + bin + ":" + os.Getenv("PATH")}})
	s.t.Cleanup(s.computer.halt)
}

// serveAgents serves the agents' API over TLS.
func (s *shop) serveAgents() {
	var err error
	s.keys, err = keyring.Open(s.t.Context(), keyring.Config{KeyFile: filepath.Join(s.t.TempDir(), "key"), Values: s.catalog.Settings()})
	if err != nil {
		s.t.Fatal(err)
	}
	authority, err := s.keys.Authority(s.t.Context(), "store", time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	cert, err := authority.TLS([]string{"127.0.0.1"}, time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	s.dispatch, err = dispatch.New(dispatch.Config{
		Site: "store", Store: s.catalog.Settings(), TLS: cert, PollLimit: 200 * time.Millisecond, Facts: steps.MachineFacts(s.site, s.catalog),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.dispatch.Serve(ctx, l) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			s.t.Errorf("Serve() = %v", err)
		}
	})
	s.computer.agent = func(boot string) *agent.Loop {
		token, err := s.dispatch.MintToken(ctx, s.row.ID, shopMAC, boot)
		if err != nil {
			s.t.Error(err)
		}
		client, err := agent.NewClient(agent.ClientConfig{URL: "https://" + l.Addr().String(), Pin: authority.Pin()})
		if err != nil {
			s.t.Error(err)
		}
		return agent.NewLoop(agent.Config{
			Client: client, Token: token, Boot: boot, MAC: shopMAC, Version: "test", Executor: s.computer,
			Facts: func(context.Context) (inventory.Facts, error) {
				facts := s.computer.facts
				if first := s.computer.first; first != nil {
					s.computer.first = nil
					first(&facts)
				}
				return facts, nil
			},
			Hold: 100 * time.Millisecond, Backoff: 10 * time.Millisecond, LostAfter: testBound,
		})
	}
}

func (s *shop) openBMC() {
	cert, fingerprint, err := sim.SelfSigned(netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.redfish = sim.NewRedfish(sim.RedfishConfig{Username: "admin", Password: "correct-horse", Hardware: insideOf}, s.computer)
	server := httptest.NewUnstartedServer(s.redfish)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	s.t.Cleanup(server.Close)
	s.bmc, err = bmc.Open(bmc.Config{
		Driver: bmc.DriverRedfish, Address: server.URL, Username: "admin", Password: "correct-horse", Fingerprint: fingerprint,
		Timeout: testBound / 2, Attempts: 2, RetryWait: time.Millisecond, PollInterval: time.Millisecond, OffTime: time.Millisecond, Machine: "machine.a",
	}, bmc.Deps{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = s.bmc.Close() })
}

// testBound ends what hangs. It is far from what a busy machine needs under the race
// detector.
const testBound = time.Minute

// ctx bounds a test.
func (s *shop) ctx() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), testBound)
	s.t.Cleanup(cancel)
	return ctx
}

// install is the approved action on the machine's disk.
func (s *shop) install() error {
	a := workflows.Action{Address: "machine.a", Kind: workflows.KindInstall, Erase: &workflows.Erase{Disk: workflows.NameDisk(s.computer.facts.Disks[0])}}
	return s.prov.Install(s.ctx(), uuid.New(), s.machine, a)
}

func (s *shop) state() inventory.State {
	s.t.Helper()
	m, err := s.catalog.Machine(s.t.Context(), s.row.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	return m.State
}

// phase is how far the catalog says that the installation came.
func (s *shop) phase() string {
	s.t.Helper()
	b, err := s.catalog.Settings().Get(s.t.Context(), "installation/store/machine.a")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), `"phase":"`)
	phase, _, _ := strings.Cut(rest, `"`)
	return phase
}

func (s *shop) kinds() (kinds []agent.Kind) {
	s.computer.mu.Lock()
	defer s.computer.mu.Unlock()
	for _, t := range s.computer.tasks {
		kinds = append(kinds, t.Kind)
	}
	return kinds
}

// until waits for cond, or for a work that ends before.
func (s *shop) until(cond func() bool, ended <-chan error) {
	s.t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !cond() {
		select {
		case err := <-ended:
			s.t.Fatalf("it ended with %v before its time", err)
		case <-ticker.C:
		}
	}
}

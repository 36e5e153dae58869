//go:build e2e

package rack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// redfishClient speaks raw Redfish to a BMC inside the rack, so that the test
// has no mistake in common with package bmc.
type redfishClient struct {
	t     *testing.T
	http  *http.Client
	base  string
	token string
}

func dialRedfish(t *testing.T, r *Rack, m MachineStatus) *redfishClient {
	t.Helper()
	authorities, err := os.ReadFile(m.Certificate)
	if err != nil {
		t.Fatalf("reading the BMC's certificate = %v", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authorities) {
		t.Fatalf("no certificate in %s", m.Certificate)
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, VerifyConnection: func(s tls.ConnectionState) error {
			sum := sha256.Sum256(s.PeerCertificates[0].Raw)
			if got := "sha256:" + hex.EncodeToString(sum[:]); got != m.Fingerprint {
				return fmt.Errorf("fingerprint %s; the rack's status has %s", got, m.Fingerprint)
			}
			return nil
		}},
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = r.Enter(func() error {
				var d net.Dialer
				var inner error
				conn, inner = d.DialContext(ctx, network, address)
				return inner
			})
			return conn, err
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	c := &redfishClient{t: t, http: &http.Client{Transport: transport, Timeout: time.Minute}, base: m.BMC}
	response := c.do(http.MethodPost, "/redfish/v1/SessionService/Sessions", map[string]any{"UserName": "admin", "Password": "calvin-and-hobbes"})
	if c.token = response.Header.Get("X-Auth-Token"); c.token == "" {
		t.Fatalf("opening a session = %s without token", response.Status)
	}
	return c
}

func (c *redfishClient) do(method, path string, body any) *http.Response {
	c.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(bounded(c.t, time.Minute), method, c.base+path, bytes.NewReader(b))
	if err != nil {
		c.t.Fatal(err)
	}
	request.Header.Set("X-Auth-Token", c.token)
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		c.t.Fatalf("%s %s = %v", method, path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= 300 {
		c.t.Fatalf("%s %s = %s, %v: %s", method, path, response.Status, err, text)
	}
	response.Body = io.NopCloser(bytes.NewReader(text))
	return response
}

func (c *redfishClient) reset(kind string) {
	c.t.Helper()
	c.do(http.MethodPost, "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", map[string]any{"ResetType": kind})
}

func (c *redfishClient) bootOnce(target string) {
	c.t.Helper()
	c.do(http.MethodPatch, "/redfish/v1/Systems/1", map[string]any{"Boot": map[string]any{
		"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": target, "BootSourceOverrideMode": "UEFI",
	}})
}

func (c *redfishClient) system() (s struct {
	PowerState string
	UUID       string
	Boot       struct{ BootSourceOverrideEnabled, BootSourceOverrideTarget string }
},
) {
	c.t.Helper()
	if err := json.NewDecoder(c.do(http.MethodGet, "/redfish/v1/Systems/1", nil).Body).Decode(&s); err != nil {
		c.t.Fatalf("reading the system = %v", err)
	}
	return s
}

// TestBothKindsOfBMCSwitchARealFirmware drives both protocols on the wire, up
// to the firmware's own words on the serial console.
func TestBothKindsOfBMCSwitchARealFirmware(t *testing.T) {
	spec := siteUnderTest(t)
	for i := range spec.Machines {
		spec.Machines[i].BootOrder = []BootClass{BootDisk, BootNetwork}
	}
	before := take(t, spec)
	r := newRack(t, spec)
	if err := r.Up(bounded(t, 2*time.Minute)); err != nil {
		t.Fatalf("Up = %v", err)
	}
	t.Run("redfish", func(t *testing.T) {
		m, err := r.Machine(bounded(t, time.Minute), uefiMachine)
		if err != nil {
			t.Fatalf("Machine = %v", err)
		}
		c := dialRedfish(t, r, m)
		if s := c.system(); s.PowerState != "Off" || !strings.EqualFold(s.UUID, spec.Machines[0].UUID.String()) {
			t.Errorf("system before power on = %+v; want it off, with the machine's UUID", s)
		}
		c.bootOnce("Pxe")
		if s := c.system(); s.Boot.BootSourceOverrideTarget != "Pxe" || s.Boot.BootSourceOverrideEnabled != "Once" {
			t.Errorf("boot override = %+v; want Pxe once", s.Boot)
		}
		c.reset("On")
		first := regexp.MustCompile(`>>Start PXE over IPv4|BdsDxe: failed to load`)
		if got, err := r.WaitSerial(bounded(t, 2*time.Minute), uefiMachine, first); err != nil || !strings.Contains(string(got), "PXE") {
			t.Fatalf("the machine first tries %q, %v; want PXE", got, err)
		}
		if s := c.system(); s.PowerState != "On" || s.Boot.BootSourceOverrideEnabled != "Disabled" {
			t.Errorf("system after power on = %+v; want it on, the override used up", s)
		}
		c.reset("ForceRestart")
		console := r.Console(uefiMachine, true)
		defer console.Close()
		if got, err := console.Wait(bounded(t, 2*time.Minute), first); err != nil || !strings.Contains(string(got), "BdsDxe") {
			t.Errorf("after the next reset the machine first tries %q, %v; want its disk", got, err)
		}
		c.reset("ForceOff")
		if m, err := r.Machine(bounded(t, time.Minute), uefiMachine); err != nil || m.On || m.PowerOns != 1 || m.Resets != 1 {
			t.Errorf("status after ForceOff = %+v, %v; want off, switched on once, reset once", m, err)
		}
	})
	t.Run("ipmi", func(t *testing.T) {
		ipmitool := func(args ...string) string {
			t.Helper()
			args = append([]string{"-I", "lanplus", "-C", "3", "-H", "172.22.1.12", "-U", "admin", "-P", "hobbes"}, args...)
			out, err := r.Command(bounded(t, time.Minute), "ipmitool", args...).CombinedOutput()
			if err != nil {
				t.Fatalf("ipmitool %s = %v: %s", strings.Join(args, " "), err, out)
			}
			return string(out)
		}
		if got := ipmitool("chassis", "power", "status"); !strings.Contains(got, "off") {
			t.Errorf("power status = %q; want off", got)
		}
		ipmitool("chassis", "bootdev", "pxe")
		ipmitool("chassis", "power", "on")
		if _, err := r.WaitMachine(bounded(t, time.Minute), biosMachine, func(m MachineStatus) bool { return m.On && m.BootNext == "" }); err != nil {
			t.Fatalf("after power on: %v", err)
		}
		first := regexp.MustCompile(`Configuring \(net0 |Booting from Hard Disk`)
		if got, err := r.WaitSerial(bounded(t, 2*time.Minute), biosMachine, first); err != nil || !strings.Contains(string(got), "net0") {
			t.Fatalf("the machine first tries %q, %v; want PXE", got, err)
		}
		ipmitool("chassis", "power", "reset")
		if _, err := r.WaitMachine(bounded(t, time.Minute), biosMachine, func(m MachineStatus) bool { return m.Resets == 1 }); err != nil {
			t.Fatalf("after reset: %v", err)
		}
		console := r.Console(biosMachine, false)
		defer console.Close()
		if _, err := console.Wait(bounded(t, time.Minute), biosPXE); err != nil {
			t.Fatal(err)
		}
		if got, err := console.Wait(bounded(t, 2*time.Minute), first); err != nil || !strings.Contains(string(got), "Hard Disk") {
			t.Errorf("after the next reset the machine first tries %q, %v; want its disk", got, err)
		}
		ipmitool("chassis", "power", "off")
		if err := r.WaitPower(bounded(t, time.Minute), biosMachine, false); err != nil {
			t.Errorf("after power off: %v", err)
		}
	})
	if err := r.Down(bounded(t, time.Minute), true); err != nil {
		t.Fatalf("Down = %v", err)
	}
	mustBeGone(t, before, spec)
}

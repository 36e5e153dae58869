package sim_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/bmc/sim"
)

// client speaks to a simulated service over TLS.
type client struct {
	t      *testing.T
	server *httptest.Server
	token  string
}

func serve(t *testing.T, c sim.RedfishConfig) (*sim.Redfish, *sim.Memory, *client) {
	t.Helper()
	m := &sim.Memory{}
	c.Username, c.Password, c.MACs = "admin", "secret", []string{"52:54:00:04:21:01"}
	service := sim.NewRedfish(c, m)
	server := httptest.NewTLSServer(service)
	t.Cleanup(server.Close)
	return service, m, &client{t: t, server: server}
}

// do sends a request and returns status, headers and the decoded body.
func (c *client) do(method, path string, body any, header ...string) (int, http.Header, map[string]any) {
	c.t.Helper()
	var b bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&b).Encode(body); err != nil {
			c.t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.server.URL+path, &b)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.token != "" {
		req.Header.Set("X-Auth-Token", c.token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.server.Client().Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	var doc map[string]any
	_ = json.Unmarshal(raw, &doc)
	return resp.StatusCode, resp.Header, doc
}

const sessions = "/redfish/v1/SessionService/Sessions"

// login opens a session and returns the answer's status.
func (c *client) login(user, password string) int {
	c.t.Helper()
	c.token = ""
	status, header, _ := c.do("POST", sessions, map[string]string{"UserName": user, "Password": password})
	c.token = header.Get("X-Auth-Token")
	return status
}

func TestEveryResourceIsReachableFromTheRootAfterLogin(t *testing.T) {
	_, _, c := serve(t, sim.RedfishConfig{Serial: "SN-1"})
	if status, _, _ := c.do("GET", "/redfish/v1/Systems", nil); status != http.StatusUnauthorized {
		t.Errorf("GET Systems without login = %d; want 401", status)
	}
	if status := c.login("admin", "secret"); status != http.StatusCreated {
		t.Fatalf("login = %d; want 201", status)
	}
	seen := map[string]bool{}
	var walk func(path string)
	walk = func(path string) {
		if seen[path] {
			return
		}
		seen[path] = true
		status, _, doc := c.do("GET", path, nil)
		if status != http.StatusOK {
			t.Errorf("GET %s = %d; want 200", path, status)
			return
		}
		var follow func(v any)
		follow = func(v any) {
			switch v := v.(type) {
			case map[string]any:
				for key, inner := range v {
					if path, ok := inner.(string); ok && key == "@odata.id" {
						walk(path)
					}
					follow(inner)
				}
			case []any:
				for _, inner := range v {
					follow(inner)
				}
			}
		}
		follow(doc)
	}
	walk("/redfish/v1")
	for _, path := range []string{"/redfish/v1/Systems/1", "/redfish/v1/Managers/1", "/redfish/v1/Chassis/1", "/redfish/v1/Managers/1/VirtualMedia/Cd", "/redfish/v1/Systems/1/EthernetInterfaces/1", sessions + "/1"} {
		if !seen[path] {
			t.Errorf("%s is not linked from the root", path)
		}
	}
}

func TestAccountLocksAfterWrongPasswords(t *testing.T) {
	service, _, c := serve(t, sim.RedfishConfig{LockAfter: 3})
	for range 3 {
		if status := c.login("admin", "guess"); status != http.StatusUnauthorized {
			t.Fatalf("login with a wrong password = %d; want 401", status)
		}
	}
	if status := c.login("admin", "secret"); status != http.StatusUnauthorized {
		t.Errorf("login with the right password after three wrong ones = %d; want 401", status)
	}
	if got := service.Refused(); got != 4 {
		t.Errorf("Refused() = %d; want 4", got)
	}
	service.SetPassword("secret")
	if status := c.login("admin", "secret"); status != http.StatusCreated {
		t.Errorf("login after unlocking = %d; want 201", status)
	}
}

func TestSessionsAreLimitedExpireAndEnd(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	service, _, c := serve(t, sim.RedfishConfig{MaxSessions: 2, SessionTimeout: time.Minute, Now: func() time.Time { return now }})
	for range 2 {
		c.login("admin", "secret")
	}
	if status := c.login("admin", "secret"); status != http.StatusServiceUnavailable {
		t.Errorf("third login = %d; want 503", status)
	}
	now = now.Add(2 * time.Minute)
	if status := c.login("admin", "secret"); status != http.StatusCreated {
		t.Errorf("login after the others expired = %d; want 201", status)
	}
	if status, _, _ := c.do("DELETE", sessions+"/3", nil); status != http.StatusNoContent {
		t.Errorf("logout = %d; want 204", status)
	}
	if status, _, _ := c.do("GET", "/redfish/v1/Systems", nil); status != http.StatusUnauthorized {
		t.Errorf("GET after logout = %d; want 401", status)
	}
	if open, ever := service.Sessions(); open != 0 || ever != 3 {
		t.Errorf("Sessions() = %d, %d; want 0, 3", open, ever)
	}
}

func TestBootOverrideAndReset(t *testing.T) {
	_, m, c := serve(t, sim.RedfishConfig{})
	c.login("admin", "secret")
	const system = "/redfish/v1/Systems/1"
	_, header, _ := c.do("GET", system, nil)
	boot := func(target, enabled, mode string) map[string]any {
		return map[string]any{"Boot": map[string]string{
			"BootSourceOverrideTarget": target, "BootSourceOverrideEnabled": enabled, "BootSourceOverrideMode": mode,
		}}
	}
	if status, _, _ := c.do("PATCH", system, boot("Pxe", "Once", "UEFI"), "If-Match", `"old"`); status != http.StatusPreconditionFailed {
		t.Errorf("PATCH with an old ETag = %d; want 412", status)
	}
	if status, _, _ := c.do("PATCH", system, boot("Pxe", "Once", "UEFI"), "If-Match", header.Get("ETag")); status != http.StatusNoContent {
		t.Errorf("PATCH with the current ETag = %d; want 204", status)
	}
	for _, bad := range []any{boot("Tape", "Once", "UEFI"), boot("Pxe", "Sometimes", "UEFI"), map[string]any{"AssetTag": "x"}} {
		if status, _, _ := c.do("PATCH", system, bad); status != http.StatusBadRequest {
			t.Errorf("PATCH %v = %d; want 400", bad, status)
		}
	}
	reset := func(kind string) int {
		status, _, _ := c.do("POST", system+"/Actions/ComputerSystem.Reset", map[string]string{"ResetType": kind})
		return status
	}
	if status := reset("Explode"); status != http.StatusBadRequest {
		t.Errorf("reset type Explode = %d; want 400", status)
	}
	for _, kind := range []string{"On", "ForceRestart", "ForceOff"} {
		if status := reset(kind); status != http.StatusNoContent {
			t.Errorf("reset type %s = %d; want 204", kind, status)
		}
	}
	want := []sim.Override{{Device: sim.PXE, Once: true, EFI: true}, {Device: sim.Disk}}
	if got := m.Boots(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("boots = %v; want %v", got, want)
	}
	m.Break(fmt.Errorf("no such emulator"))
	if status, _, _ := c.do("GET", system, nil); status != http.StatusInternalServerError {
		t.Errorf("GET of a broken machine = %d; want 500", status)
	}
}

func TestBootRulesRefuseAsTheirControllersDo(t *testing.T) {
	const system, settings = "/redfish/v1/Systems/1", "/redfish/v1/Systems/1/SD"
	const target, mode, order = "BootSourceOverrideTarget", "BootSourceOverrideMode", "BootOrder"
	tests := []struct {
		name  string
		rules sim.BootRules
		path  string
		with  string
		want  int
	}{
		{"boot order", sim.BootRules{}, system, order, http.StatusBadRequest},
		{"mode", sim.BootRules{}, system, mode, http.StatusNoContent},
		{"read-only mode", sim.BootRules{ModeReadOnly: true}, system, mode, http.StatusBadRequest},
		{"unknown mode", sim.BootRules{ModeAnnotated: true}, system, mode, http.StatusBadRequest},
		{"no mode", sim.BootRules{ModeRequired: true}, system, target, http.StatusBadRequest},
		{"no settings object", sim.BootRules{}, settings, target, http.StatusNotFound},
		{"settings for other things", sim.BootRules{Settings: sim.SettingsOffered}, settings, target, http.StatusBadRequest},
		{"system beside settings for other things", sim.BootRules{Settings: sim.SettingsOffered}, system, target, http.StatusNoContent},
		{"read-only system", sim.BootRules{Settings: sim.SettingsReadOnly}, system, target, http.StatusBadRequest},
		{"future state", sim.BootRules{Settings: sim.SettingsFutureState}, system, target, http.StatusBadRequest},
		{"system without PATCH", sim.BootRules{Settings: sim.SettingsNoPatch}, system, target, http.StatusMethodNotAllowed},
		{"settings", sim.BootRules{Settings: sim.SettingsFutureState}, settings, target, http.StatusNoContent},
	}
	for _, tt := range tests {
		service, _, c := serve(t, sim.RedfishConfig{Boot: tt.rules})
		c.login("admin", "secret")
		boot := map[string]any{target: "Pxe", "BootSourceOverrideEnabled": "Once"}
		if tt.with != target {
			boot[tt.with] = "UEFI"
		}
		_, header, _ := c.do("GET", tt.path, nil)
		if status, _, _ := c.do("PATCH", tt.path, map[string]any{"Boot": boot}, "If-Match", header.Get("ETag")); status != tt.want {
			t.Errorf("%s: PATCH %s = %d; want %d", tt.name, tt.path, status, tt.want)
		}
		taken := tt.want == http.StatusNoContent
		if got := service.BootRequests(); tt.want != http.StatusNotFound && (len(got) != 1 || got[0].Taken != taken || got[0].Path != tt.path) {
			t.Errorf("%s: requests %+v; want one, taken: %t", tt.name, got, taken)
		}
	}
	_, _, c := serve(t, sim.RedfishConfig{Boot: sim.BootRules{Settings: sim.SettingsFutureState, TagSuffix: "-gzip"}})
	c.login("admin", "secret")
	boot := map[string]any{"Boot": map[string]any{target: "Pxe"}}
	if status, _, _ := c.do("PATCH", settings, boot); status != http.StatusPreconditionRequired {
		t.Errorf("PATCH of settings without If-Match = %d; want 428", status)
	}
	_, header, _ := c.do("GET", settings, nil)
	if status, _, _ := c.do("PATCH", settings, boot, "If-Match", header.Get("ETag")); status != http.StatusPreconditionFailed {
		t.Errorf("PATCH with the ETag of a compressed answer = %d; want 412", status)
	}
}

func TestVirtualMediaIsRecorded(t *testing.T) {
	service, _, c := serve(t, sim.RedfishConfig{})
	c.login("admin", "secret")
	const media = "/redfish/v1/Managers/1/VirtualMedia/Cd"
	c.do("POST", media+"/Actions/VirtualMedia.InsertMedia", map[string]string{"Image": "http://192.0.2.1/a.iso"})
	if _, _, doc := c.do("GET", media, nil); doc["Inserted"] != true || doc["Image"] != "http://192.0.2.1/a.iso" {
		t.Errorf("virtual media = %v; want the image inserted", doc)
	}
	c.do("POST", media+"/Actions/VirtualMedia.EjectMedia", map[string]string{})
	want := []sim.MediaEvent{{Image: "http://192.0.2.1/a.iso", Inserted: true}, {}}
	if got := service.Media(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Media() = %v; want %v", got, want)
	}
}

func TestKeptCertificateHasTheSameFingerprint(t *testing.T) {
	addr, path := netip.MustParseAddr("127.0.0.1"), filepath.Join(t.TempDir(), "bmc.pem")
	_, first, err := sim.SelfSignedFile(path, addr)
	if err != nil {
		t.Fatal(err)
	}
	pair, second, err := sim.SelfSignedFile(path, addr)
	if err != nil || first != second {
		t.Errorf("SelfSignedFile() twice = %s, %s, %v; want one fingerprint", first, second, err)
	}
	if _, other, err := sim.SelfSigned(addr); err != nil || other == first {
		t.Errorf("SelfSigned() = %s, %v; want a new certificate", other, err)
	}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	server.Close()
}

package bmc_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edge-provision/edge-provision/bmc"
)

const (
	redfishRoot = "/redfish/v1"
	sessions    = redfishRoot + "/SessionService/Sessions"
)

// replay answers as the BMC of testdata/redfish did whose documents it holds.
type replay struct {
	mu        sync.Mutex
	requests  int  // all that were made
	expands   bool // collections can be asked for with their members
	documents map[string]map[string]any
	resets    []string // ResetType of each reset
	media     []string // drive and action, of each media action
	boots     []bootPatch
}

// bootPatch is a request for a boot override.
type bootPatch struct {
	Path, Match string
	Boot        map[string]any
}

// capturedBMC serves a file of testdata/redfish and opens a Controller for it.
func capturedBMC(t *testing.T, name string) (*replay, *bmc.Controller) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "redfish", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	r := &replay{}
	if err := json.Unmarshal(raw, &r.documents); err != nil {
		t.Fatal(err)
	}
	if at := redfishRoot + "/Systems/Self/SD"; r.documents[at] != nil {
		r.settingsOnly(at)
	}
	r.complete()
	server := httptest.NewUnstartedServer(r)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	c, err := bmc.Open(bmc.Config{
		Driver: bmc.DriverRedfish, Address: server.URL, Username: "admin", Password: password,
		Fingerprint: bmc.Fingerprint(server.Certificate()), Timeout: 5 * time.Second, Attempts: 1, PollInterval: time.Millisecond,
	}, bmc.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return r, c
}

// complete adds the way to the captured documents.
func (r *replay) complete() {
	link := func(to string) map[string]any { return map[string]any{"@odata.id": to} }
	root := map[string]any{"@odata.id": redfishRoot, "Links": map[string]any{"Sessions": link(sessions)}}
	for _, kind := range []string{"Systems", "Managers", "Chassis"} {
		members := []any{}
		for at := range r.documents {
			if path.Dir(at) == redfishRoot+"/"+kind {
				members = append(members, link(at))
			}
		}
		root[kind] = link(redfishRoot + "/" + kind)
		r.documents[redfishRoot+"/"+kind] = map[string]any{"@odata.id": redfishRoot + "/" + kind, "Members": members}
	}
	r.documents[redfishRoot] = root
}

// settingsOnly adds the system of a captured settings object. Its mode is null, as on
// other BMCs of AMI.
func (r *replay) settingsOnly(at string) {
	system := path.Dir(at)
	r.documents[system] = map[string]any{
		"@odata.id": system, "Id": "Self", "Name": "System", "PowerState": "On", "@odata.etag": `"1660209600"`,
		"@Redfish.Settings": map[string]any{"SettingsObject": map[string]any{"@odata.id": at}},
		"Boot":              map[string]any{"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideMode": nil, "BootSourceOverrideTarget": "None", "BootOrder": []string{"Boot0001"}},
		"Actions":           map[string]any{"#ComputerSystem.Reset": map[string]any{"target": system + "/Actions/ComputerSystem.Reset"}},
	}
}

func (r *replay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	at := strings.TrimSuffix(req.URL.Path, "/")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	var body map[string]any
	if req.Method == http.MethodPost || req.Method == http.MethodPatch {
		if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	document := r.documents[at]
	owner, action, _ := strings.Cut(at, "/Actions/")
	switch {
	case req.Method == http.MethodPost && at == sessions:
		w.Header().Set("X-Auth-Token", "token")
		w.Header().Set("Location", sessions+"/1")
		w.WriteHeader(http.StatusCreated)
	case req.Method == http.MethodDelete:
		w.WriteHeader(http.StatusNoContent)
	case req.Method == http.MethodGet && req.URL.Query().Has("$expand"):
		if !r.expands || document == nil {
			http.Error(w, "no such query", http.StatusBadRequest)
			return
		}
		members := []any{}
		for _, m := range document["Members"].([]any) {
			members = append(members, r.documents[m.(map[string]any)["@odata.id"].(string)])
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"Members": members})
	case req.Method == http.MethodGet && document != nil:
		w.Header().Set("Content-Type", "application/json")
		if tag, ok := document["@odata.etag"].(string); ok {
			w.Header().Set("ETag", tag)
		}
		_ = json.NewEncoder(w).Encode(document)
	case req.Method == http.MethodPatch && document["@Redfish.Settings"] != nil:
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, futureState)
	case req.Method == http.MethodPatch && document != nil:
		boot, _ := document["Boot"].(map[string]any)
		asked, _ := body["Boot"].(map[string]any)
		r.boots = append(r.boots, bootPatch{at, req.Header.Get("If-Match"), asked})
		for key, value := range asked {
			boot[key] = value
		}
		w.WriteHeader(http.StatusNoContent)
	case req.Method == http.MethodPost && r.documents[owner] != nil:
		r.act(r.documents[owner], path.Base(owner), action, body)
		w.WriteHeader(http.StatusNoContent)
	default:
		http.NotFound(w, req)
	}
}

// act changes what an action is about. The lock is held.
func (r *replay) act(document map[string]any, name, action string, arguments map[string]any) {
	switch action {
	case "ComputerSystem.Reset":
		kind, _ := arguments["ResetType"].(string)
		r.resets = append(r.resets, kind)
		document["PowerState"] = "On"
		if slices.Contains([]string{"ForceOff", "GracefulShutdown", "PushPowerButton"}, kind) {
			document["PowerState"] = "Off"
		}
	case "VirtualMedia.InsertMedia":
		r.media = append(r.media, name+" insert")
		document["Inserted"], document["Image"] = true, arguments["Image"]
	case "VirtualMedia.EjectMedia":
		r.media = append(r.media, name+" eject")
		document["Inserted"], document["Image"] = false, nil
	}
}

func TestStatusOfRealBMCs(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	tests := []struct {
		name string
		want bmc.Status
	}{
		// An iDRAC says "once" of an override that overrides nothing.
		{"dell-poweredge-r640", bmc.Status{
			Power: bmc.PowerOn, NextBoot: bmc.NextBoot{Device: bmc.BootNone, EFI: &yes, Once: &yes},
			Identity: bmc.Identity{Manufacturer: "Dell Inc.", Model: "PowerEdge R640", Serial: "00000000000000", UUID: "00000000-0000-0000-0000-000000000000"},
		}},
		{"dell-idrac-two-drives", bmc.Status{
			Power: bmc.PowerOff, NextBoot: bmc.NextBoot{Device: bmc.BootNone, EFI: &no, Once: &no},
			Identity: bmc.Identity{Manufacturer: "Dell Inc.", Model: "PowerEdge R660"},
		}},
		// An iLO 5 ends its paths with a slash; this one gives no UUID.
		{"hpe-proliant-dl360-gen10", bmc.Status{
			Power: bmc.PowerOn, NextBoot: bmc.NextBoot{Device: bmc.BootNone, EFI: &yes, Once: &no},
			Identity: bmc.Identity{Manufacturer: "HPE", Model: "ProLiant DL360 Gen10", Serial: "0000000000"},
		}},
		{"supermicro-sys-510t", bmc.Status{
			Power: bmc.PowerOn, NextBoot: bmc.NextBoot{Device: bmc.BootDisk, EFI: &yes, Once: &no},
			Identity: bmc.Identity{Manufacturer: "Supermicro", Model: "SYS-510T-MR-EI018", Serial: "000000000000000", UUID: "B11CC600-6D10-11EC-8000-000000000000"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, c := capturedBMC(t, tt.name)
			got, err := c.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got.Driver, got.Address = "", ""
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Status differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSensorsOfRealBMCs(t *testing.T) {
	t.Parallel()
	sensor := func(name string, kind bmc.SensorKind, value float64, unit string, health bmc.SensorHealth) bmc.Sensor {
		return bmc.Sensor{Name: name, Kind: kind, Value: &value, Unit: unit, Health: health}
	}
	tests := []struct {
		name string
		want []bmc.Sensor
	}{
		{"dell-poweredge-r640", []bmc.Sensor{
			sensor("System Board Fan1A", bmc.SensorFan, 17760, "rpm", bmc.HealthOK),
			sensor("System Power Control", bmc.SensorPower, 429, "W", bmc.HealthUnknown),
			sensor("CPU1 Temp", bmc.SensorTemperature, 40, "°C", bmc.HealthOK),
			sensor("System Board DIMM PG", bmc.SensorVoltage, 1, "V", bmc.HealthOK),
		}},
		// Its power control has no name and no status.
		{"hpe-proliant-dl360-gen10", []bmc.Sensor{
			sensor("Fan 1", bmc.SensorFan, 23, "%", bmc.HealthOK),
			sensor("PowerControl 0", bmc.SensorPower, 221, "W", bmc.HealthUnknown),
			sensor("01-Inlet Ambient", bmc.SensorTemperature, 19, "°C", bmc.HealthOK),
		}},
		// Its fans are named and measured as before Redfish 1.0; the drive cage
		// that is not there reads 0 degrees.
		{"hpe-ilo4", []bmc.Sensor{
			sensor("Fan 1", bmc.SensorFan, 11, "%", bmc.HealthOK),
			sensor("01-Inlet Ambient", bmc.SensorTemperature, 23, "°C", bmc.HealthOK),
		}},
		{"supermicro-sys-510t", []bmc.Sensor{
			sensor("FAN1", bmc.SensorFan, 10780, "rpm", bmc.HealthOK),
			sensor("CPU Temp", bmc.SensorTemperature, 63, "°C", bmc.HealthOK),
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, c := capturedBMC(t, tt.name)
			got, err := c.Sensors(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Sensors differ (-want +got):\n%s", diff)
			}
		})
	}
}

// futureState is how an AMI BMC refuses a boot override at its system
// (DMTF/Redfish-Tacklebox issue 144).
const futureState = `{"error":{"code":"Ami.1.0.OperationSupportedInFutureStateURI","@Message.ExtendedInfo":[{"MessageId":"Ami.1.0.OperationSupportedInFutureStateURI","MessageArgs":["Boot","/redfish/v1/Systems/Self/SD"],"Message":"Support of this Operation for Boot Properties is moved to FutureState URI(/redfish/v1/Systems/Self/SD)"}]}}`

func TestNextBootOfRealBMCsIsSetAndReadBack(t *testing.T) {
	t.Parallel()
	boot := func(target, enabled string) map[string]any {
		return map[string]any{"BootSourceOverrideTarget": target, "BootSourceOverrideEnabled": enabled}
	}
	inUEFI := func(b map[string]any) map[string]any {
		b["BootSourceOverrideMode"] = "UEFI"
		return b
	}
	// Each document shows a boot order, a mode or a target that is not to be sent back.
	tests := []struct {
		name, path, tag string
		want            []map[string]any
	}{
		{"dell-poweredge-r640", "System.Embedded.1", "", []map[string]any{boot("Pxe", "Once"), boot("None", "Disabled")}},
		{"hpe-proliant-dl360-gen10", "1", `W/"43E302D1"`, []map[string]any{boot("Pxe", "Once"), boot("None", "Disabled")}},
		{"supermicro-sys-510t", "1", `"27ffd39c216000b3013c84008394dffd"`, []map[string]any{inUEFI(boot("Pxe", "Once")), inUEFI(boot("None", "Disabled"))}},
		{"nokia-ami-settings", "Self/SD", `"1660209630"`, []map[string]any{boot("Pxe", "Once"), boot("None", "Disabled")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, c := capturedBMC(t, tt.name)
			for _, device := range []bmc.BootDevice{bmc.BootPXE, bmc.BootNone} {
				if err := c.SetNextBoot(t.Context(), device, bmc.BootOptions{EFI: true}); err != nil {
					t.Errorf("SetNextBoot(%s) = %v; want no error", device, err)
				}
			}
			var want []bootPatch
			for _, b := range tt.want {
				want = append(want, bootPatch{redfishRoot + "/Systems/" + tt.path, tt.tag, b})
			}
			if diff := cmp.Diff(want, r.boots); diff != "" {
				t.Errorf("what was sent differs (-want +got):\n%s", diff)
			}
			if err := c.SetPower(t.Context(), bmc.Reset); err != nil {
				t.Errorf("SetPower(reset) = %v; want no error", err)
			}
			if want := []string{"ForceRestart"}; !slices.Equal(r.resets, want) {
				t.Errorf("the BMC was sent resets %v; want %v", r.resets, want)
			}
		})
	}
}

func TestSoftPowerOffOfRealBMCs(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		want string // ResetType; empty: an error that says what the BMC lacks
	}{
		{"dell-poweredge-r640", "GracefulShutdown"},
		{"hpe-proliant-dl360-gen10", "PushPowerButton"},
		// Its firmware lists "GracefulShutdownGracefulRestart", as one word.
		{"supermicro-sys-510t", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, c := capturedBMC(t, tt.name)
			err := c.SetPower(t.Context(), bmc.Soft)
			if tt.want == "" {
				if unsupported := (*bmc.UnsupportedError)(nil); !errors.As(err, &unsupported) || len(r.resets) > 0 {
					t.Errorf("SetPower(soft) = %v after resets %v; want an UnsupportedError and none", err, r.resets)
				}
				return
			}
			if err != nil || !slices.Equal(r.resets, []string{tt.want}) {
				t.Errorf("SetPower(soft) = %v after resets %v; want no error after %s", err, r.resets, tt.want)
			}
		})
	}
}

func TestMediaOfTwoDrives(t *testing.T) {
	t.Parallel()
	// bmclib looks at one of the drives, the empty one as well as the other.
	for _, full := range [][]string{nil, {"1"}, {"2"}, {"1", "2"}} {
		for _, image := range []string{"", disc} {
			t.Run(fmt.Sprintf("%q into drives of which %v are full", image, full), func(t *testing.T) {
				t.Parallel()
				r, c := capturedBMC(t, "dell-idrac-two-drives")
				drive := func(name string) map[string]any {
					return r.documents[redfishRoot+"/Systems/System.Embedded.1/VirtualMedia/"+name]
				}
				for _, name := range full {
					drive(name)["Inserted"], drive(name)["Image"] = true, "http://172.22.0.1/other.iso"
				}
				var err error
				var want, ejected []string
				if image == "" {
					ejected, err = c.EjectMedia(t.Context())
				} else {
					ejected, err = c.InsertMedia(t.Context(), image)
					want = []string{image}
				}
				if others := slices.Repeat([]string{"http://172.22.0.1/other.iso"}, len(full)); !slices.Equal(ejected, others) {
					t.Errorf("ejected %q; want %q", ejected, others)
				}
				var got []string
				for _, name := range []string{"1", "2"} {
					if image, ok := drive(name)["Image"].(string); ok && drive(name)["Inserted"] == true {
						got = append(got, image)
					}
				}
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("the drives hold %q, error %v; want %q and none", got, err, want)
				}
				if actions := len(full) + len(want); len(r.media) != actions {
					t.Errorf("the BMC was told %v; want %d actions", r.media, actions)
				}
			})
		}
	}
}

package bmc_test

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
)

// hostileAnswers are the documents that FuzzRedfishAnswers serves.
type hostileAnswers struct{ root, collection, system []byte }

// FuzzRedfishAnswers lets a hostile BMC choose the three documents that every
// verb reads, and holds the whole stack, library included, to an answer or an
// error in time.
func FuzzRedfishAnswers(f *testing.F) {
	const root = `{"RedfishVersion":"1.11.0","Systems":{"@odata.id":"/redfish/v1/Systems"},"Links":{"Sessions":{"@odata.id":"/redfish/v1/SessionService/Sessions"}}}`
	const collection = `{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}`
	const system = `{"@odata.id":"/redfish/v1/Systems/1","PowerState":"On","Boot":{"BootSourceOverrideTarget":"Pxe"},"Actions":{"#ComputerSystem.Reset":{"target":"/redfish/v1/Systems/1/Actions/ComputerSystem.Reset","ResetType@Redfish.AllowableValues":["On"]}}}`
	f.Add([]byte(root), []byte(collection), []byte(system))
	f.Add([]byte(`null`), []byte(`null`), []byte(`null`))
	f.Add([]byte(root), []byte(`{"Members":[null,{},{"@odata.id":null}]}`), []byte(system))
	f.Add([]byte(root), []byte(`{"Members":[{"@odata.id":"/redfish/v1/Systems"},{"@odata.id":"@x/"}],"Members@odata.nextLink":"/redfish/v1/Systems"}`), []byte(system))
	f.Add([]byte(root), []byte(collection), []byte(`{"PowerState":null,"Boot":null,"Actions":{"#ComputerSystem.Reset":null},"Links":null}`))
	f.Add([]byte(root), []byte(collection), []byte(`{"PowerState":"On","Actions":{"#ComputerSystem.Reset":{"target":"http://elsewhere.invalid/"}}}`))

	f.Add([]byte(root), []byte(`{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}`), []byte(`{"PowerState":"Off","UUID":7,"SerialNumber":["x"],"MemorySummary":{"TotalSystemMemoryGiB":1e300},"Processors":{"@odata.id":"/redfish/v1/Systems"},"Memory":{"@odata.id":"/redfish/v1/Systems"},"Storage":{"@odata.id":"@x"},"CapacityMiB":"-1","Drives":[{"@odata.id":"/redfish/v1/Systems"}],"EthernetInterfaces":{"@odata.id":"/redfish/v1/Systems"},"MACAddress":"01:00:5e:00:00:01","Links":{"Chassis":[7],"ManagedBy":null},"TrustedModules":[{"Status":null}]}`))

	cert, fingerprint, err := sim.SelfSigned(netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		f.Fatal(err)
	}
	var answers atomic.Pointer[hostileAnswers]
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		a := answers.Load()
		switch {
		case req.Method == http.MethodPost:
			w.Header().Set("X-Auth-Token", "t")
			w.Header().Set("Location", "/redfish/v1/SessionService/Sessions/1")
		case req.URL.Path == "/redfish/v1/":
			_, _ = w.Write(a.root)
		case req.URL.Path == "/redfish/v1/Systems":
			_, _ = w.Write(a.collection)
		case req.Method == http.MethodGet:
			_, _ = w.Write(a.system)
		}
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	f.Cleanup(server.Close)

	f.Fuzz(func(t *testing.T, root, collection, system []byte) {
		answers.Store(&hostileAnswers{root, collection, system})
		c, err := bmc.Open(bmc.Config{
			Driver: bmc.DriverRedfish, Address: server.URL, Username: "admin", Password: "secret", Fingerprint: fingerprint,
			Timeout: 2 * time.Second, Attempts: 1, PollInterval: time.Millisecond,
		}, bmc.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		start := time.Now()
		if _, err := c.Status(t.Context()); err != nil && len(err.Error()) > 2000 {
			t.Errorf("Status() gives an error of %d bytes; want one that fits a terminal", len(err.Error()))
		}
		if r, err := c.Facts(t.Context()); err == nil && r.Facts.Validate() != nil {
			t.Errorf("Facts() gives a document that is refused: %v", r.Facts.Validate())
		}
		_ = c.SetNextBoot(t.Context(), bmc.BootPXE, bmc.BootOptions{EFI: true})
		// The inventory is one of at most 160 requests to a server that answers at once.
		if took := time.Since(start); took > 15*time.Second {
			t.Errorf("three calls took %s", took)
		}
	})
}

package api_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/client"
	"github.com/edge-provision/edge-provision/inventory/resource"
)

func TestFactsAreWrittenOverTheAPI(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	edit := func(body any) reply {
		return s.do(call{method: http.MethodPatch, path: "/v1/machines/" + m.ID.String() + "/facts/manual", role: resource.RoleOperator, body: body})
	}
	if r := edit(`{"set":{"chassis.asset_tag":"0042","cpu.cores":4,"firmware.secure_boot":true,"cpu.flags":["avx"],"memory.bytes":1}}`); r.status != http.StatusOK {
		t.Fatalf("writing facts = %d: %s", r.status, r.body)
	}
	c, err := client.New(client.Config{URL: s.http.URL, Token: s.bearers[resource.RoleOperator]})
	if err != nil {
		t.Fatal(err)
	}
	written, err := c.ChangeFacts(t.Context(), mac(1).String(), resource.FactEdit{Remove: []string{"cpu"}, Set: map[string]json.RawMessage{"facts.cpu.model": json.RawMessage(`"N100"`)}})
	if err != nil || written.CPU == nil || written.CPU.Cores != 0 || written.CPU.Model != "N100" || written.Chassis.AssetTag != "0042" {
		t.Errorf("ChangeFacts = %+v, %v; want the model in place of all else of the CPU, and the rest as it was", written, err)
	}
	facts, err := c.Facts(t.Context(), m.ID.String())
	if err != nil {
		t.Fatal(err)
	}
	if f := facts.Facts; f.Chassis.AssetTag != "0042" || f.CPU.Model != "N100" || f.Memory.Bytes != 1<<30 || facts.Sources[inventory.SourceManual].Facts.Memory.Bytes != 1 {
		t.Errorf("facts = %+v; want what was written, but the agent's memory", f)
	}
	audited := s.do(call{path: "/v1/audit", role: resource.RoleAdmin})
	if !strings.Contains(string(audited.body), "/facts/manual") {
		t.Errorf("the audit does not tell of facts that were written: %s", audited.body)
	}

	for name, body := range map[string]string{
		"no fact":           `{"set":{"chassis.assettag":"1"}}`,
		"another type":      `{"set":{"cpu.cores":"many"}}`,
		"a fraction":        `{"set":{"cpu.cores":1.5}}`,
		"null":              `{"set":{"chassis.serial":null}}`,
		"no fact to take":   `{"remove":["colour"]}`,
		"another field":     `{"put":{}}`,
		"a list for one":    `{"set":{"chassis.serial":["a"]},"remove":["chassis.serial"]} trailing`,
		"a negative one":    `{"set":{"memory.bytes":-1}}`,
		"a group address":   `{"set":{"nics":[{"name":"e","mac":"01:00:5e:00:00:01"}]}}`,
		"a key given twice": `{"set":{"disks":[{"name":"a","name":"b"}]}}`,
	} {
		t.Run(name, func(t *testing.T) { refused(t, edit(body), "invalid-body") })
	}
	p := refused(t, edit(`{"set":{"chassis.assettag":"1"}}`), "invalid-body")
	if !strings.Contains(p.Detail, `Did you mean "chassis.asset_tag"?`) {
		t.Errorf("detail = %q; want what was probably meant", p.Detail)
	}
}

func TestSerialThatAnotherMachineHasIsNotWritten(t *testing.T) {
	s := open(t)
	bare, err := s.catalog.Declare(t.Context(), "store-0421", "machine.bare", mac(7))
	if err != nil {
		t.Fatal(err)
	}
	label := func(machine string) reply {
		return s.do(call{
			method: http.MethodPatch, path: "/v1/machines/" + machine + "/facts/manual", role: resource.RoleOperator, body: `{"set":{"system.serial":"LABEL-1"}}`,
		})
	}
	if r := label("machine.bare"); r.status != http.StatusOK {
		t.Fatalf("writing a serial = %d: %s", r.status, r.body)
	}
	if got, err := s.catalog.Find(t.Context(), "", "LABEL-1"); err != nil || got.ID != bare.ID {
		t.Errorf("Find(LABEL-1) = %s, %v; want the machine without firmware's serial", got.ID, err)
	}
	if _, err := s.catalog.Declare(t.Context(), "store-0421", "machine.other", mac(8)); err != nil {
		t.Fatal(err)
	}
	refused(t, label("machine.other"), "conflict")
}

func TestSchemaOfFactsIsServedToEverybody(t *testing.T) {
	s := open(t)
	want, err := os.ReadFile(filepath.Join("..", "..", "docs", "facts.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	r := s.get("/v1/schemas/facts")
	if r.status != http.StatusOK || r.header.Get("Content-Type") != "application/schema+json" || !bytes.Equal(r.body, want) {
		t.Errorf("the schema = %d of type %s, %d bytes; want docs/facts.schema.json, %d bytes", r.status, r.header.Get("Content-Type"), len(r.body), len(want))
	}
	again := s.do(call{path: "/v1/schemas/facts", header: map[string]string{"If-None-Match": r.header.Get("ETag")}})
	if again.status != http.StatusNotModified {
		t.Errorf("the schema with its ETag = %d; want 304", again.status)
	}
}

// TestFieldsAreDescribed holds the descriptions to the fields that clients read
// most.
func TestFieldsAreDescribed(t *testing.T) {
	doc := open(t).description()
	for _, name := range []string{"Machine", "Facts", "CPU", "Disk", "NIC", "Memory", "MachineFacts", "FactEdit"} {
		schema := doc.Components.Schemas[name]
		if schema == nil {
			t.Errorf("%s is not described", name)
			continue
		}
		for field, f := range schema.Value.Properties {
			if f.Value.Description == "" && (name != "MachineFacts" || field != "machine") && (name != "Machine" || field != "last_seen") {
				t.Errorf("%s.%s has no description", name, field)
			}
		}
	}
	if got := doc.Components.Schemas["Memory"].Value.Properties["bytes"].Value.Description; !strings.HasPrefix(got, "in bytes") {
		t.Errorf("Memory.bytes is described as %q; want its unit", got)
	}
}

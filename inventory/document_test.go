package inventory

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestDecodeFactsRefusesBadDocuments(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat(`{"name":"sda"},`, 5000), ",")
	cases := map[string]struct{ doc, want string }{
		"empty":              {``, "EOF"},
		"cut short":          {`{"schema_version":1,"bios":{"vendor":"A"`, "EOF"},
		"duplicate key":      {`{"schema_version":1,"bios":{"vendor":"A","vendor":"B"}}`, `"vendor" is given twice`},
		"key in other case":  {`{"schema_version":1,"bios":{"vendor":"A","VENDOR":"B"}}`, "given twice"},
		"duplicate in list":  {`{"schema_version":1,"disks":[{"name":"sda","name":"sdb"}]}`, "given twice"},
		"unknown field":      {`{"schema_version":1,"bios":{"colour":"red"}}`, "colour"},
		"invalid UTF-8":      {"{\"schema_version\":1,\"bios\":{\"vendor\":\"\xff\"}}", "UTF-8"},
		"escaped NUL":        {`{"schema_version":1,"bios":{"vendor":"a\u0000b"}}`, "bios.vendor contains a NUL"},
		"newer version":      {`{"schema_version":2}`, "newer"},
		"two documents":      {`{"schema_version":1}{"schema_version":1}`, "more after"},
		"not an object":      {`[1]`, "cannot unmarshal"},
		"text for a number":  {`{"schema_version":1,"memory":{"bytes":"lots"}}`, "cannot unmarshal"},
		"number too great":   {`{"schema_version":1,"memory":{"bytes":1e30}}`, "cannot unmarshal"},
		"negative number":    {`{"schema_version":1,"memory":{"bytes":-1}}`, "memory.bytes is negative"},
		"group MAC":          {`{"schema_version":1,"nics":[{"name":"e","mac":"ff:ff:ff:ff:ff:ff"}]}`, "group"},
		"nested":             {strings.Repeat(`{"a":`, 100000) + `1` + strings.Repeat(`}`, 100000), "nested"},
		"nested lists":       {`{"disks":` + strings.Repeat(`[`, 200000) + strings.Repeat(`]`, 200000) + `}`, "nested"},
		"too long":           {`{"schema_version":1,"bios":{"vendor":"` + strings.Repeat("x", MaxDocumentBytes) + `"}}`, "at most"},
		"text too long":      {`{"schema_version":1,"bios":{"vendor":"` + strings.Repeat("x", 5000) + `"}}`, "bios.vendor has 5000 bytes"},
		"too many disks":     {`{"schema_version":1,"disks":[` + many + `]}`, "5000 disks"},
		"too many CPU flags": {`{"schema_version":1,"cpu":{"flags":[` + strings.TrimSuffix(strings.Repeat(`"x",`, 5000), ",") + `]}}`, "cpu.flags has 5000"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeFacts([]byte(c.doc))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("DecodeFacts(%.60q) = %v; want an error that says %q", c.doc, err, c.want)
			}
			if len(err.Error()) > 500 {
				t.Errorf("error has %d bytes; want a short one", len(err.Error()))
			}
		})
	}
}

func TestCanonicalFormIgnoresOrder(t *testing.T) {
	a := Facts{
		CPU:   &CPU{Flags: []string{"b", "a"}},
		Disks: []Disk{{Name: "sdb"}, {Name: "sda", Model: "<&>"}},
		NICs:  []NIC{{Name: "eno2", MAC: MAC{2, 0, 0, 0, 0, 2}}, {Name: "eno1", MAC: MAC{2, 0, 0, 0, 0, 1}}},
	}
	b := Facts{
		SchemaVersion: 1,
		CPU:           &CPU{Flags: []string{"a", "b"}},
		Disks:         []Disk{{Name: "sda", Model: "<&>"}, {Name: "sdb"}},
		NICs:          []NIC{{Name: "eno1", MAC: MAC{2, 0, 0, 0, 0, 1}}, {Name: "eno2", MAC: MAC{2, 0, 0, 0, 0, 2}}},
	}
	was := fmt.Sprintf("%+v", *a.CPU)
	ca, da, err := a.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	cb, db, err := b.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ca, cb) || da != db {
		t.Errorf("Canonical differs by order:\n%s\n%s", ca, cb)
	}
	if now := fmt.Sprintf("%+v", *a.CPU); now != was {
		t.Errorf("Canonical changed its receiver to %s; want %s", now, was)
	}
	b.Disks[0].Model = "other"
	if _, dc, err := b.Canonical(); err != nil || dc == db {
		t.Errorf("digest of other content = %s, %v; want another than %s", dc, err, db)
	}
	// A digest in a catalog must mean the same content for ever.
	const fixed = "sha256:d13113ceace5f1fd677684cfd8c43b34f70b9220f2ac11a67fd2c8fe5a0aa0ff"
	if _, got, _ := (Facts{BIOS: &BIOS{Version: "1"}}).Canonical(); got != fixed {
		t.Errorf("Canonical digest = %s; want %s", got, fixed)
	}
}

func TestMergeTakesEachFieldFromTheFirstSourceThatSawIt(t *testing.T) {
	no := false
	got := Merge(map[Source]Facts{
		SourceRedfish: {System: &System{Serial: "R", SKU: "RS"}, Firmware: &Firmware{Mode: "bios", SecureBoot: &no}, Disks: []Disk{{Name: "r0"}, {Name: "r1"}}, TPM: &TPM{Version: "1.2"}},
		SourceAgent:   {System: &System{Serial: "A"}, Firmware: &Firmware{Mode: "uefi"}, Disks: []Disk{{Name: "sda"}}},
		SourceIPMI:    {System: &System{Serial: "I", SKU: "IS", Family: "IF"}},
		"zzz":         {Kernel: &Kernel{Release: "z"}},
		"aaa":         {Kernel: &Kernel{Release: "a"}},
	})
	want := Facts{
		SchemaVersion: 1,
		System:        &System{Serial: "A", SKU: "RS", Family: "IF"},
		Firmware:      &Firmware{Mode: "uefi", SecureBoot: &no},
		Disks:         []Disk{{Name: "sda"}},
		TPM:           &TPM{Version: "1.2"},
		Kernel:        &Kernel{Release: "a"},
	}
	if !reflect.DeepEqual(got, want) {
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		t.Errorf("Merge =\n%s\nwant\n%s", g, w)
	}
	// Who stands on the machine and sees no disk is believed; who did not look says nothing.
	seen := Merge(map[Source]Facts{
		SourceAgent:   {Disks: []Disk{}, Memory: &Memory{Bytes: 1}},
		SourceRedfish: {Disks: []Disk{{Name: "r0"}}, NICs: []NIC{}, Memory: &Memory{Modules: []MemoryModule{}}},
	})
	if want := (Facts{SchemaVersion: 1, Disks: []Disk{}, NICs: []NIC{}, Memory: &Memory{Bytes: 1, Modules: []MemoryModule{}}}); !reflect.DeepEqual(seen, want) {
		t.Errorf("Merge of empty lists = %#v; want %#v", seen, want)
	}
	if got := Merge(nil); !reflect.DeepEqual(got, Facts{SchemaVersion: 1}) {
		t.Errorf("Merge(nil) = %+v; want nothing", got)
	}
}

// TestEmptyListIsNotOneThatNobodyLookedFor follows a list from a document that was
// received to the one that is kept.
func TestEmptyListIsNotOneThatNobodyLookedFor(t *testing.T) {
	digests := map[string]string{}
	for _, c := range []struct{ doc, canonical string }{
		{`{}`, `{"schema_version":1}`},
		{`{"disks":null,"nics":null,"pci":null}`, `{"schema_version":1}`},
		{`{"disks":[]}`, `{"disks":[],"schema_version":1}`},
		{`{"nics":[],"pci":[]}`, `{"nics":[],"pci":[],"schema_version":1}`},
		{`{"memory":{"modules":[]},"cpu":{"flags":[]}}`, `{"cpu":{"flags":[]},"memory":{"modules":[]},"schema_version":1}`},
		{`{"memory":{"bytes":1,"modules":null}}`, `{"memory":{"bytes":1},"schema_version":1}`},
	} {
		f, err := DecodeFacts([]byte(c.doc))
		if err != nil {
			t.Fatalf("DecodeFacts(%s) = %v", c.doc, err)
		}
		content, digest, err := f.Canonical()
		if err != nil || string(content) != c.canonical {
			t.Errorf("Canonical of %s = %s, %v; want %s", c.doc, content, err, c.canonical)
		}
		if other, taken := digests[c.canonical]; taken && other != digest {
			t.Errorf("digest of %s = %s; want %s, that of the same content", c.doc, digest, other)
		}
		digests[c.canonical] = digest
		again, err := DecodeFacts(content)
		if err != nil || len(Diff(f, again)) != 0 || (again.Disks == nil) != (f.Disks == nil) {
			t.Errorf("%s read again = %+v, %v; want the same", content, again, err)
		}
	}
}

func FuzzDecodeFacts(f *testing.F) {
	for _, s := range []string{
		`{"schema_version":1}`,
		`{"schema_version":1,"system":{"uuid":"4c4c4544-0058-4b10-8032-b7c04f513933"},"disks":[{"name":"sda","bytes":1,"signatures":[]}],"nics":[{"name":"e","mac":"52:54:00:04:21:01"}]}`,
		`{"schema_version":1,"bios":{"vendor":"A","vendor":"B"}}`, `{"a":[[[[{}]]]]}`, `{"memory":{"bytes":-0}}`, "{\"bios\":{\"date\":\"\xff\"}}", `{"cpu":{"flags":["\u0000"]}}`,
		`{"nics":[{"name":""}],"disks":[{}]}`,
		`{"disks":null,"memory":{"modules":[{"ecc":null}]}}`, `{"\u0062ios":{},"bios":{}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		facts, err := DecodeFacts(raw)
		if err != nil {
			return
		}
		content, digest, err := facts.Canonical()
		if err != nil {
			t.Fatalf("Canonical of accepted facts = %v; want no error", err)
		}
		if bytes.ContainsRune(content, 0) || bytes.Contains(content, []byte(`\u0000`)) {
			t.Errorf("Canonical = %s; want no NUL", content)
		}
		again, err := DecodeFacts(content)
		if err != nil {
			t.Fatalf("DecodeFacts(Canonical) = %v; want it accepted: %s", err, content)
		}
		if _, d, err := again.Canonical(); err != nil || d != digest {
			t.Errorf("digest after a round trip = %s, %v; want %s", d, err, digest)
		}
		if d := Diff(facts, again); len(d) != 0 {
			t.Errorf("Diff after a round trip = %v; want nothing", d)
		}
		Diff(Facts{}, facts)
		Merge(map[Source]Facts{SourceAgent: facts, SourceIPMI: again})
	})
}

package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/journal"
)

const (
	shopMACa = "52:54:00:04:21:01"
	shopMACb = "52:54:00:04:21:02"
)

// token makes a token of a role and returns its file.
func (c *controller) token(role string) string {
	c.Helper()
	bearer, _ := cli(c.T, exitOK, "token", "create", "the "+role+"'s laptop", "--role", role)
	file := filepath.Join(c.TempDir(), role)
	if err := os.WriteFile(file, []byte(bearer), 0o600); err != nil {
		c.Fatal(err)
	}
	return file
}

// as are arguments that go to the server with a token.
func (c *controller) as(file string, args ...string) []string {
	return append(slices.Clone(args), "--server", c.url, "--token-file", file)
}

// TestChangesAreTheSameOverTheAPI makes each change of one machine in the catalog and
// of its twin over the API.
func TestChangesAreTheSameOverTheAPI(t *testing.T) {
	c := serveShop(t, apiFlags{})
	operator, reader := c.token("operator"), c.token("reader")
	for _, change := range [][]string{
		{"tag", "rack=R1", "asset=0042", "note=Größe „L“ & <b>"},
		{"tag", "asset-", "rack=R2"},
		{"tag"},
		{"set", "chassis.asset_tag=0042", "cpu.cores=4", "firmware.secure_boot=true", `cpu.flags=["avx", "sse"]`, "system.product=\"quoted\""},
		{"set", "cpu-", "cpu.model=N100", "facts.bios.version=1.0"},
		{"set", "bios.version-", "-o", "json"},
		{"set"},
	} {
		args := func(mac string) []string { return append([]string{"inventory", change[0], mac}, change[1:]...) }
		local, _ := cli(t, exitOK, args(shopMACb)...)
		remote, _ := cli(t, exitOK, c.as(operator, args(shopMACa)...)...)
		if local != remote || local == "" {
			t.Errorf("%q over the API prints\n%s\nwant, as from the catalog,\n%s", change, remote, local)
		}
	}
	for _, wrong := range [][]string{
		{"tag", shopMACa, "bad key=1"},
		{"tag", shopMACa, "a=\xff"},
		{"tag", shopMACa, "a="},
		{"set", shopMACa, "chassis.assettag=1"},
		{"set", shopMACa, "chassis.serial=\xff"},
		{"set", shopMACa, "cpu.cores=many"},
		{"set", "nobody", "cpu.cores=1"},
		{"tag", shopMACa, "a=1", "--site", "another"},
	} {
		args := append([]string{"inventory"}, wrong...)
		_, local := cli(t, exitError, args...)
		_, remote := cli(t, exitError, c.as(operator, args...)...)
		for _, part := range []string{"UTF-8", "asset_tag", "whole number", "empty", "letter", `knows no machine "nobody"`} {
			if strings.Contains(local, part) != strings.Contains(remote, part) {
				t.Errorf("%q over the API fails with\n%s\nwant the reason that the catalog gives\n%s", wrong, remote, local)
			}
		}
	}
	if _, errs := cli(t, exitError, c.as(reader, "inventory", "tag", shopMACa, "rack=R9")...); !strings.Contains(errs, "operator") {
		t.Errorf("a reader who tags is told %s; want which role may", errs)
	}
	if _, errs := cli(t, exitError, "inventory", "tag", shopMACa, "rack=R9", "--server", c.url); !strings.Contains(errs, "token") {
		t.Errorf("nobody who tags is told %s; want that a token is needed", errs)
	}
	m, err := c.catalog.Machine(t.Context(), c.m.ID)
	if err != nil || m.Tags["rack"] != "R2" || len(m.Tags) != 2 {
		t.Errorf("tags = %v, %v; want those of the operator alone", m.Tags, err)
	}
}

func TestReadsAreTheSameOverTheAPI(t *testing.T) {
	c := serveShop(t, apiFlags{})
	ctx := t.Context()
	other, err := c.catalog.MachineByAddress(ctx, "shop", `machine.node["b"]`)
	if err != nil {
		t.Fatal(err)
	}
	for i, version := range []string{"1.0", "1.1"} {
		for _, source := range []inventory.Source{inventory.SourceAgent, inventory.SourceRedfish} {
			f := inventory.Facts{BIOS: &inventory.BIOS{Version: version}}
			if _, _, err := c.catalog.PutFacts(ctx, c.m.ID, source, f, time.Now().Add(time.Duration(i)*time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := c.catalog.Commission(ctx, c.m.ID, ""); err != nil {
		t.Fatal(err)
	}
	for i, m := range []inventory.Machine{c.m, other, c.m} {
		r := inventory.Reaction{Site: "shop", Machine: m.ID, Class: "till", Digest: "sha256:" + string(rune('a'+i)), State: inventory.ReactionQueued}
		if _, err := c.catalog.QueueReaction(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.catalog.FinishReaction(ctx, 2, inventory.ReactionRefused, "its disk carries ext4"); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"diff", shopMACa},
		{"diff", shopMACa, shopMACb},
		{"diff", shopMACa, "--source", "redfish"},
		{"diff", shopMACa, shopMACa, "--source", "redfish"},
		{"diff", shopMACa, "-o", "json"},
		{"export", "-o", "full"},
		{"export", "-o", "netbox"},
		{"export", "-o", "full", "--filter", `facts.bios.version == "1.1"`},
		{"reactions"},
		{"reactions", "-o", "wide"},
		{"reactions", "-o", "json"},
		{"reactions", shopMACa},
		{"reactions", "--state", "refused"},
		{"reactions", "--class", "none", "-o", "json"},
		{"show", shopMACa},
		{"show", shopMACb, "--site", "shop"},
	} {
		args = append([]string{"inventory"}, args...)
		if local, remote := c.both(args...); local != remote || local == "" {
			t.Errorf("%q over the API =\n%s\nwant, as from the catalog,\n%s", args, remote, local)
		}
	}
	r, err := c.journal.Begin(ctx, journal.Run{Site: "shop", PlanDigest: "sha256:00", Actions: json.RawMessage(`{"command":"apply"}`)})
	for _, step := range []error{
		err, c.journal.Started(ctx, r.ID, "image.os", 1, "in"), c.journal.Finished(ctx, r.ID, "image.os", 1, "failed", "no space\nleft", nil),
		c.journal.Started(ctx, r.ID, "image.os", 2, "in"), c.journal.Finished(ctx, r.ID, "image.os", 2, "ok", "", nil),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	c.catalog.Record(inventory.Event{Time: time.Now(), Site: "shop", Machine: c.m.ID, MAC: c.m.MACs[0], Kind: inventory.EventDHCPAck, Attrs: map[string]string{"address": "172.22.0.11", "firmware": "uefi"}})
	if err := c.catalog.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"runs", "list"},
		{"runs", "list", "--site", "shop"},
		{"runs", "list", "--site", "another"},
		{"runs", "show", "shop"},
		{"runs", "show", r.ID.String()},
		{"trace", shopMACa},
		{"trace", shopMACa, "--json"},
		{"trace", shopMACa, "--all", "--site", "shop"},
	} {
		if local, remote := c.both(args...); local != remote || local == "" {
			t.Errorf("%q over the API =\n%s\nwant, as from the catalog,\n%s", args, remote, local)
		}
	}
	cli(t, exitError, "runs", "show", "nothing", "--server", c.url)
	list, _ := cli(t, exitOK, "inventory", "reactions", "--state", "refused")
	if lines := strings.Split(strings.TrimSpace(list), "\n"); len(lines) != 2 || !strings.Contains(lines[1], "refused") || !strings.HasSuffix(lines[1], "its disk carries ext4") {
		t.Errorf("the refused reactions are listed as\n%s\nwant the one, with its reason", list)
	}
	for _, wrong := range [][]string{
		{"reactions", "--state", "running"}, {"reactions", "-o", "csv"}, {"reactions", "nobody"}, {"diff", shopMACb}, {"diff", shopMACa, "--source", "ipmi"}, {"diff", shopMACa, shopMACb, "--source", "redfish"}, {"show", shopMACa, "--site", "another"}, {"import", "-"},
	} {
		cli(t, exitError, append([]string{"inventory"}, append(wrong, "--server", c.url)...)...)
	}
}

func TestAcceptingAndForgettingOverTheAPIAreAudited(t *testing.T) {
	c := serveShop(t, apiFlags{})
	ctx := t.Context()
	operator, admin := c.token("operator"), c.token("admin")
	disk := func(serial string) {
		t.Helper()
		f := inventory.Facts{Disks: []inventory.Disk{{Name: "sda", Serial: serial, Bytes: 1 << 30}}}
		if _, _, err := c.catalog.PutFacts(ctx, c.m.ID, inventory.SourceAgent, f, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	disk("OLD")
	if _, err := c.catalog.Commission(ctx, c.m.ID, ""); err != nil {
		t.Fatal(err)
	}
	disk("NEW")
	accept := c.as(operator, "inventory", "accept", shopMACa)
	if _, errs := cli(t, exitError, accept...); !strings.Contains(errs, `disk "OLD" is gone`) || !strings.Contains(errs, "nothing was changed") {
		t.Errorf("accept without a yes says\n%s\nwant the difference, and that nothing was done", errs)
	}
	out, _ := cli(t, exitOK, append(accept, "--auto-approve")...)
	if !strings.Contains(out, "is accepted as it is") {
		t.Errorf("accept = %s; want that it is accepted", out)
	}
	if out, _ = cli(t, exitOK, append(accept, "--auto-approve")...); !strings.Contains(out, "nothing to accept") {
		t.Errorf("accept once more = %s; want that there is nothing", out)
	}
	cli(t, exitOK, "inventory", "tag", shopMACa, "rack=R1")
	cli(t, exitError, c.as(operator, "inventory", "forget", shopMACa)...)
	if _, err := c.catalog.Machine(ctx, c.m.ID); err != nil {
		t.Fatalf("the machine after an operator asked to forget it: %v; want it there", err)
	}
	if out, _ = cli(t, exitOK, c.as(admin, "inventory", "forget", shopMACa)...); !strings.Contains(out, c.m.ID.String()) {
		t.Errorf("forget = %s; want the machine that was forgotten", out)
	}
	if _, err := c.catalog.Machine(ctx, c.m.ID); err == nil {
		t.Error("the machine is there after an admin had it forgotten")
	}
	entries, err := c.catalog.AuditPage(ctx, "", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []store.AuditEntry{
		{Action: "acceptDrift", Name: "the operator's laptop", Status: http.StatusAccepted},
		{Action: "changeTags", Name: whoAmI(), Status: http.StatusOK},
		{Action: "forgetMachine", Name: "the operator's laptop", Status: http.StatusForbidden},
		{Action: "forgetMachine", Name: "the admin's laptop", Status: http.StatusNoContent},
	} {
		if !slices.ContainsFunc(entries, func(e store.AuditEntry) bool {
			return e.Action == want.Action && e.Name == want.Name && e.Status == want.Status
		}) {
			t.Errorf("the audit lacks %s by %s with status %d; it has %+v", want.Action, want.Name, want.Status, entries)
		}
	}
}

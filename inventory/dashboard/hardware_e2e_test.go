//go:build e2e

package dashboard_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func drifted(t *testing.T, b *browser, s *shop) {
	p := b.open(t, s.base, "")
	const node = `machine.node["b"]`
	p.until("the mark in the fleet", cell(node)+`?.innerText.includes("hardware changed")`)
	p.until("the count above", `document.querySelector("#summary a.drift")?.innerText === "1 with changed hardware"`)
	if value[bool](p, cell(`machine.node["a"]`)+`.innerText.includes("hardware")`) {
		t.Error("a machine that was never frozen is marked; want no mark")
	}
	p = b.open(t, s.base, "#/machine/"+s.machines[node].ID.String())
	const section = `(document.getElementById("section-hardware")?.parentElement.innerText ?? "")`
	for _, want := range []string{"changed since", "last looked at 1\u202fh ago", `inventory accept 'machine.node["b"]'`, "What became of it", "2 changes"} {
		p.until(want, fmt.Sprintf("%s.includes(%q)", section, want))
	}
	want := []string{"disk S5STNX0T00002|1\u202fTB|gone", "disk S5STNX0T90210|not there|1\u202fTB"}
	if got := value[[]string](p, compared); len(got) != 2 || !likeRows(got, want) {
		t.Errorf("the hardware that changed is %q; want %q, with more of each", got, want)
	}
	r, err := s.catalog.Drift(t.Context(), s.machines[node].ID)
	if err == nil {
		_, err = s.catalog.AcceptDrift(t.Context(), s.machines[node].ID, r.Digest, "ops")
	}
	if err != nil {
		t.Fatal(err)
	}
	p.until("its end, without reloading", fmt.Sprintf("%s.includes(%q)", section, "no change since"))
	p = b.open(t, s.base, "#/machine/"+s.machines["machine.gateway"].ID.String())
	p.until("that another one was never frozen", fmt.Sprintf("%s.includes(%q)", section, "not frozen yet"))
}

// compared are the rows of what was and what is now.
const compared = `[...document.querySelectorAll(".hardware > div .comparison tbody tr")].map((r) => [...r.cells].map((c) => c.innerText).join("|"))`

// likeRows reports whether each cell begins with, or holds, what is wanted of it.
func likeRows(got, want []string) bool {
	for i, row := range want {
		cells := strings.Split(got[i], "|")
		for j, cell := range strings.Split(row, "|") {
			if j >= len(cells) || !strings.Contains(cells[j], cell) {
				return false
			}
		}
	}
	return true
}

// accepted signs in as an operator and accepts a disk that was swapped, by keyboard.
func accepted(t *testing.T, b *browser, s *shop) {
	const node = `machine.node["c"]`
	f := nuc(3, 64)
	s.swap(node, f)
	issued, err := api.IssueToken(t.Context(), s.catalog, time.Now(), "", "the shop's technician", resource.RoleOperator, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p := b.open(t, s.base, "#/machine/"+s.machines[node].ID.String())
	p.until("the difference", compared+".length === 2")
	if value[bool](p, `document.getElementById("accept") !== null`) {
		t.Error("somebody who may only look has a button to accept; want none")
	}
	p.until("a way to sign in", `document.querySelector("#who button")?.textContent === "Sign in"`)
	value[bool](p, `document.querySelector("#who button").focus() ?? true`)
	p.keys(kb.Enter)
	p.until("the form", `document.activeElement.id === "token"`)
	p.keys(issued.Bearer + kb.Enter)
	p.until("the button", `document.getElementById("accept")`)
	press := func(id string) {
		t.Helper()
		value[bool](p, fmt.Sprintf(`document.getElementById(%q).focus() ?? true`, id))
		p.keys(kb.Enter)
	}
	const dialog = `document.querySelector("dialog[open]")`
	asks := func() {
		t.Helper()
		press("accept")
		p.until("the question, with the focus on what does nothing", dialog+` && document.activeElement.id === "accept-no"`)
	}
	asks()
	text := value[string](p, dialog+".innerText")
	for _, want := range []string{`Accept the hardware of machine.node["c"] as it is?`, "S5STNX0T00003", "S5STNX0T90210", "last looked at 1\u202fh ago", "The machine is not touched"} {
		if !strings.Contains(text, want) {
			t.Errorf("the question is\n%s\nwant %q in it", text, want)
		}
	}
	for _, theme := range []string{"dark", "light"} {
		p.theme(theme)
		for _, poor := range value[[]string](p, contrast)[1:] {
			t.Errorf("the question, %s: too little contrast: %s", theme, poor)
		}
	}
	p.picture("dashboard-accept.png", 640)
	p.keys(kb.Escape)
	p.until("the focus where it was", `!`+dialog+` && document.activeElement.id === "accept"`)
	asks()
	f.Disks[1].Serial = "S5STNX0T77777"
	if _, _, err := s.catalog.PutFacts(t.Context(), s.machines[node].ID, inventory.SourceAgent, *f, time.Now()); err != nil {
		t.Fatal(err)
	}
	p.until("that it is another difference by now", dialog+`.innerText.includes("differs in another way by now") && document.getElementById("accept-yes").disabled`)
	p.keys(kb.Enter)
	p.until("the new difference", `!`+dialog+` && `+compared+`.some((r) => r.includes("S5STNX0T77777"))`)
	asks()
	// A request that fails, and the same once more.
	value[bool](p, `(() => {
		const real = window.fetch;
		window.fetch = (url, options) => {
			if (options?.method !== "POST") return real(url, options);
			window.fetch = real;
			window.key = options.headers["Idempotency-Key"];
			return Promise.reject(new TypeError("the line was cut"));
		};
		return true;
	})()`)
	press("accept-yes")
	p.until("that nobody knows", dialog+`.innerText.includes("not known to be accepted: the line was cut") && !document.getElementById("accept-yes").disabled`)
	value[bool](p, `(() => {
		const real = window.fetch;
		window.fetch = (url, options) => {
			if (options?.method === "POST") window.again = options.headers["Idempotency-Key"] === window.key;
			return real(url, options);
		};
		return true;
	})()`)
	press("accept-yes")
	p.until("its end", `!`+dialog+` && document.getElementById("hardware-state").innerText.startsWith("no change since")`)
	if !value[bool](p, "window.again === true") {
		t.Error("the second request had another Idempotency-Key; want the same, as the first may have arrived")
	}
	p.until("the focus on what is so now", `document.activeElement.id === "hardware-state"`)
	p.until("who accepted it", `document.querySelector(".hardware .past").innerText.includes("by the shop's technician (token `+issued.ID+`)")`)
	if snapshots, err := s.catalog.Snapshots(t.Context(), s.machines[node].ID); err != nil || len(snapshots) != 2 {
		t.Errorf("snapshots = %d, %v; want the first and the accepted one, though it was asked for twice", len(snapshots), err)
	}
	value[bool](p, `document.querySelector("#who button").focus() ?? true`)
	p.keys(kb.Enter)
	p.until("to be signed out", `document.querySelector("#who button")?.textContent === "Sign in"`)
}

func classified(t *testing.T, b *browser, s *shop) {
	const node = `machine.node["b"]`
	m := s.machines[node]
	if _, err := s.catalog.SetClasses(t.Context(), m.ID, []string{"nuc", "till"}); err != nil {
		t.Fatal(err)
	}
	r := inventory.Reaction{Site: site, Machine: m.ID, Class: "till", Digest: "sha256:1", State: inventory.ReactionQueued}
	if _, err := s.catalog.QueueReaction(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	p := b.open(t, s.base, "#/machine/"+m.ID.String())
	const section = `(document.getElementById("section-classes")?.parentElement.innerText ?? "")`
	p.until("its classes", section+`.includes("It is in the classes nuc, till.")`)
	p.until("the reaction", section+`.includes("queued")`)
	list, err := s.catalog.Reactions(t.Context(), store.ReactionFilter{Machine: m.ID})
	if err == nil {
		_, err = s.catalog.HoldReaction(t.Context(), list[0].ID, "waits until a place among machine.till is free")
	}
	if err != nil {
		t.Fatal(err)
	}
	p.until("what it waits for", section+`.includes("waits until a place among machine.till is free")`)
	if _, err := s.catalog.FinishReaction(t.Context(), list[0].ID, inventory.ReactionRefused, "its disk carries ext4"); err != nil {
		t.Fatal(err)
	}
	p.until("why it was refused", section+`.includes("refused") && `+section+`.includes("its disk carries ext4")`)
	p = b.open(t, s.base, "#/machine/"+s.machines["machine.gateway"].ID.String())
	p.until("that another is in none", section+`.includes("It is in no class.")`)
}

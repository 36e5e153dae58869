//go:build e2e

package dashboard_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
)

// TestDashboardInABrowser drives a real Chromium by the keyboard alone, over a
// catalog and an API that are real too.
func TestDashboardInABrowser(t *testing.T) {
	b := startBrowser(t)
	s := openShop(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *browser, *shop)
	}{
		{"the fleet is listed with what is known", listed},
		{"addresses are those of all leases", leased},
		{"numbers count the machines that are not shown too", counted},
		{"a search finds a machine", found},
		{"a search that comes in parts goes on", sought},
		{"a mistake in a search is shown with carets", mistaken},
		{"the search box completes names", completed},
		{"the keyboard alone reaches a machine", reached},
		{"racks show where machines stand", stood},
		{"one machine is told with its boot, facts and history", told},
		{"changed hardware is marked, explained and ended", drifted},
		{"changed hardware is accepted by who may", accepted},
		{"classes and what they start are told", classified},
		{"a run is a graph that moves", moved},
		{"a change arrives without reloading", arrived},
		{"what machines report is never HTML", harmless},
		{"a lost connection is said and mended", mended},
		{"a machine's page outlives a lost connection", outlived},
		{"the pages of runs outlive a lost connection", outlivedByRuns},
		{"a page that could not be read comes by itself", awaited},
		{"an open fleet says when machines were seen last", seen},
		{"a hidden tab holds no connection", rested},
		{"a token signs in where one is needed", signedIn},
		{"a token that was revoked leaves what everybody may see", signedOut},
		{"every text can be read in both themes", legible},
		{"a narrow window needs no scrolling sideways", narrow},
		{"everything has a name for a screen reader", named},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, b, s) })
	}
	b.nothingLeft(t)
}

// rows are the names in the table of machines.
const rows = `[...document.querySelectorAll("table.fleet tbody tr")]`

func rowCount(n int) string { return fmt.Sprintf("%s.length === %d", rows, n) }

func cell(address string) string {
	return fmt.Sprintf(`%s.find((r) => r.querySelector("a").textContent === %q)`, rows, address)
}

const all = 8 // machines of the shop

func listed(t *testing.T, b *browser, s *shop) {
	p := b.open(t, s.base, "")
	p.until("all machines", rowCount(all))
	p.until("the address that it leased", cell(`machine.gateway`)+`?.innerText.includes("172.22.0.14")`)
	text := value[string](p, cell(`machine.gateway`)+".innerText")
	for _, want := range []string{"installed", "VP2420", "8\u202fGiB", "240\u202fGB", "VP24-00004"} {
		if !strings.Contains(text, want) {
			t.Errorf("the gateway's row is %q; want %s in it", text, want)
		}
	}
	if got := value[string](p, `document.getElementById("summary").innerText`); !strings.Contains(got, "8 machines") {
		t.Errorf("summary = %q; want it to count 8 machines", got)
	}
	p.theme("light")
	p.picture("dashboard-fleet.png", 470)
}

// leased has the API answer three leases at a time, by a stand-in of the page's
// question: no test has leases enough for several pages of 1,000.
func leased(t *testing.T, b *browser, s *shop) {
	for most, want := range map[int]string{3: fmt.Sprint(all), 0: "not read"} {
		p := b.open(t, s.base, "#/nowhere")
		p.until("the frame", `document.querySelector(".refusal")`)
		value[bool](p, fmt.Sprintf(`(() => {
			const real = window.fetch;
			const most = %d;
			window.fetch = (url, options) => {
				const u = new URL(url, location.origin);
				if (u.pathname === "/v1/leases") {
					u.searchParams.set("limit", String(most || 1));
					// A list without an end, whose first page has nobody's lease.
					if (!most) return Promise.resolve(new Response(JSON.stringify({ items: [], next: "more" })));
				}
				return real(u, options);
			};
			location.hash = "#/";
			return true;
		})()`, most))
		p.until("all machines", rowCount(all))
		addresses := `[...document.querySelectorAll("table.fleet tbody td:nth-child(3)")].map((c) => c.innerText)`
		if most > 0 {
			p.until("the addresses of "+want+" machines", addresses+`.filter((a) => a.startsWith("172.22.0.")).length === `+want)
		} else {
			p.until("that addresses were not read", addresses+`.every((a) => a === "`+want+`")`)
		}
	}
}

func counted(t *testing.T, b *browser, _ *shop) {
	s := openShop(t)
	const more = 205
	for n := range more {
		s.declare(site, fmt.Sprintf("machine.more-%03d", n), 20+n, nil, nil)
	}
	s.declare(site, "machine.zz", 19, nuc(19, 32), nil)
	s.swap("machine.zz", nuc(19, 32))
	s.state("machine.more-204", inventory.StateFailed)
	p := b.open(t, s.base, "")
	p.until("the first page", rowCount(200)+` && !`+cell("machine.zz"))
	summary := `document.getElementById("summary").innerText.replace(/\s+/g, " ")`
	const total = all + more + 1
	p.until("all machines to be counted, with what is on the next page", fmt.Sprintf(`%s.startsWith("%d machines, 200 shown failed 2 ") && %s.endsWith(" 2 with changed hardware")`, summary, total, summary))
	p.until("the stream", `document.getElementById("link").textContent === "Live"`)
	s.state("machine.more-203", inventory.StateFailed)
	p.until("the change of one that was not shown", fmt.Sprintf(`%s.startsWith("%d machines, 201 shown failed 3 ")`, summary, total))
	value[bool](p, `([...document.querySelectorAll("button")].find((b) => b.textContent === "Show more").click(), true)`)
	p.until("all of them", fmt.Sprintf(`%s && %s.startsWith("%d machines failed 3 ")`, rowCount(total), summary, total))
	p.searchFor(`machine.site == "` + site + `"` + kb.Enter)
	p.until("numbers of what is shown, that say so", summary+`.startsWith("200 machines so far, of which ")`)
	p.keys(strings.Repeat(kb.Backspace, 60) + kb.Enter)
	p.until("the whole fleet again", `document.querySelector("#summary a.count")`)
	value[bool](p, `(document.querySelector("#summary a.count").click(), true)`)
	p.until("those that failed", rowCount(3))
}

func narrow(t *testing.T, b *browser, s *shop) {
	for path, ready := range map[string]string{
		"": rowCount(all), "#/?view=rack": `document.querySelectorAll(".device").length > 0`, "#/runs": `document.querySelectorAll("tbody tr").length > 0`,
		"#/machine/" + s.machines[`machine.node["a"]`].ID.String(): `document.querySelectorAll("svg.boot rect.span").length > 0 && document.querySelector(".facts details")`,
		"#/machine/" + s.machines[`machine.node["b"]`].ID.String(): `document.querySelector(".reactions .past li")`,
		"#/run/" + s.run.String():                                  `document.querySelectorAll(".node").length > 0`,
	} {
		// A server for each: a browser has six connections to one, and streams hold them.
		p := b.open(t, s.serve(resource.RoleReader), path)
		p.do(chromedp.EmulateViewport(360, 740))
		p.until(path, ready)
		if width := value[int](p, "document.documentElement.scrollWidth"); width > 360 {
			widest := value[string](p, `[...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > 361 && !e.closest(".scroll, .canvas, .graph, dl.about, pre")).map((e) => e.tagName + "." + e.className + " " + Math.round(e.getBoundingClientRect().right)).slice(0, 5).join(", ")`)
			t.Errorf("%q is %d pixels wide in a window of 360: %s", path, width, widest)
		}
	}
}

func reached(t *testing.T, b *browser, s *shop) {
	p := b.open(t, s.base, "")
	p.until("all machines", rowCount(all))
	p.until("the sign that it is live", `document.getElementById("link").textContent === "Live"`)
	var order []string
	for range 40 {
		p.keys(kb.Tab)
		order = append(order, value[string](p, `(document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent ?? "").trim() || document.activeElement.id`))
		if value[bool](p, `document.activeElement.matches("table.fleet tbody a")`) {
			break
		}
	}
	last := order[len(order)-1]
	if !strings.HasPrefix(last, "machine.") {
		t.Fatalf("tabbing went through %q; want a machine", order)
	}
	if order[0] != "Skip to content" {
		t.Errorf("the first stop is %q; want the link that skips the frame", order[0])
	}
	p.keys(kb.ArrowDown)
	next := value[string](p, "document.activeElement.textContent")
	if next == last || !strings.HasPrefix(next, "machine.") {
		t.Errorf("arrow down went from %q to %q; want the next machine", last, next)
	}
	p.keys(kb.Enter)
	p.until("the machine, with the focus on its name", fmt.Sprintf(`document.activeElement.tagName === "H1" && document.activeElement.textContent === %q`, next))
	if title := value[string](p, "document.title"); !strings.HasPrefix(title, next) {
		t.Errorf("title = %q; want it to begin with %s", title, next)
	}
}

func stood(t *testing.T, b *browser, s *shop) {
	p := b.open(t, s.base, "#/?view=rack")
	p.until("the racks", `document.querySelectorAll(".device").length === `+fmt.Sprint(all))
	p.until("the rack of the first site", `document.querySelector('section[aria-label="Rack R1 of store-0421"]')`)
	places := value[map[string]string](p, `Object.fromEntries([...document.querySelectorAll(".held")].map((li) => [li.querySelector(".name").textContent, li.querySelector(".unseen").textContent]))`)
	want := map[string]string{
		`machine.node["a"]`: "units 2 to 3: ", `machine.node["b"]`: "units 4 to 5: ", `machine.node["c"]`: "units 6 to 7: ", "machine.gateway": "unit 8: ", "machine.archive": "units 10 to 11: ",
	}
	for name, place := range want {
		if places[name] != place {
			t.Errorf("%s stands in %q; want %q", name, places[name], place)
		}
	}
	above := value[bool](p, `(() => { const y = (n) => [...document.querySelectorAll(".held")].find((li) => li.innerText.includes(n)).getBoundingClientRect().top; return y("archive") < y("gateway") && y("gateway") < y('node["a"]'); })()`)
	if !above {
		t.Error("higher units are not above lower ones")
	}
	s.state(`machine.node["b"]`, inventory.StateFailed)
	p.until("the change", fmt.Sprintf(`document.querySelector('.device[data-machine="%s"]').dataset.state === "bad"`, s.machines[`machine.node["b"]`].ID))
	s.state(`machine.node["b"]`, inventory.StateInstalled)
	p.until("the change back", fmt.Sprintf(`document.querySelector('.device[data-machine="%s"]').dataset.state === "good"`, s.machines[`machine.node["b"]`].ID))
	p.theme("light")
	p.picture("dashboard-racks.png", 620)
}

func told(t *testing.T, b *browser, s *shop) {
	const address = `machine.node["a"]`
	p := b.open(t, s.base, "#/machine/"+s.machines[address].ID.String())
	p.until("the picture of the boot", `document.querySelectorAll("svg.boot rect.span").length >= 10`)
	phases := value[[]string](p, `[...document.querySelectorAll("svg.boot rect.span title")].map((t) => t.textContent)`)
	if text := strings.Join(phases, "; "); !strings.Contains(text, "write: 13.9\u202fs") || !strings.Contains(text, "power: 400\u202fms") {
		t.Errorf("the phases are %s; want power 400 ms and write 13.9 s among them", text)
	}
	widths := value[[]float64](p, `["write", "dhcp"].map((n) => document.querySelector("rect[data-phase=" + n + "]").width.baseVal.value)`)
	if ratio := widths[0] / widths[1]; ratio < 11 || ratio > 15 {
		t.Errorf("write is %.1f times as wide as dhcp; want 13.6, as it took 13.9 s and 1.02 s", ratio)
	}
	text := value[string](p, "document.querySelector('.facts').innerText")
	for _, want := range []string{"64\u202fGiB", "500\u202fGB", "4.2\u202fGHz", "2.5\u202fGb/s", "3200\u202fMT/s", "Samsung SSD 980 PRO 500GB"} {
		if !strings.Contains(text, want) {
			t.Errorf("the facts lack %s", want)
		}
	}
	diff := value[string](p, `document.querySelector(".reports").innerText`)
	for _, want := range []string{"bios.version", "TNTGL357.0064", "TNTGL357.0071", "first report"} {
		if !strings.Contains(diff, want) {
			t.Errorf("the history is %q; want %s in it", diff, want)
		}
	}
	if finding := value[string](p, `document.querySelector(".finding").innerText`); !strings.HasPrefix(finding, "All is well: ") {
		t.Errorf("the finding is %q; want it to say that all is well", finding)
	}
	e := s.event(address, inventory.EventAgentLog)
	e.Message, e.Attrs = "a line that has just come", map[string]string{"level": "info"}
	s.catalog.Record(e)
	p.until("the line of the agent's log", `document.querySelector(".log").innerText.includes("a line that has just come")`)
	p.theme("light")
	p.picture("dashboard-machine.png", 1330)
}

func moved(t *testing.T, b *browser, s *shop) {
	p := b.open(t, s.base, "#/runs")
	p.until("the run", `document.querySelectorAll("tbody tr").length === 1`)
	value[bool](p, `document.querySelector("tbody a").focus() ?? true`)
	p.keys(kb.Enter)
	p.until("the graph", fmt.Sprintf(`document.querySelectorAll(".node").length === %d`, len(plan)))
	node := func(address string) string {
		return fmt.Sprintf(`document.querySelector('.node[data-address=%q]')`, address)
	}
	left := value[bool](p, `(() => { const x = (a) => document.querySelector('.node[data-address="workflow.platform.step.' + a + '"]').getBoundingClientRect().left;
		return x("k3s.cluster") < x("calico.network") && x("calico.network") < x("portworx.storage") && x("portworx.storage") < x("prometheus.metrics"); })()`)
	if !left {
		t.Error("a step does not stand to the right of what it needs")
	}
	edges := 0
	for _, a := range plan {
		edges += len(a.DependsOn)
	}
	if n := value[int](p, `document.querySelectorAll("path.edge").length`); n != edges {
		t.Errorf("the graph has %d edges; want %d", n, edges)
	}
	const c = `machine.node["c"]`
	third := strings.ReplaceAll(c, `"`, `\\"`)
	progress := s.event(c, inventory.EventAgentProgress)
	progress.Run, progress.Step, progress.Attrs = s.run.String(), c, map[string]string{"task": "write", "phase": "write", "bytes": "204472320", "total": "408944640"}
	s.catalog.Record(progress)
	p.until("half of the bytes", `document.querySelector("progress")?.value === 0.5`)
	p.theme("light")
	p.picture("dashboard-run.png", 800)
	s.step(c, "ok")
	s.step("workflow.platform.step.k3s.cluster", "")
	p.until("the cluster to begin", node("workflow.platform.step.k3s.cluster")+`.dataset.state === "busy"`)
	p.until("the machine to be done", `[...document.querySelectorAll(".node")].find((n) => n.dataset.address === "`+strings.ReplaceAll(third, `\\`, `\`)+`").dataset.state === "good"`)
	s.step("workflow.platform.step.k3s.cluster", "failed")
	p.until("the cluster to fail", node("workflow.platform.step.k3s.cluster")+`.dataset.state === "bad"`)
}

func harmless(t *testing.T, b *browser, s *shop) {
	const address = "machine.strange"
	m := s.declare("store-0422", address, 66, strange(66), map[string]string{"note": hostile})
	log := s.event(address, inventory.EventAgentLog)
	log.Message, log.Attrs = "a disk that calls itself "+hostile, map[string]string{"level": "info"}
	s.catalog.Record(log)
	s.state(address, inventory.StateHeld)
	t.Cleanup(func() {
		if err := s.catalog.ForgetIf(context.WithoutCancel(t.Context()), m.ID, nil); err != nil {
			t.Error(err)
		}
	})
	p := b.open(t, s.base, "")
	p.until("the serial as it is", cell(address)+`?.innerText.includes("<img src=x onerror=")`)
	one := b.open(t, s.base, "#/machine/"+m.ID.String())
	one.until("its facts", `document.querySelector(".facts details")`)
	for _, part := range []string{".about", ".facts", ".log"} {
		one.until("the text as it is in "+part, fmt.Sprintf(`document.querySelector(%q).innerText.includes("<img src=x onerror=")`, part))
	}
	if n := value[int](one, `document.querySelectorAll("main img, main script, main b:not(.tag b, .count b), [onerror], a[href^=javascript]").length`); n != 0 {
		t.Errorf("%s made %d elements of its own", address, n)
	}
	if title := value[string](one, "document.title"); strings.Contains(title, "owned") {
		t.Errorf("%s ran a script: the title is %q", address, title)
	}
	refused := value[bool](p, `(() => { try { document.createElement("div").innerHTML = "<b>x</b>"; return false; } catch { return true; } })()`)
	if !refused {
		t.Error("the browser would take a string as HTML; the policy must forbid it")
	}
	p.mu.Lock() // the browser reports that very attempt
	p.mistakes = nil
	p.mu.Unlock()
	p.expect("TrustedHTML")
}

func signedIn(t *testing.T, b *browser, s *shop) {
	base := s.serve(resource.RolePublic)
	issued, err := api.IssueToken(t.Context(), s.catalog, time.Now(), "", "the shop's tablet", resource.RoleReader, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p := b.open(t, base, "", "status of 401")
	p.until("the form", `document.activeElement.id === "token"`)
	p.keys("edge_wrong" + kb.Enter)
	p.until("the refusal", `document.getElementById("token-error").textContent !== ""`)
	value[bool](p, `document.getElementById("token").select() ?? true`)
	p.keys(issued.Bearer + kb.Enter)
	p.until("all machines", rowCount(all))
	p.until("the stream, which the cookie opens", `document.getElementById("link").textContent === "Live"`)
	if cookie := value[string](p, "document.cookie"); cookie != "" {
		t.Errorf("scripts can read the cookie: %q", cookie)
	}
	p.until("who is signed in", `document.getElementById("who").innerText.startsWith("the shop's tablet, reader")`)
	value[bool](p, `document.querySelector("#who button").focus() ?? true`)
	p.keys(kb.Enter)
	p.until("the form again, and no machine", `document.activeElement.id === "token" && document.getElementById("who").hidden && !document.querySelector("table.fleet")`)
}

func signedOut(t *testing.T, b *browser, s *shop) {
	issued, err := api.IssueToken(t.Context(), s.catalog, time.Now(), "", "the shop's tablet", resource.RoleOperator, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cut := newCutter(t, s.base)
	p := b.open(t, cut.base, "", "ERR_")
	p.until("all machines", rowCount(all))
	p.until("the button to sign in", `document.querySelector("#who button")?.innerText === "Sign in"`)
	value[bool](p, `document.querySelector("#who button").click() ?? true`)
	p.until("the form", `document.activeElement.id === "token"`)
	p.keys(issued.Bearer + kb.Enter)
	p.until("who is signed in, and the stream", `document.getElementById("who").innerText.startsWith("the shop's tablet, operator") && document.getElementById("link").textContent === "Live"`)
	if err := s.catalog.RevokeToken(t.Context(), issued.ID); err != nil {
		t.Fatal(err)
	}
	// The page that is open notices when it connects again.
	cut.off()
	p.until("the sign that the connection is lost", `document.getElementById("link").textContent.startsWith("Connection lost")`)
	cut.on()
	p.until("all machines, still, and nobody signed in", rowCount(all)+` && document.querySelector("#who button")?.innerText === "Sign in"`)
	p.until("the stream", `document.getElementById("link").textContent === "Live"`)
	again := b.open(t, cut.base, "")
	again.until("all machines, and nobody signed in", rowCount(all)+` && document.querySelector("#who button")?.innerText === "Sign in"`)
}

// contrast lists texts whose contrast with what is behind them is below 4.5, the
// least for text by WCAG 2.2 (1.4.3 AA), with their number.
const contrast = `(() => {
	const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
	const numbers = (text) => text.match(/[\d.]+/g).map(Number);
	const over = (top, below) => { const a = top[3] ?? 1; return [0, 1, 2].map((i) => top[i] * a + below[i] * (1 - a)); };
	const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
	const behind = (e) => {
		const layers = [];
		for (; e; e = e.parentElement) layers.push(numbers(getComputedStyle(e).backgroundColor));
		return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
	};
	const out = [];
	let seen = 0;
	for (const e of document.querySelectorAll("body *")) {
		if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility() || e.closest("svg")) continue;
		const style = getComputedStyle(e);
		const ground = behind(e);
		const [a, b] = [luminance(over(numbers(style.color), ground)), luminance(ground)].sort((x, y) => y - x);
		seen++;
		if ((a + 0.05) / (b + 0.05) < 4.5) out.push(e.textContent.trim().slice(0, 40) + " " + ((a + 0.05) / (b + 0.05)).toFixed(2));
	}
	return [String(seen), ...new Set(out)];
})()`

func legible(t *testing.T, b *browser, s *shop) {
	for path, ready := range map[string]string{
		"": rowCount(all), "#/?view=rack": `document.querySelectorAll(".device").length > 0`,
		"#/machine/" + s.machines[`machine.node["a"]`].ID.String(): `document.querySelectorAll("svg.boot rect.span").length > 0 && document.querySelector(".facts details")`,
		"#/run/" + s.run.String():                                  `document.querySelectorAll(".node").length > 0`,
	} {
		p := b.open(t, s.base, path)
		p.until(path, ready)
		grounds := map[string]string{}
		for _, theme := range []string{"light", "dark"} {
			p.theme(theme)
			grounds[theme] = value[string](p, "getComputedStyle(document.body).backgroundColor")
			poor := value[[]string](p, contrast)
			if poor[0] == "0" {
				t.Fatalf("%q has no text to measure", path)
			}
			for _, text := range poor[1:] {
				t.Errorf("%q, %s: too little contrast: %s", path, theme, text)
			}
			if theme == "dark" && strings.HasPrefix(path, "#/machine") {
				p.picture("dashboard-dark.png", 850)
			}
		}
		if grounds["light"] == grounds["dark"] {
			t.Errorf("%q has the same ground in both themes: %s", path, grounds["light"])
		}
	}
}

func named(t *testing.T, b *browser, s *shop) {
	for path, ready := range map[string]string{
		"": rowCount(all), "#/?view=rack": `document.querySelectorAll(".device").length > 0`, "#/runs": `document.querySelectorAll("tbody tr").length > 0`,
		"#/machine/" + s.machines[`machine.node["a"]`].ID.String(): `document.querySelectorAll("svg.boot rect.span").length > 0 && document.querySelector(".facts details")`,
		"#/run/" + s.run.String():                                  `document.querySelectorAll(".node").length > 0`,
	} {
		p := b.open(t, s.base, path)
		p.until(path, ready)
		tree := call(p, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
		count := map[string]int{}
		for _, n := range tree.Nodes {
			if n.Ignored || n.Role == nil {
				continue
			}
			role := strings.Trim(string(n.Role.Value), `"`)
			name := ""
			if n.Name != nil {
				name = strings.Trim(string(n.Name.Value), `"`)
			}
			count[role]++
			switch role {
			case "link", "button", "combobox", "textbox", "searchbox", "table", "navigation", "region", "image", "progressbar", "heading", "columnheader", "listbox", "search":
				if strings.TrimSpace(name) == "" && role != "search" {
					t.Errorf("%q: a %s has no name", path, role)
				}
			}
		}
		for role, want := range map[string]int{"main": 1, "banner": 1} {
			if count[role] != want {
				t.Errorf("%q has %d landmarks of the kind %s; want %d", path, count[role], role, want)
			}
		}
		if count["navigation"] < 1 || value[int](p, `document.querySelectorAll("h1").length`) != 1 {
			t.Errorf("%q: want a navigation and one h1", path)
		}
		if ids := value[[]string](p, `(() => { const all = [...document.querySelectorAll("[id]")].map((e) => e.id); return all.filter((id, i) => all.indexOf(id) !== i); })()`); len(ids) > 0 {
			t.Errorf("%q: ids are used twice: %q", path, ids)
		}
	}
}

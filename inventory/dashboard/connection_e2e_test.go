//go:build e2e

package dashboard_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func arrived(t *testing.T, b *browser, s *shop) {
	p := b.open(t, s.base, "")
	p.until("all machines", rowCount(all))
	p.until("the sign that it is live", `document.getElementById("link").textContent === "Live"`)
	value[bool](p, `window.notReloaded = true`)
	value[bool](p, cell("machine.gateway")+`.querySelector("a").focus() ?? true`)
	s.state("machine.gateway", inventory.StateInspecting)
	p.until("the new state", cell("machine.gateway")+`.innerText.includes("inspecting")`)
	p.until("the screen reader's message", `document.getElementById("announcer").textContent.includes("machine.gateway: installed, now inspecting")`)
	added := s.declare(site, "machine.added", 99, nuc(99, 16), nil)
	p.until("the new machine", rowCount(all+1)+" && "+cell("machine.added"))
	if got := value[string](p, "document.activeElement.textContent"); got != "machine.gateway" {
		t.Errorf("after the update the focus is on %q; want it where it was", got)
	}
	if err := s.catalog.ForgetIf(t.Context(), added.ID, nil); err != nil {
		t.Fatal(err)
	}
	p.until("the machine to go", rowCount(all))
	s.state("machine.gateway", inventory.StateInstalled)
	p.until("the old state", cell("machine.gateway")+`.innerText.includes("installed")`)
	if !value[bool](p, "window.notReloaded === true") {
		t.Error("the page was reloaded")
	}
}

func mended(t *testing.T, b *browser, s *shop) {
	cut := newCutter(t, s.base)
	p := b.open(t, cut.base, "")
	p.expect("ERR_")
	p.until("all machines", rowCount(all))
	p.until("the sign that it is live", `document.getElementById("link").textContent === "Live"`)
	cut.off()
	p.until("the sign that it is lost", `document.getElementById("link").textContent.startsWith("Connection lost")`)
	s.state("machine.gateway", inventory.StateFailed)
	cut.on()
	p.until("what happened meanwhile", cell("machine.gateway")+`.innerText.includes("failed")`)
	p.until("the sign that it is live again", `document.getElementById("link").textContent === "Live"`)
	s.state("machine.gateway", inventory.StateInstalled)
	p.until("the old state", cell("machine.gateway")+`.innerText.includes("installed")`)
}

// openAt opens a page in a tab whose timers of a period are the test's to end, by
// pass: the page that was loaded first does not leave the document.
func openAt(t *testing.T, b *browser, base, path string, expected ...string) (p *page, pass func()) {
	p = b.open(t, base, "#/nowhere", expected...)
	p.until("the frame", `document.querySelector(".refusal")`)
	value[bool](p, fmt.Sprintf(`(() => {
		const real = window.setTimeout;
		window.due = [];
		window.setTimeout = (call, ms, ...rest) => (ms === 60000 ? (window.due.push(call), 0) : real(call, ms, ...rest));
		location.hash = %q;
		return true;
	})()`, path))
	return p, func() {
		p.until("the page to wait for its period", "window.due.length > 0")
		value[bool](p, `(window.due.splice(0).forEach((call) => call()), true)`)
	}
}

// note is what a page says while what it shows cannot be kept true.
const (
	note = `/^The controller cannot be asked now\. What is shown here is of \d\d:\d\d/.test(document.getElementById("stale").innerText)`
	gone = `document.getElementById("stale").innerText === ""`
)

func outlived(t *testing.T, b *browser, s *shop) {
	m := s.machines["machine.gateway"]
	cut := newCutter(t, s.base)
	p, pass := openAt(t, b, cut.base, "#/machine/"+m.ID.String(), "ERR_")
	p.until("the machine", `document.querySelector("h1").innerText === "machine.gateway" && document.querySelector(".facts details")`)
	p.until("the sign that it is live", `document.getElementById("link").textContent === "Live"`)
	value[bool](p, `(window.heading = document.querySelector("h1"), document.querySelector(".facts summary").focus(), true)`)
	cut.off()
	pass()
	p.until("the note", note)
	if role := value[string](p, `document.getElementById("stale").getAttribute("role")`); role != "status" {
		t.Errorf("the note's role is %q; want one that is read out politely", role)
	}
	for _, theme := range []string{"light", "dark"} {
		p.theme(theme)
		if poor := value[[]string](p, contrast)[1:]; len(poor) > 0 {
			t.Errorf("%s: too little contrast: %q", theme, poor)
		}
	}
	s.state("machine.gateway", inventory.StateFailed)
	cut.on()
	p.until("the note to go, and what happened meanwhile", gone+` && document.querySelector(".standing").innerText === "failed"`)
	p.until("the screen reader's message", `document.getElementById("announcer").textContent.includes("up to date again")`)
	if !value[bool](p, `document.querySelector("h1") === window.heading && document.activeElement.matches(".facts summary")`) {
		t.Error("the page was made anew; want it to stay, and the focus where it was")
	}
	s.state("machine.gateway", inventory.StateInstalled)
	p.until("the old state", `document.querySelector(".standing").innerText === "installed"`)
}

func outlivedByRuns(t *testing.T, b *browser, s *shop) {
	for path, ready := range map[string]string{"#/runs": `document.querySelectorAll("tbody tr").length === 1`, "#/run/" + s.run.String(): `document.querySelectorAll(".node").length > 0`} {
		cut := newCutter(t, s.base)
		p := b.open(t, cut.base, path, "ERR_")
		p.until("the page", ready+` && document.getElementById("link").textContent === "Live"`)
		cut.off()
		p.until("the note beside what was there", note+" && "+ready)
		cut.on()
		p.until("the note to go", gone+" && "+ready+` && document.getElementById("link").textContent === "Live"`)
	}
}

func awaited(t *testing.T, b *browser, s *shop) {
	cut := newCutter(t, s.base)
	p := b.open(t, cut.base, "#/runs", "ERR_")
	p.until("the runs", `document.querySelectorAll("tbody tr").length === 1`)
	cut.off()
	value[bool](p, `(location.hash = "#/machine/machine.gateway", true)`)
	p.until("the refusal, which is read out", `document.querySelector(".refusal") && document.activeElement.textContent === "The controller cannot be asked"`)
	cut.on()
	p.until("the machine, and the focus on its name", `document.activeElement.tagName === "H1" && document.activeElement.textContent === "machine.gateway"`)
}

func seen(t *testing.T, b *browser, s *shop) {
	m := s.declare(site, "machine.aged", 99, nuc(99, 16), nil)
	t.Cleanup(func() {
		if err := s.catalog.ForgetIf(context.WithoutCancel(t.Context()), m.ID, nil); err != nil {
			t.Error(err)
		}
	})
	p, pass := openAt(t, b, s.base, "#/")
	p.do(chromedp.EmulateViewport(700, 300))
	p.until("all machines", rowCount(all+1))
	value[bool](p, `(() => {
		const row = `+cell("machine.aged")+`;
		row.querySelector("a").focus();
		getSelection().selectAllChildren(row.querySelector("a"));
		document.querySelector(".scroll").scrollLeft = 40;
		window.scrollTo(0, 90);
		const real = window.fetch;
		window.asked = 0;
		window.fetch = (url, options) => ((new URL(url, location.origin).searchParams.get("filter") ?? "").startsWith("contains([") && window.asked++, real(url, options));
		return true;
	})()`)
	place := `[document.activeElement.textContent, getSelection().toString(), window.scrollY, document.querySelector(".scroll").scrollLeft].join()`
	before := value[string](p, place)
	at := time.Now().Add(26 * time.Hour)
	if _, _, err := s.catalog.Observe(t.Context(), site, store.Observation{MACs: m.MACs, At: at}); err != nil {
		t.Fatal(err)
	}
	pass()
	day := fmt.Sprintf(`%s.lastChild.title.startsWith(%q)`, cell("machine.aged"), at.Format(time.DateOnly))
	p.until("when it was seen last", day)
	if got := value[string](p, place); got != before || !strings.HasPrefix(got, "machine.aged,machine.aged,90,") {
		t.Errorf("focus, selection and places are %s; want %s", got, before)
	}
	if n := value[int](p, "window.asked"); n != 1 {
		t.Errorf("the page asked %d times for its %d rows; want once", n, all+1)
	}
	value[bool](p, `Object.defineProperty(document, "hidden", { value: true, configurable: true }) && document.dispatchEvent(new Event("visibilitychange"))`)
	pass()
	value[bool](p, "new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(() => r(true))))")
	if n := value[int](p, "window.asked"); n != 1 {
		t.Errorf("a tab that nobody sees asked %d times; want it to wait", n-1)
	}
	value[bool](p, `Object.defineProperty(document, "hidden", { value: false, configurable: true }) && document.dispatchEvent(new Event("visibilitychange"))`)
	p.until("what was due meanwhile", "window.asked === 2")
}

func rested(t *testing.T, b *browser, s *shop) {
	base := s.serve(resource.RoleReader) // nobody else watches there
	p := b.open(t, base, "")
	p.until("the sign that it is live", `document.getElementById("link").textContent === "Live"`)
	watches := `fetch("/metrics").then((r) => r.text()).then((text) => Number(/^edge_api_watchers (\d+)/m.exec(text)[1]))`
	p.until("the one stream", "(await "+watches+") === 1")
	hide := func(hidden bool) {
		value[bool](p, fmt.Sprintf(`Object.defineProperty(document, "hidden", { value: %t, configurable: true }) && document.dispatchEvent(new Event("visibilitychange"))`, hidden))
	}
	hide(true)
	p.until("no stream for a tab that nobody sees", "(await "+watches+") === 0")
	s.state("machine.gateway", inventory.StateFailed)
	hide(false)
	p.until("what happened meanwhile", cell("machine.gateway")+`.innerText.includes("failed")`)
	s.state("machine.gateway", inventory.StateInstalled)
	p.until("the old state", cell("machine.gateway")+`.innerText.includes("installed")`)
}

//go:build e2e

package dashboard_test

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp/kb"
)

func found(t *testing.T, b *browser, s *shop) {
	p := b.open(t, s.base, "")
	p.until("all machines", rowCount(all))
	p.searchFor("facts.memory.bytes >= GiB(100)")
	p.keys(kb.Enter)
	p.until("the one machine with as much memory", rowCount(1)+" && "+cell("machine.archive"))
	if focus := value[string](p, "document.activeElement.id"); focus != "search" {
		t.Errorf("after a search the focus is on %q; want it to stay in the search box", focus)
	}
	// The address is one that can be sent to somebody.
	again := b.open(t, s.base, value[string](p, "location.hash"))
	again.until("the same machine", rowCount(1)+" && "+cell("machine.archive"))
	p.keys(strings.Repeat(kb.Backspace, 40) + `machine.state == "failed" && machine.tags.rack == "R1"` + kb.Enter)
	p.until("the machine that failed", rowCount(1)+" && "+cell("machine.archive"))
	p.keys(strings.Repeat(kb.Backspace, 80) + "facts.memory.bytes > TiB(1)" + kb.Enter)
	p.until("no machine", rowCount(0)+` && document.querySelector(".empty").innerText.includes("No machine fits")`)
}

// sought is a search that no index answers, of which the API gives parts; that a
// part was empty is told by a stand-in of the API's answer, as no test has machines
// enough to use up the API's budget of rows.
func sought(t *testing.T, b *browser, s *shop) {
	p := b.open(t, s.base, "")
	p.until("all machines", rowCount(all))
	value[bool](p, `(() => {
		const real = window.fetch;
		window.asked = 0;
		window.fetch = (url, options) => {
			const u = new URL(url, location.origin);
			if (u.pathname !== "/v1/machines" || window.asked >= window.parts) return real(u.pathname === "/v1/machines" ? (u.searchParams.delete("cursor"), u) : url, options);
			window.asked++;
			return Promise.resolve(new Response(JSON.stringify({ items: [], next: "part" + window.asked, partial: true, rows_examined: 20000 })));
		};
		window.parts = 3;
		return true;
	})()`)
	p.searchFor("any([for d in facts.disks : d.rotational])" + kb.Enter)
	p.until("the machine in the fourth part", rowCount(1)+" && "+cell("machine.archive")+" && window.asked === 3")
	value[bool](p, `(window.asked = 0, window.parts = 100, true)`)
	p.keys(strings.Repeat(kb.Backspace, 60) + "facts.memory.bytes > GiB(100)" + kb.Enter)
	p.until("a question instead of an answer", `window.asked === 8 && document.getElementById("summary").innerText.includes("160,000 machines looked at") && document.querySelector(".empty").hidden`)
	value[bool](p, `(window.parts = 0, [...document.querySelectorAll("button")].find((b) => b.textContent === "Look further").focus() ?? true)`)
	p.keys(kb.Enter)
	p.until("the machine after all", rowCount(1)+" && "+cell("machine.archive"))
}

func mistaken(t *testing.T, b *browser, s *shop) {
	p := b.open(t, s.base, "")
	p.expect("status of 400")
	p.until("all machines", rowCount(all))
	p.searchFor("")
	const text = `glob("Ä€𝄞*", facts.system.product) && facts.memory.byte > GiB(1)`
	p.keys(text + kb.Escape + kb.Enter)
	p.until("the mistake", `document.querySelector("#search-error mark")`)
	lines := strings.Split(value[string](p, `document.querySelector("#search-error pre").textContent`), "\n")
	if len(lines) != 2 || lines[0] != text {
		t.Fatalf("the mistake is shown as %q; want the expression and a line of carets", lines)
	}
	marked := value[string](p, `document.querySelector("#search-error mark").textContent`)
	before, _, _ := strings.Cut(text, marked)
	if want := strings.Repeat(" ", len([]rune(before))) + strings.Repeat("^", len([]rune(marked))); !strings.HasSuffix(marked, "byte") || lines[1] != want {
		t.Errorf("the carets are\n%s\n%s\nand the mark is %q; want them under the misspelt field", lines[0], lines[1], marked)
	}
	if said := value[string](p, `document.getElementById("search-error").innerText`); !strings.Contains(said, "bytes") {
		t.Errorf("the mistake says %q; want the field that was meant", said)
	}
	if got := value[string](p, `(() => { const i = document.getElementById("search"); return i.getAttribute("aria-invalid") + i.value.slice(i.selectionStart, i.selectionEnd); })()`); got != "true"+marked {
		t.Errorf("the search box is %q; want it invalid, with the mistake selected", got)
	}
	p.keys(kb.End + strings.Repeat(kb.Backspace, 100) + `facts.memory.byte >= GiB(8) && machine.state == "installed"` + kb.Escape + kb.Enter)
	p.until("the next mistake", `document.querySelector("#search-error mark")?.parentElement.textContent.startsWith("facts.memory.byte >=")`)
	p.theme("light")
	p.picture("dashboard-search.png", 240)
}

func completed(t *testing.T, b *browser, s *shop) {
	p := b.open(t, s.base, "")
	p.until("all machines", rowCount(all))
	p.searchFor("")
	options := `[...document.querySelectorAll("#search-list:not([hidden]) [role=option]")]`
	text := `document.getElementById("search").value`
	p.keys("fac")
	p.until("facts", options+`.some((o) => o.innerText.startsWith("facts."))`)
	p.keys(kb.ArrowDown)
	p.until("the first completion to be chosen", `document.getElementById("search").getAttribute("aria-activedescendant") === "completion-0"`)
	p.keys(kb.Enter)
	p.until("what is below facts", text+` === "facts." && `+options+`.some((o) => o.innerText.startsWith("facts.memory"))`)
	p.theme("light")
	p.keys("mem")
	p.until("the group", options+`[0]?.innerText.startsWith("facts.memory.\n")`)
	p.keys(kb.ArrowDown + kb.Enter)
	p.until("what is below memory", text+` === "facts.memory." && `+options+`.some((o) => o.innerText.includes("number, indexed"))`)
	p.picture("dashboard-completion.png", 300)
	p.keys("b")
	p.until("the one fact", options+".length === 1")
	p.keys(kb.ArrowDown + kb.Enter)
	p.until("the fact", text+` === "facts.memory.bytes"`)
	p.keys(" >= Gi")
	p.until("the unit", options+`.some((o) => o.innerText.startsWith("GiB("))`)
	p.keys(kb.ArrowDown + kb.Enter + "100)" + kb.Enter)
	p.until("the machine", rowCount(1))
	// The variable of a for-expression has the fields of the list's elements.
	p.keys(strings.Repeat(kb.Backspace, 60) + "any([for d in facts.disks : d.rot")
	p.until("a field of the element", options+`.some((o) => o.innerText.startsWith("d.rotational"))`)
	p.keys(kb.ArrowDown + kb.Enter + "])" + kb.Enter)
	p.until("the machine with rotating disks", rowCount(1)+" && "+cell("machine.archive"))
	// Within quotes there is nothing to complete.
	p.keys(strings.Repeat(kb.Backspace, 60) + `machine.serial == "fac`)
	p.until("no completions", options+".length === 0")
}

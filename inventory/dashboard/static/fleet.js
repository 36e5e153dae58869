// The fleet: every machine that a search selects, as a table or in its racks, kept
// up to date by the watch.

import { every, get, Problem, settle, watch } from "./api.js";
import { announce, h, replace, setText, state } from "./dom.js";
import { ago, date, memory, nameOf, plural, processor, size } from "./format.js";
import { drifted, looked, mark } from "./hardware.js";
import { racks } from "./rack.js";
import { searchBox } from "./search.js";

const pageSize = 200;
const mostParts = 8; // requests for one page of a search that looks at every machine
const mostRows = 2000; // what a browser, and a person, can still look through
const leasePages = 10; // of 1,000 leases each
const period = 60000; // milliseconds until rows that are shown are read again
const fields = "id,site,address,serial,state,macs,tags,first_seen,last_seen,drift,looked_at," +
  "facts.system.manufacturer,facts.system.product,facts.cpu.model,facts.cpu.cores,facts.memory.bytes,facts.disks.bytes";

// columns of the table; sort is what the API calls the order by it.
const columns = [
  { name: "Machine", sort: "address", value: (m) => m.address },
  { name: "State", sort: "state", value: (m) => m.state },
  { name: "Address", cell: (m, ip) => ip, class: "mono" },
  { name: "Product", sort: "facts.system.product", value: (m) => m.facts?.system?.product },
  { name: "CPU", cell: (m) => processor(m.facts?.cpu?.model), hint: (m) => m.facts?.cpu?.model, class: "clip" },
  { name: "Cores", sort: "facts.cpu.cores", value: (m) => m.facts?.cpu?.cores, class: "number" },
  { name: "Memory", sort: "facts.memory.bytes", value: (m) => m.facts?.memory?.bytes, show: memory, class: "number" },
  { name: "Disks", cell: (m) => disks(m.facts?.disks) },
  { name: "Serial", sort: "serial", value: (m) => m.serial, hint: (m) => m.serial, class: "mono clip" },
  { name: "Last seen", sort: "last_seen", value: (m) => m.last_seen, show: ago, hint: (m) => date(m.last_seen), class: "number" },
];

function disks(list) {
  if (!list?.length) return "";
  const sizes = list.map((d) => size(d.bytes ?? 0));
  const counts = new Map();
  for (const s of sizes) counts.set(s, (counts.get(s) ?? 0) + 1);
  return [...counts].map(([s, n]) => (n > 1 ? `${n} × ${s}` : s)).join(", ");
}

// later is the later of two times, of which either may be absent.
function later(a, b) {
  if (!a || !b) return a ?? b;
  return Date.parse(a) < Date.parse(b) ? b : a;
}

// compare orders machines as the API does: what is absent comes last, and equals
// go by id.
function compare(sort) {
  const down = sort.startsWith("-");
  const name = sort.replace(/^-/, "");
  const value = columns.find((c) => c.sort === name)?.value ?? ((m) => m.id);
  return (a, b) => {
    const x = value(a) || undefined;
    const y = value(b) || undefined;
    if (x === y) return (a.id < b.id ? -1 : 1) * (down ? -1 : 1);
    if (x === undefined) return 1;
    if (y === undefined) return -1;
    return (x < y ? -1 : 1) * (down ? -1 : 1);
  };
}

// link to the fleet with other parameters.
function linkTo(parameters, change) {
  const out = new URLSearchParams(parameters);
  for (const [name, value] of Object.entries(change)) {
    if (value) out.set(name, value);
    else out.delete(name);
  }
  const text = out.toString();
  return text ? `#/?${text}` : "#/";
}

// fleet shows the view; see views in main.js.
export async function fleet(root, context) {
  const { parameters, signal } = context;
  context.title("Fleet");
  const filter = parameters.get("filter") ?? "";
  const sort = parameters.get("sort") ?? "address";
  const asRacks = parameters.get("view") === "rack";
  const search = searchBox(filter, (text) => {
    const to = linkTo(parameters, { filter: text });
    // The same text again asks again.
    if (to === (location.hash || "#/")) window.dispatchEvent(new HashChangeEvent("hashchange"));
    else location.hash = to;
  });
  const summary = h("p", { class: "summary", id: "summary", role: "status" });
  const body = h("div", { class: "machines" });
  const more = h("button", { type: "button", hidden: true });
  root.append(
    h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Fleet"), summary,
      h("nav", { class: "switch", "aria-label": "View" },
        h("a", { href: linkTo(parameters, { view: "" }), "aria-current": asRacks ? undefined : "true" }, "Table"),
        h("a", { href: linkTo(parameters, { view: "rack" }), "aria-current": asRacks ? "true" : undefined }, "Racks"))),
    search.element, body, more);

  const known = new Map(); // machines by id
  let addresses = new Map(); // IP addresses by MAC
  let unread = false; // there are leases that were not read
  let counts; // of all machines, while not all are shown and none are searched for
  const shown = asRacks ? racks(body) : table(body, parameters, sort);
  let next = "";
  let examined = 0;

  const addressOf = (m) => m.macs?.map((mac) => addresses.get(mac)).find(Boolean) ?? (unread ? "not read" : "");
  const tally = () => summarise(summary, [...known.values()], { next, filter, examined, counts });
  const paint = () => {
    const machines = [...known.values()].sort(compare(sort));
    shown.paint(machines, next === "", addressOf);
    tally();
    more.hidden = next === "" || known.size >= mostRows;
    setText(more, examined > 0 && machines.length === 0 ? "Look further" : "Show more");
  };
  const soon = settle(async () => {
    if (!signal.aborted) paint();
  }, 60);

  // A search that no index answers comes in parts that may be empty: it goes on
  // until there is a page to see, but not for ever unasked.
  const readPage = async () => {
    let found = 0;
    for (let part = 0; part < mostParts && found < pageSize; part++) {
      const page = await get("/v1/machines", { filter, sort, fields, limit: pageSize - found, cursor: next }, signal);
      for (const m of page.items) known.set(m.id, m);
      found += page.items.length;
      next = page.next ?? "";
      examined += page.rows_examined ?? 0;
      if (!page.partial || next === "") return;
    }
  };
  const readLeases = async () => {
    const found = new Map();
    let cursor = "";
    for (let n = 0; n < leasePages; n++) {
      const page = await get("/v1/leases", { state: "active", limit: 1000, cursor }, signal);
      for (const lease of page.items) found.set(lease.mac, lease.address);
      cursor = page.next ?? "";
      if (cursor === "") break;
    }
    addresses = found;
    unread = cursor !== "";
    soon();
  };
  const leasesSoon = settle(() => context.insist(readLeases), 1500);
  const readCounts = async () => {
    const partly = next !== "" || known.size >= mostRows;
    counts = partly && !filter ? await get("/v1/count/machines", {}, signal) : undefined;
  };
  const countsSoon = settle(() => context.insist(readCounts).then(tally), 2000);

  more.addEventListener("click", async () => {
    more.disabled = true;
    await context.insist(readPage);
    await context.insist(readCounts);
    if (signal.aborted) return;
    paint();
    more.disabled = false;
  });

  // A report like the one before moves when a machine was seen, which is no change
  // that the watch tells of.
  const readAgain = async () => {
    const ids = [...known.keys()];
    for (let i = 0; i < ids.length; i += pageSize) {
      const some = ids.slice(i, i + pageSize);
      const page = await get("/v1/machines", { filter: `contains(${JSON.stringify(some)}, machine.id)`, fields: "id,last_seen,looked_at", limit: pageSize }, signal);
      for (const m of page.items) {
        const row = known.get(m.id);
        if (!row) continue;
        row.last_seen = later(row.last_seen, m.last_seen);
        row.looked_at = later(row.looked_at, m.looked_at);
      }
    }
  };

  // What changes while the list is read must not be missed: the watch begins where
  // the catalog stands before.
  const newest = await get("/v1/events", { order: "newest", limit: 1, kind: "machine.changed,machine.removed" }, signal);
  try {
    await readPage();
  } catch (error) {
    if (!(error instanceof Problem) || !filter || (error.status !== 400 && error.status !== 503)) throw error;
    setText(summary, "The search was not carried out.");
    body.hidden = true;
    return () => search.refuse(error);
  }
  await readCounts();
  context.insist(readLeases);
  paint();
  follow();
  if (asRacks) { // they show no times
    every(period, () => context.insist(readCounts).then(tally), signal);
  } else {
    every(period / 2, paint, signal); // "3 min ago" grows old
    every(period, () => context.insist(() => Promise.all([readAgain(), readCounts()])).then(soon), signal);
  }

  function follow() {
    let anew = false; // all machines are being sent again
    const take = (type, data) => {
      if (type === "reset") {
        known.clear();
        next = "";
        anew = true;
      } else if (type === "synced") {
        anew = false;
      } else if (type === "removed") {
        if (known.delete(data.id)) announce("A machine left the list");
      } else if (type === "machine") {
        const before = known.get(data.id);
        if (!before && known.size >= mostRows) return;
        if (before && !drifted(before) && drifted(data)) announce(`${nameOf(data)}: ${drifted(data)}`);
        if (before && before.state !== data.state) announce(`${nameOf(data)}: ${before.state}, now ${data.state}`);
        if (!before && !anew) announce(next ? `${nameOf(data)}: now ${data.state}` : `${nameOf(data)} appeared, ${data.state}`);
        known.set(data.id, data);
        shown.touched?.(data.id);
        leasesSoon();
      }
      countsSoon();
      soon();
    };
    watch("/v1/watch/machines", { filter, fields, after: newest.items[0]?.id ?? 0 }, { signal, take, link: context.link })
      .catch((error) => context.fail(error));
  }
}

const stateOrder = ["failed", "installing", "inspecting", "held", "discovered", "declared", "installed"];

// summarise counts machines by state; each count leads to those machines. counts
// are of all that there are; without it the numbers are of those that are shown.
function summarise(element, machines, { next, filter, examined, counts }) {
  const states = new Map(Object.entries(counts?.states ?? {}));
  if (!counts) for (const m of machines) states.set(m.state, (states.get(m.state) ?? 0) + 1);
  const full = machines.length >= mostRows ? ": narrow the search to see others" : "";
  const total = counts ? `${plural(counts.machines, "machine")}, ${machines.length.toLocaleString("en")} shown${full}`
    : plural(machines.length, "machine") + (full || (next ? " so far, of which" : ""));
  const parts = stateOrder.filter((name) => states.has(name)).map((name) =>
    filter ? h("span", { class: "count" }, state(name), h("b", {}, String(states.get(name))))
      : h("a", { class: "count", href: "#/?" + new URLSearchParams({ filter: `machine.state == "${name}"` }) }, state(name), h("b", {}, String(states.get(name)))));
  const changed = counts ? (counts.drift.changed ?? 0) + (counts.drift.forged ?? 0) : machines.filter(drifted).length;
  if (changed > 0) {
    const text = `${changed} with changed hardware`;
    parts.push(filter ? h("span", { class: "drift" }, text)
      : h("a", { class: "drift", href: "#/?" + new URLSearchParams({ filter: 'machine.drift != "none"' }) }, text));
  }
  const looked = next && filter ? `${plural(examined, "machine")} looked at` : "";
  const text = [total, looked, changed, ...states].join();
  if (element.dataset.said === text) return;
  element.dataset.said = text;
  replace(element, h("span", {}, total), looked && h("span", {}, looked), parts);
}

// table shows machines as rows; a row stays the same element while its machine
// does, so that focus and reading position are kept.
function table(body, parameters, sort) {
  const rows = new Map();
  const tbody = h("tbody", {});
  const empty = h("p", { class: "empty", hidden: true }, parameters.get("filter")
    ? "No machine fits. Absent is not zero: a machine that was never inspected fits no condition on its facts."
    : "No machine is known yet. Declare one in site.hcl and apply it, or let a network discover.");
  const heads = columns.map((c) => {
    const order = sort === c.sort ? "ascending" : sort === "-" + c.sort ? "descending" : undefined;
    const other = order === "ascending" ? "-" + c.sort : c.sort;
    const inside = c.sort && c.value ? h("a", { id: `sort-${c.sort}`, href: linkTo(parameters, { sort: other }) }, c.name, h("span", { class: "arrow", "aria-hidden": "true" }, order === "ascending" ? "↑" : order ? "↓" : "")) : c.name;
    return h("th", { scope: "col", class: c.class === "number" ? c.class : undefined, "aria-sort": order }, inside);
  });
  body.append(h("div", { class: "scroll", role: "region", "aria-label": "Machines", tabindex: "0" },
    h("table", { class: "fleet" }, h("caption", { class: "unseen" }, "Machines, with their state and hardware"), h("thead", {}, h("tr", {}, heads)), tbody)), empty);
  tbody.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = event.target.closest("tr");
    if (!step || !row) return;
    const to = step > 0 ? row.nextElementSibling : row.previousElementSibling;
    if (to) {
      event.preventDefault();
      to.querySelector("a").focus();
    }
  });
  const touched = new Set();

  const build = (m) => {
    const cells = columns.map((c, i) => (i === 0
      ? h("th", { scope: "row" }, h("a", { href: `#/machine/${m.id}` }), h("span", { class: "site" }))
      : h("td", { class: c.class })));
    return h("tr", { "data-machine": m.id }, cells);
  };
  const write = (row, m, ip) => {
    columns.forEach((c, i) => {
      const cell = row.children[i];
      if (i === 0) {
        setText(cell.firstChild, nameOf(m));
        setText(cell.lastChild, m.site ?? "");
        return;
      }
      if (c.name === "State") {
        const shown = m.state + drifted(m);
        if (cell.textContent !== shown) cell.replaceChildren(state(m.state), mark(m));
        else if (drifted(m)) cell.lastChild.title = looked(m.looked_at);
        return;
      }
      const value = c.cell ? c.cell(m, ip) : c.value(m);
      const text = value === undefined || value === "" ? "–" : c.show ? c.show(value) : String(value);
      setText(cell, text);
      if (c.hint) cell.title = c.hint(m) ?? "";
    });
  };
  return {
    touched: (id) => touched.add(id),
    paint(machines, complete, addressOf) {
      const present = new Set(machines.map((m) => m.id));
      for (const [id, row] of rows) {
        if (present.has(id)) continue;
        row.remove();
        rows.delete(id);
      }
      const focused = tbody.contains(document.activeElement) ? document.activeElement : null;
      machines.forEach((m, i) => {
        let row = rows.get(m.id);
        if (!row) rows.set(m.id, row = build(m));
        write(row, m, addressOf(m));
        if (touched.delete(m.id)) flash(row);
        if (tbody.children[i] !== row) tbody.insertBefore(row, tbody.children[i] ?? null);
      });
      if (focused && focused.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
      empty.hidden = machines.length > 0 || !complete;
    },
  };
}

// flash marks what has just changed, until its animation ends.
export function flash(element) {
  element.classList.remove("changed");
  void element.offsetWidth; // begins the animation anew
  element.classList.add("changed");
}

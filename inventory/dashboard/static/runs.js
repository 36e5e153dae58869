// Runs: the list, and one run as a graph of its steps.

import { get, settle, watch } from "./api.js";
import { announce, h, replace, setText, state } from "./dom.js";
import { ago, date, plural, size, span } from "./format.js";
import { graph } from "./graph.js";

const pageSize = 50;
const numbers = new Set(["Took", "Attempts"]);

const columnHead = (text) => h("th", { scope: "col", class: numbers.has(text) ? "number" : undefined }, text);

const took = (r, now = Date.now()) => (Date.parse(r.finished_at ?? new Date(now).toISOString()) - Date.parse(r.started_at));

// runs shows the list; see views in main.js.
export async function runs(root, context) {
  const { signal } = context;
  context.title("Runs");
  const tbody = h("tbody", {});
  const empty = h("p", { class: "empty", hidden: true }, "Nothing was applied yet.");
  const more = h("button", { type: "button", hidden: true }, "Show earlier");
  root.append(h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Runs")),
    h("div", { class: "scroll" }, h("table", {}, h("caption", { class: "unseen" }, "Runs, the newest first"),
      h("thead", {}, h("tr", {}, ["Started", "State", "Site", "Command", "Took", "Id"].map(columnHead))), tbody)), empty, more);
  let next = "";
  let limit = pageSize;
  const row = (r) => h("tr", {},
    h("th", { scope: "row" }, h("a", { href: `#/run/${r.id}` }, date(r.started_at)), h("span", { class: "site" }, ago(r.started_at))),
    h("td", {}, state(r.state), r.error && h("p", { class: "error" }, r.error)),
    h("td", {}, r.site), h("td", {}, r.command || "–"), h("td", { class: "number" }, span(took(r))), h("td", { class: "mono" }, r.id.slice(0, 13)));
  const read = async () => {
    const page = await get("/v1/runs", { limit }, signal);
    replace(tbody, page.items.map(row));
    next = page.next ?? "";
    more.hidden = next === "" || limit >= 1000;
    empty.hidden = page.items.length > 0;
  };
  more.addEventListener("click", () => {
    limit = Math.min(1000, limit + pageSize);
    context.insist(read);
  });
  const soon = settle(() => context.insist(read), 300);
  watch("/v1/watch/events", { kind: "run.started,run.finished,step.started" }, { signal, link: context.link, take: soon }).catch(context.fail);
  await read();
}

// run shows one run; see views in main.js.
export async function run(root, context) {
  const { argument: id, signal } = context;
  const path = "/v1/runs/" + encodeURIComponent(id);
  context.title("Run");
  const standing = h("span", { class: "standing" });
  const about = h("dl", { class: "about" });
  const error = h("p", { class: "finding", "data-level": "problem", hidden: true });
  const picture = graph();
  const tbody = h("tbody", {});
  const progress = new Map(); // by address: the share of its bytes, and a text
  let now;
  let steps = [];
  root.append(
    h("nav", { class: "crumbs", "aria-label": "Breadcrumb" }, h("a", { href: "#/runs" }, "Runs")),
    h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Run"), standing), about, error,
    h("section", { class: "panel", "aria-labelledby": "graph-title" }, h("h2", { id: "graph-title" }, "Graph"), picture.element),
    h("section", { class: "panel", "aria-labelledby": "steps-title" }, h("h2", { id: "steps-title" }, "Steps"),
      h("div", { class: "scroll" }, h("table", { class: "steps" }, h("caption", { class: "unseen" }, "What the plan does, in its order"),
        h("thead", {}, h("tr", {}, ["Address", "Action", "State", "Attempts", "Took", "Progress"].map(columnHead))), tbody))));

  const paint = () => {
    const list = nodes(now, steps, progress);
    picture.show(list);
    replace(tbody, list.map((n) => h("tr", {},
      h("th", { scope: "row", class: "mono" }, n.address.startsWith("machine.") ? h("a", { href: "#/machine/" + encodeURIComponent(n.address) }, n.address) : n.address), h("td", {}, n.kind || "–"),
      h("td", {}, state(n.state), (n.error || (n.state === "skipped" || n.state === "blocked") && n.reason) && h("p", { class: "error" }, n.error || n.reason)),
      h("td", { class: "number" }, n.attempts ? String(n.attempts) : "–"),
      h("td", { class: "number" }, n.took === undefined ? "–" : span(n.took)),
      h("td", {}, n.progress && [h("progress", { max: "1", value: n.progress.share, "aria-label": `Progress of ${n.address}` }), " ", h("span", { class: "note" }, n.progress.text)]))));
    const done = list.filter((n) => n.state !== "pending" && n.state !== "running").length;
    const entry = (name, value) => [h("dt", {}, name), h("dd", {}, value)];
    replace(about, entry("Site", now.site), now.command && entry("Command", now.command), entry("Started", date(now.started_at)),
      entry("Took", span(took(now)) + (now.finished_at ? "" : " so far")), entry("Steps", `${done} of ${list.length} ended`), entry("Id", h("span", { class: "mono" }, now.id)));
  };
  const read = async () => {
    const before = now?.state;
    [now, steps] = await Promise.all([get(path, {}, signal), all(path + "/steps", signal)]);
    if (before && before !== now.state) announce(`The run is ${now.state}`);
    replace(standing, state(now.state));
    context.title(`Run of ${date(now.started_at)}`);
    error.hidden = !now.error;
    setText(error, now.error ?? "");
    paint();
  };
  const soon = settle(() => context.insist(read), 300);
  const paintSoon = settle(async () => !signal.aborted && paint(), 200);
  watch("/v1/watch/events", { run: id }, {
    signal, link: context.link, take(type, event) {
      if (event.kind !== "agent.progress") return soon();
      const [bytes, total] = [Number(event.attrs?.bytes), Number(event.attrs?.total)];
      if (event.step && total > 0) progress.set(event.step, { share: Math.min(1, bytes / total), text: `${event.attrs.phase} ${size(bytes)} of ${size(total)}` });
      paintSoon();
    },
  }).catch(context.fail);
  await read();
  const clockwork = setInterval(() => now.finished_at || paint(), 1000);
  signal.addEventListener("abort", () => clearInterval(clockwork));
}

// all reads every page of a list, as many as a run can have.
async function all(path, signal) {
  const out = [];
  for (let cursor = ""; ;) {
    const page = await get(path, { limit: 1000, cursor }, signal);
    out.push(...page.items);
    cursor = page.next;
    if (!cursor || out.length >= 10000) return out;
  }
}

// idle are the kinds of actions for which nothing is done.
const idle = new Set(["differs", "unreachable", "refused", "orphan", "skipped", "blocked"]);

// nodes joins the plan's actions with the attempts at them.
function nodes(run, steps, progress) {
  const byAddress = new Map();
  for (const a of run.actions ?? []) {
    byAddress.set(a.address, { address: a.address, kind: a.kind, reason: a.reason, needs: a.depends_on ?? [], state: a.kind === "none" ? "unchanged" : idle.has(a.kind) ? a.kind : "pending", attempts: 0 });
  }
  for (const st of steps) {
    const n = byAddress.get(st.address) ?? { address: st.address, needs: [], attempts: 0 };
    byAddress.set(st.address, n);
    n.attempts = Math.max(n.attempts, st.attempt);
    n.state = st.state;
    n.error = st.error;
    n.took = (st.finished_at ? Date.parse(st.finished_at) : Date.now()) - Date.parse(st.started_at);
    if (st.state === "running" && run.state !== "running") n.state = "interrupted";
  }
  for (const n of byAddress.values()) {
    if (n.state === "pending" && run.state !== "running") n.state = "not started";
    if (n.state === "running") n.progress = progress.get(n.address);
  }
  return [...byAddress.values()];
}

// One machine: where it stands, how it came up, what it is, what changed, what
// happened.

import { every, get, settle, watch } from "./api.js";
import { boot } from "./boot.js";
import { announce, h, replace, setText, state } from "./dom.js";
import { facts } from "./facts.js";
import { ago, clock, date, nameOf, plural, span } from "./format.js";
import { hardware } from "./hardware.js";
import { history } from "./history.js";
import { reactions } from "./reactions.js";

const runsToShow = 5;

// machine shows the view; see views in main.js.
export async function machine(root, context) {
  const { argument: id, signal } = context;
  const path = "/v1/machines/" + encodeURIComponent(id);
  const heading = h("h1", { tabindex: "-1" });
  const standing = h("span", { class: "standing" });
  const about = h("dl", { class: "about" });
  const finding = h("div", { class: "finding", hidden: true });
  const picture = boot();
  const log = tail();
  const changes = history(path, context);
  const parts = hardware(path, context);
  const classes = reactions(signal);
  const tree = facts();
  const steps = h("div", {});
  root.append(
    h("nav", { class: "crumbs", "aria-label": "Breadcrumb" }, h("a", { href: "#/" }, "Fleet")),
    h("div", { class: "head" }, heading, standing),
    about, finding,
    section("Boot timeline", picture.element),
    h("div", { class: "columns" },
      h("div", {}, section("Events", log.element), section("Runs", steps), section("History", changes.element)),
      h("div", {}, section("Hardware", parts.element), section("Classes", classes.element), section("Facts", tree.element))));

  let now; // the machine as it was read last
  const readMachine = async () => {
    const m = await get(path, {}, signal);
    if (now && now.state !== m.state) announce(`${nameOf(m)}: ${now.state}, now ${m.state}`);
    now = m;
    context.title(nameOf(m));
    setText(heading, nameOf(m));
    replace(standing, state(m.state));
    describe(about, m);
  };
  const readTimeline = async () => {
    const t = await get(path + "/timeline", {}, signal);
    picture.show(t);
    log.show(t);
    explain(finding, t.findings);
  };
  const readFacts = async () => tree.show(await get(path + "/facts", {}, signal));
  const readHardware = async () => parts.read(now);
  const readClasses = async () => classes.read(now);
  const readSteps = async () => {
    const runs = await get("/v1/runs", { site: now.site, limit: runsToShow }, signal);
    const attempts = now.address === undefined ? [] : await Promise.all(runs.items.map(async (run) => ({
      run, steps: (await get(`/v1/runs/${run.id}/steps`, { address: now.address, limit: 100 }, signal)).items,
    })));
    showSteps(steps, attempts.filter((a) => a.steps.length > 0));
  };

  // The stream begins before anything is read, so that nothing falls between.
  const soon = (read) => settle(() => context.insist(read), 400);
  const timelineSoon = soon(readTimeline);
  const machineSoon = soon(readMachine);
  const factsSoon = soon(() => Promise.all([readFacts(), changes.read()]));
  const classesSoon = soon(() => readMachine().then(readClasses));
  const hardwareSoon = soon(readHardware);
  const stepsSoon = soon(readSteps);
  await readMachine();
  watch("/v1/watch/events", { machine: now.id }, {
    signal, link: context.link, take(type, event) {
      timelineSoon();
      if (type !== "event" || event.kind.startsWith("machine.") || event.kind === "ssh.up") machineSoon();
      if (type !== "event" || event.kind === "agent.facts") factsSoon();
      if (type !== "event" || event.kind.startsWith("machine.")) hardwareSoon();
      if (type !== "event" || event.kind === "machine.class" || event.kind === "machine.reaction") classesSoon();
      if (type !== "event" || event.kind.startsWith("step.") || event.kind.startsWith("run.")) stepsSoon();
    },
  }).catch(context.fail);
  every(60000, () => { // a report that finds nothing new is no event
    machineSoon();
    hardwareSoon();
  }, signal);
  await Promise.all([readTimeline(), readFacts(), changes.read(), readHardware(), readClasses(), readSteps()]);
}

function section(title, ...content) {
  const id = "section-" + title.toLowerCase().replaceAll(" ", "-");
  return h("section", { class: "panel", "aria-labelledby": id }, h("h2", { id }, title), content);
}

function describe(list, m) {
  const seen = h("time", { datetime: m.last_seen, title: date(m.last_seen) }, ago(m.last_seen));
  // Where only that is new, what somebody has selected of the rest stays.
  const rest = JSON.stringify({ ...m, last_seen: undefined });
  if (list.dataset.shows === rest) {
    list.querySelector("time").replaceWith(seen);
    return;
  }
  list.dataset.shows = rest;
  const entry = (name, ...value) => [h("dt", {}, name), h("dd", {}, value)];
  const tags = Object.entries(m.tags ?? {}).sort();
  replace(list,
    entry("Site", m.site || "–"),
    m.serial && entry("Serial", h("span", { class: "mono" }, m.serial)),
    entry(m.macs?.length === 1 ? "MAC" : "MACs", h("span", { class: "mono" }, (m.macs ?? []).join(" ") || "–")),
    m.image && entry("Image", h("span", { class: "mono", title: m.image }, m.image.replace("sha256:", "").slice(0, 12))),
    entry("Last seen", seen),
    entry("Id", h("span", { class: "mono" }, m.id)),
    tags.length > 0 && entry("Tags", tags.map(([key, value]) => h("span", { class: "tag" }, h("b", {}, key), " ", value))));
}

// explain shows the finding to act on.
function explain(element, findings) {
  const first = findings?.[0];
  element.hidden = !first;
  if (!first) return;
  element.dataset.level = first.level;
  const label = { problem: `Problem at ${first.hop}. `, progress: `At ${first.hop}. ` }[first.level];
  const key = JSON.stringify([first.summary, first.try]);
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  replace(element, h("p", {}, label && h("strong", {}, label), first.summary),
    first.level === "problem" && first.try.length > 0 && h("ul", {}, first.try.map((t) => h("li", {}, t))));
}

// who is told of an event, as `trace` has it.
const who = (kind) => kind.split(".")[0].replace(/^(machine|identity)$/, "state");

const groups = [
  { name: "All", fits: () => true },
  { name: "Agent log", fits: (e) => e.event.kind === "agent.log" },
  { name: "Problems", fits: (e) => e.level === "problem" },
];

const longestTail = 400;

// tail is the log of a machine's latest attempt, the newest at the end. It stays at
// the end while the reader does.
function tail() {
  let chosen = groups[0];
  let entries = [];
  let began = "";
  const list = h("ol", { class: "log", role: "log", "aria-label": "Events, the newest last", tabindex: "0" });
  const note = h("p", { class: "empty", hidden: true });
  let follows = true;
  const follow = () => {
    if (follows) list.scrollTop = list.scrollHeight;
  };
  list.addEventListener("scroll", () => {
    follows = list.scrollTop + list.clientHeight >= list.scrollHeight - 8;
  });
  new ResizeObserver(follow).observe(list); // also when it is first seen
  const paint = () => {
    const fitting = entries.filter(chosen.fits);
    replace(list, fitting.slice(-longestTail).map((e) => h("li", { "data-level": e.level },
      h("time", { datetime: e.event.time, title: `${date(e.event.time)}, ${span(Date.parse(e.event.time) - Date.parse(began))} after the attempt began` }, clock(e.event.time)),
      h("span", { class: "who" }, who(e.event.kind)),
      h("span", { class: "what" }, e.text, e.count > 1 && h("span", { class: "times" }, ` ${e.count} times`)))));
    note.hidden = fitting.length > 0;
    setText(note, entries.length === 0 ? "Nothing was heard from this machine yet." : "Nothing of this kind.");
    list.hidden = fitting.length === 0;
    follow();
  };
  const pick = h("div", { class: "pick", role: "group", "aria-label": "Which events" }, groups.map((g) =>
    h("button", { type: "button", "aria-pressed": String(g === chosen), onclick(event) {
      chosen = g;
      for (const b of pick.children) b.setAttribute("aria-pressed", String(b === event.currentTarget));
      paint();
    } }, g.name)));
  return {
    element: h("div", {}, pick, list, note),
    show(timeline) {
      const attempt = timeline.attempts.at(-1);
      entries = attempt?.events ?? [];
      began = attempt?.began ?? "";
      paint();
    },
  };
}

// showSteps lists the attempts of the latest runs at this machine.
function showSteps(element, attempts) {
  if (attempts.length === 0) {
    replace(element, h("p", { class: "empty" }, "None of the latest runs worked on this machine."));
    return;
  }
  replace(element, h("table", {}, h("caption", { class: "unseen" }, "Attempts of the latest runs at this machine"),
    h("thead", {}, h("tr", {}, ["Run", "Attempt", "State", "Took"].map((t) => h("th", { scope: "col", class: t === "Took" ? "number" : undefined }, t)))),
    h("tbody", {}, attempts.flatMap(({ run, steps }) => steps.map((st) => h("tr", {},
      h("th", { scope: "row" }, h("a", { href: `#/run/${run.id}` }, date(run.started_at))),
      h("td", {}, st.attempt === 0 ? "taken back" : String(st.attempt)),
      h("td", {}, state(st.state), st.error && h("p", { class: "error" }, st.error)),
      h("td", { class: "number" }, st.finished_at ? span(Date.parse(st.finished_at) - Date.parse(st.started_at)) : "–")))))),
  h("p", { class: "unseen" }, plural(attempts.length, "run")));
}

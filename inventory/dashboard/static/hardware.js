// How a machine's hardware stands against what was frozen of it, and how old that
// answer is: what was not looked at is not unchanged. Who may can accept it as it is.

import { accept } from "./accept.js";
import { get, Problem } from "./api.js";
import { comparison } from "./change.js";
import { announce, h, replace } from "./dom.js";
import { ago, date, nameOf, plural } from "./format.js";
import { may } from "./session.js";

// words for the states of drift; undefined is a machine without a snapshot.
const words = { none: "no change", changed: "changed", forged: "snapshot forged" };

// drifted says in a word what is wrong with a machine's hardware, "" for nothing.
export const drifted = (m) => (m.drift && m.drift !== "none" ? `hardware ${words[m.drift] ?? m.drift}` : "");

// mark shows that word; empty where nothing is known to be wrong.
export const mark = (m) => drifted(m) && h("span", { class: "drift", title: looked(m.looked_at) }, drifted(m));

// looked says when somebody last looked.
export const looked = (at) => (at ? `last looked at ${ago(at)}` : "never looked at");

const mostEvents = 20;

// hardware reads from a machine's path. context is the view's; see main.js.
export function hardware(path, context) {
  const { signal } = context;
  const shown = h("div", {});
  const element = h("div", { class: "hardware" }, shown);
  let before;
  let open; // the dialog that asks, while there is one

  const show = (d, events, m, session) => {
    const state = words[d.state] ?? "not frozen yet";
    if (before && before !== state) announce(`Hardware: ${state}`);
    before = state;
    const bad = d.state === "changed" || d.state === "forged";
    // A machine that was never looked at has nothing that could be accepted.
    const acceptable = bad || (d.state === undefined && d.looked_at !== undefined);
    open?.update(d);
    const ask = () => {
      open = accept(path, nameOf(m), d, {
        signal, looked: looked(d.looked_at),
        async closed(accepted) {
          open = undefined;
          if (accepted) {
            announce(`The hardware of ${nameOf(m)} is accepted as it is`);
            await context.insist(() => read(m));
          }
          // The button is not there any more, or is another element.
          (document.getElementById("accept") ?? document.getElementById("hardware-state"))?.focus();
        },
      });
      element.append(open.element);
      open.element.showModal();
    };
    replace(shown,
      h("p", { id: "hardware-state", tabindex: "-1" },
        h("span", { class: "state", "data-state": bad ? "bad" : d.state ? "good" : "idle" }, h("span", { class: "dot", "aria-hidden": "true" }), state),
        d.snapshot && ` since ${date(bad && d.since ? d.since : d.snapshot.taken_at)}`, "; ",
        d.looked_at ? ["last looked at ", h("time", { datetime: d.looked_at, title: date(d.looked_at) }, ago(d.looked_at))] : "never looked at", "."),
      d.state === "forged" && h("p", { class: "error" }, "The snapshot is not one that this catalog signed. Nothing can be compared with it."),
      d.changes.length > 0 && comparison(d.changes),
      acceptable && (may(session, "operator")
        ? h("p", { class: "buttons" }, h("button", { type: "button", id: "accept", "aria-haspopup": "dialog", onclick: ask }, bad ? "Accept as it is…" : "Freeze as it is…"),
          bad && h("span", { class: "note" }, "or put it back: the next look ends this"))
        : bad && h("p", { class: "note" }, "Put it back, or have an operator accept it, here or with ", h("code", {}, `edge-provision inventory accept '${m.address || m.id}'`))),
      past(d, events));
  };
  const read = async (m) => {
    try {
      const [d, events, session] = await Promise.all([
        get(path + "/drift", {}, signal),
        get("/v1/events", { machine: m.id, kind: "machine.drift,machine.drift.end", order: "newest", limit: mostEvents }, signal),
        context.who(),
      ]);
      show(d, events.items, m, session);
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 409) throw error;
      replace(shown, h("p", { class: "empty" }, "This controller cannot prove snapshots; ", looked(m.looked_at), "."));
    }
  };
  return { element, read };
}

// past is what became of the hardware: what was frozen, what differed then, and
// how that ended; the newest first.
function past(d, events) {
  const entries = (d.history ?? []).map((s) => ({
    at: s.taken_at, state: s.forged ? "bad" : "good", word: s.accepted_by ? "accepted" : "frozen",
    text: [s.forged && h("strong", {}, "forged; "), s.accepted_by && `by ${s.accepted_by}`, s.run && h("a", { href: `#/run/${s.run}` }, "by a run"), ` (snapshot ${s.number})`],
  }));
  for (const e of events) {
    const a = e.attrs ?? {};
    if (e.kind === "machine.drift") {
      const what = a.state === "forged" ? "the snapshot is not one that this catalog signed" : a.changes;
      entries.push({ at: e.time, state: "bad", word: "differed", text: [a.count && `${plural(Number(a.count), "change")}: `, what] });
    } else if (a.how !== "accepted") { // the snapshot says that
      entries.push({ at: e.time, state: "good", word: a.how ?? "ended", text: "" });
    }
  }
  if (entries.length === 0) return undefined;
  entries.sort((a, b) => Date.parse(b.at) - Date.parse(a.at));
  return [h("h3", { id: "hardware-past" }, "What became of it"),
    h("ol", { class: "past", "aria-labelledby": "hardware-past" }, entries.map((e) => h("li", {},
      h("time", { datetime: e.at }, date(e.at)),
      h("span", { class: "state", "data-state": e.state }, h("span", { class: "dot", "aria-hidden": "true" }), e.word),
      h("span", { class: "what" }, e.text))))];
}

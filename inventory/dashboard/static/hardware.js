// How a machine's hardware stands against what was frozen of it, and how old that
// answer is: what was not looked at is not unchanged.

import { get, Problem } from "./api.js";
import { announce, h, replace } from "./dom.js";
import { ago, date } from "./format.js";

// words for the states of drift; undefined is a machine without a snapshot.
const words = { none: "no change", changed: "changed", forged: "snapshot forged" };

// drifted says in a word what is wrong with a machine's hardware, "" for nothing.
export const drifted = (m) => (m.drift && m.drift !== "none" ? `hardware ${words[m.drift] ?? m.drift}` : "");

// mark shows that word; empty where nothing is known to be wrong.
export const mark = (m) => drifted(m) && h("span", { class: "drift", title: looked(m.looked_at) }, drifted(m));

// looked says when somebody last looked.
const looked = (at) => (at ? `last looked at ${ago(at)}` : "never looked at");

// hardware reads from a machine's path.
export function hardware(path, signal) {
  const element = h("div", { class: "hardware" });
  let before;
  const show = (d, address) => {
    const state = words[d.state] ?? "not frozen yet";
    if (before && before !== state) announce(`Hardware: ${state}`);
    before = state;
    const bad = d.state === "changed" || d.state === "forged";
    replace(element,
      h("p", {},
        h("span", { class: "state", "data-state": bad ? "bad" : d.state ? "good" : "idle" }, h("span", { class: "dot", "aria-hidden": "true" }), state),
        d.snapshot && ` since ${date(d.snapshot.taken_at)}`, "; ",
        d.looked_at ? ["last looked at ", h("time", { datetime: d.looked_at, title: date(d.looked_at) }, ago(d.looked_at))] : "never looked at", "."),
      d.state === "forged" && h("p", { class: "error" }, "The snapshot is not one that this catalog signed. Nothing can be compared with it."),
      d.changes.length > 0 && h("ul", { class: "changes" }, d.changes.map((c) => h("li", {}, c.text))),
      bad && h("p", {}, "Put it back, or accept it: ", h("code", {}, `edge-provision inventory accept '${address}'`)));
  };
  return {
    element,
    async read(m) {
      try {
        show(await get(path + "/drift", {}, signal), m.address || m.id);
      } catch (error) {
        if (!(error instanceof Problem) || error.status !== 409) throw error;
        replace(element, h("p", { class: "empty" }, "This controller cannot prove snapshots; ", looked(m.looked_at), "."));
      }
    },
  };
}

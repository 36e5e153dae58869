// In which classes a machine is, what they start for it, and what that waits for.

import { get } from "./api.js";
import { h, replace, state } from "./dom.js";
import { ago, date, plural } from "./format.js";

const mostReactions = 20;

// reactions reads those of a machine.
export function reactions(signal) {
  const element = h("div", { class: "reactions" });
  return {
    element,
    async read(m) {
      const page = await get("/v1/reactions", { machine: m.id, limit: mostReactions }, signal);
      const classes = m.classes ?? [];
      replace(element,
        h("p", {}, classes.length === 0 ? "It is in no class." : [classes.length === 1 ? "It is in the class " : "It is in the classes ", classes.map((c, i) => [i > 0 && ", ", h("b", {}, c)]), "."]),
        page.items.length > 0 && h("ol", { class: "past", "aria-label": "What classes started" }, page.items.map(one)),
        page.next && h("p", { class: "note" }, `Only the newest ${mostReactions} are shown.`));
    },
  };
}

function one(r) {
  const at = r.finished_at ?? r.started_at ?? r.queued_at;
  return h("li", {},
    h("time", { datetime: at, title: `queued ${date(r.queued_at)}` }, ago(at)),
    state(r.state),
    h("span", { class: "what" }, h("b", {}, r.class), r.reason && `: ${r.reason}`, r.attempts > 1 && h("span", { class: "times" }, ` (${plural(r.attempts, "attempt")})`)));
}

// The history of a machine's facts: each report that differed from the one before
// it, with the difference.

import { get } from "./api.js";
import { value } from "./change.js";
import { h, replace } from "./dom.js";
import { date, plural } from "./format.js";

const pageSize = 20;
const mostChanges = 40;

// history reads page by page from a machine's path. context is the view's; see main.js.
export function history(path, context) {
  const list = h("ol", { class: "reports" });
  const more = h("button", { type: "button", hidden: true, async onclick() {
    more.disabled = true;
    await context.insist(() => page(true));
    more.disabled = false;
  } }, "Show earlier");
  let next = "";

  const page = async (append) => {
    const reports = await get(path + "/history", { limit: pageSize, cursor: append ? next : "" }, context.signal);
    const items = reports.items.map(report);
    if (append) list.append(...items);
    else replace(list, items.length > 0 ? items : h("li", { class: "empty" }, "No report yet."));
    next = reports.next ?? "";
    more.hidden = next === "";
  };
  return { element: h("div", {}, list, more), read: () => page(false) };
}

function report(r) {
  const changes = r.changes ?? [];
  const what = r.changes === undefined ? "first report" : plural(changes.length, "change");
  return h("li", {},
    h("p", { class: "report" }, h("time", { datetime: r.observed_at }, date(r.observed_at)), h("span", { class: "who" }, r.source), h("span", {}, what)),
    changes.length > 0 && h("dl", { class: "diff" }, changes.slice(0, mostChanges).map((c) => [
      h("dt", {}, c.path),
      c.old !== undefined && h("dd", { class: "old" }, h("span", { class: "sign" }, h("span", { "aria-hidden": "true" }, "−"), h("span", { class: "unseen" }, "was ")), value(c.path, c.old)),
      c.new !== undefined && h("dd", { class: "new" }, h("span", { class: "sign" }, h("span", { "aria-hidden": "true" }, "+"), h("span", { class: "unseen" }, "is ")), value(c.path, c.new)),
    ])),
    changes.length > mostChanges && h("p", { class: "empty" }, `and ${plural(changes.length - mostChanges, "more change")}`));
}

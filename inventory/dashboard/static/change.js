// What differs between two looks at a machine, in words and units.

import { h } from "./dom.js";
import { amount } from "./format.js";

// things are what the lists of facts hold.
const things = { disks: "disk", "memory.modules": "memory module", nics: "network port", neighbors: "cable of network port", pci: "PCI function" };

// label is a field's name without the unit, which its value shows.
export const label = (name) => (name === "bytes" ? "size" : name.replace(/_(bytes|mhz|mbps|mts)$/, "").replaceAll("_", " "));

// first are the fields that come first, because they are what is looked for.
const first = ["name", "locator", "address", "model", "bytes", "mac", "driver", "bus", "type", "rotational", "speed_mts", "speed_mbps", "serial", "signatures"];

// place is where a field stands among the others of its kind.
export const place = (name) => (first.indexOf(name) < 0 ? first.length : first.indexOf(name));

// value is a fact given as JSON, with its unit; an object is its fields in a line.
export function value(path, json) {
  let parsed;
  try {
    parsed = JSON.parse(json);
  } catch {
    return json;
  }
  return word(path.split(/[.[]/), parsed);
}

function word(path, v) {
  if (typeof v === "string") return v;
  if (typeof v === "boolean") return v ? "yes" : "no";
  if (Array.isArray(v)) return v.length === 0 ? "none" : v.map((one) => word(path, one)).join(", ");
  if (v !== null && typeof v === "object") {
    return Object.entries(v).sort(([a], [b]) => place(a) - place(b)).map(([name, one]) => `${label(name)} ${word([...path, name], one)}`).join(", ");
  }
  return amount(path, v) ?? String(v);
}

// about is what a path leads to: disk S4EVNX0N, firmware rev.
function about(path) {
  const [, list, name, field] = /^([^[]+)\["?(.*?)"?\](?:\.(.+))?$/.exec(path) ?? [];
  if (!things[list]) return h("span", { class: "mono" }, path);
  return [`${things[list]} `, h("span", { class: "mono" }, name), field && `, ${label(field)}`];
}

// comparison is a table of what was and what is now.
export function comparison(changes) {
  const side = (c, json, absent) => (json === undefined ? h("span", { class: "none" }, absent) : value(c.path, json));
  return h("div", { class: "scroll", role: "region", "aria-label": "What has changed", tabindex: "0" },
    h("table", { class: "comparison" }, h("caption", { class: "unseen" }, "What has changed"),
      h("thead", {}, h("tr", {}, ["Part", "Was", "Is now"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, changes.map((c) => h("tr", {},
        h("th", { scope: "row" }, about(c.path)), h("td", { class: c.old !== undefined && "was" }, side(c, c.old, "not there")), h("td", { class: c.new !== undefined && "is" }, side(c, c.new, "gone")))))));
}

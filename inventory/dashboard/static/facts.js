// Facts as a tree that can be read: groups, rows and small tables, with units.

import { label, place } from "./change.js";
import { h, replace } from "./dom.js";
import { ago, amount, date } from "./format.js";

const order = ["system", "cpu", "memory", "disks", "nics", "neighbors", "firmware", "bios", "baseboard", "chassis", "bmc", "tpm", "kernel", "pci"];
const titles = { cpu: "CPU", nics: "Network", bios: "BIOS", bmc: "BMC", tpm: "TPM", pci: "PCI" };
const opened = new Set(["system", "cpu", "memory", "disks", "nics"]);

const title = (name) => titles[name] ?? name[0].toUpperCase() + name.slice(1);

// facts shows the merged facts, or those of one source.
export function facts() {
  const element = h("div", { class: "facts" });
  const open = new Map();
  let documents;
  let chosen = "";
  const paint = () => {
    const sources = Object.keys(documents.sources ?? {}).sort();
    if (sources.length === 0) {
      replace(element, h("p", { class: "empty" }, "This machine was never inspected."));
      return;
    }
    const shown = chosen && documents.sources[chosen] ? documents.sources[chosen].facts : documents.facts;
    const pick = h("div", { class: "pick", role: "group", "aria-label": "Seen by" }, ["", ...sources].map((source) =>
      h("button", { type: "button", id: "source-" + (source || "merged"), "aria-pressed": String(source === chosen), onclick() {
        chosen = source;
        paint();
      } }, source || "Merged")));
    const seen = chosen ? [documents.sources[chosen]] : sources.map((source) => documents.sources[source]);
    const names = Object.keys(shown).filter((n) => typeof shown[n] === "object").sort((a, b) => rank(a) - rank(b));
    replace(element, sources.length > 1 && pick,
      h("p", { class: "seen" }, seen.map((d, i) => [i > 0 && ", ", `${d.source}, last `, h("time", { datetime: d.last_seen, title: date(d.last_seen) }, ago(d.last_seen))])),
      names.map((name) => group(name, shown[name])));
  };
  const group = (name, value) => h("details", {
    open: open.get(name) ?? opened.has(name), ontoggle: (event) => open.set(name, event.currentTarget.open),
  }, h("summary", {}, h("span", {}, title(name)), h("span", { class: "gist" }, gist(name, value))), show([name], value));
  return {
    element,
    show(d) {
      documents = d;
      paint();
    },
  };
}

const rank = (name) => (order.indexOf(name) < 0 ? order.length : order.indexOf(name));

// gist is what a closed group says.
function gist(name, value) {
  if (Array.isArray(value)) return String(value.length);
  switch (name) {
    case "system": return [value.manufacturer, value.product].filter(Boolean).join(" ");
    case "cpu": return value.model;
    case "memory": return amount(["memory", "bytes"], value.bytes);
    case "bios": return value.version;
    case "firmware": return value.mode;
    case "kernel": return value.release;
    case "tpm": return value.version;
  }
  return "";
}

// show draws a value: an object as a list of names and values, a list of objects
// as a table.
function show(path, value) {
  if (Array.isArray(value)) {
    if (value.length === 0) return h("span", { class: "none" }, "none");
    if (typeof value[0] === "object") return table(path, value);
    return h("span", { class: "words" }, value.join(" "));
  }
  if (value !== null && typeof value === "object") {
    return h("dl", { class: "fields" }, Object.entries(value).map(([name, v]) => [h("dt", { title: [...path, name].join(".") }, label(name)), h("dd", {}, show([...path, name], v))]));
  }
  const text = amount(path, value);
  if (text !== undefined) return h("span", { title: String(value) }, text);
  return typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
}

function table(path, list) {
  const names = [...new Set(list.flatMap((item) => Object.keys(item)))].sort((a, b) => place(a) - place(b));
  return h("div", { class: "scroll", role: "region", "aria-label": title(path.at(-1)), tabindex: "0" }, h("table", {}, h("caption", { class: "unseen" }, title(path.at(-1))),
    h("thead", {}, h("tr", {}, names.map((n) => h("th", { scope: "col", class: list.every((item) => typeof item[n] === "number") ? "number" : undefined, title: `${path.join(".")}[*].${n}` }, label(n))))),
    h("tbody", {}, list.map((item) => h("tr", {}, names.map((n) => h("td", { class: typeof item[n] === "number" ? "number" : undefined }, item[n] === undefined ? "–" : show([...path, n], item[n]))))))));
}

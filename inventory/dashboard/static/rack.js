// Machines where they stand: in the rack and unit that their tags name, and
// otherwise side by side with the others of their site.

import { h, replace, state, tone } from "./dom.js";
import { memory, nameOf } from "./format.js";
import { drifted } from "./hardware.js";

const mostUnits = 60;
const leastUnits = 6;

// place is where a machine stands; unit is zero where only the rack is known.
export function place(m) {
  const rack = m.tags?.rack;
  const unit = whole(m.tags?.rack_unit, mostUnits);
  const height = Math.min(whole(m.tags?.rack_units, mostUnits) || 1, mostUnits + 1 - unit);
  return { rack, unit, height };
}

function whole(text, most) {
  return /^[0-9]{1,3}$/.test(text ?? "") && Number(text) >= 1 && Number(text) <= most ? Number(text) : 0;
}

// racks shows machines in their racks within body.
export function racks(body) {
  return {
    paint(machines, complete) {
      const groups = new Map();
      for (const m of machines) {
        const { rack } = place(m);
        const key = JSON.stringify([m.site ?? "", rack ?? ""]);
        if (!groups.has(key)) groups.set(key, []);
        groups.get(key).push(m);
      }
      const keys = [...groups.keys()].sort((a, b) => compareKeys(JSON.parse(a), JSON.parse(b)));
      const drawn = keys.map((key) => {
        const [site, rack] = JSON.parse(key);
        return rack ? drawRack(site, rack, groups.get(key)) : drawSite(site, groups.get(key));
      });
      replace(body, h("div", { class: "racks" }, drawn.length > 0 ? drawn : complete && h("p", { class: "empty" }, "No machine to show.")));
    },
  };
}

// compareKeys puts racks before what stands in none.
function compareKeys(a, b) {
  if (!a[1] !== !b[1]) return a[1] ? -1 : 1;
  return a.join("\0") < b.join("\0") ? -1 : 1;
}

function device(m, flat) {
  const about = [m.facts?.system?.product, m.facts?.memory?.bytes && memory(m.facts.memory.bytes)].filter(Boolean).join(" · ");
  return h("a", { class: flat ? "device flat" : "device", "data-state": tone(m.state), "data-machine": m.id, href: `#/machine/${m.id}` },
    h("span", { class: "name" }, nameOf(m)), h("span", { class: "about" }, drifted(m) || about || m.serial || "not inspected"), state(m.state));
}

function drawRack(site, rack, machines) {
  // Two machines cannot stand in one place; the second is shown below the rack.
  const taken = new Set();
  const placed = [];
  const others = [];
  for (const m of machines) {
    const { unit, height } = place(m);
    const units = Array.from({ length: height }, (_, i) => unit + i);
    if (!unit || units.some((u) => taken.has(u))) {
      others.push(m);
      continue;
    }
    for (const u of units) taken.add(u);
    placed.push({ m, unit, height });
  }
  const top = Math.max(leastUnits, Math.ceil(Math.max(0, ...taken) / 2) * 2);
  placed.sort((a, b) => b.unit - a.unit);
  const frame = h("ol", { class: "frame" });
  frame.style.gridTemplateRows = `repeat(${top}, 2.1rem)`;
  for (let unit = top; unit >= 1; unit--) {
    const label = h("li", { class: "unit", "aria-hidden": "true" }, String(unit));
    label.style.gridRow = String(top - unit + 1);
    const slot = h("li", { class: "slot", "aria-hidden": "true" });
    slot.style.gridRow = String(top - unit + 1);
    frame.append(label, slot);
  }
  for (const { m, unit, height } of placed) {
    const to = unit + height - 1;
    const where = height === 1 ? `unit ${unit}` : `units ${unit} to ${to}`;
    const li = h("li", { class: "held" }, h("span", { class: "unseen" }, where + ": "), device(m, height === 1));
    li.style.gridRow = `${top - to + 1} / span ${height}`;
    frame.append(li);
  }
  return h("section", { class: "rack", "aria-label": `Rack ${rack} of ${site}` }, h("h2", {}, rack, h("span", { class: "site" }, site)), frame,
    others.length > 0 && h("h3", {}, "Unit not known, or taken twice"),
    others.length > 0 && h("ul", { class: "shelf" }, others.map((m) => h("li", {}, device(m)))));
}

function drawSite(site, machines) {
  return h("section", { class: "rack", "aria-label": `Machines of ${site} without a rack` },
    h("h2", {}, site || "No site", h("span", { class: "site" }, "no rack named")),
    h("ul", { class: "shelf" }, machines.map((m) => h("li", {}, device(m)))));
}

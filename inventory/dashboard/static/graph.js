// A graph of steps in columns: each stands to the right of all that it needs.

import { h, replace, s, tone } from "./dom.js";
import { plural, span } from "./format.js";

const box = { width: 216, height: 46 };
const gap = { x: 44, y: 12 };
const margin = 4;

// arrange gives each node a column and a place in it, so that few edges cross.
export function arrange(nodes) {
  const byAddress = new Map(nodes.map((n) => [n.address, n]));
  const column = new Map();
  const visiting = new Set();
  const depth = (n) => {
    if (column.has(n.address)) return column.get(n.address);
    if (visiting.has(n.address)) return 0; // a plan has no circles; a damaged record must not hang the page
    visiting.add(n.address);
    const below = n.needs.map((a) => byAddress.get(a)).filter(Boolean).map((b) => depth(b) + 1);
    column.set(n.address, Math.max(0, ...below));
    return column.get(n.address);
  };
  nodes.forEach(depth);
  const columns = [];
  for (const n of nodes) (columns[column.get(n.address)] ??= []).push(n);
  const place = new Map();
  const note = (list) => list.forEach((n, i) => place.set(n.address, i - (list.length - 1) / 2));
  columns.forEach(note);
  const users = new Map(nodes.map((n) => [n.address, []]));
  for (const n of nodes) for (const a of n.needs) users.get(a)?.push(n.address);
  // Each node moves towards the middle of its neighbours, from left to right and back.
  for (let sweep = 0; sweep < 4; sweep++) {
    const order = sweep % 2 === 0 ? columns : [...columns].reverse();
    for (const list of order) {
      const pull = (n) => {
        const near = (sweep % 2 === 0 ? n.needs : users.get(n.address)).filter((a) => place.has(a));
        return near.length === 0 ? place.get(n.address) : near.reduce((sum, a) => sum + place.get(a), 0) / near.length;
      };
      const keys = new Map(list.map((n) => [n, pull(n)]));
      list.sort((a, b) => keys.get(a) - keys.get(b));
      note(list);
    }
  }
  return columns;
}

// graph draws nodes of {address, kind, state, needs, took, progress}.
export function graph() {
  const element = h("div", { class: "scroll graph", role: "region", "aria-label": "Graph of steps", tabindex: "0" });
  return {
    element,
    show(nodes) {
      if (nodes.length === 0) {
        replace(element, h("p", { class: "empty" }, "This run has no steps yet."));
        return;
      }
      const [x, y] = [element.scrollLeft, element.scrollTop];
      element.replaceChildren(draw(nodes));
      element.scrollTo(x, y);
    },
  };
}

function draw(nodes) {
  const columns = arrange(nodes);
  const tallest = Math.max(...columns.map((c) => c.length));
  const height = 2 * margin + tallest * (box.height + gap.y) - gap.y;
  const width = 2 * margin + columns.length * (box.width + gap.x) - gap.x;
  const at = new Map();
  columns.forEach((list, c) => {
    const used = list.length * (box.height + gap.y) - gap.y;
    list.forEach((n, i) => at.set(n.address, {
      x: margin + c * (box.width + gap.x), y: margin + (height - 2 * margin - used) / 2 + i * (box.height + gap.y),
    }));
  });
  const edges = nodes.flatMap((n) => n.needs.filter((a) => at.has(a)).map((a) => {
    const from = at.get(a);
    const to = at.get(n.address);
    const [x1, y1, x2, y2] = [from.x + box.width, from.y + box.height / 2, to.x, to.y + box.height / 2];
    const bend = Math.max(20, (x2 - x1) / 2);
    return s("path", { class: "edge", d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` });
  }));
  const boxes = nodes.map((n) => {
    const { x, y } = at.get(n.address);
    const said = [n.state, n.took !== undefined && span(n.took), n.attempts > 1 && `attempt ${n.attempts}`].filter(Boolean).join(" · ");
    return s("g", { class: "node", "data-state": tone(n.state), "data-address": n.address, transform: `translate(${x} ${y})` },
      s("title", {}, `${n.address}: ${said}${n.error ? ". " + n.error : ""}`),
      s("rect", { class: "box", width: box.width, height: box.height, rx: 4 }),
      s("rect", { class: "edgebar", width: 4, height: box.height, rx: 2 }),
      s("text", { class: "address", x: 14, y: 19 }, shorten(n.address, 29)),
      s("text", { class: "said", x: 14, y: 36 }, n.progress ? n.progress.text : said),
      n.progress && s("rect", { class: "share", x: 4, y: box.height - 3, width: (box.width - 4) * n.progress.share, height: 3 }));
  });
  return s("svg", { role: "img", "aria-label": `${plural(nodes.length, "step")} and what each needs; the table of steps has the same`, width, height, viewBox: `0 0 ${width} ${height}` }, edges, boxes);
}

// shorten drops the beginning of an address: its end tells steps apart.
const shorten = (text, most) => (text.length <= most ? text : "…" + text.slice(text.length - most + 1));

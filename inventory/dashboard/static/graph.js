// A graph of steps in columns: each stands to the right of all that it needs.

import { h, replace, s, tone } from "./dom.js";
import { plural, span } from "./format.js";

const box = { width: 216, height: 46 };
const lane = 10; // height of what keeps the way of a long edge free
const gap = { x: 44, y: 12 };
const margin = 4;

// arrange gives each node a column and a place in it, so that few edges cross. An
// edge over several columns gets a lane in each between. It returns the columns,
// and of each edge the stops it makes, first to last.
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
  const stops = nodes.map((n) => ({ node: n, column: column.get(n.address), before: [], after: [] }));
  const stopOf = new Map(stops.map((t) => [t.node.address, t]));
  for (const t of stops) (columns[t.column] ??= []).push(t);
  const edges = [];
  const join = (a, b) => {
    a.after.push(b);
    b.before.push(a);
  };
  for (const t of stops) {
    for (const a of t.node.needs) {
      const from = stopOf.get(a);
      if (!from || from.column >= t.column) continue;
      const path = [from];
      for (let c = from.column + 1; c < t.column; c++) {
        const between = { column: c, before: [], after: [] };
        columns[c].push(between);
        join(path.at(-1), between);
        path.push(between);
      }
      join(path.at(-1), t);
      edges.push([...path, t]);
    }
  }
  // Each stop moves towards the middle of its neighbours, from left to right and back.
  const note = (list) => list.forEach((t, i) => {
    t.place = i - (list.length - 1) / 2;
  });
  columns.forEach(note);
  for (let sweep = 0; sweep < 6; sweep++) {
    const forth = sweep % 2 === 0;
    for (const list of forth ? columns : [...columns].reverse()) {
      for (const t of list) {
        const near = forth ? t.before : t.after;
        t.pull = near.length === 0 ? t.place : near.reduce((sum, o) => sum + o.place, 0) / near.length;
      }
      list.sort((a, b) => a.pull - b.pull);
      note(list);
    }
  }
  return { columns, edges };
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

const heightOf = (t) => (t.node ? box.height : lane);

function draw(nodes) {
  const { columns, edges } = arrange(nodes);
  const used = (list) => list.reduce((sum, t) => sum + heightOf(t) + gap.y, -gap.y);
  const inner = Math.max(...columns.map(used));
  const height = 2 * margin + inner;
  const width = 2 * margin + columns.length * (box.width + gap.x) - gap.x;
  columns.forEach((list, c) => {
    let y = margin + (inner - used(list)) / 2;
    for (const t of list) {
      t.x = margin + c * (box.width + gap.x);
      t.y = y;
      t.middle = y + heightOf(t) / 2;
      y += heightOf(t) + gap.y;
    }
  });
  const lines = edges.map((path) => s("path", { class: "edge", d: path.slice(1).map((to, i) => {
    const from = path[i];
    const start = i === 0 ? `M${from.x + box.width} ${from.middle}` : "";
    const bend = gap.x / 2;
    const curve = `C${from.x + box.width + bend} ${from.middle} ${to.x - bend} ${to.middle} ${to.x} ${to.middle}`;
    return start + curve + (to.node ? "" : `H${to.x + box.width}`);
  }).join("") }));
  const names = shortNames(nodes);
  const boxes = columns.flat().filter((t) => t.node).map(({ node: n, x, y }) => {
    const said = [n.state, n.took !== undefined && span(n.took), n.attempts > 1 && `attempt ${n.attempts}`].filter(Boolean).join(" · ");
    return s("g", { class: "node", "data-state": tone(n.state), "data-address": n.address, transform: `translate(${x} ${y})` },
      s("title", {}, `${n.address}: ${said}${n.error ? ". " + n.error : ""}`),
      s("rect", { class: "box", width: box.width, height: box.height, rx: 4 }),
      s("rect", { class: "edgebar", width: 4, height: box.height, rx: 2 }),
      s("text", { class: "address", x: 14, y: 19 }, names.get(n.address)),
      s("text", { class: "said", x: 14, y: 36 }, n.progress ? n.progress.text : said),
      n.progress && s("rect", { class: "share", x: 4, y: box.height - 3, width: (box.width - 4) * n.progress.share, height: 3 }));
  });
  return s("svg", { role: "img", "aria-label": `${plural(nodes.length, "step")} and what each needs; the table of steps has the same`, width, height, viewBox: `0 0 ${width} ${height}` }, lines, boxes);
}

const longest = 27; // characters that a box has room for

// shortNames drops workflow.NAME.step. from an address where the rest is still one
// of a kind, and the beginning of what is too long: its end tells steps apart.
function shortNames(nodes) {
  const bare = (address) => address.replace(/workflow\.[^.]+\.step\./, "");
  const count = new Map();
  for (const n of nodes) count.set(bare(n.address), (count.get(bare(n.address)) ?? 0) + 1);
  return new Map(nodes.map(({ address }) => {
    const name = count.get(bare(address)) === 1 ? bare(address) : address;
    return [address, name.length <= longest ? name : "…" + name.slice(name.length - longest + 1)];
  }));
}

// Elements are made here and nowhere else. A string always becomes a text node:
// what machines report is never parsed as HTML.

const svgSpace = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((c) => c !== undefined && c !== null && c !== false && c !== ""));
  return element;
}

// h makes an HTML element. Attributes that are undefined, null or false are left
// out; one that begins with "on" is a listener.
export function h(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

// s makes an SVG element.
export function s(name, attributes, ...children) {
  return fill(document.createElementNS(svgSpace, name), attributes, children);
}

// setText writes a text only where it differs, so that nothing is announced or
// painted again without need.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// replace puts children into an element and keeps the focus where it was, if an
// element with the same id, or the same link, is there again.
export function replace(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const id = focused?.id;
  const href = focused?.getAttribute("href");
  element.replaceChildren(...children.flat(Infinity).filter(Boolean));
  if (!focused || element.contains(document.activeElement)) return;
  const again = (id && document.getElementById(id)) ||
    (href && [...element.querySelectorAll("a")].find((a) => a.getAttribute("href") === href));
  again?.focus({ preventScroll: true });
}

// state shows a state as a word with a mark; the mark differs in shape, not only
// in colour.
export function state(name) {
  return h("span", { class: "state", "data-state": tone(name) }, h("span", { class: "dot", "aria-hidden": "true" }), name);
}

// tone sorts the states of machines, runs, steps and reactions into five looks.
export function tone(name) {
  switch (name) {
    case "installed": case "ok": case "succeeded": case "done": return "good";
    case "failed": case "interrupted": case "refused": return "bad";
    case "installing": case "inspecting": case "running": case "started": return "busy";
    case "held": case "queued": case "stopped": case "blocked": case "cancelled": case "superseded": return "waiting";
  }
  return "idle";
}

let queued = [];
let timer = 0;

// announce tells a screen reader what changed, at most one message a second:
// a site that boots at once must not talk without end.
export function announce(text) {
  queued.push(text);
  if (timer) return;
  timer = setTimeout(() => {
    const said = queued.length > 3 ? `${queued.length} changes, the last: ${queued.at(-1)}` : queued.join(". ");
    document.getElementById("announcer").textContent = said;
    queued = [];
    timer = 0;
  }, 1000);
}

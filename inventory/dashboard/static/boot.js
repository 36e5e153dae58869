// The boot timeline as a picture: the phases of an attempt over time, and below
// them a mark for each event.

import { h, replace, s } from "./dom.js";
import { clock, date, plural, span } from "./format.js";

const row = 22;
const top = 20;
const left = 92;
const right = 84;
const narrowest = 480;

// boot is the picture with the choice of the attempt.
export function boot() {
  let timeline;
  let chosen = -1; // number of an attempt, from 1; -1: the latest
  const select = h("select", { id: "attempt", onchange() {
    chosen = Number(select.value);
    paint();
  } });
  const choice = h("p", { class: "choice", hidden: true }, h("label", { for: "attempt" }, "Attempt"), select);
  const canvas = h("div", { class: "canvas" });
  const element = h("div", {}, choice, canvas);
  const paint = () => {
    if (!timeline) return;
    const attempts = timeline.attempts;
    if (attempts.length === 0) {
      replace(canvas, h("p", { class: "empty" }, "This machine was not seen booting."));
      return;
    }
    const first = timeline.earlier_attempts + 1;
    const latest = first + attempts.length - 1;
    const number = chosen < first || chosen > latest ? latest : chosen;
    const attempt = attempts[number - first];
    choice.hidden = latest === 1;
    replace(select, attempts.map((a, i) => h("option", { value: first + i }, `${first + i} of ${latest}, ${date(a.began)}`)).reverse());
    select.value = String(number);
    replace(canvas, draw(attempt, Math.max(narrowest, canvas.clientWidth || 960)), listing(attempt));
  };
  // The picture is drawn for the width that it has, so that its text stays legible.
  let width = 0;
  new ResizeObserver(([entry]) => {
    const now = Math.round(entry.contentRect.width);
    if (now !== width) {
      width = now;
      paint();
    }
  }).observe(canvas);
  return {
    element,
    show(t) {
      timeline = t;
      paint();
    },
  };
}

// ticks are round distances on the axis, at most seven.
export function ticks(ms) {
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500].concat([1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400].map((t) => t * 1000));
  const step = steps.find((t) => ms / t <= 7) ?? Math.ceil(ms / 7);
  return Array.from({ length: Math.floor(ms / step) + 1 }, (_, i) => i * step);
}

function draw(attempt, width) {
  const began = Date.parse(attempt.began);
  // An installed machine is heard of for years: the picture ends with the last phase.
  const ended = attempt.phases.length > 0 ? Date.parse(attempt.phases.at(-1).ended) : Date.parse(attempt.ended);
  const total = Math.max(1, ended - began);
  const events = attempt.events.filter((e) => Date.parse(e.event.time) <= ended);
  const later = attempt.events.length - events.length;
  const scale = (width - left - right) / total;
  const x = (time) => left + (Date.parse(time) - began) * scale;
  const bottom = top + attempt.phases.length * row;
  const height = bottom + 24;
  const parts = ticks(total).map((t) => {
    const at = Math.round(left + t * scale) + 0.5;
    return [s("line", { class: "grid", x1: at, x2: at, y1: top - 4, y2: bottom + 4 }), s("text", { class: "tick", x: at, y: 11, "text-anchor": t === 0 ? "start" : "middle" }, t === 0 ? "0" : axis(t))];
  });
  attempt.phases.forEach((phase, i) => {
    const y = top + i * row;
    const from = x(phase.began);
    const to = Math.max(x(phase.ended), from + 2);
    parts.push(
      s("text", { class: "phase", x: left - 10, y: y + 15, "text-anchor": "end" }, phase.name),
      s("rect", { class: phase.running ? "span running" : "span", "data-phase": phase.name, x: from, y: y + 4, width: to - from, height: row - 8, rx: 2 }, s("title", {}, `${phase.name}: ${span(phase.duration_ms)}${phase.running ? " so far" : ""}`)),
      s("text", { class: "took", x: to + 6, y: y + 15 }, span(phase.duration_ms) + (phase.running ? " …" : "")));
  });
  for (const e of events) {
    const at = x(e.event.time);
    const level = e.level ?? "plain";
    parts.push(s("rect", { class: "event", "data-level": level, x: at - 0.75, y: bottom + (level === "problem" ? 6 : 9), width: level === "problem" ? 2.5 : 1.5, height: level === "problem" ? 12 : 7 },
      s("title", {}, `${clock(e.event.time)} ${e.text}`)));
  }
  parts.push(s("text", { class: "phase", x: left - 10, y: bottom + 17, "text-anchor": "end" }, "events"));
  if (later > 0) parts.push(s("text", { class: "took", x: width, y: bottom + 17, "text-anchor": "end" }, `+ ${later} later`));
  const label = `${plural(attempt.phases.length, "phase")} in ${span(total)}; the table after this picture has the same`;
  return s("svg", { class: "boot", role: "img", "aria-label": label, width, height, viewBox: `0 0 ${width} ${height}` }, parts);
}

// axis is a round time of the axis.
const axis = (ms) => (ms < 1000 ? `${ms}\u202fms` : ms < 60000 ? `${ms / 1000}\u202fs` : span(ms));

function listing(attempt) {
  return h("table", { class: "unseen" }, h("caption", {}, "Phases of the attempt"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Phase"), h("th", { scope: "col" }, "Began"), h("th", { scope: "col" }, "Took"))),
    h("tbody", {}, attempt.phases.map((p) => h("tr", {},
      h("th", { scope: "row" }, p.name), h("td", {}, clock(p.began)), h("td", {}, span(p.duration_ms) + (p.running ? ", not ended" : ""))))));
}

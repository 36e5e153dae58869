// The search box: it completes the names of the expression language and shows
// where an expression is wrong. It follows the combobox pattern of ARIA 1.2.

import { h, replace, setText } from "./dom.js";

let language; // promise of what /dashboard/language.json says

// learn reads the language once. Without it the box still searches.
function learn() {
  language ??= fetch("/dashboard/language.json").then((r) => r.json()).catch(() => {
    language = undefined; // the next letter tries again
    return { variables: [], functions: [] };
  });
  return language;
}

const longestList = 12;
const keywords = ["for", "in", "if", "true", "false"];

// suggest returns what fits the name that ends at a place of the text: where it
// begins, and the candidates.
export function suggest(words, text, at) {
  const before = text.slice(0, at);
  if (quoted(before)) return { from: at, items: [] };
  const name = /[A-Za-z_][A-Za-z0-9_.*[\]-]*$/.exec(before)?.[0] ?? "";
  const from = at - name.length;
  const loops = loopVariables(before);
  const root = name.split(/[.[]/, 1)[0];
  const prefix = name.includes(".") && loops.has(root) ? loops.get(root) + "[*]" + name.slice(root.length) : name;
  const items = [];
  if (name.includes(".")) {
    const parent = prefix.slice(0, prefix.lastIndexOf(".") + 1);
    for (const v of words.variables) {
      if (!v.path.startsWith(prefix) || v.path === prefix) continue;
      const rest = v.path.slice(parent.length);
      const depth = rest.split(".").length - 1;
      // One level at a time, or everything when little is left.
      if (depth > 0 && !rest.startsWith(prefix.slice(parent.length))) continue;
      if (depth > 1) continue;
      const insert = prefix === name ? v.path : root + v.path.slice((loops.get(root) + "[*]").length);
      items.push({ insert: insert + (v.type === "object" ? "." : ""), note: kindOf(v), weak: !v.queried, depth });
    }
    items.sort((a, b) => a.weak - b.weak || a.depth - b.depth);
  } else if (name) {
    const lower = name.toLowerCase();
    for (const variable of loops.keys()) {
      if (variable.startsWith(name)) items.push({ insert: variable + ".", note: `an element of ${loops.get(variable)}` });
    }
    for (const v of words.variables) {
      if (!v.path.includes(".") && v.path.startsWith(name)) items.push({ insert: v.path + ".", note: "what is known" });
    }
    for (const f of words.functions) {
      if (f.name.toLowerCase().startsWith(lower)) items.push({ insert: f.name + "(", label: `${f.name}(${f.arguments})`, note: f.summary });
    }
    // A word from the middle of a path finds it: "memory" is facts.memory.bytes.
    if (lower.length > 2) {
      for (const v of words.variables) {
        if (v.queried && v.type !== "object" && !v.path.includes("[*]") && v.path.slice(v.path.indexOf(".")).includes(lower)) {
          items.push({ insert: v.path, note: kindOf(v) });
        }
      }
    }
  }
  const exact = items.length === 1 && items[0].insert === name;
  return { from, items: exact || keywords.includes(name) ? [] : items.slice(0, longestList) };
}

const kindOf = (v) => (v.type === "object" ? "group" : v.indexed ? `${v.type}, indexed` : v.type);

// quoted says whether a text ends within a string.
function quoted(text) {
  let inside = false;
  for (let i = 0; i < text.length; i++) {
    if (text[i] === "\\" && inside) i++;
    else if (text[i] === '"') inside = !inside;
  }
  return inside;
}

// loopVariables maps the variable of each for-expression to the list it goes over.
function loopVariables(text) {
  const out = new Map();
  for (const m of text.matchAll(/\bfor\s+([A-Za-z_]\w*)\s+in\s+([A-Za-z_][\w.]*)\s*:/g)) out.set(m[1], m[2]);
  return out;
}

// offsets turns places in UTF-8, as the API counts them, into places in the string.
export function offsets(text, ...bytes) {
  const encoder = new TextEncoder();
  const out = bytes.map(() => text.length);
  let at = 0;
  let index = 0;
  for (const char of text) {
    bytes.forEach((b, i) => {
      if (b >= at && b < at + encoder.encode(char).length) out[i] = index;
    });
    at += encoder.encode(char).length;
    index += char.length;
  }
  return out;
}

// mistakes shows diagnostics, each with its place in the text under carets.
function mistakes(text, diagnostics) {
  return diagnostics.slice(0, 5).map((d) => {
    const [from, to] = offsets(text, d.start, d.end);
    const end = Math.max(to, from + 1);
    const head = text.slice(0, from);
    return h("div", { class: "diagnostic" },
      h("p", {}, h("strong", {}, d.summary), d.detail && h("span", {}, " ", d.detail)),
      h("pre", { "aria-hidden": "true" },
        head, h("mark", {}, text.slice(from, end)), text.slice(end), "\n",
        " ".repeat([...head].length), h("span", { class: "caret" }, "^".repeat(Math.max(1, [...text.slice(from, end)].length)))),
      h("p", { class: "unseen" }, `At character ${[...head].length + 1}.`));
  });
}

const examples = [
  "facts.memory.bytes >= GiB(1)",
  'machine.state == "failed"',
  "any([for d in facts.disks : !d.rotational && d.bytes >= GB(200)])",
  'glob("NUC*", facts.system.product)',
];

// searchBox makes the search form. submit is called with the expression; refuse
// shows the Problem of the one that was submitted last.
export function searchBox(value, submit) {
  let items = [];
  let chosen = -1;
  let from = 0;
  const input = h("input", {
    id: "search", type: "text", role: "combobox", autocomplete: "off", spellcheck: "false", autocapitalize: "off",
    placeholder: "facts.memory.bytes >= GiB(1)", "aria-autocomplete": "list", "aria-expanded": "false",
    "aria-controls": "search-list", "aria-describedby": "search-error search-help",
  });
  input.value = value;
  const list = h("ul", { id: "search-list", role: "listbox", "aria-label": "Completions", hidden: true });
  const error = h("div", { id: "search-error", role: "alert", class: "mistake" });
  const clear = h("button", { type: "button", class: "quiet", onclick: () => send("") }, "Clear");
  clear.hidden = value === "";

  const close = () => {
    items = [];
    chosen = -1;
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const mark = (index) => {
    chosen = index;
    for (const [i, li] of [...list.children].entries()) li.setAttribute("aria-selected", String(i === index));
    if (index < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", `completion-${index}`);
    list.children[index].scrollIntoView({ block: "nearest" });
  };
  const take = (index) => {
    const item = items[index];
    const after = input.value.slice(input.selectionStart).replace(/^[A-Za-z0-9_.*[\]]+/, "");
    input.value = input.value.slice(0, from) + item.insert + after;
    const at = from + item.insert.length;
    input.setSelectionRange(at, at);
    input.focus();
    if (item.insert.endsWith(".")) complete();
    else close();
  };
  const complete = async () => {
    const words = await learn();
    if (document.activeElement !== input) return;
    ({ from, items } = suggest(words, input.value, input.selectionStart));
    if (items.length === 0) return close();
    replace(list, items.map((item, i) => h("li", {
      id: `completion-${i}`, role: "option", "aria-selected": "false", class: item.weak ? "weak" : undefined,
      onmousedown: (event) => {
        event.preventDefault();
        take(i);
      },
    }, h("code", {}, item.label ?? item.insert), h("span", { class: "note" }, item.weak ? "in site.hcl only" : item.note))));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    mark(-1);
  };
  const send = (expression) => {
    close();
    submit(expression.trim());
  };
  input.addEventListener("input", () => {
    setText(error, "");
    input.removeAttribute("aria-invalid");
    complete();
  });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const open = items.length > 0;
    if (event.key === "ArrowDown" && open) mark((chosen + 1) % items.length);
    else if (event.key === "ArrowDown" || (event.key === " " && event.ctrlKey)) complete();
    else if (event.key === "ArrowUp" && open) mark((chosen <= 0 ? items.length : chosen) - 1);
    else if (event.key === "Escape" && open) close();
    else if (event.key === "Tab" && !event.shiftKey && open && chosen >= 0) take(chosen);
    else if (event.key === "Enter" && open && chosen >= 0) take(chosen);
    else return;
    event.preventDefault();
  });
  const form = h("form", {
    class: "search", role: "search", onsubmit: (event) => {
      event.preventDefault();
      send(input.value);
    },
  },
  h("label", { for: "search" }, "Search"),
  h("div", { class: "box" }, input, list),
  h("button", { type: "submit", class: "primary" }, "Search"), clear,
  h("details", { class: "help" },
    h("summary", {}, "Examples"),
    h("ul", {}, examples.map((text) => h("li", {}, h("a", { href: "#/?" + new URLSearchParams({ filter: text }) }, h("code", {}, text)))))),
  h("p", { id: "search-help", class: "unseen" }, "An expression over facts and machine. The arrow keys choose a completion."),
  error);

  return {
    element: form,
    refuse(problem) {
      const text = input.value;
      input.setAttribute("aria-invalid", "true");
      replace(error, problem.diagnostics.length > 0 ? mistakes(text, problem.diagnostics) : h("p", {}, problem.message));
      if (problem.diagnostics.length > 0) {
        const [start, end] = offsets(text, problem.diagnostics[0].start, problem.diagnostics[0].end);
        input.focus();
        input.setSelectionRange(start, Math.max(end, start));
      }
    },
  };
}

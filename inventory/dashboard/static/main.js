// The frame: which view is shown for which address, the sign-in, the state of the
// connection, and where the focus goes.

import { firstPause, insist, longer, passing, Problem, rest, seen } from "./api.js";
import { h } from "./dom.js";
import { fleet } from "./fleet.js";
import { machine } from "./machine.js";
import { run, runs } from "./runs.js";
import { showSession, signInForm } from "./session.js";
import { stale } from "./stale.js";

const main = document.getElementById("main");
const link = document.getElementById("link");
const note = document.getElementById("stale");

// views are the routes: a view fills an element and follows what it shows until
// signal aborts. It returns when there is something to see, and may return what is
// to be done once it is seen.
const views = [
  { path: /^\/$/, nav: "fleet", show: fleet },
  { path: /^\/machine\/([^/]+)$/, nav: "fleet", show: machine },
  { path: /^\/runs$/, nav: "runs", show: runs },
  { path: /^\/run\/([^/]+)$/, nav: "runs", show: run },
];

let current = null; // AbortController of the view that is shown
let shown = ""; // path of the view, without its parameters

const labels = { live: "Live", lost: "Connection lost, trying again", idle: "" };

function connection(state) {
  const before = link.dataset.state;
  if (before === state) return;
  // Who asks may be somebody else by now: a token ends.
  if (before === "lost" && state === "live") ask();
  link.dataset.state = state;
  link.textContent = labels[state];
}

// place is the path and the parameters after the "#".
function place() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?", 2);
  return { path: path || "/", parameters: new URLSearchParams(query) };
}

async function go() {
  if (unknown) ask();
  const { path, parameters } = place();
  const view = views.find((v) => v.path.test(path));
  const moved = path !== shown;
  shown = path;
  current?.abort();
  const controller = current = new AbortController();
  connection("idle");
  for (const a of document.querySelectorAll("[data-nav]")) {
    if (a.dataset.nav === view?.nav) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  const fail = (error) => {
    if (controller.signal.aborted) return;
    controller.abort();
    explain(error);
    if (passing(error)) again();
  };
  const age = stale(note);
  const context = {
    signal: controller.signal, parameters, fail, who: () => who,
    argument: view && decodeURIComponent(view.path.exec(path)[1] ?? ""),
    // link is told of the stream by which a view follows what it shows.
    link(state) {
      // When it is lost nothing is missing yet; when it is lost again, something may be.
      if (state === "lost" && link.dataset.state === "lost") age.late(connection);
      else age.came(connection);
      connection(state);
    },
    // insist reads something of what is shown already. While that does not go well
    // the page stays, and says of when it is.
    async insist(read) {
      try {
        await insist(read, controller.signal, () => age.late(read));
        age.came(read);
      } catch (error) {
        fail(error);
      }
    },
    // title names the page, and is read first by a screen reader.
    title(text) {
      document.title = `${text} – edge-provision`;
    },
  };
  try {
    if (!view) throw new Problem(404, { title: "There is no such page", detail: "Go back to the fleet." });
    const root = h("div", { class: "view" });
    const then = await view.show(root, context);
    if (controller.signal.aborted) return;
    const focused = main.contains(document.activeElement) ? document.activeElement : null;
    main.replaceChildren(root);
    pause = firstPause;
    if (!moved && focused) resume((focused.id && document.getElementById(focused.id)) || main.querySelector("h1"), focused);
    then?.();
    if (moved) {
      window.scrollTo(0, 0);
      // The first page does not take the focus from where the browser puts it.
      if (arrived) main.querySelector("h1")?.focus();
    }
    arrived = true;
  } catch (error) {
    fail(error);
  }
}

let arrived = false;
let who; // promise of who asks: a session, null where that is not known
let unknown = true;

// ask finds out who asks.
function ask() {
  unknown = false;
  who = showSession(begin, enter).catch(() => { // the view says why nothing can be asked
    unknown = true;
    return null;
  });
}

let pause = firstPause;

// again tries after a while to show what could not be shown.
async function again() {
  const { signal } = current = new AbortController();
  await rest(pause, signal);
  await seen(signal);
  if (signal.aborted) return;
  pause = longer(pause);
  go();
}

// resume gives the focus to what stands where it was, with what was typed while
// the answer was on its way.
function resume(element, before) {
  element.focus({ preventScroll: true });
  if (element.value === undefined || element.value === before.value) return;
  element.value = before.value;
  element.setSelectionRange(before.selectionStart, before.selectionEnd);
}

// explain shows why there is nothing to see.
function explain(error) {
  connection("idle");
  stale(note); // nothing is shown that could be old
  if (error instanceof Problem && error.status === 401) {
    main.replaceChildren(signInForm(begin));
    main.querySelector("input").focus();
    ask();
    return;
  }
  const said = main.querySelector(".refusal");
  if (said?.dataset.why === error.message) return; // nothing is new, and somebody reads it
  const heading = h("h1", { tabindex: "-1" }, error.title ?? "The controller cannot be asked");
  main.replaceChildren(h("div", { class: "view refusal", "data-why": error.message }, heading,
    h("p", {}, error instanceof Problem ? error.message : `No answer came from ${location.host}: ${error.message}.`),
    error.candidates?.length > 0 && h("ul", {}, error.candidates.map((id) => h("li", {}, h("a", { class: "mono", href: `#/machine/${id}` }, id)))),
    h("p", {}, h("button", { type: "button", onclick: retry }, "Try again"), " ", h("a", { href: "#/" }, "Go to the fleet"))));
  heading.focus();
}

// retry says it again if it does not go well again, because somebody asked.
function retry() {
  main.querySelector(".refusal").dataset.why = "";
  go();
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, textarea, select");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const search = document.getElementById("search");
  if (!search) return;
  event.preventDefault();
  search.focus();
});

window.addEventListener("hashchange", go);

// enter lets somebody who may only look say who they are.
function enter() {
  current?.abort();
  connection("idle");
  stale(note);
  shown = ""; // whatever is seen next is another page
  main.replaceChildren(signInForm(begin, go));
  main.querySelector("input").focus();
}

// begin shows the page to whoever has just come, or signed in.
function begin() {
  ask();
  go();
}

begin();

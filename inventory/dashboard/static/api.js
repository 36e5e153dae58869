// Requests to the API under /v1, and its streams. Nothing here knows what is shown.

// Problem is an answer that is an error (application/problem+json, RFC 9457).
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `HTTP status ${status}`);
    this.status = status;
    this.title = body.title ?? `HTTP status ${status}`;
    this.diagnostics = body.diagnostics ?? [];
    this.candidates = body.candidates ?? [];
  }
}

// Unreachable is that no answer came, or not the whole of one.
export class Unreachable extends Error {}

// passing tells whether what failed can go well when the same is asked later.
export const passing = (error) => error instanceof Unreachable || (error instanceof Problem && error.status >= 500);

function address(path, parameters) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(parameters ?? {})) {
    if (value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return url;
}

async function refused(response) {
  let body = {};
  try {
    body = await response.json();
  } catch {
    // Not one of the API's own answers: the status says what there is to say.
  }
  return new Problem(response.status, body);
}

const longestAnswer = 45000; // milliseconds; the server gives up after 30 s

// get reads one resource.
export async function get(path, parameters, signal) {
  const bounds = [AbortSignal.timeout(longestAnswer), signal].filter(Boolean);
  let response;
  try {
    response = await fetch(address(path, parameters), { signal: AbortSignal.any(bounds), headers: { Accept: "application/json" } });
    if (response.ok) return await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable(error.message);
  }
  throw await refused(response);
}

// insist reads until that goes well, and returns what was read. late is called each
// time that it does not but may yet; what cannot go well is thrown, and whatever fails
// once signal aborts.
export async function insist(read, signal, late) {
  for (let pause = firstPause; ; pause = longer(pause)) {
    try {
      return await read();
    } catch (error) {
      if (signal.aborted || !passing(error)) throw error;
      late();
    }
    await rest(pause, signal);
    await seen(signal);
    signal.throwIfAborted();
  }
}

// every calls a function at a period while the tab can be seen, and when it is seen
// again if that was due meanwhile, until signal aborts.
export async function every(ms, call, signal) {
  for (;;) {
    await sleep(ms, signal);
    await seen(signal);
    if (signal.aborted) return;
    await call();
  }
}

let csrf = ""; // what a change names beside the cookie; "" without a session

// session tells who asks, and in which role.
export async function session() {
  const s = await get("/v1/session");
  csrf = s.csrf ?? "";
  return s;
}

// act asks for an action and returns its operation as it ended. key is new for each
// thing to be done; asked again with the same one, nothing is done twice.
export async function act(path, body, key, signal) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  if (csrf) headers["X-CSRF-Token"] = csrf;
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) throw await refused(response);
  let operation = await response.json();
  while (operation.state === "running") {
    await sleep(300, signal);
    operation = await get(`/v1/operations/${operation.id}`, {}, signal);
  }
  return operation;
}

// signIn trades a token for the session that a cookie carries.
export async function signIn(token) {
  const response = await fetch("/v1/session", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }),
  });
  if (!response.ok) throw await refused(response);
}

// signOut ends that session.
export async function signOut() {
  const response = await fetch("/v1/session", { method: "DELETE" });
  if (!response.ok) throw await refused(response);
}

export const firstPause = 1000; // milliseconds
const longestPause = 30000;

// longer is the pause after one that was not enough.
export const longer = (pause) => Math.min(2 * pause, longestPause);

// rest pauses, not all pages at the same time.
export const rest = (pause, signal) => sleep(pause * (0.75 + Math.random() / 2), signal);

// watch follows a stream of Server-Sent Events until signal aborts. take is called
// with the type and the data of each; link with "live" or "lost" as the connection
// comes and goes. It goes on after the last event that it saw. While the tab is
// hidden nothing is streamed: a browser has six connections for a server, and a
// person more tabs. It throws a Problem when the server refuses the request itself.
export async function watch(path, parameters, { signal, take, link }) {
  let last = "";
  let pause = firstPause;
  for (;;) {
    await seen(signal);
    if (signal.aborted) return;
    const hidden = new AbortController();
    const hide = () => document.hidden && hidden.abort();
    document.addEventListener("visibilitychange", hide);
    try {
      const headers = { Accept: "text/event-stream" };
      if (last) headers["Last-Event-ID"] = last;
      const response = await fetch(address(path, parameters), { signal: AbortSignal.any([signal, hidden.signal]), headers, cache: "no-store" });
      if (!response.ok) {
        const problem = await refused(response);
        if (response.status < 500) throw problem;
      } else {
        pause = firstPause;
        link("live");
        for await (const event of events(response.body)) {
          if (event.id !== undefined) last = event.id;
          if (event.data !== undefined) take(event.type, JSON.parse(event.data));
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem) throw error;
    } finally {
      document.removeEventListener("visibilitychange", hide);
    }
    if (signal.aborted) return;
    if (hidden.signal.aborted) continue;
    link("lost");
    await rest(pause, signal);
    if (signal.aborted) return;
    pause = longer(pause);
  }
}

// seen waits until the tab can be seen, or signal aborts.
export function seen(signal) {
  if (!document.hidden || signal.aborted) return undefined;
  return new Promise((done) => {
    document.addEventListener("visibilitychange", done, { once: true, signal });
    signal.addEventListener("abort", done, { once: true });
  });
}

function sleep(ms, signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      done();
    }, { once: true });
  });
}

// events reads a stream (HTML Living Standard, section 9.2.6). The server ends
// lines with a line feed alone.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { type: "message" };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.id !== undefined || event.data !== undefined) yield event;
        event = { type: "message" };
        continue;
      }
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const text = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (name === "data") event.data = event.data === undefined ? text : event.data + "\n" + text;
      else if (name === "event") event.type = text;
      else if (name === "id") event.id = text;
    }
  }
}

// settle calls a function soon after it was asked for, once for many requests,
// and not again before the call before it has ended.
export function settle(call, ms) {
  let timer = 0;
  let running = false;
  let again = false;
  const run = async () => {
    timer = 0;
    running = true;
    try {
      await call();
    } finally {
      running = false;
      if (again) {
        again = false;
        request();
      }
    }
  };
  const request = () => {
    if (running) again = true;
    else if (!timer) timer = setTimeout(run, ms);
  };
  return request;
}

// The question whether a machine's hardware is accepted as it is.

import { act } from "./api.js";
import { comparison } from "./change.js";
import { h, setText } from "./dom.js";
import { date } from "./format.js";

// accept makes a dialog about the difference that d, a machine's drift, shows.
// closed is called when it is gone, with whether the hardware was accepted. update
// tells of what became of the difference meanwhile.
export function accept(path, name, d, { signal, looked, closed }) {
  const key = crypto.randomUUID();
  const first = d.snapshot === undefined;
  let accepted = false;
  const mistake = h("p", { class: "mistake", role: "alert" });
  const yes = h("button", { type: "button", class: "primary", id: "accept-yes", onclick: () => send() }, first ? "Freeze" : "Accept");
  const no = h("button", { type: "button", id: "accept-no", autofocus: true, onclick: () => element.close() }, "Cancel");
  const element = h("dialog", { class: "ask", "aria-labelledby": "accept-title", onclose() {
    element.remove();
    closed(accepted);
  } },
  h("h2", { id: "accept-title" }, first ? `Freeze the hardware of ${name} as it is?` : `Accept the hardware of ${name} as it is?`),
  h("p", {}, first ? "It was never frozen" : `It was frozen on ${date(d.snapshot.taken_at)}`, `; ${looked}.`),
  d.state === "forged" && h("p", { class: "error" }, "The snapshot is not one that this catalog signed: what it was cannot be shown."),
  d.changes.length > 0 && comparison(d.changes),
  h("p", {}, "From now on it is compared with what it is now. The machine is not touched, and earlier snapshots are kept."),
  mistake,
  h("p", { class: "buttons" }, yes, no));

  // over says that what is shown cannot be accepted any more.
  const over = (text) => {
    setText(mistake, text);
    yes.disabled = true;
    setText(no, "Close");
    no.focus();
  };
  const send = async () => {
    setText(mistake, "");
    yes.disabled = true;
    element.setAttribute("aria-busy", "true");
    setText(yes, first ? "Freezing…" : "Accepting…");
    try {
      const operation = await act(`${path}/actions/accept-drift`, { digest: d.digest ?? "" }, key, signal);
      if (operation.state === "succeeded") {
        accepted = true;
        element.close();
        return;
      }
      over(`It was not accepted: ${operation.error || operation.state}.`);
    } catch (error) {
      if (signal.aborted) return;
      // The same key again: were it only the answer that was lost, nothing is done twice.
      setText(mistake, `It is not known to be accepted: ${error.message}`);
      yes.disabled = false;
    } finally {
      element.removeAttribute("aria-busy");
      setText(yes, first ? "Freeze" : "Accept");
    }
  };
  return {
    element,
    update(now) {
      if (element.hasAttribute("aria-busy") || (now.digest ?? "") === (d.digest ?? "") && now.state === d.state) return;
      over(now.state === "none" ? "The hardware is as in its snapshot by now; there is nothing to accept." : "The hardware differs in another way by now. Close this and look again.");
    },
  };
}

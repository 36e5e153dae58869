// Signing in with a token, where the controller does not answer without one.

import { get, signIn, signOut } from "./api.js";
import { h, replace, setText } from "./dom.js";

// showSession says in the frame who is signed in, and lets them sign out; then is
// called when they have. Where nobody has to sign in there is nothing to say.
export async function showSession(then) {
  const who = document.getElementById("who");
  const session = await get("/v1/session");
  who.hidden = session.anonymous;
  if (session.anonymous) return;
  replace(who, `${session.name}, ${session.role}`, h("button", { type: "button", class: "quiet", onclick: async () => {
    await signOut();
    who.hidden = true;
    then();
  } }, "Sign out"));
}

// signInForm asks for a token and calls then when it was taken.
export function signInForm(then) {
  const input = h("input", {
    id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "token-error",
  });
  const error = h("p", { id: "token-error", class: "mistake", role: "alert" });
  const submit = async (event) => {
    event.preventDefault();
    setText(error, "");
    input.removeAttribute("aria-invalid");
    try {
      await signIn(input.value.trim());
      then();
    } catch (problem) {
      setText(error, problem.message);
      input.setAttribute("aria-invalid", "true");
      input.focus();
    }
  };
  document.title = "Sign in – edge-provision";
  return h("form", { class: "view signin", onsubmit: submit },
    h("h1", {}, "Sign in"),
    h("p", {}, "Off its own host this controller answers only to a token. ", h("code", {}, "edge-provision token create"), " makes one."),
    h("label", { for: "token" }, "Token"), input, error,
    h("button", { type: "submit", class: "primary" }, "Sign in"));
}

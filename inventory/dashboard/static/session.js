// Signing in with a token, where the controller does not answer without one.

import { session, signIn, signOut } from "./api.js";
import { h, replace, setText } from "./dom.js";

// roles, the weakest first; each may do what those before it may.
const roles = ["reader", "operator", "admin"];

// may tells whether somebody can do what needs a role.
export const may = (session, role) => roles.indexOf(session?.role ?? "") >= roles.indexOf(role);

// showSession says in the frame who is signed in, and lets them sign out; then is
// called when they have. Who may only look can sign in: enter is called for that.
// It returns who asks.
export async function showSession(then, enter) {
  const who = document.getElementById("who");
  const asks = await session();
  who.hidden = asks.anonymous && !asks.role;
  const button = (text, onclick) => h("button", { type: "button", class: "quiet", id: "session", onclick }, text);
  if (asks.anonymous) {
    replace(who, button("Sign in", enter));
    return asks;
  }
  replace(who, `${asks.name}, ${asks.role}`, button("Sign out", async () => {
    await signOut();
    who.hidden = true;
    then();
  }));
  return asks;
}

// signInForm asks for a token and calls then when it was taken. leave is called by
// who would rather not; undefined where nothing can be seen without a token.
export function signInForm(then, leave) {
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
    h("h1", { tabindex: "-1" }, "Sign in"),
    h("p", {}, "A token says who you are, and what you may do. ", h("code", {}, "edge-provision token create"), " makes one on the controller."),
    h("label", { for: "token" }, "Token"), input, error,
    h("p", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Sign in"), leave && h("button", { type: "button", onclick: leave }, "Cancel")));
}

// Signing in with a token, where the controller does not answer without one.

import { signIn } from "./api.js";
import { h, setText } from "./dom.js";

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

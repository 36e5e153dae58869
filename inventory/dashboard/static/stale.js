// What is said while a page cannot be kept true: it stays as it is, with the time
// that it is of.

import { announce, setText } from "./dom.js";
import { moment } from "./format.js";

// stale says so in an element, for one view. what is anything that can be late.
export function stale(element) {
  const missing = new Set();
  let at = Date.now(); // when all was as it is shown
  setText(element, "");
  return {
    late(what) {
      missing.add(what);
      setText(element, `The controller cannot be asked now. What is shown here is of ${moment(at)}; the page goes on trying.`);
    },
    came(what) {
      const was = missing.delete(what);
      if (missing.size > 0) return;
      at = Date.now();
      if (!was) return;
      setText(element, "");
      announce("What is shown is up to date again");
    },
  };
}

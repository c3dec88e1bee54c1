// Whether the worker answers, and what is said while it does not.

import { moment } from "/page/format.js";
import { say } from "/page/dom.js";

let lostAt = null;
let onToken = () => {};

/** Has `listener` called when the worker wants its token shown. */
export function whenTokenIsWanted(listener) {
  onToken = listener;
}

export function wantsToken() {
  found();
  onToken();
}

export function lost() {
  lostAt ??= Date.now();
  show(`No answer since ${moment(lostAt)}, trying again. What is shown is from then.`);
}

export function found() {
  if (lostAt === null) return;
  lostAt = null;
  show("");
}

function show(text) {
  const banner = document.getElementById("banner");
  banner.hidden = text === "";
  document.body.classList.toggle("stale", text !== "");
  say(banner, text);
}

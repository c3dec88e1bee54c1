// Keys that work wherever nothing is being typed.

import { help } from "/page/dialogs.js";

const VIEWS = { 1: "#/", 2: "#/events", 3: "#/plan", 4: "#/worker" };

/** Whether keys belong to `element`: what is typed, the terminal, an open dialog. */
function takesKeys(element) {
  return element.closest("input, textarea, .terminal, dialog") !== null;
}

/** Listens; `keys()` are those of the view that is open. */
export function listen(keys) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    const field = event.target.closest?.("input, textarea");
    if (field && event.key === "Escape") {
      field.blur();
      if (field.id !== "filter") return;
    } else if (field?.id === "filter" && (event.key === "Enter" || event.key === "ArrowDown")) {
      // From the filter into what it left.
    } else if (takesKeys(event.target)) {
      return;
    }
    const own = keys()[field && event.key === "Enter" ? "ArrowDown" : event.key];
    if (own) {
      own();
    } else if (event.key === "?") {
      help();
    } else if (VIEWS[event.key]) {
      location.hash = VIEWS[event.key];
    } else if (event.key === "Escape") {
      location.hash = "#/";
    } else {
      return;
    }
    event.preventDefault();
  });
}

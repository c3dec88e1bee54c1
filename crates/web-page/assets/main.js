// Which view is open: the part of the address behind "#" says it, so that views can be linked to and gone back from.

import * as connection from "/page/connection.js";
import * as dialogs from "/page/dialogs.js";
import * as events from "/page/events.js";
import * as keyboard from "/page/keyboard.js";
import * as list from "/page/list.js";
import * as plan from "/page/plan.js";
import * as store from "/page/store.js";
import * as vm from "/page/vm.js";
import * as worker from "/page/worker.js";

const VIEWS = { events, plan, worker };
let current = { end: () => {}, keys: {} };
let cameFrom = null;

/** Opens what the address says. */
function show() {
  const [name, ...more] = location.hash.replace(/^#\/?/, "").split("/").map(decode);
  const main = document.getElementById("content");
  current.end();
  main.replaceChildren();
  if (name === "vm" && more[0]) {
    current = vm.open(main, more[0], more[1]);
    cameFrom = more[0];
    document.title = `${more[0]} – Procurator worker`;
  } else {
    current = (VIEWS[name] ?? list).open(main);
    document.title = "Procurator worker";
    if (!VIEWS[name] && cameFrom) main.querySelector(`tr[data-vm="${CSS.escape(cameFrom)}"]`)?.focus();
  }
  for (const link of document.querySelectorAll("nav a")) {
    const is = link.dataset.view === (name === "vm" || !VIEWS[name] ? "list" : name);
    if (is) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** An address that somebody wrote by hand may be no text at all. */
function decode(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

/** Says on each view that something is not as it should be. */
function mark({ status }) {
  const count = status ? worker.troubles(status).length : 0;
  const link = document.querySelector('nav a[data-view="worker"]');
  link.textContent = count > 0 ? `Worker (${count})` : "Worker";
  link.classList.toggle("troubled", count > 0);
}

connection.whenTokenIsWanted(() => dialogs.token().then(store.refresh));
store.watch(mark);
keyboard.listen(() => current.keys);
// Its address is no view.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("content").focus();
});
document.getElementById("help").addEventListener("click", dialogs.help);
addEventListener("hashchange", show);
// The terminal's own sheet; a build without a terminal has none.
document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: "/page/xterm.css" }));
show();
store.start();

// Questions that stand before everything else: confirmations, the token, the keys.

import { post } from "/page/api.js";
import { el, say } from "/page/dom.js";
import { keep } from "/page/session.js";

/** Shows `dialog` until it is closed; answers with its return value. The focus goes back to where it was. */
function shown(dialog) {
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    }, { once: true });
  });
}

/** Asks before something is done that ends what a guest does. */
export async function confirmed(question, consequence, verb) {
  const dialog = el("dialog", { "aria-labelledby": "question" },
    el("h2", { id: "question" }, question), el("p", {}, consequence),
    el("div", { class: "buttons" },
      el("button", { type: "button", autofocus: true, onclick: () => dialog.close("") }, "Leave it"),
      el("button", { type: "button", class: "danger", onclick: () => dialog.close("yes") }, verb)));
  return (await shown(dialog)) === "yes";
}

let asked = null;

/** Asks for the token until it is right. Whoever calls meanwhile waits for the same. */
export function token() {
  asked ??= askForToken().finally(() => { asked = null; });
  return asked;
}

async function askForToken() {
  const input = el("input", { type: "password", id: "token", autocomplete: "current-password", required: true, autofocus: true });
  const problem = el("p", { class: "problem", role: "alert" });
  const form = el("form", { onsubmit: async (event) => {
    event.preventDefault();
    say(problem, "");
    try {
      const { session } = await post("/login", { token: input.value });
      keep(session);
      dialog.close("yes");
    } catch (refusal) {
      say(problem, refusal.message);
      input.select();
    }
  } }, el("input", { type: "text", autocomplete: "username", value: "procurator-worker", hidden: true }), el("label", { for: "token" }, "Token"), input, problem, el("div", { class: "buttons" }, el("button", {}, "Log in")));
  const dialog = el("dialog", { "aria-labelledby": "login", oncancel: (event) => event.preventDefault() },
    el("h2", { id: "login" }, "This worker wants its token"), form);
  await shown(dialog);
}

const KEYS = [
  ["1 2 3 4", "VMs, events, plan, worker"],
  ["j k ↓ ↑", "next VM, VM before"],
  ["Enter", "open the VM"],
  ["/", "filter VMs"],
  ["o c e i", "of a VM: overview, console, events, everything"],
  ["Ctrl ]", "leave the console's keyboard"],
  ["Esc", "back"],
  ["?", "these keys"],
];

/** Shows which keys there are. */
export function help() {
  if (document.querySelector("dialog")) return;
  const rows = KEYS.map(([keys, meaning]) => el("tr", {}, el("th", { scope: "row" }, keys.split(" ").map((key) => [el("kbd", {}, key), " "])), el("td", {}, meaning)));
  const dialog = el("dialog", { "aria-labelledby": "keys" }, el("h2", { id: "keys" }, "Keys"), el("table", { class: "keys" }, el("tbody", {}, rows)),
    el("div", { class: "buttons" }, el("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Close")));
  shown(dialog);
}

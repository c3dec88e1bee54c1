// What a desired state would change. Nothing is done.

import { post } from "/page/api.js";
import { el } from "/page/dom.js";
import { printable } from "/page/format.js";

const EXAMPLE = '{ "vms": [ { "id": "web-1", "hash": "sha256-…", "store_path": "/nix/store/…" } ] }';

/** What `plan` says, in a list. */
function said(plan) {
  const lines = plan.actions.map((action) => {
    const restarts = action.restarts === true ? " (its machine is replaced)" : "";
    return el("li", {}, el("strong", {}, action.vm), `: ${printable(action.action)}${restarts}`);
  });
  const refused = plan.refused_entries.map((entry) => el("li", { class: "problem" }, printable(`${entry.id ?? "an entry"}: ${entry.problem ?? JSON.stringify(entry)}`)));
  const notes = plan.notes.map((note) => el("li", {}, printable(note)));
  const held = plan.held ? el("p", { class: "problem" }, printable(`It would wait for an operator's word: ${plan.held.reason ?? ""}`)) : null;
  const nothing = lines.length + refused.length === 0 ? el("p", {}, "Nothing would change.") : null;
  return [held, nothing, el("ul", {}, lines, refused, notes)];
}

export function open(main) {
  const text = el("textarea", { id: "state", rows: "14", spellcheck: "false", placeholder: EXAMPLE });
  const answer = el("div", { role: "status", class: "answer" });
  const show = async (event) => {
    event?.preventDefault();
    answer.replaceChildren("…");
    try {
      answer.replaceChildren(...said(await post("/v1/plan", text.value)).filter(Boolean));
    } catch (problem) {
      answer.replaceChildren(el("p", { class: "problem" }, problem.message));
    }
  };
  text.addEventListener("keydown", (event) => { if (event.ctrlKey && event.key === "Enter") show(); });
  main.append(el("h2", {}, "Plan"), el("form", { onsubmit: show },
    el("label", { for: "state" }, "A desired state: what would it change on this host?"), text,
    el("div", { class: "buttons" }, el("button", { "aria-keyshortcuts": "Control+Enter" }, "Show what would change"))), answer);
  text.focus();
  return { end: () => {}, keys: {} };
}

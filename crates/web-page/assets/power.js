// Telling a VM what to do, and hearing what became of it.

import { get, post, vmPath } from "/page/api.js";
import { confirmed } from "/page/dialogs.js";
import { el, say } from "/page/dom.js";
import { refresh } from "/page/store.js";

/** What can be told in which phases; and what is asked before, where it ends what a guest does. */
const VERBS = [
  { verb: "start", label: "Start", phases: ["stopped", "failed", "restarting"] },
  { verb: "stop", label: "Stop", phases: ["creating", "booting", "running", "paused", "restarting"],
    ends: "Its power button is pressed. A guest that does not obey in time is killed. It stays off until it is started." },
  { verb: "restart", label: "Restart", phases: ["booting", "running", "paused"],
    ends: "It is stopped and started again. What its guest does ends; its disks stay." },
  { verb: "pause", label: "Pause", phases: ["running"] },
  { verb: "resume", label: "Resume", phases: ["paused"] },
];

/** Seconds that the worker waits for an operation to end before it answers how far it is. */
const FOLLOWED = 10;

/** Buttons for VM `id`; `update(vm, access)` brings them up to date. */
export class Power {
  constructor(id) {
    this.id = id;
    this.said = el("span", { class: "said", role: "status" });
    this.buttons = VERBS.map((verb) => el("button", { type: "button", class: verb.ends ? "danger" : null, "data-verb": verb.verb, onclick: () => this.tell(verb) }, verb.label));
    this.element = el("div", { class: "power" }, this.buttons, this.said);
  }

  update(vm, access) {
    this.buttons.forEach((button, index) => {
      button.disabled = !VERBS[index].phases.includes(vm.phase) || vm.removing;
      button.hidden = access === "read_only";
    });
  }

  async tell({ verb, label, ends }) {
    if (ends && !(await confirmed(`${label} ${this.id}?`, ends, `${label} ${this.id}`))) return;
    say(this.said, `${verb} …`);
    try {
      let operation = await post(vmPath(this.id, `/${verb}`), { wait: false });
      while (operation.state === "running") {
        refresh();
        operation = await get(`/v1/operations/${operation.id}?wait=${FOLLOWED}`);
      }
      if (operation.state === "failed") throw new Error(operation.error?.message ?? `${verb} failed`);
      say(this.said, operation.outcome ? `${verb}: ${operation.outcome}` : `${verb}: done`);
    } catch (problem) {
      say(this.said, `${verb}: ${problem.message}`);
    }
    refresh();
  }
}

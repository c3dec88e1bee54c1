// All VMs, with a row each.

import { el, say } from "/page/dom.js";
import { printable, since } from "/page/format.js";
import { KINDS, Plot } from "/page/plots.js";
import { known, watch } from "/page/store.js";

/** What a VM should hear of beside its phase. */
export function remark(vm) {
  if (vm.hung) return "its machine stands still";
  if (vm.disk_trouble) return "waits for a disk of the host";
  if (vm.boot_trouble) return "its boot waits";
  if (vm.crash_looping) return "fails again and again";
  if (vm.removing) return "is being removed";
  if (vm.on_trial) return "on trial";
  if (vm.verifying) return "is being hashed";
  if (vm.waits_to_start) return "waits for its turn";
  if (vm.phase === "failed" || vm.phase === "restarting") return printable(vm.reason?.message ?? "");
  if (vm.wanted) return "a change is not in force";
  return "";
}

/** Whether its guest is ready, where that is known. */
export function readiness(vm) {
  const words = { ready: "ready", not_ready: "not ready" };
  return words[vm.health?.readiness] ?? "";
}

const NO_POINTS = [];

class Row {
  constructor(id) {
    this.name = el("a", { href: `#/vm/${encodeURIComponent(id)}`, tabindex: "-1" }, id);
    this.phase = el("span", { class: "phase" });
    this.ready = el("span", { class: "ready" });
    this.remark = el("span", { class: "remark" });
    this.address = el("td", { class: "address" });
    this.age = el("td", { class: "age" });
    this.plots = KINDS.map((kind) => new Plot(kind));
    const cells = this.plots.map((plot) => el("td", { class: "use" }, el("span", { class: "label" }, plot.kind.name), plot.element));
    this.element = el("tr", { tabindex: "-1", "data-vm": id, onclick: () => { location.hash = this.name.hash; } },
      el("th", { scope: "row" }, this.name), el("td", { class: "state" }, this.phase, " ", this.ready, this.remark),
      this.address, this.age, cells);
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.target === this.element) location.hash = this.name.hash;
    });
  }

  /** Brings it up to date with `vm`, where that or its samples are others than before: most news are about another VM. */
  update(vm) {
    say(this.age, vm.started_at ? since(vm.started_at) : "");
    const points = known.history.get(vm.id) ?? NO_POINTS;
    if (vm === this.vm && points === this.points) return;
    [this.vm, this.points] = [vm, points];
    say(this.phase, vm.phase);
    const phase = `phase ${vm.phase}`;
    if (this.phase.className !== phase) this.phase.className = phase;
    say(this.ready, readiness(vm));
    say(this.remark, remark(vm));
    say(this.address, vm.address);
    for (const plot of this.plots) plot.draw(points);
  }

  matches(vm, words) {
    const text = `${vm.id} ${vm.phase} ${vm.address ?? ""} ${readiness(vm)}`.toLowerCase();
    return words.every((word) => text.includes(word));
  }
}

/** The view of all VMs in `main`; returns what ends it and which keys it takes. */
export function open(main) {
  const rows = new Map();
  const filter = el("input", { type: "search", id: "filter", placeholder: "Filter ( / )", "aria-label": "Filter VMs", autocomplete: "off", spellcheck: "false", oninput: update });
  const count = el("p", { class: "count", role: "status" });
  const body = el("tbody");
  const heads = ["VM", "State", "Address", "Up", ...KINDS.map((kind) => kind.name)].map((head) => el("th", { scope: "col" }, head));
  const table = el("table", { class: "vms", "aria-label": "VMs" }, el("thead", {}, el("tr", {}, heads)), body);
  let current = null;
  main.append(el("div", { class: "bar" }, el("h2", {}, "VMs"), filter, count), table);

  function update() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const gone = new Set(rows.keys());
    for (const [index, vm] of known.vms.entries()) {
      gone.delete(vm.id);
      const row = rows.get(vm.id) ?? new Row(vm.id);
      rows.set(vm.id, row);
      row.element.hidden = !row.matches(vm, words);
      if (!row.element.hidden) row.update(vm);
      // Rows move only where they must: a moved one loses its focus.
      const place = body.children[index];
      if (place !== row.element) body.insertBefore(row.element, place ?? null);
    }
    for (const id of gone) {
      rows.get(id).element.remove();
      rows.delete(id);
    }
    const all = visible();
    const shown = all.length;
    say(count, known.status === null ? "" : shown === known.vms.length ? `${shown} VMs` : `${shown} of ${known.vms.length} VMs`);
    table.hidden = known.vms.length === 0;
    choose(all.includes(current) ? current : all[0] ?? null);
  }

  const visible = () => [...body.children].filter((row) => !row.hidden);

  /** One row is reached by Tab; the others from there, by arrows. */
  function choose(row) {
    if (row === current) return;
    if (current) current.tabIndex = -1;
    current = row;
    if (current) current.tabIndex = 0;
  }

  function move(by) {
    const all = visible();
    const from = all.indexOf(document.activeElement.closest?.("tr"));
    const row = from < 0 ? current ?? all[0] : all[Math.min(all.length - 1, Math.max(0, from + by))];
    choose(row);
    row?.focus();
    row?.scrollIntoView({ block: "nearest" });
  }

  update();
  const end = watch(update);
  return {
    end,
    keys: {
      j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
      Home: () => move(-Infinity), End: () => move(Infinity),
      "/": () => filter.focus(),
      Escape: () => { filter.value = ""; update(); move(0); },
    },
  };
}

// One VM: its figures, what it is made of, what happened to it, its console, and buttons.

import { Console } from "/page/console.js";
import { el, facts, say } from "/page/dom.js";
import * as events from "/page/events.js";
import { bytes, moment, printable, since } from "/page/format.js";
import { readiness, remark } from "/page/list.js";
import { KINDS, Plot } from "/page/plots.js";
import { Power } from "/page/power.js";
import { known, watch } from "/page/store.js";

/** What one can look at, with its key. */
const TABS = [["overview", "Overview", "o"], ["console", "Console", "c"], ["events", "Events", "e"], ["everything", "Everything", "i"]];

const parts = {
  overview(parent, id) {
    const plots = KINDS.map((kind) => new Plot(kind, true));
    const place = el("div");
    parent.append(el("div", { class: "plots" }, plots.map((plot) => plot.element)), place);
    let shown = "";
    const update = (vm) => {
      for (const plot of plots) plot.draw(known.history.get(id) ?? []);
      const rows = vm ? described(vm) : [];
      const text = JSON.stringify(rows);
      // Unchanged text is left alone: somebody may have marked it.
      if (text !== shown) place.replaceChildren(facts(rows));
      shown = text;
    };
    return { update, end: () => {} };
  },
  console(parent, id) {
    const console = new Console(parent, id);
    return { update: () => {}, end: () => console.close() };
  },
  events(parent, id) {
    return { update: () => {}, end: events.list(parent, id) };
  },
  everything(parent) {
    const text = el("pre", { tabindex: "0", "aria-label": "All that is known" });
    parent.append(text);
    return { update: (vm) => say(text, vm ? JSON.stringify(vm, null, 2) : ""), end: () => {} };
  },
};

/** What is said of a VM beside its curves. */
function described(vm) {
  const disks = vm.machine?.disks.map((disk) => `${disk.id}: ${bytes(disk.size_bytes)}, ${disk.access.replace("_", " ")}`);
  const order = vm.order ? "an operator's order goes before its assignment" : "";
  const reason = vm.reason ? [vm.reason.message, vm.reason.hint].filter(Boolean).join("; ") : "";
  return [
    ["Should be", [vm.desired, order].filter(Boolean).join("; ")],
    ["Said by", vm.source],
    ["Up", vm.started_at ? `${since(vm.started_at).replace(/ \d+ s$/, "")}, since ${moment(vm.started_at)}` : ""],
    ["Next start", vm.next_start_at ? moment(vm.next_start_at) : ""],
    ["What went wrong last", reason && printable(reason)],
    ["Addresses", [vm.address, vm.ipv6, vm.mac].filter(Boolean).join(", ")],
    ["Ports", vm.ports.join(", ")],
    ["Machine", vm.machine ? `${vm.machine.vcpus} vCPU, ${bytes(vm.machine.memory_bytes)}` : ""],
    ["Disks", disks?.join("; ")],
    ["Kernel's words", vm.machine && printable(vm.machine.cmdline)],
    ["Artifact", vm.store_path],
    ["Hash", vm.hash],
    ["Generation", String(vm.generation)],
    ["Restarts", vm.restarts ? String(vm.restarts) : ""],
    ["Warnings", vm.warnings.map(printable).join("; ")],
  ];
}

/** The view of VM `id`, of which `wanted` is looked at. */
export function open(main, id, wanted = "overview") {
  const name = TABS.some(([tab]) => tab === wanted) ? wanted : "overview";
  const path = (tab) => `#/vm/${encodeURIComponent(id)}${tab === "overview" ? "" : `/${tab}`}`;
  const go = (tab) => { location.hash = path(tab); };
  const phase = el("span", { class: "phase" });
  const ready = el("span", { class: "ready" });
  const note = el("span", { class: "remark" });
  const power = new Power(id);
  const tabs = TABS.map(([tab, label, key]) => el("a", {
    href: path(tab), role: "tab", id: `tab-${tab}`, "aria-selected": String(tab === name), "aria-controls": "panel",
    "aria-keyshortcuts": key, tabindex: tab === name ? "0" : "-1",
  }, label));
  const list = el("div", { role: "tablist", "aria-label": `Of ${id}`, onkeydown: (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by === undefined) return;
    const at = TABS.findIndex(([tab]) => tab === name);
    sessionStorage.setItem("focus", "tab");
    go(TABS[(at + by + TABS.length) % TABS.length][0]);
  } }, tabs);
  const panel = el("section", { id: "panel", role: "tabpanel", "aria-labelledby": `tab-${name}`, class: name });
  main.append(el("div", { class: "bar" }, el("a", { href: "#/", class: "back" }, "‹ VMs"), el("h2", {}, id), phase, ready, note, power.element), list, panel);
  if (sessionStorage.getItem("focus") === "tab") tabs.find((tab) => tab.tabIndex === 0)?.focus();
  sessionStorage.removeItem("focus");
  const part = parts[name](panel, id);

  function update() {
    const vm = known.vms.find((one) => one.id === id);
    say(phase, vm?.phase ?? (known.status ? "there is no such VM" : ""));
    phase.className = `phase ${vm?.phase ?? "failed"}`;
    say(ready, vm ? readiness(vm) : "");
    say(note, vm ? remark(vm) : "");
    power.element.hidden = !vm;
    if (vm) power.update(vm, known.status?.access);
    part.update(vm);
  }
  update();
  const unwatch = watch(update);
  const keys = Object.fromEntries(TABS.map(([tab, , key]) => [key, () => go(tab)]));
  return { end: () => { unwatch(); part.end(); }, keys: { ...keys, Escape: () => { location.hash = "#/"; } } };
}

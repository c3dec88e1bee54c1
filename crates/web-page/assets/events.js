// What happened, in words.

import { el } from "/page/dom.js";
import { bytes, moment, printable } from "/page/format.js";
import { known, watch } from "/page/store.js";

const because = (reason) => (reason ? `: ${reason.message ?? reason}` : "");
const who = (by) => (by.address ? by.address : `uid ${by.uid}`);

/** For each kind of event what is said of it. */
const TEXTS = {
  vm_created: (event) => `created from ${event.store_path}`,
  vm_taken_up: (event) => `taken up again, from ${event.store_path}`,
  vm_removed: (event) => (event.kept_until ? `removed; its volumes are kept until ${moment(event.kept_until)}` : "removed"),
  phase_changed: (event) => `${event.from} → ${event.to}${because(event.reason)}`,
  desired_changed: (event) => `should be ${event.to}, no longer ${event.from}`,
  readiness_changed: (event) => `${event.readiness.replace("_", " ")}${because(event.reason)}`,
  machine_reset: (event) => `reset in place, ${event.resets} times so far`,
  definition_wanted: (event) => `${event.store_path} is wanted`,
  definition_refused: (event) => `${event.store_path} cannot be used${because(event.reason)}`,
  definition_changed: (event) => `${event.store_path} is in force, of generation ${event.generation}`,
  rollout_begun: (event) => `${event.store_path} is on trial`,
  rollout_accepted: () => "what was on trial stays",
  rollout_failed: (event) => `what was on trial failed: ${event.problem}`,
  disturbed: (event) => `disturbed: ${event.problem}`,
  undisturbed: () => "disturbed no longer",
  ordered: (event) => `${event.verb} was asked for by ${who(event.by)}, answer ${event.status}`,
  source_taken: (event) => `${event.source}: generation ${event.generation} is in force`,
  source_held: (event) => `${event.source}: generation ${event.generation} is held: ${event.reason}`,
  source_refused: (event) => `${event.source}: refused: ${event.problem}`,
  master_connected: (event) => `connected with master ${event.master} at ${event.address}`,
  master_lost: (event) => `the master is away: ${event.problem}`,
  volumes_deleted: (event) => `deleted ${event.deleted.join(", ")}`,
  fetch_begun: (event) => `${event.store_path} is missing and is fetched`,
  fetch_finished: (event) =>
    `${event.store_path} was fetched: ${event.paths} paths, ${bytes(event.size)}, in ${(event.milliseconds / 1000).toFixed(1)} s`,
  fetch_failed: (event) => `${event.store_path} cannot be fetched: ${event.problem}`,
  images_collected: (event) => `${event.paths} fetched store paths that nothing needs were deleted, ${bytes(event.size)}`,
};

/** An event of a newer worker is called by its name. */
function text(event) {
  return printable((TEXTS[event.event] ?? (() => event.event))(event));
}

function line(event) {
  const vm = event.vm ? el("a", { href: `#/vm/${encodeURIComponent(event.vm)}` }, event.vm) : "–";
  return el("tr", { "data-event": event.id }, el("td", { class: "at" }, moment(event.at)), el("td", {}, vm), el("td", {}, text(event)));
}

/** A list of events, the newest first, of VM `vm` or of all; returns what ends it. */
export function list(parent, vm) {
  const body = el("tbody");
  const empty = el("p", { class: "empty" }, "Nothing has happened since the worker was started.");
  parent.append(empty, el("table", { class: "events", "aria-label": "Events, the newest first" }, body));
  const update = () => {
    const events = known.events.filter((event) => vm === undefined || event.vm === vm);
    const newest = Number(body.firstElementChild?.dataset.event ?? 0);
    // Those of a worker that was started again replace the others.
    if (events.length > 0 && body.firstElementChild && !events.some((event) => event.id === newest)) body.replaceChildren();
    const shown = Number(body.firstElementChild?.dataset.event ?? 0);
    for (const event of events) if (event.id > shown) body.prepend(line(event));
    while (body.children.length > events.length) body.lastElementChild.remove();
    empty.hidden = events.length > 0;
  };
  update();
  return watch(update);
}

/** The view of what happened on the whole host. */
export function open(main) {
  main.append(el("h2", {}, "Events"));
  return { end: list(main), keys: {} };
}

// The worker itself: what is not as it should be, who says what should run.

import { post } from "/page/api.js";
import { el, facts } from "/page/dom.js";
import { moment, printable, since } from "/page/format.js";
import { forget } from "/page/session.js";
import { known, watch } from "/page/store.js";

/** A worker that may open fewer files does not hold many VMs. */
const FEW_FILES = 4096;

/** What is wrong with those who say what should run: the same as `procurator-worker status` notes. */
function ofSources({ assignments, master, sources }) {
  const refused = Object.entries(sources).filter(([kind, source]) => kind !== "file" && source.refusal);
  const isUnused = assignments && ["missing", "refused"].includes(assignments.state);
  return [
    ...refused.map(([kind, source]) => `the newest that ${kind} says is refused, and what was in force stays: ${source.refusal}`),
    ...(isUnused ? [`the assignments ${assignments.path} are ${assignments.state}: ${assignments.problem ?? "nobody knows why"}; VMs stay as they were`] : []),
    ...(master?.state === "waiting" ? [`there is no link to the master ${master.address}, and VMs stay as they were: ${master.problem ?? "nobody knows why"}`] : []),
  ];
}

/** Everything that somebody should look at. */
export function troubles(status) {
  const held = status.held ? [`a desired state is held: ${status.held.reason ?? "it waits for an operator's word"}`] : [];
  return [
    ...held,
    ...ofSources(status),
    ...(status.unclaimed ?? []).map((vm) => `VM ${vm} is assigned by nobody, because what was assigned was lost, and stays as it is`),
    ...status.degradations,
    ...status.refused_entries.map((entry) => `an entry cannot be used: ${entry.id ?? ""} ${entry.problem ?? ""}`),
    ...status.damaged.map((vm) => `the record of ${vm.id} cannot be used: ${vm.problem}`),
    ...(status.refused_configuration ? [`the configuration was not taken: ${status.refused_configuration}`] : []),
    ...(status.settings_for_restart.length ? [`holds after a restart of the worker: ${status.settings_for_restart.join(", ")}`] : []),
    ...(status.open_files_limit && status.open_files_limit < FEW_FILES
      ? [`the worker may have ${status.open_files_limit} files open only: many VMs do not fit`] : []),
    ...(status.log_lines_dropped ? [`the log lost ${status.log_lines_dropped} lines`] : []),
  ].map(printable);
}

function described(status) {
  const { master } = status;
  const sources = Object.entries(status.sources).map(([kind, source]) => `${kind}: generation ${source.generation ?? "–"}${source.held ? ", held" : ""}`);
  return [
    ["Version", status.version],
    ["Up", `${since(status.since).replace(/ \d+ s$/, "")}, since ${moment(status.since)}`],
    ["You may", status.access === "read_only" ? "look" : "do everything"],
    ["Desired states", sources.join("; ")],
    ["Assignments", status.assignments ? `${status.assignments.path}, ${status.assignments.state.replace("_", " ")}` : ""],
    ["Master", master ? `${master.address}, ${master.state}${master.problem ? `: ${master.problem}` : ""}` : "none"],
    ["Networks", status.networks.map((network) => `${network.name}: ${network.subnet} on ${network.bridge}`).join("; ")],
    ["Guests", status.guests_outlive_worker ? "go on when the worker ends" : "are stopped when the worker ends"],
    ["Kept in", status.directories?.state],
  ];
}

export function open(main) {
  const place = el("div");
  const leave = location.protocol === "https:"
    ? el("button", { type: "button", onclick: async () => { await post("/logout"); forget(); location.reload(); } }, "Log out") : null;
  main.append(el("div", { class: "bar" }, el("h2", {}, "Worker"), leave), place);
  let shown = "";
  const update = () => {
    if (!known.status) return;
    const [list, rows] = [troubles(known.status), described(known.status)];
    const text = JSON.stringify([list, rows]);
    if (text === shown) return;
    shown = text;
    const trouble = list.length
      ? el("ul", { class: "troubles", "aria-label": "What is not as it should be" }, list.map((one) => el("li", {}, one)))
      : el("p", { class: "well" }, "Everything is as it should be.");
    place.replaceChildren(trouble, facts(rows));
  };
  update();
  return { end: watch(update), keys: {} };
}

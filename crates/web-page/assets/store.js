// What is known of the worker, kept up to date: its VMs and status by asking, what happens by its stream of events.

import { get, Unreachable } from "/page/api.js";
import { EventReader } from "/page/stream.js";

/** The pause between two questions for figures: the worker samples no more often by default. */
const PAUSE = 2_000;
/** Samples of a VM that are kept, and that are asked for once the first are there. */
const POINTS = 60;
const NEWEST_POINTS = 3;
/** Events that are kept. */
const EVENTS = 500;

/** All of it. Views read; nobody else writes. */
export const known = { vms: [], status: null, history: new Map(), events: [] };

const listeners = new Set();
let newest = 0;
let stream = null;
let timer = null;
let asking = null;
let askAgain = false;

/** Has `listener` called whenever something is known anew; returns what ends that. */
export function watch(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function tell() {
  for (const listener of listeners) listener(known);
}

/** Begins, or goes on after the token was shown. */
export function start() {
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  return refresh();
}

/** Asks at once. Whoever calls while it is being asked is served by one more question afterwards. */
export async function refresh() {
  if (asking) {
    askAgain = true;
    return asking;
  }
  clearTimeout(timer);
  asking = look().catch((problem) => { if (!(problem instanceof Unreachable)) console.warn(problem.message); });
  await asking;
  asking = null;
  const pause = askAgain ? 200 : PAUSE;
  askAgain = false;
  // Nobody looks at a page in the background.
  if (!document.hidden) timer = setTimeout(refresh, pause);
}

async function look() {
  const points = known.history.size === 0 ? POINTS : NEWEST_POINTS;
  const [list, history, status] = await Promise.all([get("/v1/vms"), get(`/v1/history?points=${points}`), get("/v1/status")]);
  if (known.status && known.status.since !== status.since) await begin();
  known.vms = asBefore(list.vms);
  known.status = status;
  merge(history.vms);
  if (!stream || stream.closed) await begin();
  tell();
}

/** `vms`, each of which nothing changed being the object that it was: views see so that there is nothing to do. */
function asBefore(vms) {
  const before = new Map(known.vms.map((vm) => [vm.id, vm]));
  return vms.map((vm) => {
    const old = before.get(vm.id);
    return old && JSON.stringify(old) === JSON.stringify(vm) ? old : vm;
  });
}

function merge(vms) {
  for (const id of known.history.keys()) if (!(id in vms)) known.history.delete(id);
  for (const [id, points] of Object.entries(vms)) {
    const kept = known.history.get(id) ?? [];
    const last = kept.at(-1)?.at ?? 0;
    const more = points.filter((point) => point.at > last);
    if (more.length > 0 || !known.history.has(id)) known.history.set(id, [...kept, ...more].slice(-POINTS));
  }
}

/** Takes in the events that are kept, and follows those to come. */
async function begin() {
  stream?.close();
  const list = await get("/v1/events");
  known.events = list.events.slice(-EVENTS);
  newest = list.newest;
  stream = new EventReader(`/v1/events?follow=true&since=${newest}`, (type, data) => {
    // Some are gone: what is kept is asked for anew.
    if (type === "gap") {
      begin().then(refresh, () => {});
      return;
    }
    const event = JSON.parse(data);
    if (event.id <= newest) return;
    newest = event.id;
    known.events = [...known.events, event].slice(-EVENTS);
    tell();
    refresh();
  });
}

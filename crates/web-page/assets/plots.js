// Curves of the last minutes: small ones in the list, large ones with figures.

import { el, say, set, svg } from "/page/dom.js";
import { bytes, percent, rate, span } from "/page/format.js";

/** What is drawn: its name, its curves, how a figure of it is said, and the least that the full height stands for. */
export const KINDS = [
  { name: "Processor", curves: [["", (points) => points.map((point) => point.cpu_percent)]], text: percent, least: 10 },
  { name: "Memory", curves: [["", (points) => points.map((point) => point.memory_resident_bytes)]], text: bytes, least: 1 << 20 },
  { name: "Network", curves: [["received", growth("network_rx_bytes")], ["sent", growth("network_tx_bytes")]], text: rate, least: 1024 },
  { name: "Disk", curves: [["read", growth("disk_read_bytes")], ["written", growth("disk_write_bytes")]], text: rate, least: 1024 },
];

const [WIDTH, HEIGHT] = [100, 24];

/** By how much a total grew a second, from sample to sample. */
function growth(key) {
  return (points) => points.slice(1).map((point, index) => {
    const before = points[index];
    return Math.max(0, point[key] - before[key]) * 1000 / Math.max(1, point.at - before.at);
  });
}

/** A plot of `kind`; `draw(points)` brings it up to date. */
export class Plot {
  constructor(kind, isLarge = false) {
    this.kind = kind;
    this.lines = kind.curves.map((_, index) => svg("polyline", { class: `curve curve-${index}` }));
    this.picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" }, this.lines);
    this.figure = el("span", { class: "figure" });
    this.top = isLarge ? el("span", { class: "top" }) : null;
    const name = isLarge ? el("h3", {}, kind.name) : null;
    this.element = el("div", { class: isLarge ? "plot large" : "plot" }, name, this.figure, this.picture, this.top);
  }

  draw(points) {
    const { kind } = this;
    const curves = kind.curves.map(([, values]) => values(points));
    const most = Math.max(kind.least, ...curves.flat());
    this.lines.forEach((line, index) => set(line, "points", path(curves[index], most)));
    const now = kind.curves.map(([name], index) => {
      const last = curves[index].at(-1);
      return last === undefined ? "" : `${kind.text(last)}${this.top && name ? ` ${name}` : ""}`;
    });
    const text = this.top ? now.filter(Boolean).join(", ") : kind.text(curves.reduce((sum, curve) => sum + (curve.at(-1) ?? 0), 0));
    say(this.figure, points.length === 0 ? "–" : text);
    const covered = points.length > 1 ? span(points.at(-1).at - points[0].at) : "0 s";
    set(this.picture, "aria-label", `${kind.name}, ${covered}: now ${this.figure.textContent}, at most ${kind.text(most)}`);
    if (this.top) say(this.top, `full height ${kind.text(most)}, ${covered}`);
  }
}

/** Places of the curve, the newest at the right. */
function path(values, most) {
  const step = WIDTH / Math.max(1, values.length - 1);
  return values.map((value, index) => `${(index * step).toFixed(2)},${(HEIGHT - 1 - (value / most) * (HEIGHT - 2)).toFixed(2)}`).join(" ");
}

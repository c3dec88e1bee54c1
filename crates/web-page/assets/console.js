// The console of a VM: what its guest writes, and what is typed at it, in a terminal.

import { get, vmPath } from "/page/api.js";
import { el, say } from "/page/dom.js";
import { FrameReader, askPen, input, resize } from "/page/frames.js";
import { protocols } from "/page/session.js";
import { known } from "/page/store.js";

/** The protocol that is asked for within the WebSocket. */
const PROTOCOL = "procurator-console";
/** Lines of what was written before that are shown. */
const TAIL = 500;
/** The pause before a lost console is asked for again. */
const AGAIN = 1_000;
/** What a key or a paste gives comes within so many milliseconds of it. */
const BY_HAND = 50;

/** The terminal's program; nothing where this build has none. */
async function program() {
  try {
    const [{ Terminal }, { FitAddon }] = await Promise.all([import("/page/xterm.mjs"), import("/page/addon-fit.mjs")]);
    return { Terminal, FitAddon };
  } catch {
    return null;
  }
}

/** Has the terminal's style elements hold no text, which this page's policy forbids, but a style sheet made by a program. */
function withoutInlineStyles(make) {
  const original = document.createElement;
  document.createElement = function create(name, ...more) {
    if (String(name).toLowerCase() !== "style") return original.call(document, name, ...more);
    const sheet = new CSSStyleSheet();
    const place = original.call(document, "template");
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
    const forget = place.remove.bind(place);
    Object.defineProperty(place, "textContent", { set: (text) => sheet.replaceSync(text) });
    place.remove = () => {
      document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== sheet);
      forget();
    };
    return place;
  };
  try { return make(); } finally { document.createElement = original; }
}

/** Text that looks like the page around it. */
function theme() {
  const style = getComputedStyle(document.body);
  const of = (name) => style.getPropertyValue(name).trim();
  return { background: of("--terminal"), foreground: of("--terminal-text"), cursor: of("--terminal-text"), selectionBackground: "#3465a480" };
}

/** The console of VM `id` in `parent`. */
export class Console {
  constructor(parent, id) {
    this.id = id;
    this.place = null;
    this.closed = false;
    this.mayType = false;
    /** Where the output ends that was there before this page attached; nothing once all of it was shown. */
    this.kept = null;
    this.handAt = -Infinity;
    this.status = el("span", { class: "pen", role: "status" });
    this.steal = el("button", { type: "button", hidden: true, onclick: () => this.reconnect("steal") }, "Type here instead");
    this.screen = el("div", { class: "screen" });
    parent.append(el("div", { class: "bar" }, this.status, this.steal), this.screen,
      el("p", { class: "hint" }, "Every key goes to the guest; Ctrl ] gives the keyboard back to the page."));
    this.begin();
  }

  async begin() {
    const found = await program();
    if (this.closed) return;
    if (!found) {
      this.screen.replaceWith(el("p", { class: "problem" },
        `This build carries no terminal. On the host: procurator-worker console ${this.id}`));
      return;
    }
    this.terminal = withoutInlineStyles(() => {
      const terminal = new found.Terminal({ fontFamily: "ui-monospace, monospace", fontSize: 13, scrollback: 5000, theme: theme(), screenReaderMode: false, convertEol: false });
      this.fit = new found.FitAddon();
      terminal.loadAddon(this.fit);
      terminal.open(this.screen);
      return terminal;
    });
    this.terminal.attachCustomKeyEventHandler((event) => {
      const leaves = event.ctrlKey && (event.key === "]" || event.code === "BracketRight");
      if (leaves && event.type === "keydown") document.querySelector("[role=tab][aria-selected=true]")?.focus();
      return !leaves;
    });
    // Programs make a terminal answer, too: only hands ask for the keyboard.
    this.terminal.onKey(() => this.byHand());
    for (const event of ["paste", "input", "compositionend"]) this.screen.addEventListener(event, () => this.byHand(), true);
    this.terminal.onData((text) => this.type(new TextEncoder().encode(text)));
    this.terminal.onBinary((text) => this.type(Uint8Array.from(text, (character) => character.charCodeAt(0))));
    this.terminal.onResize(({ cols, rows }) => this.send(resize(cols, rows)));
    this.observer = new ResizeObserver(() => this.fit.fit());
    this.observer.observe(this.screen);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.redress = () => withoutInlineStyles(() => { this.terminal.options.theme = theme(); });
    this.dark.addEventListener("change", this.redress);
    this.terminal.focus();
    this.connect("ask");
  }

  /** Attaches, after the last byte that was shown. */
  async connect(pen) {
    const attempt = Symbol("attempt");
    this.attempt = attempt;
    const list = await get(vmPath(this.id, "/console/boots")).catch(() => null);
    if (this.closed || this.attempt !== attempt) return;
    if (!list) return this.tryAgain();
    const newest = list.boots.at(-1);
    this.kept = newest ? { boot: newest.number, offset: newest.bytes } : null;
    const wanted = new URLSearchParams({ follow: "true" });
    if (known.status?.access !== "read_only") wanted.set("pen", pen);
    if (this.place) {
      wanted.set("boot", this.place.boot);
      wanted.set("offset", this.place.offset);
    } else {
      wanted.set("tail", TAIL);
    }
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}${vmPath(this.id, "/console/attach")}?${wanted}`, protocols(PROTOCOL));
    socket.binaryType = "arraybuffer";
    const reader = new FrameReader();
    this.socket = socket;
    this.ended = false;
    socket.addEventListener("open", () => this.send(resize(this.terminal.cols, this.terminal.rows)));
    socket.addEventListener("message", ({ data }) => {
      for (const frame of reader.take(data)) if (this.socket === socket) this.show(frame);
    });
    socket.addEventListener("close", () => {
      if (!this.closed && this.socket === socket && !this.ended) this.tryAgain();
    });
  }

  tryAgain() {
    const { attempt } = this;
    this.mayType = false;
    say(this.status, "no answer, trying again");
    setTimeout(() => { if (!this.closed && this.attempt === attempt) this.connect("ask"); }, AGAIN);
  }

  reconnect(pen) {
    const before = this.socket;
    this.socket = null;
    before?.close();
    this.connect(pen);
    this.terminal.focus();
  }

  show(frame) {
    const remark = (text) => this.terminal.write(`\r\n\x1b[2m[${text}]\x1b[0m\r\n`);
    switch (frame.kind) {
      case "output":
        this.place.offset += frame.bytes.length;
        this.write(frame.bytes.slice());
        break;
      case "place":
        if (this.place && frame.boot !== this.place.boot) remark("another boot");
        this.place = { boot: frame.boot, offset: frame.offset };
        if (this.reached(this.place)) this.write(new Uint8Array(0));
        break;
      case "missed": remark(`${frame.count} bytes are not kept`); break;
      case "dropped": remark(`the guest did not take ${frame.count} bytes of what was typed`); break;
      case "pen": this.showPen(frame); break;
      case "end": this.showEnd(frame); break;
      default: break;
    }
  }

  /** Has the terminal read `bytes`, which it does on its own time: its answers to them come before it calls back. */
  write(bytes) {
    const { kept } = this;
    const isLast = this.reached(this.place);
    this.terminal.write(bytes, () => { if (isLast && this.kept === kept) this.kept = null; });
  }

  showPen({ state, who }) {
    this.mayType = state === "yours";
    const texts = { yours: "You type", held: `${who} types; you read`, stolen: `${who} has taken the keyboard; you read`, "read-only": "For reading only" };
    say(this.status, texts[state] ?? state);
    this.steal.hidden = state !== "held" && state !== "stolen";
  }

  showEnd({ why, more }) {
    // A worker that ends is followed by another one.
    if (why === "ending") return;
    this.ended = true;
    this.mayType = false;
    this.steal.hidden = true;
    say(this.status, { gone: "The VM is gone", failed: `It failed: ${more}` }[why] ?? "Ended");
  }

  /** Whether all that was kept when this page attached has come at `place`. */
  reached({ boot, offset }) {
    return this.kept !== null && (boot > this.kept.boot || (boot === this.kept.boot && offset >= this.kept.offset));
  }

  /** Somebody typed or pasted. Whoever reads asks so whether the keyboard is free by now. */
  byHand() {
    this.handAt = performance.now();
    if (!this.mayType) this.send(askPen());
  }

  /** Types what the terminal gives: what came by hand, or the terminal's own answer to what its guest asks now. */
  type(bytes) {
    const isByHand = performance.now() - this.handAt < BY_HAND;
    if (!this.mayType || (this.kept !== null && !isByHand)) return;
    for (const frame of input(bytes)) this.send(frame);
  }

  send(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(frame);
  }

  close() {
    this.closed = true;
    this.observer?.disconnect();
    this.dark?.removeEventListener("change", this.redress);
    this.socket?.close();
    this.terminal?.dispose();
  }
}

// Frames of an attached console (docs/console.md): a byte of kind, two bytes of length, the content; big-endian.

const HEADER = 3;
/** The most that is typed in one frame. */
const MAX_INPUT = 4096;

const PENS = ["read-only", "yours", "held", "stolen"];
const ENDS = ["complete", "gone", "ending", "failed"];
const words = (bytes) => new TextDecoder().decode(bytes);

/** Puts frames together of messages, which begin and end anywhere. */
export class FrameReader {
  #rest = new Uint8Array(0);

  /** The frames that are whole with `message`. */
  take(message) {
    const bytes = new Uint8Array(this.#rest.length + message.byteLength);
    bytes.set(this.#rest);
    bytes.set(new Uint8Array(message), this.#rest.length);
    const frames = [];
    let at = 0;
    while (bytes.length - at >= HEADER) {
      const length = bytes[at + 1] << 8 | bytes[at + 2];
      if (bytes.length - at < HEADER + length) break;
      frames.push(frame(bytes[at], bytes.subarray(at + HEADER, at + HEADER + length)));
      at += HEADER + length;
    }
    this.#rest = bytes.slice(at);
    return frames;
  }
}

function frame(kind, content) {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  switch (kind) {
    case 1: return { kind: "output", bytes: content };
    case 2: return { kind: "place", boot: view.getUint32(0), offset: Number(view.getBigUint64(4)) };
    case 3: return { kind: "missed", count: Number(view.getBigUint64(0)) };
    case 4: return { kind: "pen", state: PENS[content[0]], who: words(content.subarray(1)) };
    case 5: return { kind: "dropped", count: Number(view.getBigUint64(0)) };
    case 6: return { kind: "end", why: ENDS[content[0]], more: words(content.subarray(1)) };
    // Kinds are added.
    default: return { kind: "unknown" };
  }
}

function encoded(kind, content) {
  return new Uint8Array([kind, content.length >> 8, content.length & 255, ...content]);
}

/** The frames that type `bytes`. */
export function input(bytes) {
  const frames = [];
  for (let at = 0; at < bytes.length; at += MAX_INPUT) frames.push(encoded(1, bytes.subarray(at, at + MAX_INPUT)));
  return frames;
}

export const resize = (columns, rows) => encoded(2, [columns >> 8, columns & 255, rows >> 8, rows & 255]);

export const askPen = () => encoded(3, []);

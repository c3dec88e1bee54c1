// Server-sent events, read by a request that can show the session; the browser's own reader cannot.

import { headers } from "/page/session.js";

/** Follows `path` and has `listener(type, data)` called for each event, until it is closed or the stream breaks off. */
export class EventReader {
  #ending = new AbortController();
  closed = false;

  constructor(path, listener) {
    // However it ends: whoever looks at `closed` begins another one.
    this.#follow(path, listener).catch(() => {}).finally(() => { this.closed = true; });
  }

  close() {
    this.closed = true;
    this.#ending.abort();
  }

  async #follow(path, listener) {
    const answer = await fetch(path, { headers: headers(), credentials: "same-origin", cache: "no-store", signal: this.#ending.signal });
    if (!answer.ok) return;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (text + value).split("\n\n");
      text = blocks.pop();
      for (const block of blocks) if (!this.closed) tell(block, listener);
    }
  }
}

/** One event: lines of a field and what it is (HTML § 9.2.6). One without data is a sign of life. */
function tell(block, listener) {
  let type = "message";
  const data = [];
  for (const line of block.split("\n")) {
    const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
    if (field === "event") type = value;
    if (field === "data") data.push(value);
  }
  if (data.length > 0) listener(type, data.join("\n"));
}

// The worker's interface (docs/api.md): questions, answers, refusals.

import * as connection from "/page/connection.js";
import { headers } from "/page/session.js";

/** What the worker says no with. */
export class Refused extends Error {
  constructor(status, { code, message, hint }) {
    super(hint ? `${message}; ${hint}` : message);
    this.status = status;
    this.code = code;
  }
}

/** No answer came. */
export class Unreachable extends Error {}

/** How long an answer may take; what is waited for longer says so. */
const PATIENCE = 15_000;

/** Asks, and answers with the JSON that came, or nothing where none did. */
export async function ask(method, path, body, patience = PATIENCE) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      body: body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body),
      headers: headers(),
      credentials: "same-origin",
      cache: path.startsWith("/v1/") ? "no-store" : "default",
      signal: AbortSignal.timeout(patience),
    });
  } catch (problem) {
    connection.lost();
    throw new Unreachable(`the worker does not answer: ${problem.message}`);
  }
  // What forwards a port answers for a worker that is away with no answer of its own.
  const text = await answer.text().catch(() => { connection.lost(); throw new Unreachable("the answer broke off"); });
  if (answer.ok) {
    connection.found();
    return text === "" ? null : JSON.parse(text);
  }
  let refusal = { code: "unknown", message: `${method} ${path} was answered with ${answer.status}` };
  try { refusal = JSON.parse(text); } catch { /* It was no worker's. */ }
  if (refusal.code === "login_needed" && path !== "/login") connection.wantsToken();
  throw new Refused(answer.status, refusal);
}

export const get = (path) => ask("GET", path);
export const post = (path, body, patience) => ask("POST", path, body, patience);

/** The path of a VM, and of what is below it. */
export const vmPath = (id, rest = "") => `/v1/vms/${encodeURIComponent(id)}${rest}`;

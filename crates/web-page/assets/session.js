// The page's part of a session at an address of the worker's own. A browser sends cookies to every port of a host, and behind
// another one may be a guest; what it keeps for an origin is kept apart by port, too.

const KEPT = "session";

/** Keeps what the worker answered a login with, as long as this tab is open. */
export function keep(session) {
  sessionStorage.setItem(KEPT, session);
}

export function forget() {
  sessionStorage.removeItem(KEPT);
}

/** The headers that show it; none behind a socket, where there is no session. */
export function headers() {
  const session = sessionStorage.getItem(KEPT);
  return session ? { "x-procurator-session": session } : {};
}

/** The subprotocols that show it, beside `protocol`: a WebSocket takes no headers. */
export function protocols(protocol) {
  const session = sessionStorage.getItem(KEPT);
  return session ? [protocol, `procurator-session.${session}`] : [protocol];
}

//! Who is let in at the page's address: browsers with a session, programs with the token.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, SET_COOKIE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tracing::{info, warn};
use web_page::{Attempts, SessionKey, Sessions, Token};

use super::super::extract::JsonBody;
use crate::access::Peer;
use crate::{ApiError, ErrorCode};

/// What decides.
#[derive(Clone)]
pub(super) struct Gate {
    token: Token,
    /// Protects what is known of clients. Held for moments.
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    sessions: Sessions,
    attempts: Attempts,
}

/// What a browser sends to be let in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    token: String,
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Gate")
    }
}

impl Gate {
    pub(super) fn new(token: Token) -> Self {
        Self { token, known: Arc::default() }
    }

    /// Whether a request with `headers` from `address` is let in.
    fn lets_in(&self, headers: &HeaderMap, address: IpAddr) -> Result<(), ApiError> {
        let session = SessionKey::of(headers);
        if session.is_some_and(|key| self.known().sessions.knows(&key, Instant::now())) {
            return Ok(());
        }
        match bearer(headers) {
            Some(shown) => self.judge(shown, address),
            None => Err(login_needed("this address wants its token")),
        }
    }

    /// Whether `shown` is the token; an address that came with wrong ones is not listened to for a while.
    fn judge(&self, shown: &str, address: IpAddr) -> Result<(), ApiError> {
        let mut known = self.known();
        let now = Instant::now();
        if let Some(wait) = known.attempts.wait(address, now) {
            let message =
                format!("too many wrong tokens came from {address}: try again in {} s", wait.as_secs() + 1);
            return Err(ApiError::new(ErrorCode::TooMany, message));
        }
        if self.token.is(shown) {
            known.attempts.succeeded(address);
            return Ok(());
        }
        known.attempts.failed(address, now);
        drop(known);
        warn!(target: "audit", %address, verb = "login", "audit: refused, the token is wrong");
        Err(login_needed("the token is wrong"))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a program shows (RFC 6750 § 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn login_needed(message: &str) -> ApiError {
    let hint = "the worker's web.token_file holds it; programs send it as `Authorization: Bearer …`";
    ApiError::new(ErrorCode::LoginNeeded, message).hint(Some(hint.to_owned()))
}

/// Whether anybody may ask for `path` by `method`: the page's files, which say nothing of this worker.
fn is_public(method: &Method, path: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD) && (path == "/" || path.starts_with("/page/"))
}

/// Passes on what anybody may have, and requests of those who are known.
pub(super) async fn only_who_is_known(
    State(gate): State<Gate>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if is_public(request.method(), request.uri().path()) {
        return next.run(request).await;
    }
    match gate.lets_in(request.headers(), address(&peer)) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Begins a session for who shows the token.
pub(super) async fn log_in(
    State(gate): State<Gate>,
    Extension(peer): Extension<Peer>,
    JsonBody(Login { token }): JsonBody<Login>,
) -> Result<Response, ApiError> {
    let address = address(&peer);
    gate.judge(token.trim(), address)?;
    let begun = gate.known().sessions.begin(Instant::now());
    let cookie = begun.ok().and_then(|key| key.cookie().ok());
    let cookie =
        cookie.ok_or_else(|| ApiError::new(ErrorCode::Internal, "the host has no random numbers"))?;
    info!(target: "audit", %address, verb = "login", "audit: let in");
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response())
}

/// Ends the session of the browser that asks.
pub(super) async fn log_out(State(gate): State<Gate>, headers: HeaderMap) -> Response {
    if let Some(key) = SessionKey::of(&headers) {
        gate.known().sessions.end(&key);
    }
    (StatusCode::NO_CONTENT, [(SET_COOKIE, SessionKey::forgotten())]).into_response()
}

/// Where a client is. Those that have gone before they could be asked share one place.
fn address(peer: &Peer) -> IpAddr {
    peer.caller.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anybody_may_have_the_page_and_order_nothing() {
        for (method, path, is) in [
            (Method::GET, "/", true),
            (Method::HEAD, "/page/main.js", true),
            (Method::POST, "/page/main.js", false),
            (Method::DELETE, "/", false),
            (Method::GET, "/v1/vms", false),
            (Method::GET, "/pages", false),
            (Method::GET, "//", false),
        ] {
            assert_eq!(is_public(&method, path), is, "{method} {path}");
        }
    }

    #[test]
    fn programs_show_the_token_in_a_header() {
        let shown = |value: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().expect("a value"))]);
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(shown("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(shown("bearer  abc ").as_deref(), Some("abc"));
        for other in ["Basic abc", "abc", ""] {
            assert_eq!(shown(other), None, "{other}");
        }
    }
}

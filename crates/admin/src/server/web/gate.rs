//! Who is let in at the page's address: browsers with a session, programs with the token.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep_until;
use tracing::{info, warn};
use web_page::{Attempts, SessionKey, Sessions, Token};

use super::super::extract::JsonBody;
use super::super::stay::Stay;
use crate::access::Peer;
use crate::connections::Place;
use crate::{ApiError, ErrorCode};

/// What decides.
#[derive(Clone)]
pub(super) struct Gate {
    token: Token,
    /// Protects what is known of clients. Held for moments.
    known: Arc<Mutex<Known>>,
    /// Told whenever sessions may have ended before their time.
    endings: watch::Sender<()>,
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

/// What it hears: its part of the session, which it shows beside the cookie.
#[derive(Serialize)]
struct Begun {
    session: String,
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Gate")
    }
}

impl Gate {
    pub(super) fn new(token: Token) -> Self {
        Self { token, known: Arc::default(), endings: watch::Sender::default() }
    }

    /// How long a request with `headers` from `address` is let in.
    fn lets_in(&self, headers: &HeaderMap, address: IpAddr) -> Result<Stay, ApiError> {
        if let Some(key) = SessionKey::of(headers)
            && self.known().sessions.end_of(&key, Instant::now()).is_some()
        {
            let gate = self.clone();
            return Ok(Stay::until(move || gate.clone().ended(key.clone())));
        }
        match bearer(headers) {
            Some(shown) => self.judge(shown, address).map(|()| Stay::default()),
            None => Err(login_needed("this address wants its token")),
        }
    }

    /// Returns when the session of `key` has ended. Cancel-safe.
    async fn ended(self, key: SessionKey) {
        let mut endings = self.endings.subscribe();
        loop {
            let Some(end) = self.known().sessions.end_of(&key, Instant::now()) else { return };
            // Both arms only wait.
            tokio::select! {
                _ = endings.changed() => {}
                () = sleep_until(end.into()) => {}
            }
        }
    }

    /// Whether `shown` is the token. A network that came with wrong ones may try no others for a while; the right one is
    /// let in all the same, so that nobody shuts out who knows it.
    fn judge(&self, shown: &str, address: IpAddr) -> Result<(), ApiError> {
        let is_right = self.token.is(shown);
        let mut known = self.known();
        let now = Instant::now();
        if is_right {
            known.attempts.succeeded(address);
            return Ok(());
        }
        if let Some(wait) = known.attempts.wait(address, now) {
            let message =
                format!("too many wrong tokens came from {address}: try again in {} s", wait.as_secs() + 1);
            return Err(ApiError::new(ErrorCode::TooMany, message));
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
    mut request: Request,
    next: Next,
) -> Response {
    if is_public(request.method(), request.uri().path()) {
        return next.run(request).await;
    }
    let stay = match gate.lets_in(request.headers(), address(&peer)) {
        Ok(stay) => stay,
        Err(refusal) => return refusal.into_response(),
    };
    if let Some(place) = request.extensions().get::<Arc<Place>>() {
        place.let_in();
    }
    request.extensions_mut().insert(stay.clone());
    if *request.method() != Method::GET {
        // What was ordered is done, and answered.
        return next.run(request).await;
    }
    match stay.limit(next.run(request)).await {
        Some(answer) => stay.limit_body(answer),
        None => login_needed("the session has ended").into_response(),
    }
}

/// Begins a session for who shows the token.
pub(super) async fn log_in(
    State(gate): State<Gate>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    JsonBody(Login { token }): JsonBody<Login>,
) -> Result<Response, ApiError> {
    let address = address(&peer);
    gate.judge(token.trim(), address)?;
    let begun = gate.known().sessions.begin(&headers, Instant::now());
    // The oldest may have made room.
    gate.endings.send_replace(());
    let key = begun.map_err(|_| ApiError::new(ErrorCode::Internal, "the host has no random numbers"))?;
    let cookie = key.cookie().map_err(|problem| ApiError::new(ErrorCode::Internal, problem.to_string()))?;
    info!(target: "audit", %address, verb = "login", "audit: let in");
    let begun = Begun { session: key.page().to_owned() };
    Ok(([(SET_COOKIE, cookie), (CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(begun))
        .into_response())
}

/// Ends the session of the browser that asks, and all that is being answered in it.
pub(super) async fn log_out(State(gate): State<Gate>, headers: HeaderMap) -> Response {
    if let Some(key) = SessionKey::of(&headers) {
        gate.known().sessions.end(&key, Instant::now());
        gate.endings.send_replace(());
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

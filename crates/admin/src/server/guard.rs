//! What stands before everything that is answered: no other site's page is, and no answer is taken for a page of its own.

use axum::Extension;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::debug;
use web_page::{Door, Question, judge, protect};

use crate::access::Peer;
use crate::{ApiError, ErrorCode};

/// Passes on what programs and the worker's own page ask.
pub(super) async fn only_own_page(
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let door = match peer.caller.address {
        Some(_) => Door::Network,
        None => Door::Socket,
    };
    judged(door, peer, request, next).await
}

/// Passes on what programs ask, and browsers for no other site.
pub(super) async fn only_scrapers(
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    judged(Door::Figures, peer, request, next).await
}

async fn judged(door: Door, peer: Peer, request: Request, next: Next) -> Response {
    let question =
        Question { method: request.method(), path: request.uri().path(), headers: request.headers() };
    let mut answer = match judge(question, door) {
        Ok(()) => next.run(request).await,
        Err(stranger) => {
            debug!(target: "audit", caller = %peer.caller, "audit: refused, {stranger}");
            ApiError::new(ErrorCode::OtherSite, stranger.to_string()).into_response()
        }
    };
    protect(answer.headers_mut());
    answer
}

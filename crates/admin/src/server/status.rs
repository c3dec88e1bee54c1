//! The worker itself.

use axum::extract::State;
use axum::{Extension, Json};

use super::Answers;
use crate::{Peer, StatusView};

/// Show how the worker itself is.
#[utoipa::path(
    get, path = "/v1/status", tag = "worker",
    responses((status = 200, description = "The worker, apart from its VMs", body = StatusView))
)]
pub(super) async fn status(
    State(answers): State<Answers>,
    Extension(peer): Extension<Peer>,
) -> Json<StatusView> {
    Json(StatusView { access: Some(peer.access), ..(answers.status)() })
}

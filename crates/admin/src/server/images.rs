//! Fetched store paths, deleted again.

use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;
use vm_model::{Bytes, CollectionRule};
use worker::vms::CollectionMode;

use super::Answers;
use super::audit::Asked;
use super::extract::{JsonBody, Keys};
use crate::ApiError;
use crate::orders::{CollectionRequest, CollectionView};

/// How a deletion is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct CollectionQuery {
    /// Whether only what would go is answered.
    #[serde(default)]
    pub(super) dry_run: bool,
}

/// Deletes fetched store paths that nothing needs. Those of a store that Nix keeps are Nix's.
#[utoipa::path(
    post, path = "/v1/images/gc", tag = "volumes", params(CollectionQuery), request_body = CollectionRequest,
    responses((status = 200, description = "What was deleted, or would be", body = CollectionView))
)]
pub(super) async fn collect(
    State(answers): State<Answers>,
    Keys(CollectionQuery { dry_run }): Keys<CollectionQuery>,
    JsonBody(request): JsonBody<CollectionRequest>,
) -> Result<(Option<Extension<Asked>>, Json<CollectionView>), ApiError> {
    let CollectionRequest { unused_seconds, keep_bytes, free_bytes } = request;
    let rule = CollectionRule {
        unused_for: unused_seconds.map(Duration::from_secs),
        keep: keep_bytes.map(Bytes::new),
        free: free_bytes.map(Bytes::new),
    };
    let mode = if dry_run { CollectionMode::Show } else { CollectionMode::Delete };
    let collected = answers.vm_manager.collect_async(rule, mode).await?;
    Ok((dry_run.then_some(Extension(Asked)), Json(CollectionView { collected })))
}

//! Operations, listed and waited for.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Answers;
use super::extract::{Keys, Number, bad_request};
use crate::{ApiError, OperationList, OperationView};

/// Longest that one waits in a single request.
const LONGEST: u64 = 600;

/// How an operation is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    /// How many seconds the answer waits for the operation's end, at most 600.
    #[serde(default)]
    wait: u64,
}

/// List the operations that are being carried out and the newest of those that ended.
#[utoipa::path(
    get, path = "/v1/operations", tag = "operations",
    responses((status = 200, description = "Oldest first", body = OperationList))
)]
pub(super) async fn list(State(answers): State<Answers>) -> Json<OperationList> {
    Json(OperationList { operations: answers.operations.list() })
}

/// Show an operation, at once or when it has ended.
#[utoipa::path(
    get, path = "/v1/operations/{id}", tag = "operations",
    params(("id" = u64, Path, description = "Its number"), WaitQuery),
    responses((status = 200, description = "How far it is", body = OperationView))
)]
pub(super) async fn get(
    State(answers): State<Answers>,
    Number(id): Number,
    Keys(WaitQuery { wait }): Keys<WaitQuery>,
) -> Result<Json<OperationView>, ApiError> {
    if wait > LONGEST {
        return Err(bad_request(&format!("invalid wait = {wait}: 0 to {LONGEST} is accepted")).about("wait"));
    }
    let Answers { operations, mut ended, .. } = answers;
    // Losing either arm loses nothing: both only wait.
    tokio::select! {
        operation = operations.wait(id, Duration::from_secs(wait)) => operation.map(Json),
        _ = ended.changed() => operations.get(id).map(Json),
    }
}

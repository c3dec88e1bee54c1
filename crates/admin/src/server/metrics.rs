//! Figures for a scraper.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use metrics::exposition::{self, Exposition, VmFigures, WorkerFigures};

use super::Answers;
use crate::{ApiError, ErrorCode, MasterState, StatusView};

/// Show the figures of the worker and of its VMs, as a Prometheus reads them.
#[utoipa::path(
    get, path = "/v1/metrics", tag = "worker",
    responses((
        status = 200, description = "OpenMetrics text", body = String,
        content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8",
    ))
)]
pub(super) async fn metrics(State(answers): State<Answers>) -> Result<Response, ApiError> {
    let vm_manager = &answers.vm_manager;
    let vms = vm_manager.list_vms().into_iter().map(|info| {
        let metrics = vm_manager.get_vm_metrics(&info.id).ok();
        VmFigures { info, metrics }
    });
    let exposition = Exposition { worker: worker((answers.status)()), vms: vms.collect() };
    let text = exposition.render().map_err(|problem| {
        ApiError::new(ErrorCode::Internal, format!("the figures cannot be written: {problem}"))
    })?;
    Ok(([(CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response())
}

fn worker(status: StatusView) -> WorkerFigures {
    let count = |things: usize| u64::try_from(things).unwrap_or(u64::MAX);
    WorkerFigures {
        version: status.version,
        since: status.since,
        master_connected: status.master.map(|master| match master.state {
            MasterState::Connected => true,
            MasterState::Connecting | MasterState::Waiting | MasterState::Ended => false,
        }),
        is_held: status.held.is_some() || status.sources.values().any(|source| source.held.is_some()),
        degradations: count(status.degradations.len()),
        damaged: count(status.damaged.len()),
        log_lines_dropped: status.log_lines_dropped,
    }
}

//! What VMs used in the last minutes, as it is kept in memory.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use worker::vms::HistoryPoint;

use super::Answers;
use super::extract::{Keys, VmName};
use super::refusal::of_vm;
use crate::{ApiError, HistoryList, HistoryView, UsagePoint};

/// How much of the past is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    /// The newest so many points of each VM; all that are kept where it is absent.
    #[serde(default)]
    points: Option<usize>,
}

impl HistoryQuery {
    fn newest(&self, kept: Vec<HistoryPoint>) -> Vec<UsagePoint> {
        let left_out = self.points.map_or(0, |points| kept.len().saturating_sub(points));
        kept.into_iter().skip(left_out).map(UsagePoint::from).collect()
    }
}

/// Show what a VM used in the last minutes.
#[utoipa::path(
    get, path = "/v1/vms/{id}/history", tag = "vms",
    params(("id" = String, Path, description = "The VM's name"), HistoryQuery),
    responses((status = 200, description = "One point a sample", body = HistoryView))
)]
pub(super) async fn of_one(
    State(Answers { vm_manager, .. }): State<Answers>,
    VmName(id): VmName,
    Keys(query): Keys<HistoryQuery>,
) -> Result<Json<HistoryView>, ApiError> {
    let kept = vm_manager.get_vm_metrics_history(&id);
    let kept = kept.map_err(|problem| of_vm(&vm_manager, &id, problem))?;
    Ok(Json(HistoryView { points: query.newest(kept) }))
}

/// Show what all VMs used in the last minutes.
#[utoipa::path(
    get, path = "/v1/history", tag = "vms", params(HistoryQuery),
    responses((status = 200, description = "By VM", body = HistoryList))
)]
pub(super) async fn of_all(
    State(Answers { vm_manager, .. }): State<Answers>,
    Keys(query): Keys<HistoryQuery>,
) -> Json<HistoryList> {
    let vms = vm_manager.list_vms().into_iter().filter_map(|info| {
        // It may have gone meanwhile.
        let kept = vm_manager.get_vm_metrics_history(&info.id).ok()?;
        Some((info.id, query.newest(kept)))
    });
    Json(HistoryList { vms: vms.collect() })
}

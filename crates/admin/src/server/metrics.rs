//! Figures for a scraper.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use metrics::exposition::{Exposition, Format, VmFigures, WorkerFigures};

use tokio::sync::mpsc;
use worker::node::NodeMessage;
use worker::vms::VmManager;

use super::{Answers, StatusSource};
use crate::{MasterState, StatusView};

/// Show the figures of the worker and of its VMs, as a Prometheus reads them.
#[utoipa::path(
    get, path = "/v1/metrics", tag = "worker",
    responses((
        status = 200, description = "OpenMetrics text; that of Prometheus 0.0.4 where `accept` names text/plain and not this",
        body = String, content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8",
    ))
)]
pub(super) async fn metrics(State(answers): State<Answers>, headers: HeaderMap) -> Response {
    scrape(State(answers.figures), headers).await
}

/// The figures, in the format that the client asks for.
pub(super) async fn scrape(State(figures): State<Figures>, headers: HeaderMap) -> Response {
    let accepted = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accepted);
    let text = figures.read().render(format);
    ([(CONTENT_TYPE, format.content_type())], text).into_response()
}

/// Where figures are read.
#[derive(Clone)]
pub(super) struct Figures {
    pub(super) vm_manager: Arc<VmManager>,
    pub(super) node: mpsc::Sender<NodeMessage>,
    pub(super) status: StatusSource,
}

impl Figures {
    fn read(&self) -> Exposition {
        let vms = self.vm_manager.list_vms().into_iter().map(|info| {
            let metrics = self.vm_manager.get_vm_metrics(&info.id).ok();
            let volumes = self.vm_manager.disk_use(&info.id);
            VmFigures { info, metrics, volumes }
        });
        let waiting = self.node.max_capacity().saturating_sub(self.node.capacity());
        Exposition { worker: worker((self.status)(), &self.vm_manager, waiting), vms: vms.collect() }
    }
}

fn worker(status: StatusView, vm_manager: &VmManager, node_queue: usize) -> WorkerFigures {
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
        log_queue_lines: status.log_queue_lines,
        node_queue_messages: count(node_queue),
        durations: vm_manager.durations(),
    }
}

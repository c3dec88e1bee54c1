//! Who changed what: a line of the log at target `audit` and an event for each request that changes something; and what
//! clients that may only look are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::field::display;
use tracing::{Instrument, debug, info, info_span, warn};
use vm_model::{Caller, EventKind, VmId};
use worker::events::EventLog;

use crate::access::{Access, Peer};

/// The header that tells a request's number.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a request asks for, as it is told to whoever looks after the host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    verb: String,
    vm: Option<VmId>,
}

/// Put on answers by handlers that know more of the VM than the path says.
#[derive(Clone, Debug)]
pub(super) struct AuditedVm(pub(super) VmId);

/// Where orders are noted, and how many requests there were.
#[derive(Clone)]
pub(super) struct Audit {
    events: Arc<EventLog>,
    requests: Arc<AtomicU64>,
}

impl Audit {
    pub(super) fn new(events: Arc<EventLog>) -> Self {
        Self { events, requests: Arc::default() }
    }
}

/// Lets a request through, and notes what became of it where it changes something. What is logged of it has its number,
/// which its answer has, too.
pub(super) async fn watch_over(
    State(Audit { events, requests }): State<Audit>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let request_id = requests.fetch_add(1, Ordering::Relaxed) + 1;
    let mut answer = answer(&events, peer, request, next).instrument(info_span!("request", request_id)).await;
    answer.headers_mut().insert(REQUEST_ID, HeaderValue::from(request_id));
    answer
}

async fn answer(events: &EventLog, peer: Peer, request: Request, next: Next) -> Response {
    if is_harmless(request.method()) {
        return next.run(request).await;
    }
    let Order { verb, vm } = order(request.method(), request.uri().path());
    let is_question = is_question(request.uri());
    let answer = match peer.access {
        Access::Full => next.run(request).await,
        // Nothing was changed and nothing could be: who may only look fills neither the log nor what happened lately.
        Access::ReadOnly => {
            let Caller { uid, gid, pid, address } = peer.caller;
            let address = address.map(display);
            debug!(target: "audit", uid, gid, pid, address, verb, "audit: refused to who may only look");
            return peer.only_looks().into_response();
        }
    };
    if is_question {
        let Caller { uid, gid, pid, address } = peer.caller;
        let address = address.map(display);
        debug!(target: "audit", uid, gid, pid, address, verb, status = answer.status().as_u16(), "audit: asked what would follow");
        return answer;
    }
    let vm = answer.extensions().get::<AuditedVm>().map(|AuditedVm(vm)| vm.clone()).or(vm);
    note(events, peer.caller, &verb, vm.as_ref(), answer.status().as_u16());
    answer
}

/// Notes that `by` asked for `verb` and was answered with `status`.
fn note(events: &EventLog, by: Caller, verb: &str, vm: Option<&VmId>, status: u16) {
    let Caller { uid, gid, pid, address } = by;
    let address = address.map(display);
    let vm_id = vm.map(VmId::as_str).unwrap_or_default();
    if (200..300).contains(&status) {
        info!(target: "audit", uid, gid, pid, address, verb, vm_id, status, "audit: ordered");
    } else {
        warn!(target: "audit", uid, gid, pid, address, verb, vm_id, status, "audit: refused");
    }
    events.record(vm, EventKind::Ordered { verb: verb.to_owned(), by, status });
}

fn is_harmless(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a request asks what would follow from an order, and orders nothing: neither the log nor what happened lately is
/// filled by that.
fn is_question(uri: &Uri) -> bool {
    let is_dry_run = |query: &str| query.split('&').any(|part| part == "dry_run=true");
    uri.path().trim_matches('/') == "v1/plan" || uri.query().is_some_and(is_dry_run)
}

/// What `method` on `path` asks for. Of what is not known, method and path are the verb.
fn order(method: &Method, path: &str) -> Order {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (verb, vm) = match parts.as_slice() {
        ["v1", "vms"] if *method == Method::POST => ("create", None),
        ["v1", "vms", vm] if *method == Method::DELETE => ("rm", Some(*vm)),
        ["v1", "vms", vm] if *method == Method::PATCH => ("set", Some(*vm)),
        ["v1", "vms" | "removed", vm, verb] if *method == Method::POST => (*verb, Some(*vm)),
        ["v1", verb] | ["v1", "images", verb] if *method == Method::POST => (*verb, None),
        _ => return Order { verb: short(&format!("{method} {path}")), vm: None },
    };
    Order { verb: short(verb), vm: vm.and_then(|vm| VmId::parse(vm).ok()) }
}

/// Clients choose paths: what is kept of one is short.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_asks_orders_nothing() {
        let asks = |uri: &str| is_question(&uri.parse::<Uri>().expect("a URI"));
        assert!(asks("/v1/plan") && asks("/v1/plan?source=master") && asks("/v1/vms/a?dry_run=true"));
        assert!(!asks("/v1/vms/a?dry_run=false") && !asks("/v1/vms/plan") && !asks("/v1/gc"));
    }

    #[test]
    fn requests_are_named_as_the_command_line_names_them() {
        let named = |method: Method, path: &str| {
            let Order { verb, vm } = order(&method, path);
            (verb, vm.map(|vm| vm.as_str().to_owned()))
        };
        let of = |verb: &str, vm: Option<&str>| (verb.to_owned(), vm.map(str::to_owned));
        assert_eq!(named(Method::POST, "/v1/vms"), of("create", None));
        assert_eq!(named(Method::DELETE, "/v1/vms/web-1"), of("rm", Some("web-1")));
        assert_eq!(named(Method::POST, "/v1/vms/web-1/stop"), of("stop", Some("web-1")));
        assert_eq!(named(Method::POST, "/v1/removed/web-1/undelete"), of("undelete", Some("web-1")));
        assert_eq!(named(Method::POST, "/v1/gc"), of("gc", None));
        assert_eq!(named(Method::POST, "/v1/images/gc"), of("gc", None));
        assert_eq!(named(Method::PUT, "/v1/vms"), of("PUT /v1/vms", None));
        assert_eq!(named(Method::POST, "/v1/vms/%0a/stop"), of("stop", None));
        assert_eq!(named(Method::POST, &format!("/{}", "x".repeat(9999))).0.len(), 64);
    }
}

//! Who changed what: a line of the log at target `audit` and an event for each request that changes something; and what
//! clients that may only look are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::{Instrument, debug, info, info_span, warn};
use vm_model::{Caller, EventKind, VmId};
use worker::events::EventLog;

use crate::access::{Access, CallerFields, Peer};

/// The header that tells a request's number.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The status that is noted where the client left before there was an answer. No answer has it.
const LEFT: u16 = 499;

/// What a request asks for, as it is told to whoever looks after the host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    verb: String,
    vm: Option<VmId>,
}

/// Put on answers by handlers that know more of the VM than the path says.
#[derive(Clone, Debug)]
pub(super) struct AuditedVm(pub(super) VmId);

/// Put on answers to what only asked what would follow from an order. Neither the log nor what happened lately is filled by
/// that. The handlers say so, who know what they read and did; what a query seems to say is nobody's word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked;

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
    let order = order(request.method(), request.uri().path());
    let by = peer.caller;
    match peer.access {
        Access::Full => {
            let note = Note { events, by, order, is_written: false };
            let answer = next.run(request).await;
            note.answered(&answer);
            answer
        }
        // Nothing was changed and nothing could be: who may only look fills neither the log nor what happened lately.
        Access::ReadOnly => {
            let (CallerFields { uid, gid, pid, address }, verb) = (by.into(), order.verb);
            debug!(target: "audit", uid, gid, pid, address, verb, "audit: refused to who may only look");
            peer.only_looks().into_response()
        }
    }
}

/// What is to be noted of a request that may change something. Where its client leaves before it was answered, what was
/// begun may go on: that is noted when this value goes.
struct Note<'a> {
    events: &'a EventLog,
    by: Caller,
    order: Order,
    is_written: bool,
}

impl Note<'_> {
    /// Notes how the request was answered.
    fn answered(mut self, answer: &Response) {
        self.is_written = true;
        let status = answer.status().as_u16();
        if answer.extensions().get::<Asked>().is_some() {
            let (CallerFields { uid, gid, pid, address }, verb) = (self.by.into(), &self.order.verb);
            debug!(target: "audit", uid, gid, pid, address, verb, status, "audit: asked what would follow");
            return;
        }
        if let Some(AuditedVm(vm)) = answer.extensions().get() {
            self.order.vm = Some(vm.clone());
        }
        self.write(status);
    }

    fn write(&self, status: u16) {
        let Self { events, by, order: Order { verb, vm }, .. } = self;
        let CallerFields { uid, gid, pid, address } = (*by).into();
        let vm_id = vm.as_ref().map(VmId::as_str).unwrap_or_default();
        match status {
            200..300 => info!(target: "audit", uid, gid, pid, address, verb, vm_id, status, "audit: ordered"),
            LEFT => {
                warn!(target: "audit", uid, gid, pid, address, verb, vm_id, status, "audit: ordered, and left before the answer");
            }
            _ => warn!(target: "audit", uid, gid, pid, address, verb, vm_id, status, "audit: refused"),
        }
        events.record(vm.as_ref(), EventKind::Ordered { verb: verb.clone(), by: *by, status });
    }
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        if !self.is_written {
            self.write(LEFT);
        }
    }
}

fn is_harmless(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
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
    use std::future::{Future, pending};
    use std::task::{Context, Waker};

    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::post;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    /// The statuses of what is noted when `router` is asked for `uri`, by a client that stays or leaves at once.
    fn noted(router: Router, uri: &str, stays: bool) -> Vec<u16> {
        let events = Arc::new(EventLog::new(1, 8));
        let router = router.layer(from_fn_with_state(Audit::new(Arc::clone(&events)), watch_over));
        let peer = Peer { caller: Caller::process(0, 0, None), access: Access::Full };
        let request = Request::post(uri).extension(peer).body(Body::empty()).expect("a request");
        let mut answer = Box::pin(TowerToHyperService::new(router).call(request));
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(answer.as_mut().poll(&mut context).is_ready(), stays);
        drop(answer);
        let statuses = events.kept().into_iter().map(|event| match &event.kind {
            EventKind::Ordered { status, .. } => *status,
            other => panic!("{other:?}"),
        });
        statuses.collect()
    }

    #[test]
    fn only_who_was_answered_what_would_follow_orders_nothing() {
        let router = || {
            Router::new()
                .route("/v1/vms/a/pause", post(|| async { "done" }))
                .route("/v1/plan", post(|| async { Extension(Asked) }))
                .route("/v1/gc", post(pending::<()>))
        };
        assert_eq!(noted(router(), "/v1/vms/a/pause?dry_run=true", true), [200]);
        assert_eq!(noted(router(), "/v1/plan", true), [0; 0]);
        assert_eq!(noted(router(), "/v1/none?dry_run=true", true), [404]);
        assert_eq!(noted(router(), "/v1/gc", false), [LEFT], "its client left");
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

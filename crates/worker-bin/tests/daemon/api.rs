//! The admin interface as programs use it.

use std::fs;
use std::future::Future;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use admin::{
    AdminClient, ApiError, ClientError, ErrorCode, EventMessage, EventStream, OperationState, PowerRequest,
    PowerVerb,
};
use serde_json::Value;
use tiny_guest::TinyGuest;
use tokio::runtime::Builder;
use tokio::time::timeout;
use vm_model::{EventKind, VmId};

use crate::bench::{Bench, DEADLINE, isolated};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { timeout(DEADLINE, future).await.expect("in time") })
}

/// The status and the body of the answer to `request` on `socket`.
fn raw(bench: &Bench, socket: &str, request: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(bench.path("run").join(socket)).expect("connected");
    let length = body.len();
    let text = format!(
        "{request} HTTP/1.1\r\nhost: w\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    // A refusal may come before all of it was sent.
    let _ = stream.write_all(text.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    (status, body.to_owned())
}

fn refusal(bench: &Bench, request: &str, body: &str) -> ApiError {
    let (status, body) = raw(bench, "worker.sock", request, body);
    let error: ApiError = serde_json::from_str(&body).expect(&body);
    assert_eq!(status, error.code.status(), "{body}");
    error
}

fn client(bench: &Bench) -> AdminClient {
    AdminClient::new(bench.path("run/worker.sock"))
}

/// The next event that `wanted` takes.
async fn next(stream: &mut EventStream, mut wanted: impl FnMut(&EventKind) -> bool) -> EventKind {
    loop {
        match stream.next().await.expect("whole").expect("the worker goes on") {
            EventMessage::Happened(event) if wanted(&event.kind) => return event.kind,
            EventMessage::Happened(_) | EventMessage::Gap(_) => {}
        }
    }
}

fn is_phase(phase: &'static str) -> impl FnMut(&EventKind) -> bool {
    move |kind| matches!(kind, EventKind::PhaseChanged { to, .. } if to == phase)
}

#[test]
fn every_refusal_has_one_shape_and_says_what_it_is_about() {
    isolated(|bench| {
        bench.assign(&[bench.vm("web-1", &TinyGuest::power_button())]);
        let _daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["web-1 running"]);
        let unknown = refusal(&bench, "GET /v1/vms/wbe-1", "");
        assert_eq!((unknown.code, unknown.what.as_deref()), (ErrorCode::NoSuchVm, Some("wbe-1")));
        assert_eq!(unknown.hint.as_deref(), Some("the nearest is web-1"));
        assert_eq!(refusal(&bench, "GET /v2/vms", "").code, ErrorCode::NoSuchPath);
        assert_eq!(refusal(&bench, "PATCH /v1/vms", "").code, ErrorCode::MethodNotAllowed);
        assert_eq!(refusal(&bench, "GET /v1/vms/Web_1", "").code, ErrorCode::BadRequest);
        assert_eq!(refusal(&bench, "POST /v1/vms/web-1/dance", "").code, ErrorCode::NoSuchPath);
        assert_eq!(refusal(&bench, "GET /v1/operations/7", "").code, ErrorCode::NoSuchOperation);
        let mistyped = refusal(&bench, "GET /v1/events?sicne=7", "");
        assert_eq!(mistyped.what.as_deref(), Some("sicne"));
        assert_eq!(mistyped.hint.as_deref(), Some("GET /v1/events takes follow, since, vm"));
        for request in ["POST /v1/vms/web-1/stop?dry_run=true", "POST /v1/vms/web-1/dump?dry_run=true"] {
            assert_eq!(refusal(&bench, request, "").what.as_deref(), Some("dry_run"), "{request}");
        }
        assert!(bench.log().contains("audit: refused"), "asked for and not hidden: {}", bench.log());
        let wrong = refusal(&bench, "POST /v1/vms/web-1/stop", r#"{"wait": 7}"#);
        assert_eq!((wrong.code, wrong.what.as_deref()), (ErrorCode::BadRequest, Some("wait")));
        let range = refusal(&bench, "POST /v1/vms/web-1/stop", r#"{"timeout_seconds": 0}"#);
        assert_eq!(range.what.as_deref(), Some("timeout_seconds"));
        assert_eq!(refusal(&bench, "POST /v1/allow-removals", "").code, ErrorCode::Conflict);
        let large = refusal(&bench, "POST /v1/plan", &"x".repeat((1 << 20) + 1));
        assert_eq!(large.code, ErrorCode::BodyTooLarge);
        assert_eq!(bench.phases(), ["web-1 running"], "nothing of that was done");
    });
}

#[test]
fn what_happens_is_followed_from_a_number_on_and_orders_are_told_with_who_gave_them() {
    isolated(|bench| {
        bench.assign(&[bench.vm("listed", &TinyGuest::power_button())]);
        let image = bench.vm("a", &TinyGuest::power_button());
        let image = image["store_path"].as_str().expect("a path").to_owned();
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["listed running"]);
        let (a, uid) = (VmId::new("a"), fs::metadata(bench.path("run")).expect("there").uid());
        block_on(async {
            let client = client(&bench);
            let before = client.list_events(None, None).await.expect("listed");
            assert!(before.events.iter().any(|event| matches!(event.kind, EventKind::SourceTaken { .. })));
            let mut all = client.follow_events(Some(before.newest), None).await.expect("followed");
            let mut one = client.follow_events(Some(before.newest), Some(&a)).await.expect("followed");
            let entry = serde_json::json!({ "id": "a", "store_path": image });
            let entry = entry.as_object().expect("an object").clone();
            client.assign(&admin::AssignRequest { entry }).await.expect("assigned");
            next(&mut one, |kind| matches!(kind, EventKind::VmCreated { .. })).await;
            next(&mut one, is_phase("booting")).await;
            next(&mut one, is_phase("running")).await;
            let ordered = next(&mut all, |kind| matches!(kind, EventKind::Ordered { .. })).await;
            let EventKind::Ordered { verb, by, status } = ordered else { panic!("an order") };
            assert_eq!((verb.as_str(), by.uid, status), ("create", uid, 200));
            assert_eq!(by.pid, i32::try_from(std::process::id()).ok());
            client.remove(&a).await.expect("removed");
            next(&mut one, |kind| matches!(kind, EventKind::VmRemoved { .. })).await;

            // Who was away sees the same once more; who was away for too long is told.
            let seen = client.list_events(Some(before.newest), Some(&a)).await.expect("listed");
            assert_eq!(seen.gap, None);
            assert!(
                seen.events.iter().all(|event| event.vm.as_ref() == Some(&a) && event.id > before.newest)
            );
            let mut late = client.follow_events(Some(1), None).await.expect("followed");
            let first = late.next().await.expect("whole").expect("a gap");
            assert!(matches!(first, EventMessage::Gap(gap) if gap.after == 1), "{first:?}");
            assert!(client.list_events(Some(1), None).await.expect("listed").gap.is_some());

            daemon.signal(rustix::process::Signal::TERM);
            while let Ok(Some(_)) = all.next().await {}
        });
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        let log = bench.log();
        let line = log.lines().find(|line| line.contains("audit") && line.contains("create")).expect(&log);
        assert!(line.contains(&format!("uid={uid}")) && line.contains("vm_id=\"a\""), "{line}");
    });
}

#[test]
fn what_takes_a_while_is_an_operation_that_can_be_waited_for() {
    isolated(|bench| {
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let _daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let a = VmId::new("a");
        block_on(async {
            let client = client(&bench);
            let paused = client.power(&a, PowerVerb::Pause, &PowerRequest::default()).await.expect("paused");
            assert_eq!((paused.state, paused.what), (OperationState::Done, PowerVerb::Pause));
            assert_eq!(client.get_vm(&a).await.expect("there").phase, "paused");
            client.power(&a, PowerVerb::Resume, &PowerRequest::default()).await.expect("resumed");
            let at_once = PowerRequest { wait: false, ..PowerRequest::default() };
            let begun = client.power(&a, PowerVerb::Stop, &at_once).await.expect("begun");
            let ended = client.get_operation(begun.id, Duration::from_secs(50)).await.expect("there");
            assert_eq!(
                (ended.state, ended.outcome.as_deref()),
                (OperationState::Done, Some("by its power button"))
            );
            let list = client.list_operations().await.expect("listed").operations;
            assert_eq!(list.iter().map(|one| one.id).collect::<Vec<_>>(), [1, 2, 3]);
            let refused = client.power(&a, PowerVerb::Pause, &PowerRequest::default()).await;
            let Err(ClientError::Refused { status: 409, error }) = refused else { panic!("{refused:?}") };
            assert_eq!((error.code, error.what.as_deref()), (ErrorCode::WrongPhase, Some("a")));
            let failed = client.get_operation(4, Duration::ZERO).await.expect("there");
            assert_eq!((failed.state, failed.error), (OperationState::Failed, Some(error)));
        });
        let (status, _) = raw(&bench, "worker.sock", "POST /v1/vms/a/start", "{\"wait\": false}");
        assert_eq!(status, 202);
        bench.until("it runs again", || bench.phases() == ["a running"]);
    });
}

#[test]
fn the_socket_for_reading_changes_nothing() {
    isolated(|bench| {
        let group = fs::metadata(bench.path("store")).expect("there").gid();
        let config = format!(
            "stop_guests = true\n[network]\nsubnet = '10.78.0.0/24'\n[admin]\ngroup = '{group}'\nread_group = '{group}'\n"
        );
        bench.configure(&config);
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let reading = |request: &str| raw(&bench, "worker-read.sock", request, "");
        for path in ["/v1/vms", "/v1/vms/a", "/v1/status", "/v1/events", "/v1/operations", "/v1/openapi.json"]
        {
            assert_eq!(reading(&format!("GET {path}")).0, 200, "{path}");
        }
        for request in ["POST /v1/vms/a/stop", "DELETE /v1/vms/a", "POST /v1/gc", "POST /v1/plan"] {
            let (status, body) = reading(request);
            assert!(status == 403 && body.contains("read_only"), "{request}: {status} {body}");
        }
        assert_eq!(bench.phases(), ["a running"]);
        daemon.signal(rustix::process::Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        assert_eq!(crate::bench::entries(&bench.path("run")), ["hosts"], "both sockets are gone");

        // VMs need no group.
        bench.configure(
            "stop_guests = true\n[network]\nsubnet = '10.78.0.0/24'\n[admin]\ngroup = 'no-such-group'\n",
        );
        let _daemon = bench.start();
        let told = bench.status()["degradations"].to_string();
        assert!(told.contains("for root alone") && told.contains("no-such-group"), "{told}");
        let mode = fs::metadata(bench.path("run/worker.sock")).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600);
    });
}

#[test]
fn the_document_that_is_served_is_the_one_that_is_printed() {
    isolated(|bench| {
        bench.assign(&[]);
        let _daemon = bench.start();
        let printed = bench.client(&["schema", "openapi"]).stdout;
        let printed: Value = serde_json::from_slice(&printed).expect("JSON");
        assert_eq!(block_on(client(&bench).get_openapi()).expect("served"), printed);
        assert!(printed["paths"]["/v1/vms/{id}"]["get"].is_object());
    });
}

//! Both ends against each other and against peers that break the rules, on a clock that only the test moves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::samples;
use crate::wire::v1::*;
use crate::wire::{List, Text};
use crate::worker_state::{WorkerState, WorkerView};

const SECOND: Duration = Duration::from_secs(1);

fn terms() -> MasterTerms {
    MasterTerms { lineage: samples::lineage(), heartbeat: 10 * SECOND }
}

fn state(vms: &[&str]) -> WorkerState {
    let vm = |name: &&str| {
        let report = samples::vm_report(name);
        (report.vm.clone(), report)
    };
    WorkerState { node: NodeReport::default(), vms: vms.iter().map(vm).collect() }
}

fn worker_sends(session: &mut WorkerSession, newest: &WorkerState, now: Instant) -> Option<WorkerMessage> {
    match session.poll(newest, now, true) {
        Some(WorkerOutput::Send(message)) => {
            session.sent();
            Some(message)
        }
        Some(WorkerOutput::Offer(offer)) => panic!("an unexpected offer: {offer:?}"),
        Some(WorkerOutput::End(reason)) => panic!("it ended: {reason}"),
        None => None,
    }
}

fn master_sends(
    session: &mut MasterSession,
    desired: Option<&Arc<Assignment>>,
    now: Instant,
) -> Option<MasterMessage> {
    match session.poll(desired, now, true) {
        Some(MasterOutput::Send(message)) => {
            session.sent();
            Some(message)
        }
        Some(MasterOutput::End(reason)) => panic!("it ended: {reason}"),
        None => None,
    }
}

/// A worker's session after `welcome` and its first report.
fn established(newest: &WorkerState, now: Instant) -> WorkerSession {
    let mut session = WorkerSession::new(samples::hello(), now);
    assert!(matches!(worker_sends(&mut session, newest, now), Some(WorkerMessage::Hello(_))));
    assert!(worker_sends(&mut session, newest, now).is_none(), "it waits for the welcome");
    session.receive(Some(MasterMessage::Welcome(samples::welcome())), now);
    let Some(WorkerMessage::Report(report)) = worker_sends(&mut session, newest, now) else {
        panic!("no report")
    };
    assert!(report.full && report.vms.len() == newest.vms.len());
    session
}

fn ended(session: &mut WorkerSession, now: Instant) -> (Option<GoodbyeCode>, EndReason) {
    let newest = WorkerState::default();
    let mut code = None;
    for _ in 0..2 {
        match session.poll(&newest, now, true) {
            Some(WorkerOutput::Send(WorkerMessage::Goodbye(goodbye))) => code = Some(goodbye.code),
            Some(WorkerOutput::End(reason)) => return (code, reason),
            other => panic!("it goes on: {other:?}"),
        }
    }
    panic!("it does not end");
}

fn master_ended(session: &mut MasterSession, now: Instant) -> (Option<GoodbyeCode>, EndReason) {
    let mut code = None;
    for _ in 0..2 {
        match session.poll(None, now, true) {
            Some(MasterOutput::Send(MasterMessage::Goodbye(goodbye))) => code = Some(goodbye.code),
            Some(MasterOutput::End(reason)) => return (code, reason),
            other => panic!("it goes on: {other:?}"),
        }
    }
    panic!("it does not end");
}

#[test]
fn an_assignment_is_offered_and_its_answer_sent() {
    let (now, newest) = (Instant::now(), state(&["web-1"]));
    let mut session = established(&newest, now);
    session.receive(Some(MasterMessage::Assignment(samples::assignment(7, &["web-1"]))), now);
    let Some(WorkerOutput::Offer(offer)) = session.poll(&newest, now, false) else { panic!("no offer") };
    assert_eq!(offer.lineage, samples::lineage());
    assert_eq!(offer.set, samples::assignment_set(7, &["web-1"]));
    // Two come while the first is decided about: the one in between is never looked at.
    session.receive(Some(MasterMessage::Assignment(samples::assignment(8, &[]))), now);
    session.receive(Some(MasterMessage::Assignment(samples::assignment(9, &["db"]))), now);
    assert!(session.poll(&newest, now, false).is_none());
    let accepted = Accepted { epoch: Text::cut("?"), generation: 0, held: None, outcomes: List::default() };
    session.answer(AssignmentAnswer::Accepted(accepted));
    let sent = worker_sends(&mut session, &newest, now);
    let Some(WorkerMessage::Accepted(accepted)) = sent else { panic!("{sent:?}") };
    assert_eq!((accepted.epoch.as_str(), accepted.generation), ("2026-11-27", 7), "they are the offer's");
    let Some(WorkerOutput::Offer(offer)) = session.poll(&newest, now, false) else { panic!("no offer") };
    assert_eq!(offer.set.generation.map(vm_model::Generation::get), Some(9));
    let Some(WorkerMessage::Report(report)) = worker_sends(&mut session, &newest, now + SECOND) else {
        panic!("none")
    };
    assert_eq!(report.node.observed_generation, Some(9), "whatever became of it");
}

#[test]
fn what_is_no_assignment_is_refused_and_the_connection_goes_on() {
    let (now, newest) = (Instant::now(), state(&[]));
    let mut session = established(&newest, now);
    let read = |json: &str| match crate::codec::decode_master_message(json.as_bytes()) {
        Ok(Some(MasterMessage::Assignment(assignment))) => assignment,
        other => panic!("{other:?}"),
    };
    for (json, code, words) in [
        (
            r#"{"type": "assignment", "epoch": "2026-11-27", "generation": 7, "vms": null, "new_key": {}}"#,
            RefusalCode::Malformed,
            "the key \"vms\" is missing",
        ),
        (
            r#"{"type": "assignment", "epoch": "2025", "generation": 8, "vms": []}"#,
            RefusalCode::WrongEpoch,
            "the epoch is \"2025\"",
        ),
    ] {
        session.receive(Some(MasterMessage::Assignment(read(json))), now);
        let Some(WorkerMessage::Refused(refused)) = worker_sends(&mut session, &newest, now) else {
            panic!("{json}")
        };
        assert_eq!(refused.code, code);
        assert!(refused.text.contains(words), "{}", refused.text);
    }
    let json = r#"{"type": "assignment", "epoch": "2026-11-27", "generation": 9, "allow_removals": true,
        "vms": [{"id": "a", "stroe_path": "/x"}]}"#;
    session.receive(Some(MasterMessage::Assignment(read(json))), now);
    let Some(WorkerOutput::Offer(offer)) = session.poll(&newest, now, true) else { panic!("no offer") };
    assert!(offer.set.allow_removals);
    assert!(
        offer.set.refused[0].problem.contains("the nearest is \"store_path\""),
        "half-read entries are refused"
    );
}

#[test]
fn a_slow_master_costs_one_report() {
    let (now, mut newest) = (Instant::now(), state(&["a"]));
    let mut session = established(&newest, now);
    let mut later = now + SECOND;
    for restarts in 0..100 {
        newest.vms.values_mut().for_each(|vm| vm.restarts = restarts);
        session.state_changed(&newest);
        later += Duration::from_millis(10);
        session.receive(Some(MasterMessage::Ping(Ping { nonce: restarts })), later);
        assert!(session.poll(&newest, later, false).is_none(), "nothing can be sent");
    }
    let Some(WorkerMessage::Pong(pong)) = worker_sends(&mut session, &newest, later) else {
        panic!("no pong")
    };
    assert_eq!(pong.nonce, 99, "one answer for all");
    let Some(WorkerMessage::Report(report)) = worker_sends(&mut session, &newest, later) else {
        panic!("no report")
    };
    assert_eq!((report.sequence, report.vms[0].restarts, report.full), (2, 99, false));
    assert!(worker_sends(&mut session, &newest, later).is_none());
    // Measurements wait for the interval, which begins with the newest report.
    newest.node.at_ms = 5;
    session.state_changed(&newest);
    assert!(worker_sends(&mut session, &newest, later + 9 * SECOND).is_none());
    assert_eq!(session.deadline(), later + 10 * SECOND);
    let sent = worker_sends(&mut session, &newest, later + 10 * SECOND);
    assert!(matches!(sent, Some(WorkerMessage::Report(_))), "{sent:?}");
}

#[test]
fn a_full_report_comes_when_it_is_asked_for() {
    let (now, newest) = (Instant::now(), state(&["a", "b"]));
    let mut session = established(&newest, now);
    session.receive(Some(MasterMessage::ReportRequest(ReportRequest {})), now);
    let Some(WorkerMessage::Report(report)) = worker_sends(&mut session, &newest, now + SECOND) else {
        panic!("none")
    };
    assert!(report.full && report.vms.len() == 2);
}

#[test]
fn a_worker_ends_what_a_master_breaks() {
    let now = Instant::now();
    let newest = state(&[]);
    let greeting = || WorkerSession::new(samples::hello(), now);
    let welcome = |change: fn(&mut Welcome)| {
        let mut welcome = samples::welcome();
        change(&mut welcome);
        Some(MasterMessage::Welcome(welcome))
    };
    for (message, code) in [
        (welcome(|welcome| welcome.version = 2), GoodbyeCode::NoCommonVersion),
        (welcome(|welcome| welcome.heartbeat_ms = 0), GoodbyeCode::Malformed),
        (welcome(|welcome| welcome.heartbeat_ms = u64::MAX), GoodbyeCode::Malformed),
        (welcome(|welcome| welcome.epoch = Text::default()), GoodbyeCode::Malformed),
        (welcome(|welcome| welcome.master = Text::cut("a b")), GoodbyeCode::Malformed),
        (Some(MasterMessage::Ping(Ping { nonce: 0 })), GoodbyeCode::OutOfOrder),
    ] {
        let mut session = greeting();
        session.receive(message, now);
        assert_eq!(ended(&mut session, now).0, Some(code));
    }
    let mut session = greeting();
    session.receive(None, now);
    assert!(session.poll(&newest, now, false).is_none(), "unknown types are skipped here too");
    let mut session = established(&newest, now);
    session.receive(Some(MasterMessage::Welcome(samples::welcome())), now);
    assert_eq!(ended(&mut session, now).0, Some(GoodbyeCode::OutOfOrder));
    let mut session = established(&newest, now);
    session.receive(samples::master_messages().pop(), now);
    let (code, reason) = ended(&mut session, now);
    assert_eq!(code, None, "there is nobody to tell");
    assert!(reason.to_string().contains("ShuttingDown"), "{reason}");
}

#[test]
fn silence_and_a_peer_that_takes_nothing_end_a_connection() {
    let now = Instant::now();
    let newest = state(&[]);
    let mut session = WorkerSession::new(samples::hello(), now);
    assert_eq!(session.deadline(), now + 10 * SECOND);
    let (_, reason) = ended(&mut session, now + 10 * SECOND);
    assert!(matches!(reason, EndReason::NoGreeting { expected: "welcome", .. }), "{reason}");
    let mut session = established(&newest, now);
    assert!(session.poll(&newest, now + 29 * SECOND, false).is_none());
    let (code, reason) = ended(&mut session, now + 30 * SECOND);
    assert_eq!((code, reason), (Some(GoodbyeCode::TimedOut), EndReason::Silent(30 * SECOND)));
    // It talks and does not listen.
    let mut session = established(&newest, now);
    let later = now + 10 * SECOND;
    assert!(
        matches!(session.poll(&newest, later, true), Some(WorkerOutput::Send(_))),
        "the interval's report"
    );
    let mut heard = later;
    for _ in 0..3 {
        session.receive(Some(MasterMessage::Ping(Ping { nonce: 1 })), heard);
        assert!(session.poll(&newest, heard, false).is_none());
        heard += 9 * SECOND;
    }
    assert_eq!(session.deadline(), later + 30 * SECOND);
    session.receive(None, later + 30 * SECOND);
    let (_, reason) = ended(&mut session, later + 30 * SECOND);
    assert_eq!(reason, EndReason::Stalled(30 * SECOND));
}

#[test]
fn the_last_message_waits_for_the_one_before_and_not_for_ever() {
    let (now, newest) = (Instant::now(), state(&[]));
    let mut session = established(&newest, now);
    session.end(EndReason::ShuttingDown);
    assert!(session.poll(&newest, now, false).is_none());
    assert_eq!(session.deadline(), now + SECOND);
    assert!(matches!(session.poll(&newest, now + SECOND, false), Some(WorkerOutput::End(_))));
    let mut session = established(&newest, now);
    session.end(EndReason::ShuttingDown);
    assert!(session.poll(&newest, now, false).is_none());
    assert_eq!(ended(&mut session, now).0, Some(GoodbyeCode::ShuttingDown));
}

#[test]
fn a_master_welcomes_assigns_and_pings() {
    let now = Instant::now();
    let mut session = MasterSession::new(terms(), Some("worker-1".parse().expect("valid")), now);
    assert!(session.poll(None, now, true).is_none(), "the worker speaks first");
    let hello = WorkerMessage::Hello(Box::new(samples::hello()));
    assert!(matches!(session.receive(Some(hello), now), Some(MasterEvent::Hello(_))));
    let first = Arc::new(samples::assignment(1, &["a"]));
    let sent = master_sends(&mut session, Some(&first), now);
    let Some(MasterMessage::Welcome(welcome)) = sent else { panic!("{sent:?}") };
    assert_eq!((welcome.version, welcome.heartbeat_ms), (1, 10_000));
    let sent = master_sends(&mut session, Some(&first), now);
    assert_eq!(sent, Some(MasterMessage::Assignment(samples::assignment(1, &["a"]))));
    let same = Arc::new(samples::assignment(1, &["a"]));
    assert_eq!(master_sends(&mut session, Some(&same), now), None, "once is enough");
    let second = Arc::new(samples::assignment(2, &[]));
    assert!(matches!(master_sends(&mut session, Some(&second), now), Some(MasterMessage::Assignment(_))));
    let sent = master_sends(&mut session, Some(&second), now + 10 * SECOND);
    assert!(matches!(sent, Some(MasterMessage::Ping(_))), "{sent:?}");
    session.request_report();
    let sent = master_sends(&mut session, Some(&second), now + 10 * SECOND);
    assert!(matches!(sent, Some(MasterMessage::ReportRequest(_))), "{sent:?}");
    let (code, reason) = master_ended(&mut session, now + 30 * SECOND);
    assert_eq!((code, reason), (Some(GoodbyeCode::TimedOut), EndReason::Silent(30 * SECOND)));
}

#[test]
fn a_master_ends_what_a_worker_breaks() {
    let now = Instant::now();
    let hello = |change: fn(&mut Hello)| {
        let mut hello = samples::hello();
        change(&mut hello);
        Some(WorkerMessage::Hello(Box::new(hello)))
    };
    let ping = Some(WorkerMessage::Ping(Ping { nonce: 0 }));
    let stranger = |hello: &mut Hello| hello.worker = "worker-2".parse().expect("valid");
    for (message, code, words) in [
        (
            hello(stranger),
            GoodbyeCode::WrongIdentity,
            "calls itself worker-2; its certificate is of worker-1",
        ),
        (
            hello(|hello| hello.versions = List::cut([2, 3])),
            GoodbyeCode::NoCommonVersion,
            "speaks 2, 3, this one 1",
        ),
        (ping, GoodbyeCode::OutOfOrder, "\"ping\" came where \"hello\" was expected"),
    ] {
        let mut session = MasterSession::new(terms(), Some("worker-1".parse().expect("valid")), now);
        assert_eq!(session.receive(message, now), None);
        let (said, reason) = master_ended(&mut session, now);
        assert_eq!(said, Some(code));
        assert!(reason.to_string().contains(words), "{reason}");
    }
    let mut session = MasterSession::new(terms(), None, now);
    assert!(session.receive(hello(|_| {}), now).is_some());
    assert_eq!(session.receive(hello(|_| {}), now), None);
    assert_eq!(master_ended(&mut session, now).0, Some(GoodbyeCode::OutOfOrder), "one hello a connection");
    let mut session = MasterSession::new(terms(), None, now);
    let (_, reason) = master_ended(&mut session, now + 10 * SECOND);
    assert!(matches!(reason, EndReason::NoGreeting { expected: "hello", .. }), "{reason}");
}

#[derive(Clone, Debug)]
enum Step {
    Change(u8, u64),
    Remove(u8),
    Assign(u64),
    Request,
    Wait(u64),
    Decide,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0_u8..4, 0_u64..9).prop_map(|(vm, restarts)| Step::Change(vm, restarts)),
        (0_u8..4).prop_map(Step::Remove),
        (1_u64..50).prop_map(Step::Assign),
        Just(Step::Request),
        (0_u64..12_000).prop_map(Step::Wait),
        Just(Step::Decide),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Whatever happens in whichever order: neither end ends, the worker is offered the newest assignment, and the
    /// master's view is the worker's state.
    #[test]
    fn both_ends_agree_in_the_end(steps in steps()) {
        let mut now = Instant::now();
        let mut newest = state(&["vm-0"]);
        let mut worker = WorkerSession::new(samples::hello(), now);
        let mut master = MasterSession::new(terms(), Some("worker-1".parse().expect("valid")), now);
        let (mut view, mut desired, mut offered) = (WorkerView::default(), None, None);
        let (mut undecided, mut generation) = (false, 0);
        let settle = [Step::Decide, Step::Wait(100), Step::Decide, Step::Wait(100)];
        for step in [Step::Wait(0)].into_iter().chain(steps).chain(settle) {
            match step {
                Step::Change(vm, restarts) => {
                    let mut report = samples::vm_report(&format!("vm-{vm}"));
                    report.restarts = restarts;
                    newest.vms.insert(report.vm.clone(), report);
                    worker.state_changed(&newest);
                }
                Step::Remove(vm) => {
                    newest.vms.remove(&vm_model::VmId::new(&format!("vm-{vm}")));
                    worker.state_changed(&newest);
                }
                Step::Assign(more) => {
                    generation += more;
                    desired = Some(Arc::new(samples::assignment(generation, &["a"])));
                }
                Step::Request => master.request_report(),
                Step::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                Step::Decide => if std::mem::take(&mut undecided) {
                    let accepted = Accepted { epoch: Text::cut(""), generation: 0, held: None, outcomes: List::default() };
                    worker.answer(AssignmentAnswer::Accepted(accepted));
                },
            }
            loop {
                let mut idle = true;
                match worker.poll(&newest, now, true) {
                    Some(WorkerOutput::Send(message)) => {
                        idle = false;
                        worker.sent();
                        if let Some(MasterEvent::Report(report)) = master.receive(Some(message), now) {
                            prop_assert!(view.apply(*report));
                        }
                    }
                    Some(WorkerOutput::Offer(offer)) => {
                        idle = false;
                        prop_assert!(!undecided, "one at a time");
                        undecided = true;
                        offered = offer.set.generation.map(vm_model::Generation::get);
                    }
                    Some(WorkerOutput::End(reason)) => prop_assert!(false, "the worker ended: {reason}"),
                    None => {}
                }
                match master.poll(desired.as_ref(), now, true) {
                    Some(MasterOutput::Send(message)) => {
                        idle = false;
                        master.sent();
                        worker.receive(Some(message), now);
                    }
                    Some(MasterOutput::End(reason)) => prop_assert!(false, "the master ended: {reason}"),
                    None => {}
                }
                if idle {
                    break;
                }
            }
        }
        prop_assert_eq!(offered.unwrap_or(0), generation);
        prop_assert_eq!(view.state.vms, newest.vms);
        prop_assert_eq!(view.state.node.observed_generation.unwrap_or(0), generation);
    }
}

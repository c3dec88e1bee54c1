//! What the master knows of its workers: who is there, and what they reported last.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use master_protocol::drivers::{WorkerEvent, WorkerNews};
use master_protocol::session::MasterEvent;
use master_protocol::wire::v1::{Capacity, NodeReport, Phase, Report, Source, VmReport};
use master_protocol::wire::{List, WorkerId};
use master_protocol::{WorkerView, memory_of};
use serde::{Deserialize, Serialize};
use vm_model::{Timestamp, VmId};

/// Workers that are kept in mind. Without TLS a worker is whoever it says it is, and could be very many.
const WORKERS_MOST: usize = 4096;
/// Of these, workers for which there is no desired state and whose names nobody vouches for, and the memory in bytes that the
/// VMs of each may take.
const STRANGERS_MOST: usize = 64;
const STRANGER_BYTES_MOST: usize = 64 << 10;

/// Entries that a worker refused, and VMs that it keeps, as far as they are shown. It could name very many.
const NAMED_MOST: usize = 8;
/// VMs of one page, and the memory in bytes that they may take.
const PAGE_VMS_MOST: usize = 512;
const PAGE_BYTES_MOST: usize = 4 << 20;

/// A host that was refused dials again within a minute. One that was not seen for longer has given up.
const ELSEWHERE_REMEMBERED: Duration = Duration::from_secs(180);

/// All workers that were heard of since the master began.
#[derive(Debug, Default)]
pub struct Fleet {
    workers: BTreeMap<WorkerId, Member>,
}

/// Whether a worker's name means something here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Its certificate says it, or there is or was a desired state for it.
    #[default]
    Known,
    /// Neither: whoever dials may have made it up. Little is kept of it.
    Stranger,
}

#[derive(Debug, Default)]
struct Member {
    standing: Standing,
    connection: u64,
    address: String,
    /// What it calls its host, where it says so.
    host: Option<String>,
    connected_since: Option<Timestamp>,
    left: Option<String>,
    left_at: Option<Timestamp>,
    /// When it reported last.
    reported_at: Option<Timestamp>,
    /// Another host with its name, and when that was refused last.
    elsewhere: Option<(Elsewhere, Timestamp)>,
    capacity: Capacity,
    view: WorkerView,
    /// What became of the newest assignment that it answered.
    answer: Option<Answer>,
}

/// Two hosts with the name of one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// The one that is let in.
    pub connected: String,
    /// The one that is refused.
    pub refused: String,
}

/// What became of an assignment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its number.
    pub generation: u64,
    /// Why it is not in force: the refusal, or what it waits for. Absent where it is.
    pub problem: Option<String>,
}

/// A worker as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its name.
    pub worker: WorkerId,
    /// Since when it is connected; absent where it is not.
    pub connected_since: Option<Timestamp>,
    /// Its newest address.
    pub address: Option<String>,
    /// What it calls its host, where it says so.
    #[serde(default)]
    pub host: Option<String>,
    /// Why its newest connection ended.
    pub left: Option<String>,
    /// When that was.
    #[serde(default)]
    pub left_at: Option<Timestamp>,
    /// When it reported last.
    #[serde(default)]
    pub reported_at: Option<Timestamp>,
    /// There while another host calls itself the same.
    #[serde(default)]
    pub elsewhere: Option<Elsewhere>,
    /// What is wrong with what the master's files say of it.
    #[serde(default)]
    pub file_problems: Vec<String>,
    /// Whether it is drained.
    pub drained: bool,
    /// The number of what it was told last.
    pub assigned_generation: Option<u64>,
    /// What became of the newest assignment that it answered.
    pub answer: Option<Answer>,
    /// What its host has.
    pub capacity: Option<Capacity>,
    /// How it is, as it said last; of entries that it refused and VMs that it keeps, the first eight.
    pub node: Option<NodeReport>,
    /// How many entries that it refused and VMs that it keeps there are beyond those.
    pub node_left_out: usize,
    /// How many VMs it has of each kind, as it said last.
    pub vm_counts: Vec<VmCount>,
    /// Whether it named more VMs than are kept here; see [`WorkerView::is_cut`].
    pub vms_are_cut: bool,
}

/// How many VMs a worker has of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmCount {
    /// Where they are in their life.
    pub phase: Phase,
    /// Whose word they follow.
    pub source: Option<Source>,
    /// How many.
    pub count: usize,
}

/// A worker with its VMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerVms {
    /// The worker.
    #[serde(flatten)]
    pub status: WorkerStatus,
    /// How its VMs are, as it said last.
    pub vms: Vec<VmReport>,
}

/// Some of a worker's VMs, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmPage {
    /// The VMs.
    pub vms: Vec<VmReport>,
    /// Whether there are more after the last of them.
    pub more: bool,
}

impl Member {
    /// Learns from the newest report what became of an assignment since it was answered: what was held may be in force.
    fn follow_report(&mut self) {
        let node = &self.view.state.node;
        let Some(answer) =
            self.answer.as_mut().filter(|answer| node.observed_generation == Some(answer.generation))
        else {
            return;
        };
        let held = node.held.as_ref().map(|held| format!("held: {}", held.reason));
        answer.problem = held.or_else(|| node.refusal.as_ref().map(|why| format!("refused: {why}")));
    }
}

impl Fleet {
    /// Takes news of a worker that came at `now`.
    pub fn take(&mut self, event: WorkerEvent, standing: Standing, now: Timestamp) {
        if !self.workers.contains_key(&event.worker) && !self.make_room(standing) {
            return;
        }
        let member = self.workers.entry(event.worker).or_default();
        member.standing = standing;
        if let WorkerNews::Elsewhere { connected } = &event.news {
            let (connected, refused) = (connected.to_string(), event.address.to_string());
            member.elsewhere = Some((Elsewhere { connected, refused }, now));
            return;
        }
        if event.connection < member.connection {
            // A connection that was replaced says its last.
            return;
        }
        match event.news {
            WorkerNews::Left(reason) => {
                member.connected_since = None;
                member.left = Some(reason.to_string());
                member.left_at = Some(now);
            }
            // Told before.
            WorkerNews::Elsewhere { .. } => {}
            WorkerNews::Said(MasterEvent::Hello(hello)) => {
                member.connection = event.connection;
                member.address = event.address.to_string();
                member.host = hello.host.map(|host| host.to_string()).or(member.host.take());
                member.connected_since = Some(now);
                member.left = None;
                member.capacity = hello.capacity;
                member.view.begin_connection();
            }
            WorkerNews::Said(MasterEvent::Report(report)) => {
                match standing {
                    Standing::Known => member.view.apply(*report),
                    Standing::Stranger => {
                        let few = Report { node: few(&report.node), ..*report };
                        member.view.apply_within(few, STRANGER_BYTES_MOST)
                    }
                };
                member.reported_at = Some(now);
                member.follow_report();
            }
            WorkerNews::Said(MasterEvent::Accepted(accepted)) => {
                let problem = accepted.held.map(|held| format!("held: {}", held.reason));
                member.answer = Some(Answer { generation: accepted.generation, problem });
            }
            WorkerNews::Said(MasterEvent::Refused(refused)) => {
                let problem = Some(format!("refused: {}", refused.text));
                member.answer = Some(Answer { generation: refused.generation, problem });
            }
        }
    }

    /// Makes room for another worker, at the cost of one that is gone if need be. Whether there is some.
    fn make_room(&mut self, standing: Standing) -> bool {
        let is_full = self.workers.len() >= WORKERS_MOST;
        let strangers =
            || self.workers.values().filter(|member| member.standing == Standing::Stranger).count();
        // A stranger takes no place but a stranger's.
        let gives_way = |member: &Member| match standing {
            Standing::Known => true,
            Standing::Stranger => member.standing == Standing::Stranger,
        };
        if !is_full && (standing == Standing::Known || strangers() < STRANGERS_MOST) {
            return true;
        }
        let mut gone = self.workers.iter().filter(|(_, member)| member.connected_since.is_none());
        let gone = gone.find(|(_, member)| gives_way(member)).map(|(worker, _)| worker.clone());
        gone.is_some_and(|worker| self.workers.remove(&worker).is_some())
    }

    /// Whether `worker` was heard of.
    pub fn knows(&self, worker: &WorkerId) -> bool {
        self.workers.contains_key(worker)
    }

    /// The workers that were heard of, by name.
    pub fn names(&self) -> impl Iterator<Item = &WorkerId> {
        self.workers.keys()
    }

    /// `worker` as far as it is known here.
    pub fn status(&self, worker: &WorkerId, now: Timestamp) -> WorkerStatus {
        let member = self.workers.get(worker);
        let elsewhere = member.and_then(|member| member.elsewhere.clone());
        let elsewhere = elsewhere.filter(|(_, at)| now.since(*at) < ELSEWHERE_REMEMBERED);
        WorkerStatus {
            worker: worker.clone(),
            connected_since: member.and_then(|member| member.connected_since),
            address: member.map(|member| member.address.clone()),
            host: member.and_then(|member| member.host.clone()),
            left: member.and_then(|member| member.left.clone()),
            left_at: member.and_then(|member| member.left_at),
            reported_at: member.and_then(|member| member.reported_at),
            elsewhere: elsewhere.map(|(elsewhere, _)| elsewhere),
            file_problems: Vec::new(),
            drained: false,
            assigned_generation: None,
            answer: member.and_then(|member| member.answer.clone()),
            capacity: member.map(|member| member.capacity),
            node: member
                .filter(|member| member.reported_at.is_some())
                .map(|member| few(&member.view.state.node)),
            node_left_out: member.map_or(0, |member| left_out(&member.view.state.node)),
            vm_counts: member.map(|member| counts(member.view.state.vms.values())).unwrap_or_default(),
            vms_are_cut: member.is_some_and(|member| member.view.is_cut()),
        }
    }

    /// The VMs of `worker` whose names come after `after`, as many as a page holds.
    pub fn page(&self, worker: &WorkerId, after: Option<&VmId>) -> VmPage {
        let Some(member) = self.workers.get(worker) else { return VmPage::default() };
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = VmPage::default();
        let mut bytes = 0;
        for vm in member.view.state.vms.range::<VmId, _>((begin, Bound::Unbounded)).map(|(_, vm)| vm) {
            bytes += memory_of(vm);
            if page.vms.len() == PAGE_VMS_MOST || (bytes > PAGE_BYTES_MOST && !page.vms.is_empty()) {
                page.more = true;
                break;
            }
            page.vms.push(vm.clone());
        }
        page
    }
}

/// `node` without most of what it lists.
fn few(node: &NodeReport) -> NodeReport {
    NodeReport {
        refused_vms: List::cut(node.refused_vms.iter().take(NAMED_MOST).cloned()),
        kept: List::cut(node.kept.iter().take(NAMED_MOST).cloned()),
        at_ms: node.at_ms,
        observed_generation: node.observed_generation,
        applied_generation: node.applied_generation,
        held: node.held.clone(),
        refusal: node.refusal.clone(),
        memory_available_bytes: node.memory_available_bytes,
        disk_available_bytes: node.disk_available_bytes,
        conditions: node.conditions.clone(),
    }
}

fn left_out(node: &NodeReport) -> usize {
    node.refused_vms.len().saturating_sub(NAMED_MOST) + node.kept.len().saturating_sub(NAMED_MOST)
}

fn counts<'a>(vms: impl Iterator<Item = &'a VmReport>) -> Vec<VmCount> {
    let mut counts: Vec<VmCount> = Vec::new();
    for vm in vms {
        match counts.iter_mut().find(|known| (known.phase, known.source) == (vm.phase, vm.source)) {
            Some(known) => known.count += 1,
            None => counts.push(VmCount { phase: vm.phase, source: vm.source, count: 1 }),
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use master_protocol::VMS_KNOWN_MOST;
    use master_protocol::wire::v1::{Accepted, Hello};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn said(json: &str, event: impl FnOnce(&str) -> MasterEvent) -> WorkerEvent {
        WorkerEvent {
            worker: "w1".parse().expect("valid"),
            connection: 1,
            address: ([192, 0, 2, 1], 7).into(),
            news: WorkerNews::Said(event(json)),
        }
    }

    fn accepted(json: &str) -> MasterEvent {
        MasterEvent::Accepted(serde_json::from_str::<Accepted>(json).expect("an answer"))
    }

    fn report(json: &str) -> MasterEvent {
        MasterEvent::Report(Box::new(serde_json::from_str::<Report>(json).expect("a report")))
    }

    #[test]
    fn a_hold_is_over_when_the_worker_says_so() {
        const HELD: &str = r#"{"generation": 2, "since_ms": 1, "removals": 1, "reason": "it removes much"}"#;
        let worker = "w1".parse().expect("valid");
        let mut fleet = Fleet::default();
        let problem = |fleet: &Fleet| fleet.status(&worker, NOW).answer.and_then(|answer| answer.problem);
        let held = format!(r#"{{"epoch": "e", "generation": 2, "held": {HELD}}}"#);
        fleet.take(said(&held, accepted), Standing::Known, NOW);
        assert_eq!(problem(&fleet).as_deref(), Some("held: it removes much"));
        let node =
            format!(r#"{{"at_ms": 1, "observed_generation": 2, "applied_generation": 1, "held": {HELD}}}"#);
        fleet.take(
            said(&format!(r#"{{"sequence": 1, "full": true, "node": {node}}}"#), report),
            Standing::Known,
            NOW,
        );
        assert!(problem(&fleet).is_some());
        let node = r#"{"at_ms": 2, "observed_generation": 2, "applied_generation": 2}"#;
        fleet.take(said(&format!(r#"{{"sequence": 2, "node": {node}}}"#), report), Standing::Known, NOW);
        assert_eq!(problem(&fleet), None, "somebody has let it go");
    }

    #[test]
    fn another_host_of_the_same_name_is_told_of_while_it_tries() {
        let worker: WorkerId = "w1".parse().expect("valid");
        let mut fleet = Fleet::default();
        let connected = ([192, 0, 2, 1], 7).into();
        let news = WorkerNews::Elsewhere { connected };
        let address = ([192, 0, 2, 2], 9).into();
        fleet.take(
            WorkerEvent { worker: worker.clone(), connection: 0, address, news },
            Standing::Known,
            NOW,
        );
        let elsewhere = fleet.status(&worker, NOW.after(Duration::from_secs(60))).elsewhere.expect("told of");
        assert_eq!(
            (elsewhere.connected.as_str(), elsewhere.refused.as_str()),
            ("192.0.2.1:7", "192.0.2.2:9")
        );
        assert_eq!(fleet.status(&worker, NOW.after(ELSEWHERE_REMEMBERED)).elsewhere, None);
    }

    #[test]
    fn made_up_names_cost_little_and_cost_nobody_a_place() {
        let mut fleet = Fleet::default();
        let take = |fleet: &mut Fleet, name: &str, standing, said| {
            let (worker, news) = (name.parse().expect("valid"), WorkerNews::Said(said));
            let event = WorkerEvent { worker, connection: 1, address: ([192, 0, 2, 1], 7).into(), news };
            fleet.take(event, standing, NOW);
        };
        let vms: Vec<String> = (0..500)
            .map(|number| {
                format!(
                    r#"{{"vm": "vm-{number}", "phase": "running", "image": "/x", "hash": "{}"}}"#,
                    "h".repeat(100)
                )
            })
            .collect();
        let full =
            format!(r#"{{"sequence": 1, "full": true, "node": {{"at_ms": 1}}, "vms": [{}]}}"#, vms.join(","));
        take(&mut fleet, "worker-1", Standing::Known, report(&full));
        for number in 0..1000 {
            take(&mut fleet, &format!("made-up-{number}"), Standing::Stranger, report(&full));
        }
        let kept = |worker: &str| fleet.status(&worker.parse().expect("valid"), NOW);
        assert_eq!(fleet.names().count(), 1 + STRANGERS_MOST);
        let known = kept("worker-1");
        assert_eq!((known.vm_counts[0].count, known.vms_are_cut), (500, false));
        let stranger = kept("made-up-999");
        assert!(stranger.vms_are_cut && stranger.vm_counts[0].count < 200, "{:?}", stranger.vm_counts);
    }

    #[test]
    fn a_worker_with_very_many_vms_is_shown_by_counts_and_in_pages() {
        let worker: WorkerId = "w1".parse().expect("valid");
        let mut fleet = Fleet::default();
        let take = |fleet: &mut Fleet, said| {
            let news = WorkerNews::Said(said);
            let address = ([127, 0, 0, 1], 7).into();
            fleet.take(
                WorkerEvent { worker: worker.clone(), connection: 1, address, news },
                Standing::Known,
                Timestamp::now(),
            );
        };
        let hello: Hello = serde_json::from_str(
            r#"{"versions": [1], "worker": "w1", "run": "1", "engine": {"name": "x", "version": "1"},
                "capacity": {"processors": 1, "memory_bytes": 1}, "cpu": {"architecture": "x"}}"#,
        )
        .expect("a hello");
        take(&mut fleet, MasterEvent::Hello(Box::new(hello)));
        let long = "x".repeat(2000);
        for round in 0..90 {
            let vm = |number: usize| {
                let phase = if number.is_multiple_of(2) { "running" } else { "stopped" };
                format!(
                    r#"{{"vm": "vm-{round}-{number:04}", "phase": "{phase}", "image": "/x", "hash": "h",
                         "reason": {{"kind": "guest", "message": "it failed"}}}}"#
                )
            };
            let vms: Vec<String> = (0..100).map(vm).collect();
            let refused: Vec<String> =
                (0..100).map(|n| format!(r#"{{"vm": "r-{n}", "problem": "{long}"}}"#)).collect();
            let report = format!(
                r#"{{"sequence": 1, "full": {}, "more": {}, "vms": [{}],
                     "node": {{"at_ms": 1, "refused_vms": [{}]}}}}"#,
                round == 0,
                round < 89,
                vms.join(","),
                refused.join(",")
            );
            let report: Report = serde_json::from_str(&report).expect("a report");
            take(&mut fleet, MasterEvent::Report(Box::new(report)));
        }
        let status = fleet.status(&worker, NOW);
        let known: usize = status.vm_counts.iter().map(|count| count.count).sum();
        assert_eq!((known, status.vm_counts.len(), status.vms_are_cut), (VMS_KNOWN_MOST, 2, true));
        assert_eq!(status.node_left_out, 92);
        assert!(serde_json::to_string(&status).expect("it is JSON").len() < 32 << 10);
        let (mut after, mut seen) = (None, 0);
        loop {
            let page = fleet.page(&worker, after.as_ref());
            assert!(page.vms.len() <= PAGE_VMS_MOST);
            seen += page.vms.len();
            after = page.vms.last().map(|vm| vm.vm.clone());
            if !page.more {
                break;
            }
        }
        assert_eq!(seen, VMS_KNOWN_MOST);
        assert_eq!(fleet.page(&"w2".parse().expect("valid"), None), VmPage::default());
    }
}

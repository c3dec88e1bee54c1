//! What the master knows of its workers: who is there, and what they reported last.

use std::collections::BTreeMap;
use std::ops::Bound;

use master_protocol::drivers::{WorkerEvent, WorkerNews};
use master_protocol::session::MasterEvent;
use master_protocol::wire::v1::{Capacity, NodeReport, Phase, Source, VmReport};
use master_protocol::wire::{List, WorkerId};
use master_protocol::{WorkerView, memory_of};
use serde::{Deserialize, Serialize};
use vm_model::{Timestamp, VmId};

/// Workers that are kept in mind. Without TLS a worker is whoever it says it is, and could be very many.
const WORKERS_MOST: usize = 4096;

/// Entries that a worker refused, and VMs that it keeps, as far as they are shown. It could name very many.
const NAMED_MOST: usize = 8;
/// VMs of one page, and the memory in bytes that they may take.
const PAGE_VMS_MOST: usize = 512;
const PAGE_BYTES_MOST: usize = 4 << 20;

/// All workers that were heard of since the master began.
#[derive(Debug, Default)]
pub struct Fleet {
    workers: BTreeMap<WorkerId, Member>,
}

#[derive(Debug, Default)]
struct Member {
    connection: u64,
    address: String,
    connected_since: Option<Timestamp>,
    left: Option<String>,
    capacity: Capacity,
    view: WorkerView,
    /// What became of the newest assignment that it answered.
    answer: Option<Answer>,
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
    /// Why its newest connection ended.
    pub left: Option<String>,
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

impl Fleet {
    /// Takes news of a worker that came at `now`.
    pub fn take(&mut self, event: WorkerEvent, now: Timestamp) {
        if !self.workers.contains_key(&event.worker) && !self.make_room() {
            return;
        }
        let member = self.workers.entry(event.worker).or_default();
        if event.connection < member.connection {
            // A connection that was replaced says its last.
            return;
        }
        match event.news {
            WorkerNews::Left(reason) => {
                member.connected_since = None;
                member.left = Some(reason.to_string());
            }
            WorkerNews::Said(MasterEvent::Hello(hello)) => {
                member.connection = event.connection;
                member.address = event.address.to_string();
                member.connected_since = Some(now);
                member.left = None;
                member.capacity = hello.capacity;
                member.view.begin_connection();
            }
            WorkerNews::Said(MasterEvent::Report(report)) => {
                member.view.apply(*report);
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
    fn make_room(&mut self) -> bool {
        if self.workers.len() >= WORKERS_MOST {
            let mut workers = self.workers.iter();
            let gone = workers
                .find(|(_, member)| member.connected_since.is_none())
                .map(|(worker, _)| worker.clone());
            gone.is_some_and(|worker| self.workers.remove(&worker).is_some())
        } else {
            true
        }
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
    pub fn status(&self, worker: &WorkerId) -> WorkerStatus {
        let member = self.workers.get(worker);
        WorkerStatus {
            worker: worker.clone(),
            connected_since: member.and_then(|member| member.connected_since),
            address: member.map(|member| member.address.clone()),
            left: member.and_then(|member| member.left.clone()),
            drained: false,
            assigned_generation: None,
            answer: member.and_then(|member| member.answer.clone()),
            capacity: member.map(|member| member.capacity),
            node: member.map(|member| few(&member.view.state.node)),
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
    use master_protocol::wire::v1::{Hello, Report};

    use super::*;

    #[test]
    fn a_worker_with_very_many_vms_is_shown_by_counts_and_in_pages() {
        let worker: WorkerId = "w1".parse().expect("valid");
        let mut fleet = Fleet::default();
        let take = |fleet: &mut Fleet, said| {
            let news = WorkerNews::Said(said);
            let address = ([127, 0, 0, 1], 7).into();
            fleet
                .take(WorkerEvent { worker: worker.clone(), connection: 1, address, news }, Timestamp::now());
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
        let status = fleet.status(&worker);
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

//! What the master knows of its workers: who is there, and what they reported last.

use std::collections::BTreeMap;

use master_protocol::WorkerView;
use master_protocol::drivers::{WorkerEvent, WorkerNews};
use master_protocol::session::MasterEvent;
use master_protocol::wire::WorkerId;
use master_protocol::wire::v1::{Capacity, NodeReport, VmReport};
use serde::{Deserialize, Serialize};
use vm_model::Timestamp;

/// Workers that are kept in mind. Without TLS a worker is whoever it says it is, and could be very many.
const WORKERS_MOST: usize = 4096;

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
    /// How it is, as it said last.
    pub node: Option<NodeReport>,
    /// How its VMs are, as it said last.
    pub vms: Vec<VmReport>,
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
            node: member.map(|member| member.view.state.node.clone()),
            vms: member.map(|member| member.view.state.vms.values().cloned().collect()).unwrap_or_default(),
        }
    }
}

//! What the master knows of its workers: who is there, and what they reported last.

use std::collections::BTreeMap;
use std::time::Duration;

use master_protocol::WorkerView;
use master_protocol::drivers::{WorkerEvent, WorkerNews};
use master_protocol::session::MasterEvent;
use master_protocol::wire::WorkerId;
use master_protocol::wire::v1::{Capacity, NodeReport, VmReport};
use serde::{Deserialize, Serialize};
use vm_model::Timestamp;

/// Workers that are kept in mind. Without TLS a worker is whoever it says it is, and could be very many.
const WORKERS_MOST: usize = 4096;

/// A host that was refused dials again within a minute. One that was not seen for longer has given up.
const ELSEWHERE_REMEMBERED: Duration = Duration::from_secs(180);

/// All workers that were heard of since the master began.
#[derive(Debug, Default)]
pub struct Fleet {
    workers: BTreeMap<WorkerId, Member>,
}

#[derive(Debug, Default)]
struct Member {
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
    /// How it is, as it said last.
    pub node: Option<NodeReport>,
    /// How its VMs are, as it said last.
    pub vms: Vec<VmReport>,
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
    pub fn take(&mut self, event: WorkerEvent, now: Timestamp) {
        if !self.workers.contains_key(&event.worker) && !self.make_room() {
            return;
        }
        let member = self.workers.entry(event.worker).or_default();
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
                member.view.apply(*report);
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
                .map(|member| member.view.state.node.clone()),
            vms: member.map(|member| member.view.state.vms.values().cloned().collect()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use master_protocol::wire::v1::{Accepted, Report};

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
        fleet.take(said(&held, accepted), NOW);
        assert_eq!(problem(&fleet).as_deref(), Some("held: it removes much"));
        let node =
            format!(r#"{{"at_ms": 1, "observed_generation": 2, "applied_generation": 1, "held": {HELD}}}"#);
        fleet.take(said(&format!(r#"{{"sequence": 1, "full": true, "node": {node}}}"#), report), NOW);
        assert!(problem(&fleet).is_some());
        let node = r#"{"at_ms": 2, "observed_generation": 2, "applied_generation": 2}"#;
        fleet.take(said(&format!(r#"{{"sequence": 2, "node": {node}}}"#), report), NOW);
        assert_eq!(problem(&fleet), None, "somebody has let it go");
    }

    #[test]
    fn another_host_of_the_same_name_is_told_of_while_it_tries() {
        let worker: WorkerId = "w1".parse().expect("valid");
        let mut fleet = Fleet::default();
        let connected = ([192, 0, 2, 1], 7).into();
        let news = WorkerNews::Elsewhere { connected };
        let address = ([192, 0, 2, 2], 9).into();
        fleet.take(WorkerEvent { worker: worker.clone(), connection: 0, address, news }, NOW);
        let elsewhere = fleet.status(&worker, NOW.after(Duration::from_secs(60))).elsewhere.expect("told of");
        assert_eq!(
            (elsewhere.connected.as_str(), elsewhere.refused.as_str()),
            ("192.0.2.1:7", "192.0.2.2:9")
        );
        assert_eq!(fleet.status(&worker, NOW.after(ELSEWHERE_REMEMBERED)).elsewhere, None);
    }
}

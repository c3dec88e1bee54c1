//! What a worker tells of itself: the newest state, what of it the master has, and the report that makes up for the
//! difference.
//!
//! Reports do not queue. However long a master takes, there is one newest state, and the next report says how it differs
//! from what was sent.

use std::collections::BTreeMap;

use vm_model::VmId;

use crate::wire::List;
use crate::wire::v1::{Address, Condition, NodeReport, Report, VMS_MOST, VmReport};

/// A worker and its VMs at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerState {
    /// The worker itself. The session fills in `observed_generation`.
    pub node: NodeReport,
    /// Its VMs.
    pub vms: BTreeMap<VmId, VmReport>,
}

/// What of a worker's state was sent on one connection.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    sent: WorkerState,
    sequence: u64,
    full_is_sent: bool,
    /// The newest generation that came on the connection.
    observed: Option<u64>,
}

impl Reporter {
    /// An assignment came, whatever becomes of it.
    pub(crate) fn observe(&mut self, generation: u64) {
        self.observed = Some(generation);
    }

    fn seen(&self, node: &NodeReport) -> NodeReport {
        NodeReport { observed_generation: self.observed, ..node.clone() }
    }

    /// Makes the next report a full one.
    pub(crate) fn request_full(&mut self) {
        self.full_is_sent = false;
    }

    /// Whether `newest` differs from what was sent by more than measurements, which can wait.
    pub(crate) fn is_due(&self, newest: &WorkerState) -> bool {
        !self.full_is_sent
            || differs_beyond_measurements(&self.sent.node, &self.seen(&newest.node))
            || self.sent.vms.len() != newest.vms.len()
            || newest.vms.iter().any(|(id, vm)| match self.sent.vms.get(id) {
                Some(sent) => vm_differs_beyond_measurements(sent, vm),
                None => true,
            })
    }

    /// The report that makes `newest` of what was sent; as far as one report goes, in which case it has `more`.
    pub(crate) fn next(&mut self, newest: &WorkerState) -> Report {
        let full = !self.full_is_sent;
        if full {
            self.sent.vms.clear();
            self.full_is_sent = true;
        }
        self.sequence += 1;
        let mut changed = newest.vms.iter().filter(|(id, vm)| self.sent.vms.get(id) != Some(vm));
        let vms: Vec<VmReport> = changed.by_ref().take(VMS_MOST).map(|(_, vm)| vm.clone()).collect();
        let mut more = changed.next().is_some();
        let mut left = self.sent.vms.keys().filter(|id| !newest.vms.contains_key(id));
        let gone: Vec<VmId> = left.by_ref().take(VMS_MOST).cloned().collect();
        more |= left.next().is_some();
        for id in &gone {
            self.sent.vms.remove(id);
        }
        self.sent.vms.extend(vms.iter().map(|vm| (vm.vm.clone(), vm.clone())));
        let node = self.seen(&newest.node);
        self.sent.node = node.clone();
        Report { sequence: self.sequence, full, more, node, vms: List::cut(vms), gone: List::cut(gone) }
    }
}

/// Compares everything but what changes by itself.
fn differs_beyond_measurements(sent: &NodeReport, newest: &NodeReport) -> bool {
    let without = |node: &NodeReport| NodeReport {
        at_ms: 0,
        memory_available_bytes: None,
        disk_available_bytes: None,
        ..node.clone()
    };
    without(sent) != without(newest)
}

fn vm_differs_beyond_measurements(sent: &VmReport, newest: &VmReport) -> bool {
    // Taken apart, so that no new field is forgotten.
    let VmReport {
        vm,
        phase,
        readiness,
        reason,
        addresses,
        image,
        hash,
        generation,
        source,
        restarts,
        started_at_ms,
        metrics: _,
        conditions,
    } = sent;
    *vm != newest.vm
        || *phase != newest.phase
        || *readiness != newest.readiness
        || *reason != newest.reason
        || *addresses != newest.addresses
        || *image != newest.image
        || *hash != newest.hash
        || *generation != newest.generation
        || *source != newest.source
        || *restarts != newest.restarts
        || *started_at_ms != newest.started_at_ms
        || *conditions != newest.conditions
}

/// A worker's VMs that a master keeps in mind at most: as many as one takes, while as many are on their way out. Whoever has
/// a certificate could make up more.
pub const VMS_KNOWN_MOST: usize = 2 * VMS_MOST;
/// The memory in bytes that they may take. A VM takes one or two thousand; one with long texts, forty.
pub const VM_BYTES_KNOWN_MOST: usize = 16 << 20;

/// What a master knows of a worker: the reports so far, put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerView {
    /// The newest complete state.
    pub state: WorkerState,
    /// What the VMs in it cost.
    cost: Cost,
    /// A full report of which more is to come.
    incoming: Option<(BTreeMap<VmId, VmReport>, Cost)>,
    is_complete: bool,
}

/// What reports of VMs cost who keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    bytes: usize,
    /// Whether there was one more than there is room for.
    is_exceeded: bool,
}

impl Cost {
    /// Puts `vm` among `known`, where there is room. Otherwise it is not known at all: what was known of it is out of date.
    fn put(&mut self, known: &mut BTreeMap<VmId, VmReport>, vm: VmReport, bytes_most: usize) {
        self.remove(known, &vm.vm);
        let bytes = self.bytes.saturating_add(memory_of(&vm));
        if known.len() >= VMS_KNOWN_MOST || bytes > bytes_most {
            self.is_exceeded = true;
        } else {
            self.bytes = bytes;
            known.insert(vm.vm.clone(), vm);
        }
    }

    fn remove(&mut self, known: &mut BTreeMap<VmId, VmReport>, id: &VmId) {
        if let Some(before) = known.remove(id) {
            self.bytes = self.bytes.saturating_sub(memory_of(&before));
        }
    }
}

/// About how many bytes of memory `vm` takes.
pub fn memory_of(vm: &VmReport) -> usize {
    let reason = vm.reason.as_ref().map_or(0, |reason| {
        let class = reason.class.as_ref().map_or(0, |class| class.len());
        let hint = reason.hint.as_ref().map_or(0, |hint| hint.len());
        reason.kind.len() + class + reason.message.len() + hint
    });
    let address = |address: &Address| {
        size_of::<Address>() + address.nic.len() + address.address.len() + address.mac.len()
    };
    let condition = |condition: &Condition| size_of::<Condition>() + condition.reason.len();
    size_of::<VmReport>()
        + 2 * vm.vm.as_str().len()
        + vm.image.len()
        + vm.hash.len()
        + reason
        + vm.addresses.iter().map(address).sum::<usize>()
        + vm.conditions.iter().map(condition).sum::<usize>()
}

impl WorkerView {
    /// Puts `report` to what is known, as far as there is room; see [`Self::is_cut`]. Whether the view is complete: where it
    /// is not, ask for a full report.
    pub fn apply(&mut self, report: Report) -> bool {
        self.apply_within(report, VM_BYTES_KNOWN_MOST)
    }

    /// As [`Self::apply`], where VMs may take `bytes_most` of memory rather than [`VM_BYTES_KNOWN_MOST`].
    pub fn apply_within(&mut self, report: Report, bytes_most: usize) -> bool {
        let Report { sequence: _, full, more, node, vms, gone } = report;
        if full {
            self.incoming = Some(Default::default());
        }
        let (known, cost) = match &mut self.incoming {
            Some((incoming, cost)) => (incoming, cost),
            None => (&mut self.state.vms, &mut self.cost),
        };
        for id in gone.iter() {
            cost.remove(known, id);
        }
        for vm in vms.into_vec() {
            cost.put(known, vm, bytes_most);
        }
        self.state.node = node;
        if !more && let Some((complete, cost)) = self.incoming.take() {
            (self.state.vms, self.cost) = (complete, cost);
            self.is_complete = true;
        }
        self.is_complete || self.incoming.is_some()
    }

    /// Whether the worker reported more since its newest full report than is kept: [`VMS_KNOWN_MOST`] VMs in
    /// [`VM_BYTES_KNOWN_MOST`] bytes.
    pub fn is_cut(&self) -> bool {
        self.cost.is_exceeded
    }

    /// What is known of the VMs of a full report stays until the next connection's full report is complete.
    pub fn begin_connection(&mut self) {
        self.incoming = None;
        self.is_complete = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::samples;
    use crate::wire::Text;
    use crate::wire::v1::{ConditionKind, Phase};

    fn node() -> NodeReport {
        NodeReport { observed_generation: None, ..samples::node_report() }
    }

    fn state(vms: &[(u8, u64)]) -> WorkerState {
        let vm = |&(name, restarts): &(u8, u64)| {
            let mut report = samples::vm_report(&format!("vm-{name}"));
            report.restarts = restarts;
            (report.vm.clone(), report)
        };
        WorkerState { node: node(), vms: vms.iter().map(vm).collect() }
    }

    #[test]
    fn measurements_alone_wait_for_the_interval() {
        let mut reporter = Reporter::default();
        let mut newest = state(&[(1, 0)]);
        assert!(reporter.is_due(&newest), "nothing was sent yet");
        assert!(reporter.next(&newest).full);
        assert!(!reporter.is_due(&newest));
        newest.node.at_ms += 1;
        newest.node.memory_available_bytes = Some(1);
        let vm = newest.vms.values_mut().next().expect("there is one");
        vm.metrics = None;
        assert!(!reporter.is_due(&newest));
        assert_eq!(reporter.next(&newest).vms.len(), 1, "the interval's report has them");
        assert_eq!(reporter.next(&newest).vms.len(), 0);
        newest.vms.values_mut().next().expect("there is one").phase = Phase::Running;
        assert!(reporter.is_due(&newest));
        reporter.next(&newest);
        newest.node.applied_generation = Some(99);
        assert!(reporter.is_due(&newest));
    }

    #[test]
    fn more_vms_than_a_report_holds_come_in_several() {
        let many: BTreeMap<_, _> = (0..VMS_MOST + 10)
            .map(|number| {
                let report = samples::vm_report(&format!("vm-{number}"));
                (report.vm.clone(), report)
            })
            .collect();
        let newest = WorkerState { node: node(), vms: many };
        let (mut reporter, mut view) = (Reporter::default(), WorkerView::default());
        let first = reporter.next(&newest);
        assert!(first.full && first.more && reporter.is_due(&newest));
        assert!(view.apply(first));
        assert!(view.state.vms.is_empty(), "half a description replaces nothing");
        let second = reporter.next(&newest);
        assert!(!second.full && !second.more && second.vms.len() == 10 && !reporter.is_due(&newest));
        assert!(view.apply(second));
        assert_eq!(view.state, newest);
    }

    #[test]
    fn changes_without_a_beginning_are_told_apart() {
        let mut reporter = Reporter::default();
        reporter.next(&state(&[(1, 0)]));
        let changes = reporter.next(&state(&[(2, 0)]));
        let mut view = WorkerView::default();
        assert!(!view.apply(changes), "a full report is to be asked for");
        reporter.request_full();
        assert!(view.apply(reporter.next(&state(&[(2, 0)]))));
        view.begin_connection();
        assert_eq!(view.state, state(&[(2, 0)]), "what was known stays known");
    }

    #[test]
    fn a_worker_that_makes_up_vms_costs_a_bounded_amount() {
        let mut view = WorkerView::default();
        for round in 0..6 {
            let vm = |number: usize| samples::vm_report(&format!("vm-{round}-{number}"));
            let vms = List::cut((0..VMS_MOST).map(vm));
            view.apply(Report { sequence: 1, full: round == 0, more: true, vms, ..Report::default() });
        }
        assert_eq!(view.state.vms.len(), 0, "the report is not whole");
        view.apply(Report { sequence: 2, ..Report::default() });
        assert_eq!((view.state.vms.len(), view.is_cut()), (VMS_KNOWN_MOST, true));
        // As many as there may be, with all the text that they may have.
        let condition = Condition {
            kind: ConditionKind::Stable,
            holds: false,
            since_ms: None,
            reason: Text::cut("x".repeat(2048)),
        };
        let mut number = 0;
        for round in 0..64 {
            let vms = (0..VMS_MOST / 64).map(|_| {
                number += 1;
                let conditions = List::cut(vec![condition.clone(); 16]);
                VmReport { conditions, ..samples::vm_report(&format!("vm-{number}")) }
            });
            view.apply(Report {
                full: round == 0,
                more: round < 63,
                vms: List::cut(vms),
                ..Report::default()
            });
        }
        let bytes: usize = view.state.vms.values().map(memory_of).sum();
        assert!(bytes <= VM_BYTES_KNOWN_MOST && bytes > VM_BYTES_KNOWN_MOST / 2, "{bytes}");
        assert!(view.is_cut());
        view.apply(Report { full: true, vms: List::cut([samples::vm_report("a")]), ..Report::default() });
        assert_eq!((view.state.vms.len(), view.is_cut()), (1, false));
    }

    proptest! {
        #[test]
        fn a_view_follows_every_state_also_those_that_were_never_sent(
            states in prop::collection::vec((prop::collection::vec((0_u8..6, 0_u64..3), 0..6), any::<bool>(), any::<bool>()), 1..20),
        ) {
            let (mut reporter, mut view) = (Reporter::default(), WorkerView::default());
            for (vms, is_sent, is_requested) in &states {
                if *is_requested {
                    reporter.request_full();
                }
                let newest = state(vms);
                if *is_sent && reporter.is_due(&newest) {
                    prop_assert!(view.apply(reporter.next(&newest)));
                    prop_assert_eq!(&view.state, &newest);
                }
            }
        }
    }
}

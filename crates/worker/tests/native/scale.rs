//! A thousand VMs by one desired state. Not of the default set: it takes about a minute and all of the host's processors.

use std::num::NonZeroUsize;
use std::time::Instant;

use tiny_guest::TinyGuest;
use vm_model::{Assignment, AssignmentSet, DesiredState, Source};
use worker::vms::{MemoryOvercommit, VmManager, VmManagerConfig, VmStatus};

use crate::told::{Told, assigned};
use crate::workbench::{isolated, until_within};

const VMS: usize = 1000;
const LIMIT: std::time::Duration = std::time::Duration::from_secs(600);

#[test]
#[ignore = "full: starts a thousand VMs"]
fn a_thousand_vms_are_assigned_started_and_stopped() {
    isolated(|bench| {
        let image = bench.plain("image", &TinyGuest::idle());
        let config = VmManagerConfig {
            vm_subnet_base: "10.77.0.0/16".to_owned(),
            memory_overcommit: MemoryOvercommit::Unlimited,
            max_parallel_starts: NonZeroUsize::MIN.saturating_add(3),
            ..bench.config()
        };
        let node = Told::start(VmManager::new(config).expect("starts"));
        let all = |desired| -> Vec<Assignment> {
            (0..VMS).map(|number| assigned(&format!("vm-{number}"), &image, desired)).collect()
        };
        let count =
            |wanted: &VmStatus| node.manager.list_vms().iter().filter(|vm| vm.status == *wanted).count();
        for (desired, status) in
            [(DesiredState::Running, VmStatus::Running), (DesiredState::Stopped, VmStatus::Stopped)]
        {
            let begun = Instant::now();
            let set = AssignmentSet { vms: all(desired), ..AssignmentSet::default() };
            let verdict = node.assign_from(Source::File, set).expect("taken");
            let ordered = begun.elapsed();
            assert_eq!(verdict.outcomes.iter().filter(|outcome| outcome.problem.is_none()).count(), VMS);
            let waiting = node.manager.list_vms().iter().filter(|vm| vm.waits_to_start).count();
            until_within(LIMIT, "all are there", || count(&status) == VMS);
            println!(
                "{VMS} VMs {}: ordered in {ordered:?}, {waiting} waited for a turn then, all there after {:?}",
                status.phase_name(),
                begun.elapsed()
            );
        }
        let failures: u64 = node.manager.list_vms().iter().map(|vm| vm.failures).sum();
        assert_eq!(failures, 0);
        node.end().shutdown().expect("ends");
    });
}

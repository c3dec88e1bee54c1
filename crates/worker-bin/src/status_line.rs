//! The line that a service manager shows of the worker: how its VMs are, told anew when that changes.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};
use vm_model::{VmInfo, VmStatus};
use worker::vms::VmManager;

use crate::notifier::Notifier;

/// How often it is looked at, and told at most.
const EVERY: Duration = Duration::from_secs(2);
/// So many VMs that fail are named.
const NAMED: usize = 3;

/// What was told last, and when to look again.
#[derive(Debug)]
pub(crate) struct StatusLine {
    looks: Interval,
    told: String,
}

impl StatusLine {
    /// Must be called on a runtime.
    pub(crate) fn start() -> Self {
        let mut looks = interval(EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { looks, told: String::new() }
    }

    /// Returns when it is time to look. Cancel-safe.
    pub(crate) async fn due(&mut self) {
        self.looks.tick().await;
    }

    /// Tells `notifier` how the VMs are, where that has changed.
    pub(crate) fn tell(&mut self, notifier: &Notifier, vm_manager: &VmManager) {
        if !notifier.is_heard() {
            return;
        }
        let text = summary(&vm_manager.list_vms());
        if text != self.told {
            notifier.show(text.clone());
            self.told = text;
        }
    }
}

/// How `vms` are, in one line like "3 VMs run, 1 fails: web-2".
fn summary(vms: &[VmInfo]) -> String {
    let (mut running, mut starting, mut off) = (0, 0, 0);
    let mut failing = Vec::new();
    for vm in vms {
        match &vm.status {
            VmStatus::Running | VmStatus::Paused => running += 1,
            VmStatus::Failed(_) => failing.push(vm.id.as_str()),
            VmStatus::Restarting if vm.failures_in_a_row > 0 => failing.push(vm.id.as_str()),
            VmStatus::Creating | VmStatus::Booting | VmStatus::Restarting => starting += 1,
            VmStatus::Stopping | VmStatus::Stopped => off += 1,
        }
    }
    let mut parts = vec![match running {
        0 if vms.is_empty() => "no VMs".to_owned(),
        0 => "no VM runs".to_owned(),
        1 => "1 VM runs".to_owned(),
        count => format!("{count} VMs run"),
    }];
    let mut add = |count: usize, one: &str, many: &str| match count {
        0 => {}
        1 => parts.push(format!("1 {one}")),
        _ => parts.push(format!("{count} {many}")),
    };
    add(starting, "starts", "start");
    add(off, "is off", "are off");
    add(failing.len(), "fails", "fail");
    let mut text = parts.join(", ");
    if !failing.is_empty() {
        let more = if failing.len() > NAMED { ", …" } else { "" };
        failing.truncate(NAMED);
        text = format!("{text}: {}{more}", failing.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use vm_model::{Assignment, FailureKind, FailureReason, Generation, VmId};

    use super::*;

    fn vms(statuses: &[VmStatus]) -> Vec<VmInfo> {
        let vm = |(index, status): (usize, &VmStatus)| {
            let assignment = Assignment::new(VmId::new(&format!("web-{index}")), "", "/x");
            VmInfo { status: status.clone(), ..VmInfo::new(assignment, Generation::default()) }
        };
        statuses.iter().enumerate().map(vm).collect()
    }

    #[test]
    fn a_line_says_how_all_are_and_who_fails() {
        use VmStatus::{Creating, Paused, Running, Stopped};
        let failed = VmStatus::Failed(FailureReason::new(FailureKind::Artifact, "gone".to_owned()));
        for (statuses, line) in [
            (vec![], "no VMs"),
            (vec![Running], "1 VM runs"),
            (vec![Running, Running, failed.clone(), Paused], "3 VMs run, 1 fails: web-2"),
            (vec![Creating, Stopped, Stopped], "no VM runs, 1 starts, 2 are off"),
            (vec![failed; 5], "no VM runs, 5 fail: web-0, web-1, web-2, …"),
        ] {
            assert_eq!(summary(&vms(&statuses)), line);
        }
    }
}

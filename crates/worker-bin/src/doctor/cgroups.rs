//! Control groups: what accounts for and limits the processes of VMs.

use worker::vms::Enforcement;

use super::finding::{Finding, advice, command};
use super::host::Host;
use crate::settings::Settings;

const CHECK: &str = "cgroups";
const LIMITS: &str = "limits";
const WANTED: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// The controllers of the unified hierarchy; `None` where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    controllers: Option<Vec<String>>,
}

pub(super) fn look(host: &Host) -> Facts {
    let text = host.read("/sys/fs/cgroup/cgroup.controllers");
    Facts { controllers: text.map(|text| text.split_whitespace().map(str::to_owned).collect()) }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    const UNIFY: &str = "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line";
    let Some(controllers) = &facts.controllers else {
        let found = "no cgroup v2 at /sys/fs/cgroup: what VMs use is not accounted for, and limits of VMs cannot be enforced";
        return vec![Finding::warn(CHECK, found, advice(UNIFY))];
    };
    let missing: Vec<&str> =
        WANTED.into_iter().filter(|wanted| !controllers.iter().any(|there| there == wanted)).collect();
    if missing.is_empty() {
        return vec![Finding::ok(CHECK, format!("cgroup v2 with {}", WANTED.join(", ")))];
    }
    let found = format!("cgroup v2 lacks {}", missing.join(", "));
    let names: Vec<String> = missing.iter().map(|name| format!("+{name}")).collect();
    let enable = format!("echo '{}' >/sys/fs/cgroup/cgroup.subtree_control", names.join(" "));
    vec![Finding::warn(CHECK, found, command(enable))]
}

/// What of the configured limits does not hold on this host.
pub(super) fn judge_limits(settings: &Settings) -> Vec<Finding> {
    let remedy = || advice("mend what `cgroups` says, or let limits.enforcement be \"best-effort\"");
    let finding = match settings.manager.limits.enforcement {
        Enforcement::Required => Finding::fail,
        Enforcement::BestEffort => Finding::warn,
    };
    settings.manager.foresee_limits().map(|problem| finding(LIMITS, problem, remedy())).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::super::host::testing::host;
    use super::*;

    #[test]
    fn controllers_that_are_missing_are_named() {
        let judged = |text: &str| {
            let (_folder, host) = host(&[("sys/fs/cgroup/cgroup.controllers", text)]);
            judge(&look(&host)).remove(0)
        };
        assert_eq!(judged("cpuset cpu io memory pids\n").verdict, Verdict::Ok);
        assert!(judged("cpu pids\n").found.ends_with("lacks io, memory"));
        let (_folder, bare) = host(&[]);
        assert!(judge(&look(&bare))[0].found.starts_with("no cgroup v2"));
    }
}

//! The jail of the processes that run VMs: one is started for that, and says what it could not give up.

use vm_model::error_chain;
use worker::vms::{HostProcessSettings, JailDemand, JailReport, JailSettings, Placement, probe_jail};

use super::finding::{Finding, Remedy, advice};
use super::host::Host;
use crate::settings::Settings;

const CHECK: &str = "jail";

/// What became of a process that entered a jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Facts {
    /// VMs run in the worker.
    NoProcesses,
    /// The settings do without.
    Off,
    /// It said what is missing.
    Entered {
        demand: JailDemand,
        report: JailReport,
        /// Users of the range that have names on this host.
        named_users: Vec<String>,
    },
    /// It could not be asked, or what is missing is required.
    Refused { demand: JailDemand, problem: String },
}

pub(super) fn look(host: &Host, settings: &Settings) -> Facts {
    let hosts = match &settings.manager.placement {
        Placement::HostProcesses(hosts) => hosts,
        // Only VMs that are isolated strictly have processes then.
        Placement::StrictApart(_) | Placement::InThisProcess => return Facts::NoProcesses,
    };
    let HostProcessSettings { program, jail: Some(jail), .. } = hosts else { return Facts::Off };
    let JailSettings { users, demand } = *jail;
    match probe_jail(program, *jail) {
        Ok(report) => {
            let passwd = host.read("/etc/passwd").unwrap_or_default();
            Facts::Entered { demand, report, named_users: users.named_in(&passwd) }
        }
        Err(problem) => Facts::Refused { demand, problem: error_chain(&problem) },
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    match facts {
        Facts::NoProcesses => {
            let found = "VMs run in the worker's own process, in no jail and without filters of system calls, but for those that are \
                         isolated strictly";
            vec![Finding::warn(CHECK, found, advice("set vms_per_host_process to 1"))]
        }
        Facts::Off => {
            let found =
                "jail is \"off\": a guest that breaks out of its machine has the rights of the worker";
            vec![Finding::warn(CHECK, found, advice("set jail to \"auto\" or \"required\""))]
        }
        Facts::Refused { demand: JailDemand::Whole, problem } => {
            vec![Finding::fail(CHECK, problem.clone(), mend())]
        }
        Facts::Refused { demand: JailDemand::WhatTheHostHas, problem } => {
            vec![Finding::warn(CHECK, problem.clone(), mend())]
        }
        Facts::Entered { report, named_users, .. } => entered(report, named_users),
    }
}

fn entered(report: &JailReport, named_users: &[String]) -> Vec<Finding> {
    let gap = |gap: &_| Finding::warn(CHECK, format!("processes of VMs run without a layer: {gap}"), mend());
    let mut findings: Vec<Finding> = report.holes().map(gap).collect();
    if findings.is_empty() {
        let more = report.additions().map(|gap| format!("; a newer kernel would add to it ({gap})"));
        let more: String = more.collect();
        findings
            .push(Finding::ok(CHECK, format!("processes of VMs give up everything they do not need{more}")));
    }
    if !named_users.is_empty() {
        let found = format!("users of jail_users are others' on this host: {}", named_users.join(", "));
        findings.push(Finding::warn(CHECK, found, advice("set jail_users to numbers that nobody has")));
    }
    findings
}

fn mend() -> Remedy {
    advice(
        "run the worker as root with all its capabilities, on Linux 5.13 or newer with landlock among its `lsm=`",
    )
}

#[cfg(test)]
mod tests {
    use jail::{Extent, Gap, Layer};

    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn what_is_missing_is_told_a_layer_each() {
        let gap = |layer| Gap { layer, problem: "refused".to_owned(), extent: Extent::Whole };
        let report = JailReport { user: None, gaps: vec![gap(Layer::User), gap(Layer::Landlock)] };
        let facts = |report| {
            let demand = JailDemand::WhatTheHostHas;
            Facts::Entered { demand, report, named_users: vec!["ann".to_owned()] }
        };
        let findings = judge(&facts(report));
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Warn), "{findings:?}");
        assert!(findings[0].found.ends_with("own user: refused") && findings[2].found.contains("ann"));
        let whole = judge(&facts(JailReport::default()));
        assert_eq!((whole[0].verdict, whole.len()), (Verdict::Ok, 2));
        let older_kernel = Gap { extent: Extent::Additions, ..gap(Layer::Landlock) };
        let whole = judge(&facts(JailReport { user: None, gaps: vec![older_kernel] }));
        assert_eq!(whole[0].verdict, Verdict::Ok);
        assert!(whole[0].found.ends_with("a newer kernel would add to it (Landlock: refused)"), "{whole:?}");
    }

    #[test]
    fn what_is_required_and_missing_fails() {
        let verdict = |demand| judge(&Facts::Refused { demand, problem: "x".to_owned() })[0].verdict;
        assert_eq!(verdict(JailDemand::Whole), Verdict::Fail);
        assert_eq!(verdict(JailDemand::WhatTheHostHas), Verdict::Warn);
        assert_eq!(judge(&Facts::Off)[0].verdict, Verdict::Warn);
    }
}

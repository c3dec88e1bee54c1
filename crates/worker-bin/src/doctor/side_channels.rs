//! What guests learn of each other by the processor and by shared pages: the kernel's own word on its mitigations, and whether
//! it merges pages of different guests.

use std::collections::BTreeMap;

use rustix::io::Errno;
use rustix::thread::{CoreSchedulingScope, core_scheduling_cookie, gettid};

use super::finding::{Finding, advice, command};
use super::host::Host;

const CHECK: &str = "side channels";
const VULNERABILITIES: &str = "/sys/devices/system/cpu/vulnerabilities";
const MERGING: &str = "/sys/kernel/mm/ksm/run";
/// Whether sibling threads of a core are in use.
const SIBLINGS: &str = "/sys/devices/system/cpu/smt/active";

/// What the kernel says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// By the name of the weakness, where this kernel tells of any.
    weaknesses: BTreeMap<String, String>,
    merging: Option<String>,
    siblings: Option<String>,
    core_scheduling: bool,
}

pub(super) fn look(host: &Host) -> Facts {
    let names = host.entries(VULNERABILITIES);
    let told = |name: String| {
        let text = host.read(&format!("{VULNERABILITIES}/{name}"))?;
        Some((name, text))
    };
    Facts {
        weaknesses: names.into_iter().filter_map(told).collect(),
        merging: host.read(MERGING),
        siblings: host.read(SIBLINGS),
        // A kernel that has it knows of a cookie, be it none; one whose cores have one thread says that there is no device.
        core_scheduling: core_scheduling_cookie(gettid(), CoreSchedulingScope::Thread) != Err(Errno::INVAL),
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let Facts { weaknesses, merging, siblings, core_scheduling } = facts;
    let mut findings = Vec::new();
    let open = weaknesses.iter().filter(|(_, told)| told.starts_with("Vulnerable"));
    let open: Vec<String> = open.map(|(name, told)| format!("{name} ({told})")).collect();
    if !open.is_empty() {
        let found = format!("the processor gives away what guests keep, by: {}", open.join(", "));
        findings.push(Finding::warn(
            CHECK,
            found,
            advice("update firmware and kernel, and remove mitigations= from the kernel's command line"),
        ));
    } else if weaknesses.is_empty() {
        findings.push(Finding::warn(
            CHECK,
            "this kernel does not tell of its processor's weaknesses",
            advice("guests of different owners belong on a host that does"),
        ));
    } else {
        findings.push(Finding::ok(
            CHECK,
            format!("the kernel knows {} weaknesses, none of them open", weaknesses.len()),
        ));
    }
    if merging.as_deref() == Some("1") {
        let found = "the kernel merges equal pages: a guest can find out what others have in memory";
        findings.push(Finding::warn(CHECK, found, command("echo 2 >/sys/kernel/mm/ksm/run")));
    }
    if siblings.as_deref() == Some("1") {
        findings.push(of_siblings(*core_scheduling));
    }
    findings
}

/// Two threads of a core are in use.
fn of_siblings(core_scheduling: bool) -> Finding {
    if core_scheduling {
        return Finding::ok(CHECK, "two threads share a core, and the kernel keeps guests apart on them");
    }
    let found = "two threads share a core, and guests of different owners may run on them at the same time: this \
                 kernel has no core scheduling (CONFIG_SCHED_CORE)";
    Finding::warn(CHECK, found, command("echo off >/sys/devices/system/cpu/smt/control"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::super::host::testing::host;
    use super::*;

    #[test]
    fn what_is_open_is_named() {
        let (_folder, open) = host(&[
            (
                "sys/devices/system/cpu/vulnerabilities/mds",
                "Vulnerable: Clear CPU buffers attempted, no microcode\n",
            ),
            ("sys/devices/system/cpu/vulnerabilities/meltdown", "Not affected\n"),
            ("sys/kernel/mm/ksm/run", "1\n"),
            ("sys/devices/system/cpu/smt/active", "1\n"),
        ]);
        let findings = judge(&Facts { core_scheduling: false, ..look(&open) });
        assert!(
            findings[0].found.contains("mds (Vulnerable: Clear") && !findings[0].found.contains("meltdown")
        );
        assert_eq!(findings.iter().filter(|finding| finding.verdict == Verdict::Warn).count(), 3);
        let findings = judge(&Facts { core_scheduling: true, ..look(&open) });
        assert_eq!(findings.iter().filter(|finding| finding.verdict == Verdict::Warn).count(), 2);
        let (_folder, sound) = host(&[
            ("sys/devices/system/cpu/vulnerabilities/mds", "Mitigation: Clear CPU buffers\n"),
            ("sys/kernel/mm/ksm/run", "0\n"),
            ("sys/devices/system/cpu/smt/active", "0\n"),
        ]);
        let findings = judge(&look(&sound));
        assert_eq!((findings.len(), findings[0].verdict), (1, Verdict::Ok));
    }
}

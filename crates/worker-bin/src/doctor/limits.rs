//! Limits and memory settings of the kernel.

use rustix::process::{Resource, getrlimit};
use vm_model::HugePageSupport;
use worker::vms::Placement;

use super::finding::{Finding, command, commands};
use super::host::Host;
use crate::settings::Settings;

const MAPS: &str = "mappings";
const FILES: &str = "open files";
const HUGE_PAGES: &str = "huge pages";
/// Mappings that a process with one VM takes at most, and what each further VM adds.
const MAPS_BASE: u64 = 4096;
const MAPS_A_VM: u64 = 1024;
/// A VM takes a few dozen.
const FEW_FILES: u64 = 4096;

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// `vm.max_map_count`.
    max_map_count: Option<u64>,
    /// How many VMs may share a process.
    vms_per_process: u64,
    /// The hard limit of open files; `None` is no limit.
    open_files: Option<u64>,
    huge_pages: HugePageSupport,
}

pub(super) fn look(host: &Host, settings: &Settings) -> Facts {
    let vms_per_process = match &settings.manager.placement {
        // All in the worker: as many as there are.
        Placement::InThisProcess | Placement::StrictApart(_) => 64,
        Placement::HostProcesses(hosts) => hosts.vms_per_process.get() as u64,
    };
    Facts {
        max_map_count: host.read("/proc/sys/vm/max_map_count").and_then(|text| text.parse().ok()),
        vms_per_process,
        open_files: getrlimit(Resource::Nofile).maximum,
        huge_pages: worker::observe_huge_pages(),
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    vec![mappings(facts), open_files(facts.open_files), huge_pages(facts.huge_pages)]
}

fn mappings(facts: &Facts) -> Finding {
    let wanted = MAPS_BASE.saturating_add(MAPS_A_VM.saturating_mul(facts.vms_per_process));
    match facts.max_map_count {
        Some(count) if count < wanted => Finding::warn(
            MAPS,
            format!(
                "vm.max_map_count is {count}: a process with {} VMs may need {wanted}",
                facts.vms_per_process
            ),
            commands([
                format!("echo 'vm.max_map_count = {wanted}' >/etc/sysctl.d/60-procurator.conf"),
                "sysctl --system".to_owned(),
            ]),
        ),
        Some(count) => Finding::ok(MAPS, format!("vm.max_map_count is {count}")),
        None => Finding::ok(MAPS, "the kernel has no vm.max_map_count"),
    }
}

fn open_files(limit: Option<u64>) -> Finding {
    match limit {
        Some(limit) if limit < FEW_FILES => Finding::warn(
            FILES,
            format!(
                "a process may have {limit} files open at most: many VMs do not fit (wanted: {FEW_FILES})"
            ),
            commands([
                "mkdir -p /etc/systemd/system/procurator-worker.service.d".to_owned(),
                "printf '[Service]\\nLimitNOFILE=1048576\\n' \
                 >/etc/systemd/system/procurator-worker.service.d/files.conf"
                    .to_owned(),
                "systemctl daemon-reload".to_owned(),
            ]),
        ),
        Some(limit) => Finding::ok(FILES, format!("at most {limit} a process")),
        None => Finding::ok(FILES, "no limit"),
    }
}

fn huge_pages(HugePageSupport { shared, private }: HugePageSupport) -> Finding {
    match (shared, private) {
        (true, _) => Finding::ok(HUGE_PAGES, "guests' shared memory has them"),
        (false, true) => Finding::ok(
            HUGE_PAGES,
            "guests' private memory has them; shared memory would with shmem_enabled = advise",
        ),
        (false, false) => Finding::warn(
            HUGE_PAGES,
            "neither shared nor private memory has transparent huge pages: guests boot and run slower",
            command("echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn what_many_vms_need_is_held_against_what_there_is() {
        let facts = Facts {
            max_map_count: Some(65_530),
            vms_per_process: 1,
            open_files: None,
            huge_pages: HugePageSupport { shared: false, private: true },
        };
        assert!(judge(&facts).iter().all(|finding| finding.verdict == Verdict::Ok), "{:?}", judge(&facts));
        let few = Facts {
            vms_per_process: 1024,
            open_files: Some(1024),
            huge_pages: HugePageSupport { shared: false, private: false },
            ..facts
        };
        assert!(judge(&few).iter().all(|finding| finding.verdict == Verdict::Warn), "{:?}", judge(&few));
        assert!(judge(&few)[0].found.contains("1052672"), "{:?}", judge(&few));
    }
}

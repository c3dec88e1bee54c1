//! What this host has of what machines take. Looks; decides nothing.

use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use rustix::process::{Resource, getrlimit};
use vm_model::Bytes;

use super::admission::MachineProcesses;
use super::huge_pages::HugePools;

/// What a host has; of what it does not say, nothing is known and nothing refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostResources {
    pub(crate) memory: Option<HostMemory>,
    /// Threads that there may be.
    pub(crate) threads: Option<Most>,
    /// Descriptors that this process, and each that it starts, may have open.
    pub(crate) descriptors: Option<u64>,
    /// Processors that run.
    pub(crate) processors: Option<u64>,
    pub(crate) huge_pages: HugePools,
}

/// Memory of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostMemory {
    /// All of it.
    pub(crate) total: Bytes,
    /// Set aside as huge pages, which the kernel promises to one machine only.
    pub(crate) huge_pages: Bytes,
}

/// The most of something, and the file that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Most {
    pub(crate) most: u64,
    pub(crate) by: String,
}

impl HostResources {
    /// What this host has now for machines in `processes`. Most of it can change at any time.
    pub(crate) fn observe(processes: MachineProcesses) -> Self {
        Self {
            memory: HostMemory::observe(),
            threads: threads(Path::new("/"), processes),
            descriptors: getrlimit(Resource::Nofile).maximum,
            processors: available_parallelism().ok().and_then(|count| u64::try_from(count.get()).ok()),
            huge_pages: HugePools::observe(),
        }
    }
}

/// The least of the kernel's limits of threads on a host with its files below `root`, and of those of the control group
/// (cgroup v2) that processes of machines are in.
fn threads(root: &Path, processes: MachineProcesses) -> Option<Most> {
    let mut files = vec!["proc/sys/kernel/threads-max".to_owned(), "proc/sys/kernel/pid_max".to_owned()];
    match processes {
        // A limit holds for all groups below as well.
        MachineProcesses::This => {
            let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
            let group = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
            let above =
                Path::new(group).ancestors().map(|group| format!("sys/fs/cgroup/{}", group.display()));
            files.extend(above.map(|group| format!("{}/pids.max", group.trim_end_matches('/'))));
        }
        MachineProcesses::Apart => files.extend(
            ["procurator.slice", "procurator"].map(|group| format!("sys/fs/cgroup/{group}/pids.max")),
        ),
    }
    let read = |file: &String| {
        let most = fs::read_to_string(root.join(file)).ok()?.trim().parse().ok()?;
        Some(Most { most, by: format!("/{file}") })
    };
    files.iter().filter_map(read).min_by_key(|limit| limit.most)
}

impl HostMemory {
    /// What this host has now; `None` where it does not say. Huge pages can be set aside at any time.
    pub(super) fn observe() -> Option<Self> {
        Self::parse(&fs::read_to_string(Path::new("/proc/meminfo")).ok()?)
    }

    /// Reads `/proc/meminfo` (Linux `Documentation/filesystems/proc.rst`).
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
            Some(Bytes::new(kibibytes.checked_mul(1024)?))
        };
        // Kernels without huge pages have no such line.
        Some(Self { total: field("MemTotal")?, huge_pages: field("Hugetlb").unwrap_or(Bytes::new(0)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_hosts_memory_is_read() {
        let text = "MemTotal:       24684084 kB\nMemFree: 1 kB\nHugetlb:            2048 kB\n";
        let read = HostMemory { total: Bytes::new(24_684_084 << 10), huge_pages: Bytes::from_mib(2) };
        assert_eq!(HostMemory::parse(text), Some(read));
        assert_eq!(HostMemory::parse("MemTotal: many kB\n"), None);
        assert!(HostMemory::observe().is_some_and(|memory| memory.total > memory.huge_pages));
    }

    #[test]
    fn the_least_limit_of_threads_counts_and_is_named() {
        let root = tempfile::tempdir().expect("a directory");
        let limits = |processes| threads(root.path(), processes).map(|limit| (limit.most, limit.by));
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        };
        assert_eq!(limits(MachineProcesses::Apart), None);
        write("proc/sys/kernel/threads-max", "2000\n");
        write("proc/sys/kernel/pid_max", "4194304\n");
        let by_kernel = Some((2000, "/proc/sys/kernel/threads-max".to_owned()));
        assert_eq!(limits(MachineProcesses::Apart), by_kernel);
        write("sys/fs/cgroup/procurator.slice/pids.max", "max\n");
        write("sys/fs/cgroup/procurator/pids.max", "900\n");
        assert_eq!(
            limits(MachineProcesses::Apart),
            Some((900, "/sys/fs/cgroup/procurator/pids.max".to_owned()))
        );
        assert_eq!(limits(MachineProcesses::This), by_kernel);
        write("proc/self/cgroup", "0::/a.slice/b.service\n");
        write("sys/fs/cgroup/a.slice/pids.max", "700\n");
        write("sys/fs/cgroup/a.slice/b.service/pids.max", "max\n");
        assert_eq!(limits(MachineProcesses::This), Some((700, "/sys/fs/cgroup/a.slice/pids.max".to_owned())));
    }

    #[test]
    fn this_host_says_what_it_has() {
        let host = HostResources::observe(MachineProcesses::Apart);
        assert!(host.threads.is_some_and(|limit| limit.most > 0) && host.processors.is_some());
    }
}

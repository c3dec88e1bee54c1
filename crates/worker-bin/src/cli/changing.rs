//! The verbs that change which VMs there are, what they are, and what is kept of them.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgGroup, Args, Subcommand};
use vm_model::{InvalidVmId, SourceKind, VCPUS_MOST, VmId};

use super::amounts::{amount, machine_memory};
use super::devices::DeviceFlags;
use super::limits::LimitFlags;
use super::span::Span;
use crate::client::naming::VmName;

/// What can be changed.
#[derive(Debug, Subcommand)]
pub(crate) enum ChangeVerb {
    /// Run a VM that neither a file nor a master assigns; what was asked for stays, over restarts too
    Create(CreateFlags),
    /// Change a VM that was created here: shows what follows, and does it
    Set(SetFlags),
    /// Remove VMs that were created here; their volumes are kept for a while
    Rm(RemovalFlags),
    /// Bring a removed VM back, with its data, while that is kept
    Undelete(UndeleteFlags),
    /// Delete volumes that are kept for a while, before their time; or fetched store paths that nothing needs
    Gc(GcFlags),
    /// Apply a desired state that is held because it would remove too much
    AllowRemovals {
        /// Whose: `file` or `master`; has to be said where both are held
        #[arg(value_parser = super::sources::source)]
        source: Option<SourceKind>,
        /// Only show what it would change
        #[arg(long)]
        dry_run: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Follow the master that waits to be accepted: one that was rebuilt, or that takes another's place
    AcceptMaster {
        /// Only show what it would change
        #[arg(long)]
        dry_run: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// What `create` makes.
#[derive(Clone, Debug, Args)]
pub(crate) struct CreateFlags {
    /// Its name: a DNS label like `web-1`
    pub(crate) id: VmId,
    /// Its artifact, like `/nix/store/…-vm-image`
    #[arg(value_name = "STORE_PATH")]
    pub(crate) store_path: PathBuf,
    /// The NAR hash that the artifact must have [default: the one that it has now]
    #[arg(long)]
    pub(crate) hash: Option<String>,
    #[command(flatten)]
    pub(crate) machine: MachineFlags,
    #[command(flatten)]
    pub(crate) wait: WaitFlags,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `set` changes.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true)
    .args(["store_path", "hash", "vcpus", "memory", "cmdline_append", "restart", "cpu", "cpu_weight", "memory_max",
        "io_weight", "io_read_bytes", "io_write_bytes", "io_read_operations", "io_write_operations", "processes",
        "descriptors", "network", "port", "egress", "disk"]))]
pub(crate) struct SetFlags {
    /// The VM: its name, or the beginning of it that no other has
    pub(crate) vm: VmName,
    /// Another artifact, like `/nix/store/…-vm-image`
    #[arg(long, value_name = "STORE_PATH")]
    pub(crate) store_path: Option<PathBuf>,
    /// The NAR hash that the artifact must have [default with --store-path: the one that it has now]
    #[arg(long)]
    pub(crate) hash: Option<String>,
    #[command(flatten)]
    pub(crate) machine: MachineFlags,
    /// Only show what would follow
    #[arg(long, conflicts_with_all = ["no_wait", "timeout"])]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) wait: WaitFlags,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is said of a machine in place of its artifact.
#[derive(Clone, Debug, Args)]
pub(crate) struct MachineFlags {
    /// Number of vCPUs, 1 to 64, in place of the artifact's; `default` for that one
    #[arg(long, value_name = "COUNT", value_parser = vcpus)]
    pub(crate) vcpus: Option<Override<u8>>,
    /// Memory in bytes, or with K, M or G behind it, 16M or more, in place of the artifact's; `default` for that
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub(crate) memory: Option<Override<u64>>,
    /// Text put after the kernel's command line; an empty one for none
    #[arg(long, alias = "cmdline", value_name = "TEXT")]
    pub(crate) cmdline_append: Option<String>,
    /// When it is started again after it ended: `always`, `on-failure` or `never`; `default` for what its artifact or else
    /// the worker says
    #[arg(long, value_name = "POLICY", value_parser = restart)]
    pub(crate) restart: Option<Override<&'static str>>,
    #[command(flatten)]
    pub(crate) devices: DeviceFlags,
    #[command(flatten)]
    pub(crate) limits: LimitFlags,
}

/// A value in place of the artifact's, or the artifact's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Override<T> {
    /// What the artifact says.
    Default,
    /// This.
    Value(T),
}

impl<T> Override<T> {
    /// The value, if it is one.
    pub(crate) fn value(self) -> Option<T> {
        match self {
            Self::Default => None,
            Self::Value(value) => Some(value),
        }
    }
}

/// The word for what the artifact says.
pub(super) const DEFAULT: &str = "default";

fn vcpus(text: &str) -> Result<Override<u8>, String> {
    if text == DEFAULT {
        return Ok(Override::Default);
    }
    let count = text.parse().ok().filter(|count| (1..=VCPUS_MOST).contains(count));
    count.map(Override::Value).ok_or_else(|| "1 to 64 or default is accepted".to_owned())
}

fn memory(text: &str) -> Result<Override<u64>, String> {
    if text == DEFAULT { Ok(Override::Default) } else { machine_memory(text).map(Override::Value) }
}

fn restart(text: &str) -> Result<Override<&'static str>, String> {
    const POLICIES: [&str; 3] = ["always", "on-failure", "never"];
    if text == DEFAULT {
        return Ok(Override::Default);
    }
    let policy = POLICIES.into_iter().find(|policy| *policy == text);
    policy.map(Override::Value).ok_or_else(|| format!("{}, or {DEFAULT} is accepted", POLICIES.join(", ")))
}

/// Whether and for how long it is waited for.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WaitFlags {
    /// Do not wait until it is done
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) no_wait: bool,
    /// Fail where it is not done within so many seconds; it goes on all the same
    #[arg(long, value_name = "SECONDS", default_value_t = 600, hide_default_value = true,
        value_parser = super::amounts::timeout)]
    pub(crate) timeout: u64,
}

/// What `rm` removes.
#[derive(Clone, Debug, Args)]
pub(crate) struct RemovalFlags {
    /// The VMs, by their whole names
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<VmId>,
    #[command(flatten)]
    pub(crate) wait: WaitFlags,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `undelete` brings back.
#[derive(Clone, Debug, Args)]
pub(crate) struct UndeleteFlags {
    /// The VM, as `ls --removed` lists it
    pub(crate) id: VmId,
    #[command(flatten)]
    pub(crate) wait: WaitFlags,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What can be said after `gc`.
const GC_USAGE: &str = "procurator-worker gc [OPTIONS] VM[/DISK]\n       procurator-worker gc [OPTIONS] --all\n       \
     procurator-worker gc [OPTIONS] --images [--older-than SPAN] [--keep SIZE] [--free SIZE]";

/// What `gc` deletes.
#[derive(Clone, Debug, Args)]
#[command(override_usage = GC_USAGE)]
pub(crate) struct GcFlags {
    /// Volumes of this VM, or of this disk of it (`web-1` or `web-1/disk0`); a disk that cannot be used is set aside instead, so
    /// that the next start makes it anew
    #[arg(required_unless_present_any = ["all", "images"], conflicts_with_all = ["all", "images"], value_name = "VM[/DISK]")]
    pub(crate) what: Option<GcTarget>,
    /// All volumes that would be deleted by themselves later
    #[arg(long, conflicts_with = "images")]
    pub(crate) all: bool,
    /// Store paths that were fetched and that neither a VM, a root of garbage collection nor a process needs; each of the three
    /// limits is a reason to go, and without one all of them go
    #[arg(long)]
    pub(crate) images: bool,
    /// With --images: those that nothing has needed for as long, like 12h or 7d
    #[arg(long, value_name = "SPAN", requires = "images", conflicts_with_all = ["what", "all"])]
    pub(crate) older_than: Option<Span>,
    /// With --images: those beyond so many bytes, like 20G, the ones that were needed last being spared
    #[arg(long, value_name = "SIZE", requires = "images", conflicts_with_all = ["what", "all"], value_parser = amount)]
    pub(crate) keep: Option<u64>,
    /// With --images: as many as it takes until so many bytes are free, the ones that were needed first going first
    #[arg(long, value_name = "SIZE", requires = "images", conflicts_with_all = ["what", "all"], value_parser = amount)]
    pub(crate) free: Option<u64>,
    /// Only show what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A VM, or one of its disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GcTarget {
    pub(crate) vm: VmId,
    pub(crate) disk: Option<String>,
}

impl FromStr for GcTarget {
    type Err = InvalidVmId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (vm, disk) = match text.split_once('/') {
            Some((vm, disk)) => (vm, Some(disk.to_owned())),
            None => (text, None),
        };
        Ok(Self { vm: VmId::parse(vm)?, disk })
    }
}

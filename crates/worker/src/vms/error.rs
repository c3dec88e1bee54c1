//! What a call on the manager can fail with.

use console_log::ConsoleFilesError;
use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use vm_model::{FailureReason, NetworkName, VmId};

/// Why a call on a [`VmManager`](super::VmManager) failed.
#[derive(Debug, Error)]
pub enum VmManagerError {
    /// KVM cannot be used.
    #[error("this host cannot run virtual machines")]
    Hypervisor(#[source] hypervisor::OpenError),
    /// The VMs' network cannot be set up, or a setting of it is wrong.
    #[error("the network \"{name}\" of the virtual machines cannot be set up")]
    Network {
        /// Which.
        name: NetworkName,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A setting is wrong.
    #[error("invalid setting {setting} = {value:?}: {expected}")]
    Setting {
        /// The setting's name.
        setting: Cow<'static, str>,
        /// Its value.
        value: String,
        /// What is accepted.
        expected: String,
    },
    /// The state directory cannot be used.
    #[error("the state directory {} cannot be used", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Processes of VMs cannot be jailed as the settings require.
    #[error("the processes of VMs cannot be jailed")]
    Jail(#[source] Box<host_process::JailError>),
    /// The manager's runtime did not start.
    #[error("the manager's threads did not start")]
    Threads(#[source] io::Error),
    /// There is no such VM.
    #[error("there is no VM {id}")]
    NoSuchVm {
        /// The id asked for.
        id: VmId,
    },
    /// A VM of that name is something else.
    #[error("VM {id} exists with artifact {present}; remove it before creating it from {offered}")]
    Exists {
        /// The VM.
        id: VmId,
        /// Its artifact.
        present: String,
        /// The artifact of the call.
        offered: String,
    },
    /// What is on disk of a VM cannot be read.
    #[error("VM {id} has remains on disk that are left alone: {problem}")]
    Damaged {
        /// The VM.
        id: VmId,
        /// What is wrong with them.
        problem: String,
    },
    /// The VM had no machine yet.
    #[error("VM {id} has not run yet")]
    NeverRan {
        /// The VM.
        id: VmId,
    },
    /// What a VM wrote to its console cannot be read.
    #[error("the console of VM {id} cannot be read")]
    Console {
        /// The VM.
        id: VmId,
        /// The underlying error.
        #[source]
        source: ConsoleFilesError,
    },
    /// A VM's console cannot be followed.
    #[error("the console of VM {id} cannot be followed")]
    Follow {
        /// The VM.
        id: VmId,
        /// The underlying error.
        #[source]
        source: super::FollowError,
    },
    /// There is no place for processes that run VMs.
    #[error("VMs cannot be run in processes of their own")]
    HostProcesses(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The VM has no machine that could do what was asked.
    #[error("VM {id} is {phase}: only one that runs or is paused can do that")]
    NotUp {
        /// The VM.
        id: VmId,
        /// Where it is.
        phase: &'static str,
    },
    /// The VM's machine did not do what it was asked.
    #[error("the machine did not do what it was asked")]
    Machine(#[source] machine_host::CommandError),
    /// The VM does not run.
    #[error("VM {id} failed: {reason}")]
    Failed {
        /// The VM.
        id: VmId,
        /// Why it does not run.
        reason: FailureReason,
    },
    /// Something is in the way of the VM's next machine, and the present one was not stopped for it.
    #[error("VM {id} is not restarted and goes on as it is: {reason}")]
    NotRestarted {
        /// The VM.
        id: VmId,
        /// What is in the way.
        reason: FailureReason,
    },
    /// A synchronous call on a runtime's thread would block every task there.
    #[error("{call} blocks and was called on an asynchronous runtime's thread; use {twin} there")]
    OnRuntimeThread {
        /// The call.
        call: &'static str,
        /// What works there.
        twin: &'static str,
    },
    /// The VM did not get where it was told to in time. It goes on trying.
    #[error("VM {id} is {phase} after {}s; it was to be {wanted}", waited.as_secs())]
    Late {
        /// The VM.
        id: VmId,
        /// Where it is.
        phase: &'static str,
        /// Where it should be.
        wanted: &'static str,
        /// How long the call waited.
        waited: Duration,
    },
    /// Another order came while this one was being carried out, and the VM follows that.
    #[error("VM {id} was to be {wanted}; another order came meanwhile, and it is to be {by}")]
    Overtaken {
        /// The VM.
        id: VmId,
        /// Where it should have got.
        wanted: &'static str,
        /// Where it should be now.
        by: &'static str,
    },
    /// Another process of this host holds the VM. What was asked is done as soon as it lets go, or is taken over.
    #[error("VM {id} cannot be stopped or removed by this worker: {problem}")]
    RunsElsewhere {
        /// The VM.
        id: VmId,
        /// Which process, as far as that is known.
        problem: String,
    },
    /// Machines did not end. They were killed; their threads are stuck.
    #[error("machines of these VMs are stuck: {}", vms.iter().map(VmId::as_str).collect::<Vec<_>>().join(", "))]
    MachinesRemain {
        /// Their VMs.
        vms: Vec<VmId>,
    },
    /// The VMs' network was not taken down.
    #[error("the network of the virtual machines was not taken down whole")]
    NetworkRemains(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Without this disk a removed VM could not come back.
    #[error(
        "disk {disk:?} is the last that is kept of {id}, which was removed: without it `undelete` could not bring {id} back; \
         `gc {id}` deletes all that is kept of it"
    )]
    LastDisk {
        /// The VM.
        id: VmId,
        /// The disk.
        disk: String,
    },
    /// Volumes could not be listed or deleted.
    #[error("the volumes could not be used: {0}")]
    Volumes(String),
    /// Fetched store paths could not be collected.
    #[error("the fetched store paths could not be collected: {0}")]
    Collection(String),
    /// A store path could not be hashed.
    #[error("the store path cannot be used: {0}")]
    StorePath(String),
    /// The manager was shut down, or a task of it was lost.
    #[error("the VM manager has shut down")]
    TaskLost(#[source] tokio::task::JoinError),
}

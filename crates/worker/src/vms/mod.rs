//! Virtual machines of this host: create, watch, control, measure, remove.
//!
//! Every blocking call has an asynchronous twin whose name ends in `_async`; on an asynchronous runtime's threads
//! the blocking ones refuse to work. Calls that only look (`list_vms`, `get_vm_status`, …) never block.

mod assignment_check;
mod checks;
mod config;
mod console;
mod control;
mod error;
mod executor;
mod machine_calls;
mod misfits;
mod network_plan;
mod network_setup;
mod network_start;
mod observed;
mod placing;
mod polling;
mod registry;
mod roster;
mod safeguards;
mod split_host;
mod startup;
mod takeover;
mod vm_manager;
mod waiting;

pub use crate::housekeeping::Cleared;
pub use assignment_check::{AssignmentCheck, Judged};
pub use binary_cache::{CacheUrl, CollectionMode, FetchSettings, TrustedKey};
pub use config::{
    HashVerification, HostProcessSettings, LimitSettings, MemoryLimit, MemoryOvercommit,
    NetworkAddressTranslation, NetworkSettings, Placement, UplinkSettings, VhostNet, VmManagerConfig,
};
pub use console::{ConsoleFollower, FollowError};
pub use console_log::{BootSummary, ConsolePiece, ConsolePosition, ConsoleSnapshot};
pub use control::KeptSelection;
pub use error::VmManagerError;
pub use host_process::client::refuse_directory_of_others;
pub use host_process::{JailDemand, JailSettings, probe_jail};
pub use jail::{JailReport, UserRange};
pub use machine_calls::RestartMode;
pub use machine_host::{CallFilter, CommandError, Enforcement, HostingProcess, ProcessJail};
pub use metrics::{BalloonMetrics, HistoryPoint, VmMetrics};
pub use polling::MetricsPolling;
pub use startup::LockedState;
pub use vm_manager::VmManager;
pub use vm_model::{
    Assignment, BootTrouble, CollectedPath, CollectionRule, DesiredState, FailureClass, FailureReason,
    Generation, NetworkName, NodeStatus, RemovedVm, VmId, VmInfo, VmNic, VmStatus, VmTimings, VolumeInfo,
};

pub use crate::supervisor::{NotesError, check_notes};

pub(crate) use misfits::some_of;

//! The process that runs a VM, and what it is kept to.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use worker::vms::HostingProcess;

/// A process that runs a VM, by what it said of itself when this worker first spoke with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessView {
    /// Its id.
    pub pid: u32,
    /// Whether it is in a jail.
    pub jailed: bool,
    /// The user that it has for itself; absent where it has none.
    #[serde(default)]
    pub user: Option<u32>,
    /// What its jail lacks, a phrase each; empty for a whole one.
    #[serde(default)]
    pub jail_gaps: Vec<String>,
    /// What becomes of a system call that it should not make: `trap`, `log` or `off`, as the setting `seccomp` has it.
    pub seccomp: String,
}

impl ProcessView {
    /// The view of a process.
    pub fn new(process: HostingProcess) -> Self {
        let HostingProcess { pid, jail, filter } = process;
        let jailed = jail.is_some();
        let jail = jail.unwrap_or_default();
        Self { pid, jailed, user: jail.user, jail_gaps: jail.gaps, seccomp: filter.to_string() }
    }
}

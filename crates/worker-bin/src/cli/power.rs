//! The verbs that tell VMs what to do.

use clap::{Args, Subcommand};

use crate::client::naming::VmName;

/// What VMs can be told.
#[derive(Debug, Subcommand)]
pub(crate) enum PowerAction {
    /// Start VMs; what was ordered of one holds until its file or master says something new of it
    Start(PowerFlags),
    /// Stop VMs: their power buttons are pressed, and those that do not obey in time are killed
    Stop(ForcibleFlags),
    /// Stop VMs and start them again
    Restart(ForcibleFlags),
    /// Halt the vCPUs of VMs where they are
    Pause(PowerFlags),
    /// Let the vCPUs of paused VMs go on
    Resume(PowerFlags),
    /// Reset VMs in place, whatever their guests are doing
    Reset(PowerFlags),
    /// Send the vCPUs of VMs a non-maskable interrupt, on which many kernels dump their state
    Nmi(PowerFlags),
}

/// Which VMs are told, and how long that is waited for.
#[derive(Clone, Debug, Args)]
pub(crate) struct PowerFlags {
    /// The VMs: names, or beginnings of names that no other VM has
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "VM")]
    pub(crate) vms: Vec<VmName>,
    /// All VMs of this host
    #[arg(long)]
    pub(crate) all: bool,
    /// Do not wait until it is done
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) no_wait: bool,
    /// Fail where it is not done within so many seconds; it goes on all the same
    #[arg(long, value_name = "SECONDS", value_parser = super::amounts::timeout)]
    pub(crate) timeout: Option<u64>,
    /// Print the operations as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The same, of what a guest may be forced to.
#[derive(Clone, Debug, Args)]
pub(crate) struct ForcibleFlags {
    #[command(flatten)]
    pub(crate) power: PowerFlags,
    /// Do not ask the guest first: as if its power were cut
    #[arg(long)]
    pub(crate) force: bool,
}

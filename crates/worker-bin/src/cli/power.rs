//! Flags of the verbs that tell VMs what to do, and of `events`.

use clap::Args;

use super::span::Span;
use crate::client::naming::VmName;

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
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
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

/// Which events are shown.
#[derive(Clone, Debug, Args)]
pub(crate) struct EventFlags {
    /// Those of one VM
    #[arg(value_name = "VM")]
    pub(crate) vm: Option<VmName>,
    /// Go on with what happens
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Those of the last so many seconds, or minutes, hours or days with m, h or d behind the number
    #[arg(long, value_name = "SPAN")]
    pub(crate) since: Option<Span>,
    /// Print a JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

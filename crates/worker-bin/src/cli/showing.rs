//! The verbs that look at the worker and its VMs, and change nothing.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use vm_model::SourceKind;

use super::amounts::Seconds;
use super::span::Span;
use crate::client::naming::VmName;

/// What can be shown.
#[derive(Debug, Subcommand)]
pub(crate) enum ShowVerb {
    /// List the VMs of this host
    Ls {
        /// Show the list again every two seconds, or every so many, until interrupted
        #[arg(long, short, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", conflicts_with_all = ["removed", "json"])]
        watch: Option<Seconds>,
        /// Show all columns uncut, also whose word each VM follows
        #[arg(long, conflicts_with_all = ["removed", "json"])]
        wide: bool,
        /// List VMs that were removed and whose volumes are still kept
        #[arg(long)]
        removed: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of a VM
    Inspect {
        /// The VM: its name, or the beginning of it that no other has
        vm: VmName,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how the worker itself is: its assignments, and what is not as it should be
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what happened
    Events(EventFlags),
    /// Show what VMs use, live
    Top {
        /// How often it is shown anew
        #[arg(long, short, value_name = "SECONDS", default_value = "2")]
        interval: Seconds,
    },
    /// Show what a desired state would change, without doing it
    Plan {
        /// The desired state, in the form of an assignments file [default: the worker's own assignments file]
        #[arg(long, value_name = "FILE")]
        assignments: Option<PathBuf>,
        /// Whose word it would be: `file`, or `master` for a file that a master gives out
        #[arg(long = "as", value_name = "SOURCE", default_value = "file", value_parser = super::sources::source)]
        source: SourceKind,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the volumes: writable disks of VMs, also those that are kept for a while only
    Volumes {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show where the vCPUs of a VM are: registers, and whether they run, halt or do not answer
    Dump {
        /// The VM: its name, or the beginning of it that no other has
        vm: VmName,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell which running VMs survive a restart of the worker by this program, and why others do not; fails where one does not
    Upgrade {
        /// Only look: nothing is changed
        #[arg(long, required = true)]
        check: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the figures of the worker and its VMs, as a Prometheus reads them
    Metrics,
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
    /// The last so many, and with --follow those to come [default: 10 with --follow, else all]
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = super::amounts::count)]
    pub(crate) lines: Option<usize>,
    /// All that are kept, also with --follow
    #[arg(long, conflicts_with = "lines")]
    pub(crate) all: bool,
    /// Print a JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

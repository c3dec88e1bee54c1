//! The command line.

mod amounts;
mod console;
mod local;
pub(crate) mod power;
mod span;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use vm_model::{InvalidVmId, VCPUS_MOST, VmId};

use self::amounts::machine_memory;
pub(crate) use self::console::{ConsoleFlags, EscapeKey, LogsFlags};
pub(crate) use self::local::{CheckConfigFlags, CompletionShell, DoctorFlags, LocalVerb};
use self::power::{EventFlags, ForcibleFlags, PowerFlags};
use crate::client::naming::VmName;

/// Runs the virtual machines that this host should run, each from a Nix store path, and keeps them running.
#[derive(Debug, Parser)]
#[command(name = "procurator-worker", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// Directory of the admin socket [default: /run/procurator]
    #[arg(long, global = true, value_name = "DIR", env = "PROCURATOR_RUNTIME_DIR")]
    pub(crate) runtime_dir: Option<PathBuf>,

    /// What to do
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 69 no worker answers.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the worker in the foreground until SIGTERM or SIGINT; guests go on without it, SIGHUP has files read again
    Run(RunFlags),
    /// Hold VMs on behalf of a worker, which starts this by itself and speaks with it on standard input
    #[command(hide = true)]
    VmHost {
        /// Form of the log on standard error
        #[arg(long, value_name = "FORMAT")]
        log_format: LogFormat,
        /// How long guests may take to power off when the process is told to terminate
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        stop_timeout_seconds: u64,
    },
    #[command(flatten)]
    Client(ClientVerb),
    #[command(flatten)]
    Local(LocalVerb),
}

/// Flags of `run`. What is not given comes from the configuration file, else has a default.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunFlags {
    /// Configuration file; may be missing only under its default name [default: /etc/procurator/worker.toml]
    #[arg(long, value_name = "FILE", env = "PROCURATOR_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Desired state as a JSON file, watched for changes
    #[arg(long, value_name = "FILE", env = "PROCURATOR_ASSIGNMENTS")]
    pub(crate) assignments: Option<PathBuf>,

    /// The master that says what should run: host and port; how it is reached says the configuration file
    #[arg(long, value_name = "ADDR", env = "PROCURATOR_MASTER")]
    pub(crate) master: Option<String>,

    /// Directory of what must outlive the worker [default: /var/lib/procurator]
    #[arg(long, value_name = "DIR", env = "PROCURATOR_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,

    /// Directory whose entries may be VM artifacts; can be given more than once [default: /nix/store]
    #[arg(long = "store-root", value_name = "DIR", env = "PROCURATOR_STORE_ROOTS", value_delimiter = ':')]
    pub(crate) store_roots: Vec<PathBuf>,

    /// Stop all guests when the worker ends, though they could go on without it
    #[arg(long, env = "PROCURATOR_STOP_GUESTS", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) stop_guests: bool,

    /// Form of the log on standard error [default: human]
    #[arg(long, value_name = "FORMAT", env = "PROCURATOR_LOG_FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// Lines for people.
    #[default]
    Human,
    /// A JSON object a line.
    Json,
}

impl LogFormat {
    /// Its name on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

/// What can be asked of a running worker.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientVerb {
    /// List the VMs of this host
    Ls {
        /// Show the list again every two seconds, or every so many, until interrupted
        #[arg(long, short, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", conflicts_with_all = ["removed", "json"])]
        watch: Option<Seconds>,
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
    /// Run a VM that neither a file nor a master assigns; what was asked for stays, over restarts too
    Create(CreateFlags),
    /// Remove VMs that were created here; their volumes are kept for a while
    Rm(RemovalFlags),
    /// Bring a removed VM back, with its data, while that is kept
    Undelete {
        /// The VM, as `ls --removed` lists it
        id: VmId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
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
    /// Show where the vCPUs of a VM are: registers, and whether they run, halt or do not answer
    Dump {
        /// The VM: its name, or the beginning of it that no other has
        vm: VmName,
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
    /// Print what a VM wrote to its console
    Logs(LogsFlags),
    /// Attach to a VM's console: read and type; several clients may read, one types
    Console(ConsoleFlags),
    /// Show what a desired state would change, without doing it
    Plan {
        /// The desired state, in the form of an assignments file [default: the worker's own assignments file]
        #[arg(long, value_name = "FILE")]
        assignments: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Apply the desired state that is held because it would remove too much
    AllowRemovals {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Follow the master that waits to be accepted: one that was rebuilt, or that takes another's place
    AcceptMaster {
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
    /// Delete volumes that are kept for a while, before their time
    Gc {
        /// Those of this VM, or of this disk of it (`web-1` or `web-1/disk0`); of a disk that cannot be used also the
        /// content in use, so that it is made anew
        #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "VM[/DISK]")]
        what: Option<GcTarget>,
        /// Everything that would be deleted by itself later
        #[arg(long)]
        all: bool,
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
    /// Show how the worker itself is: its assignments, and what is not as it should be
    Status {
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
    /// Number of vCPUs, 1 to 64, in place of the artifact's
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=i64::from(VCPUS_MOST)))]
    pub(crate) vcpus: Option<u8>,
    /// Memory in bytes, or with K, M or G behind it, 16M or more, in place of the artifact's
    #[arg(long, value_name = "SIZE", value_parser = machine_memory)]
    pub(crate) memory: Option<u64>,
    /// Text put after the kernel's command line
    #[arg(long, value_name = "TEXT")]
    pub(crate) cmdline_append: Option<String>,
    /// Do not wait until it runs
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `rm` removes.
#[derive(Clone, Debug, Args)]
pub(crate) struct RemovalFlags {
    /// The VMs, by their whole names
    #[arg(required = true)]
    pub(crate) ids: Vec<VmId>,
    /// Do not wait until they are gone
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A span of time on the command line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.parse::<f64>().ok().filter(|number| (0.1..=86_400.0).contains(number));
        let seconds = number.ok_or("a number of seconds from 0.1 to 86400 is accepted")?;
        Ok(Self(Duration::from_secs_f64(seconds)))
    }
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

#[cfg(test)]
mod documentation;
#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_runtime_directory_may_stand_before_and_after_the_verb() {
        for arguments in [
            ["procurator-worker", "--runtime-dir", "/x", "ls"],
            ["procurator-worker", "ls", "--runtime-dir", "/x"],
        ] {
            let cli = Cli::try_parse_from(arguments).expect("parses");
            assert_eq!(cli.runtime_dir, Some(PathBuf::from("/x")));
        }
    }

    #[test]
    fn a_bad_id_is_refused_with_what_is_accepted() {
        let error = Cli::try_parse_from(["procurator-worker", "inspect", "No!"]).expect_err("refused");
        assert!(error.to_string().contains("DNS label"), "{error}");
    }
}

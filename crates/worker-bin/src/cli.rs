//! The command line.

mod amounts;
mod changing;
mod devices;
mod guest;
mod limits;
mod local;
mod power;
mod showing;
mod sources;
mod span;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jail::JailOrder;
use serde::Deserialize;

pub(crate) use self::amounts::Seconds;
pub(crate) use self::changing::{
    ChangeVerb, CreateFlags, GcFlags, GcTarget, MachineFlags, Override, RemovalFlags, SetFlags,
    UndeleteFlags, WaitFlags,
};
pub(crate) use self::guest::{ConsoleFlags, EscapeKey, GuestVerb, LogSource, LogsFlags, SshFlags};
pub(crate) use self::local::{CheckConfigFlags, CompletionShell, DoctorFlags, FetchFlags, LocalVerb};
pub(crate) use self::power::{ForcibleFlags, PowerAction, PowerFlags};
pub(crate) use self::showing::{EventFlags, ShowVerb};
#[cfg(test)]
pub(crate) use self::{devices::DeviceFlags, limits::LimitFlags};

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
        /// Directory of VMs' directories, where what is logged about each goes to
        #[arg(long, value_name = "DIR")]
        vms_dir: Option<PathBuf>,
        /// What the process gives up before it holds any
        #[arg(long, value_name = "ORDER")]
        jail: Option<JailOrder>,
        /// Tell on standard output what would be missing of the jail, and end
        #[arg(long)]
        probe_jail: bool,
        /// What becomes of system calls that its threads may not make
        #[arg(long, value_name = "MODE", default_value_t)]
        seccomp: syscall_filter::Mode,
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
    #[arg(long, env = "PROCURATOR_STOP_GUESTS", value_parser = clap::builder::BoolishValueParser::new())]
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
    #[command(flatten)]
    Show(ShowVerb),
    #[command(flatten)]
    Guest(GuestVerb),
    #[command(flatten)]
    Power(PowerAction),
    #[command(flatten)]
    Change(Box<ChangeVerb>),
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

    #[test]
    fn what_can_be_created_can_be_set() {
        let set = |more: &[&str]| {
            Cli::try_parse_from([&["procurator-worker", "set", "web-1"], more].concat()).map(drop)
        };
        let command = Cli::command();
        let names = |verb: &str| -> Vec<String> {
            let verb = command.find_subcommand(verb).expect("a verb");
            verb.get_arguments().map(|argument| argument.get_id().to_string()).collect()
        };
        let (create, changes) = (names("create"), names("set"));
        let missing: Vec<&String> = create.iter().filter(|name| !changes.contains(name)).collect();
        assert_eq!(missing, ["id"], "which is another argument there");
        set(&[]).expect_err("nothing is to change");
        set(&["--memory", "512M", "--vcpus", "default", "--restart", "on-failure"]).expect("accepted");
        set(&["--memory", "512"]).expect_err("less than any machine has");
        set(&["--restart", "sometimes"]).expect_err("no policy");
        set(&["--vcpus", "65"]).expect_err("too many");
    }
}

//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use master_protocol::drivers::PlainTcp;
use master_protocol::wire::WorkerId;

/// Gives workers what files say should run on them, and shows what they report.
#[derive(Debug, Parser)]
#[command(name = "procurator-master", version)]
pub(crate) struct Cli {
    /// Directory of what outlives the master, and of its socket
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "PROCURATOR_MASTER_STATE_DIR",
        default_value = "/var/lib/procurator-master"
    )]
    pub(crate) state_dir: PathBuf,

    /// What to do
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the master in the foreground until SIGTERM or SIGINT; VMs go on without it
    Run(RunFlags),
    /// List workers
    Workers(Shown),
    /// List the VMs of all workers, or of one
    Ls {
        /// The worker
        worker: Option<WorkerId>,
        #[command(flatten)]
        shown: Shown,
    },
    /// Switch off all VMs of a worker, keep their disks, and give it no new ones
    Drain {
        /// The worker
        worker: WorkerId,
    },
    /// Take a drain back
    Undrain {
        /// The worker
        worker: WorkerId,
    },
    /// Make an authority and certificates for a first trial, valid for a year
    Certificates {
        /// Directory for them; files in it are never replaced
        directory: PathBuf,
        /// Name or address by which workers dial the master; can be given more than once
        #[arg(long = "master", value_name = "NAME", required = true)]
        master: Vec<String>,
        /// Name of a worker; can be given more than once
        #[arg(long = "worker", value_name = "NAME", required = true)]
        workers: Vec<WorkerId>,
    },
}

/// How something is shown.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Shown {
    /// As JSON, with all that is known
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunFlags {
    /// Address that workers dial
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7700")]
    pub(crate) listen: SocketAddr,

    /// Directory of desired states, a file WORKER.json each, watched for changes
    #[arg(long, value_name = "DIR")]
    pub(crate) desired: PathBuf,

    /// The master's certificate in PEM form
    #[arg(long, value_name = "FILE", requires = "key", requires = "ca")]
    pub(crate) cert: Option<PathBuf>,

    /// The certificate's key in PEM form
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,

    /// Authorities of the workers' certificates in PEM form
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) ca: Option<PathBuf>,

    /// Do without TLS on an address of other hosts too; takes the words unencrypted-and-unauthenticated
    #[arg(long, value_name = "WORDS", conflicts_with = "cert")]
    pub(crate) plain_tcp: Option<PlainTcp>,

    /// The master's name, which must stay when it is rebuilt [default: the first name in its certificate, else master]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// How often each end says something, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) heartbeat: u64,

    /// Form of the log on standard error
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) log_format: LogFormat,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Human,
    /// A JSON object a line.
    Json,
}

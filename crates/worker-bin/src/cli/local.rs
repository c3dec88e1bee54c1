//! The verbs that need no worker: they look at this host and at files, or print what the program knows of itself.

use std::path::PathBuf;

use binary_cache::{CacheUrl, TrustedKey};
use clap::{Args, Subcommand, ValueEnum};

use crate::schema::SchemaKind;

/// What can be done without a running worker.
#[derive(Debug, Subcommand)]
pub(crate) enum LocalVerb {
    /// Check this host, its configuration and the running worker: what is wrong, and the command that mends it
    Doctor(DoctorFlags),
    /// Check the configuration file and the environment as `run` reads them, or an assignments file
    CheckConfig(CheckConfigFlags),
    /// Print a description of something that programs read or ask for
    Schema {
        /// Of what
        what: SchemaKind,
    },
    /// Print the NAR hash of a store path, as an assignment needs it; reads all of its content
    Hash {
        /// The store path
        #[arg(value_name = "STORE_PATH")]
        store_path: PathBuf,
    },
    /// Put a store path and all that it needs into this host's store, from binary caches; what is there stays
    Fetch(FetchFlags),
    /// Print what a shell needs to complete this program's verbs and the names of VMs
    Completion {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: CompletionShell,
    },
    /// Connect standard input and output with a port of a guest's vsock: what `ssh` uses
    #[command(hide = true)]
    VsockConnect {
        /// The VM's vsock socket
        #[arg(value_name = "SOCKET")]
        socket: PathBuf,
        /// The guest's port
        #[arg(value_name = "PORT")]
        port: u32,
    },
    /// Write the manual pages of this program and its verbs
    #[command(hide = true)]
    Man {
        /// Where to; made where it does not exist
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// What `doctor` looks at.
#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorFlags {
    /// Configuration file of the worker [default: /etc/procurator/worker.toml]
    #[arg(long, value_name = "FILE", env = "PROCURATOR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `check-config` reads.
#[derive(Clone, Debug, Args)]
pub(crate) struct CheckConfigFlags {
    /// Configuration file [default: /etc/procurator/worker.toml]
    #[arg(value_name = "FILE", env = "PROCURATOR_CONFIG")]
    pub(crate) file: Option<PathBuf>,
    /// The same, as other verbs take it; this one counts where both are given
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Check this assignments file in place of the configuration
    #[arg(long, value_name = "FILE", conflicts_with_all = ["print"])]
    pub(crate) assignments: Option<PathBuf>,
    /// Print the configuration in force, and where each value comes from
    #[arg(long)]
    pub(crate) print: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `fetch` fetches, and from where.
#[derive(Clone, Debug, Args)]
pub(crate) struct FetchFlags {
    /// The store path, like `/nix/store/…-vm-image`
    #[arg(value_name = "STORE_PATH")]
    pub(crate) store_path: PathBuf,
    /// A binary cache in place of the configured ones: https://…, http://… or file:///…; can be given more than once
    #[arg(long = "cache", value_name = "URL")]
    pub(crate) caches: Vec<CacheUrl>,
    /// A public key whose signatures are believed, besides the configured ones; can be given more than once
    #[arg(long = "trusted-key", value_name = "NAME:BASE64")]
    pub(crate) trusted_keys: Vec<TrustedKey>,
    /// Configuration file [default: /etc/procurator/worker.toml]
    #[arg(long, value_name = "FILE", env = "PROCURATOR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

/// A shell that completion is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompletionShell {
    /// GNU bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

impl CompletionShell {
    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }
}

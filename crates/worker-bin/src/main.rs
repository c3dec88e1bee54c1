//! The `procurator-worker` program: reads its configuration, wires the parts together, obeys signals, and speaks
//! with a running worker for people. Everything else is in the libraries.

#![forbid(unsafe_code)]

mod assignments;
mod check_config;
mod cli;
mod client;
mod colours;
mod completion;
mod daemon;
mod descriptors;
mod doctor;
mod fetch;
mod filtering;
mod hash;
mod local;
mod logging;
mod man;
mod notifier;
mod printable;
mod reload;
mod schema;
mod settings;
mod signals;
mod status;
mod status_line;
mod vm_host;
mod vsock;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::cli::{Cli, Verb};

/// Exit code when no worker answers (`EX_UNAVAILABLE` of sysexits.h).
const UNREACHABLE: u8 = 69;

fn main() -> ExitCode {
    completion::answer_scripts();
    let cli = Cli::parse();
    let done = match cli.verb {
        Verb::Run(flags) => daemon::run(flags, cli.runtime_dir),
        Verb::VmHost { vms_dir, jail, probe_jail: true, .. } => vm_host::probe_jail(jail, vms_dir),
        Verb::VmHost { log_format, stop_timeout_seconds, vms_dir, jail, seccomp, probe_jail: false } => {
            vm_host::run(log_format, Duration::from_secs(stop_timeout_seconds), vms_dir, (jail, seccomp))
        }
        Verb::Client(verb) => client::run(&verb, cli.runtime_dir),
        Verb::Local(verb) => local::run(verb, cli.runtime_dir),
    };
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::say(&format!("{error:#}"));
            let unreachable = error
                .downcast_ref::<admin::ClientError>()
                .is_some_and(|error| matches!(error, admin::ClientError::Unreachable { .. }));
            if unreachable { ExitCode::from(UNREACHABLE) } else { ExitCode::FAILURE }
        }
    };
    logging::finish();
    code
}

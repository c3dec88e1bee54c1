//! `completion`: what a shell needs to complete verbs, flags and names of VMs.
//!
//! The printed script asks this program at each press of the key, by an environment variable that nothing else uses. So
//! it need not be made again when the program is another one, and names are those of the worker that runs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use admin::AdminClient;
use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::cli::{Cli, CompletionShell};
use crate::client::print;
use crate::settings::runtime_dir;

/// Set by the scripts when they ask.
const VARIABLE: &str = "PROCURATOR_COMPLETE";
const PROGRAM: &str = "procurator-worker";
/// Arguments that are VMs, by their names in the command line's definition.
const VM_ARGUMENTS: [&str; 4] = ["id", "ids", "vm", "vms"];
/// Verbs whose VM is none of those that are there.
const OTHER_VM_VERBS: [&str; 2] = ["create", "undelete"];
/// Somebody waits at a keyboard.
const PATIENCE: Duration = Duration::from_secs(2);

/// Prints the script for `shell`.
pub(crate) fn run(shell: CompletionShell) -> Result<()> {
    let shells = Shells::builtins();
    let completer = shells.completer(shell.as_str()).context("clap does not know this shell")?;
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut script)
        .context("the script cannot be made")?;
    print(&String::from_utf8_lossy(&script))
}

/// Answers a script that asks, and ends the program then.
pub(crate) fn answer_scripts() {
    CompleteEnv::with_factory(command).var(VARIABLE).bin(PROGRAM).complete();
}

/// The command line, with names of VMs where VMs are wanted.
fn command() -> Command {
    Cli::command().mut_subcommands(|verb| {
        if OTHER_VM_VERBS.contains(&verb.get_name()) {
            return verb;
        }
        verb.mut_args(|argument| {
            if VM_ARGUMENTS.contains(&argument.get_id().as_str()) {
                argument.add(ArgValueCandidates::new(vms))
            } else {
                argument
            }
        })
    })
}

/// The VMs of the worker that runs; none where none answers in time.
fn vms() -> Vec<CompletionCandidate> {
    let given = directory_in(std::env::args_os())
        .or_else(|| std::env::var_os("PROCURATOR_RUNTIME_DIR").map(PathBuf::from));
    let client = AdminClient::in_directory(runtime_dir(given));
    let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let answer = runtime.block_on(async { timeout(PATIENCE, client.list_vms()).await });
    let vms = answer.ok().and_then(Result::ok).unwrap_or_default();
    vms.iter().map(|vm| CompletionCandidate::new(vm.id.as_str())).collect()
}

/// The runtime directory that the line which is completed speaks of.
fn directory_in(words: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    const FLAG: &str = "--runtime-dir";
    let mut words = words;
    while let Some(word) = words.next() {
        if word == FLAG {
            return words.next().map(PathBuf::from);
        }
        let joined = word.to_str().and_then(|word| word.strip_prefix(FLAG)?.strip_prefix('='));
        if let Some(directory) = joined {
            return Some(PathBuf::from(directory));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_directory_of_the_line_is_found() {
        let found = |words: &[&str]| directory_in(words.iter().map(OsString::from));
        assert_eq!(found(&["procurator-worker", "ls", "--runtime-dir", "/x"]), Some("/x".into()));
        assert_eq!(found(&["procurator-worker", "--runtime-dir=/y", "ls"]), Some("/y".into()));
        assert_eq!(found(&["procurator-worker", "ls", "--runtime-dir"]), None);
        assert_eq!(found(&["procurator-worker", "ls"]), None);
    }

    #[test]
    fn the_line_with_names_is_sound() {
        command().debug_assert();
    }
}

//! Carries out the verbs that need no worker.

use std::path::PathBuf;

use anyhow::Result;

use crate::cli::LocalVerb;
use crate::{check_config, completion, doctor, fetch, hash, man, schema, vsock};

/// Carries out `verb`.
pub(crate) fn run(verb: LocalVerb, runtime_dir: Option<PathBuf>) -> Result<()> {
    match verb {
        LocalVerb::Doctor(flags) => doctor::run(&flags, runtime_dir),
        LocalVerb::CheckConfig(flags) => check_config::run(&flags, runtime_dir),
        LocalVerb::Schema { what } => schema::print(what),
        LocalVerb::Hash { store_path } => hash::run(&store_path),
        LocalVerb::Fetch(flags) => fetch::run(flags),
        LocalVerb::Completion { shell } => completion::run(shell),
        LocalVerb::VsockConnect { socket, port } => vsock::run(&socket, port),
        LocalVerb::Man { directory } => man::run(&directory),
    }
}

//! `man`: manual pages, one for the program and one for each verb that people use.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::cli::Cli;

/// Writes the pages into `directory`.
pub(crate) fn run(directory: &Path) -> Result<()> {
    let failed = || format!("cannot write manual pages to {}", directory.display());
    fs::create_dir_all(directory).with_context(failed)?;
    clap_mangen::generate_to(Cli::command(), directory).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_that_people_use_has_a_page() {
        let folder = tempfile::tempdir().expect("a directory");
        run(folder.path()).expect("written");
        let command = Cli::command();
        let verbs: Vec<_> = command.get_subcommands().filter(|verb| !verb.is_hide_set()).collect();
        assert!(verbs.len() > 15, "{}", verbs.len());
        for verb in verbs {
            let path = folder.path().join(format!("procurator-worker-{}.1", verb.get_name()));
            let page =
                fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{page}");
        }
        assert!(folder.path().join("procurator-worker.1").exists());
        assert!(!folder.path().join("procurator-worker-vm-host.1").exists());
    }
}

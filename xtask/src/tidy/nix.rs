//! Module, settings and images for Nix hold what `nix/tests` says of them, evaluated without nixpkgs.

use std::path::Path;
use std::process::Command;

use crate::{packages, process};

/// Findings, or `None` where there is no Nix that could tell.
pub(super) fn check(root: &Path) -> Option<Vec<String>> {
    let nix = packages::find_program("nix-instantiate")?;
    let mut evaluate = Command::new(nix);
    // Nothing is built, and no store is asked.
    evaluate.args(["--eval", "--strict", "--store", "dummy://"]).arg(root.join("nix/tests"));
    Some(
        process::output_of(&mut evaluate)
            .err()
            .map(|error| format!("nix/tests: {error}"))
            .into_iter()
            .collect(),
    )
}

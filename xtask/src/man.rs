//! Manual pages of the program and its verbs, for packages. The program writes them itself.

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

/// Writes the pages to `target/man`.
pub(crate) fn run(workspace: &Workspace) -> Result<bool> {
    let directory = workspace.target_dir().join("man");
    let mut program = workspace.cargo();
    program.args(["run", "--quiet", "--package", "worker-bin", "--bin", "procurator-worker", "--", "man"]);
    process::run(program.arg(&directory))?;
    println!("manual pages are in {}", directory.display());
    Ok(true)
}

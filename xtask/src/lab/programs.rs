//! The programs that run in the outer host, built by cargo and found by what it reports.

use std::io::BufReader;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use cargo_metadata::{Artifact, Message};

use crate::workspace::Workspace;

/// An executable under the name of its target.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// Runs `cargo` with `arguments`, a build of some kind, and returns the executables it made. Diagnostics go to this
/// terminal.
pub(crate) fn build(workspace: &Workspace, arguments: &[&str]) -> Result<Vec<Program>> {
    let mut cargo = workspace.cargo();
    cargo.args(arguments).arg("--message-format=json-render-diagnostics");
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo was started with a pipe")?;
    let mut programs = Vec::new();
    for message in Message::parse_stream(BufReader::new(output)) {
        if let Message::CompilerArtifact(artifact) = message.context("cargo reports something unreadable")? {
            programs.extend(executable(artifact));
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("cargo {} ended with {status}", arguments.join(" "));
    }
    if programs.is_empty() {
        bail!("cargo {} built no executable", arguments.join(" "));
    }
    Ok(programs)
}

/// Builds the programs that ship: the worker and the reference master.
pub(crate) fn build_shipped(workspace: &Workspace) -> Result<Vec<Program>> {
    build(workspace, &["build", "--package", "worker-bin", "--package", "procurator-master"])
}

fn executable(artifact: Artifact) -> Option<Program> {
    let path = artifact.executable?.into_std_path_buf();
    Some(Program { name: artifact.target.name, path })
}

//! `cargo xtask tidy`: the rules of the project that no compiler checks.
//!
//! Each rule is a module with a pure check over what this one reads; a finding is one line that says where and what.

mod boundaries;
mod links;
mod lockfile;
mod manifests;
mod named_tests;
mod nix;
mod sources;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::MetadataCommand;

use crate::workspace::Workspace;

/// Checks everything, prints the findings, and returns whether there are none.
pub(crate) fn run(workspace: &Workspace) -> Result<bool> {
    let root = workspace.root();
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .other_options(["--filter-platform".to_owned(), "x86_64-unknown-linux-gnu".to_owned()])
        .exec()
        .context("cannot read the workspace")?;
    let files = list_files(root)?;
    let mut findings = boundaries::check(&boundaries::Graph::from_metadata(&metadata)?);
    findings.extend(lockfile::check(&read(&root.join("Cargo.lock"))?)?);
    let mut long_files = 0;
    let (mut functions, mut documents) = (BTreeSet::new(), Vec::new());
    for file in &files {
        let name = file.strip_prefix(root).unwrap_or(file);
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => {
                let text = read(file)?;
                findings.extend(sources::check(name, &text));
                long_files += usize::from(sources::is_long(name, &text));
                functions.extend(named_tests::functions(&text).map(str::to_owned));
            }
            Some("toml") if file.ends_with("Cargo.toml") && file.parent() != Some(root) => {
                findings.extend(manifests::check(name, &read(file)?)?);
            }
            Some("md") => {
                let text = read(file)?;
                findings.extend(links::check(root, name, &text));
                documents.push((name, text));
            }
            _ => {}
        }
    }
    for (name, text) in &documents {
        findings.extend(named_tests::check(name, text, &functions));
    }
    match nix::check(root) {
        Some(found) => findings.extend(found),
        None => println!("SKIPPED: nix/tests, because there is no nix-instantiate"),
    }
    for finding in &findings {
        println!("{finding}");
    }
    println!(
        "tidy: {} files, {} findings, {long_files} files over {} lines",
        files.len(),
        findings.len(),
        sources::LONG_FILE_LINES
    );
    Ok(findings.is_empty())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The files of the project: all but what is built, and what version control and tools keep for themselves.
fn list_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let kind = entry.file_type().with_context(|| format!("cannot examine {:?}", entry.path()))?;
        let name = entry.file_name();
        if kind.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                files.extend(list_files(&entry.path())?);
            }
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

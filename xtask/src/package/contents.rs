//! What the package installs, and where.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::NAME;
use super::layout::{PackedFile, Source};
use crate::terminal;

/// The documentation's place.
const DOCUMENTATION: &str = "usr/share/doc/procurator-worker";

/// The files of the package.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) files: Vec<PackedFile>,
}

impl Contents {
    /// Those of the sources at `root`, with `program`, and with what it wrote to the folder `written`.
    pub(super) fn of(root: &Path, program: &Path, written: &Path) -> Result<Self> {
        let mut files = vec![PackedFile::program(format!("usr/bin/{NAME}"), program.to_path_buf())];
        files.extend(fixed(root, written));
        for licence in terminal::licences(root) {
            let name = licence.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push(PackedFile::data(format!("{DOCUMENTATION}/terminal/{name}"), Source::File(licence)));
        }
        for page in entries(&written.join("man"))? {
            let source = Source::Gzipped(written.join("man").join(&page));
            files.push(PackedFile::data(format!("usr/share/man/man1/{page}.gz"), source));
        }
        for folder in ["docs", "docs/pictures"] {
            for name in entries(&root.join(folder))? {
                let source = root.join(folder).join(&name);
                files
                    .push(PackedFile::data(format!("{DOCUMENTATION}/{folder}/{name}"), Source::File(source)));
            }
        }
        Ok(Self { files })
    }
}

/// Those with names of their own.
fn fixed(root: &Path, written: &Path) -> impl Iterator<Item = PackedFile> {
    let packaging = root.join("packaging");
    let units = "usr/lib/systemd/system";
    let examples = format!("{DOCUMENTATION}/examples");
    [
        (format!("{units}/procurator-worker.service"), packaging.join("procurator-worker.service")),
        (format!("{units}/procurator.slice"), packaging.join("procurator.slice")),
        (
            "usr/lib/sysusers.d/procurator-worker.conf".to_owned(),
            packaging.join("procurator-worker.sysusers"),
        ),
        (
            "usr/lib/tmpfiles.d/procurator-worker.conf".to_owned(),
            packaging.join("procurator-worker.tmpfiles"),
        ),
        ("etc/procurator/worker.toml".to_owned(), written.join("worker.toml")),
        (format!("usr/share/bash-completion/completions/{NAME}"), written.join("bash")),
        (format!("usr/share/zsh/vendor-completions/_{NAME}"), written.join("zsh")),
        (format!("usr/share/fish/vendor_completions.d/{NAME}.fish"), written.join("fish")),
        (format!("{DOCUMENTATION}/copyright"), root.join("LICENSE")),
        (format!("{DOCUMENTATION}/README.md"), root.join("README.md")),
        (format!("{examples}/vm-config.json"), root.join("examples/vm-config.json")),
        (format!("{examples}/procurator-dashboard.json"), packaging.join("procurator-dashboard.json")),
        (format!("{examples}/procurator.rules.yml"), packaging.join("procurator.rules.yml")),
    ]
    .into_iter()
    .map(|(place, source)| PackedFile::data(place, Source::File(source)))
}

/// The names of the files in `folder`, in order.
fn entries(folder: &Path) -> Result<Vec<String>> {
    let failed = || format!("cannot list {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        if entry.file_type().with_context(failed)?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn every_file_that_is_shipped_for_service_managers_is_in_it() {
        let root = Workspace::locate().root().to_path_buf();
        let packed: Vec<_> = fixed(&root, Path::new("written")).map(|file| file.source).collect();
        for name in entries(&root.join("packaging")).expect("there") {
            let source = Source::File(root.join("packaging").join(&name));
            assert!(packed.contains(&source), "{name} is not packed");
        }
        let mut there = packed.iter().filter_map(|source| match source {
            Source::File(path) if path.is_absolute() => Some(path),
            _ => None,
        });
        assert_eq!(there.find(|path| !path.is_file()), None);
    }
}

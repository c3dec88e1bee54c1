//! Files with a place and a mode, laid out in a folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The mode of folders.
const FOLDER_MODE: u32 = 0o755;

/// One file of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PackedFile {
    /// Where it goes, from the package's root on.
    pub(super) place: String,
    pub(super) mode: Mode,
    pub(super) source: Source,
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// All may run it.
    Program,
    /// All may read it.
    Data,
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The same as in this one.
    File(PathBuf),
    /// The same as in this one, compressed by gzip.
    Gzipped(PathBuf),
    /// This.
    Text(String),
}

impl PackedFile {
    pub(super) fn data(place: impl Into<String>, source: Source) -> Self {
        Self { place: place.into(), mode: Mode::Data, source }
    }

    pub(super) fn program(place: impl Into<String>, file: PathBuf) -> Self {
        Self { place: place.into(), mode: Mode::Program, source: Source::File(file) }
    }
}

/// Writes `files` below `root`, which is made, and returns how many bytes they have. Modes do not depend on whose umask this is.
pub(super) fn lay_out(files: &[PackedFile], root: &Path) -> Result<u64> {
    let mut bytes = 0_u64;
    for file in files {
        let path = root.join(&file.place);
        make_folders(root, &path)?;
        let failed = || format!("cannot write {}", path.display());
        match &file.source {
            Source::File(source) => {
                fs::copy(source, &path)
                    .with_context(|| format!("cannot copy {} to {}", source.display(), path.display()))?;
            }
            Source::Gzipped(source) => {
                // Without the name and the time of the file.
                let gzip = Command::new("gzip").args(["-9", "-n", "-c"]).arg(source).output();
                let gzip = gzip.context("cannot start gzip")?;
                ensure!(gzip.status.success(), "gzip of {} ended with {}", source.display(), gzip.status);
                fs::write(&path, gzip.stdout).with_context(failed)?;
            }
            Source::Text(text) => fs::write(&path, text).with_context(failed)?,
        }
        set_mode(
            &path,
            match file.mode {
                Mode::Program => 0o755,
                Mode::Data => 0o644,
            },
        )?;
        bytes = bytes.saturating_add(fs::metadata(&path).with_context(failed)?.len());
    }
    Ok(bytes)
}

/// Makes the folders between `root` and `path`.
fn make_folders(root: &Path, path: &Path) -> Result<()> {
    let folder = path.parent().context("a file has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut within = folder.ancestors().take_while(|ancestor| ancestor.starts_with(root));
    within.try_for_each(|folder| set_mode(folder, FOLDER_MODE))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_where_they_should_with_their_modes_and_are_counted() {
        let folder = tempfile::tempdir().expect("a directory");
        let original = folder.path().join("original");
        fs::write(&original, "12345").expect("written");
        let root = folder.path().join("root");
        let files = [
            PackedFile::program("usr/bin/it", original.clone()),
            PackedFile::data("usr/share/it/text", Source::Text("abc".to_owned())),
            PackedFile::data("usr/share/it/page.gz", Source::Gzipped(original)),
        ];
        let bytes = lay_out(&files, &root).expect("laid out");
        let mode = |place: &str| fs::metadata(root.join(place)).expect("there").permissions().mode() & 0o7777;
        assert_eq!((mode("usr/bin/it"), mode("usr/share/it/text"), mode("usr/share")), (0o755, 0o644, 0o755));
        let page = fs::read(root.join("usr/share/it/page.gz")).expect("there");
        assert!(page.starts_with(b"\x1f\x8b"), "{page:?}");
        // Neither name nor time: the flags and the four bytes after them are zero.
        assert_eq!(page[3..8], [0; 5]);
        assert_eq!(bytes, 5 + 3 + page.len() as u64);
    }
}

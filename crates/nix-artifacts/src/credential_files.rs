//! Credentials that lie in files of the host: read when a machine is started, handed over among its OEM strings.
//!
//! A description comes from whoever made the image, and must not make the worker, which may read everything, hand any file
//! of the host to a guest. So only files below directories that the host's operator named are read, and no link leads out
//! of them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2};
use rustix::io::Errno;
use thiserror::Error;
use vm_model::{
    CREDENTIAL_BYTES_MAX, CredentialFile, CredentialName, OemStrings, OemStringsError, Secret,
    credential_string,
};

use crate::store::describe;

/// The directory below which files of credentials may lie where the worker's settings name none.
pub const CREDENTIAL_DIRECTORY: &str = "/etc/procurator/credentials";

/// Why a credential's file cannot be handed over. Nothing of its content is in here.
#[derive(Debug, Error)]
pub enum CredentialError {
    /// It lies below no directory that is allowed.
    #[error(
        "credential {name}: {path:?} lies below none of the directories {allowed:?} that the worker's settings allow"
    )]
    NotAllowed {
        /// The credential.
        name: CredentialName,
        /// Its file.
        path: PathBuf,
        /// Where it could lie.
        allowed: Vec<PathBuf>,
    },
    /// It cannot be opened, or a link in its path leads out of the directory.
    #[error("credential {name}: cannot open {path:?} without leaving {directory:?}")]
    Open {
        /// The credential.
        name: CredentialName,
        /// Its file.
        path: PathBuf,
        /// The directory that it has to lie below.
        directory: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is no regular file.
    #[error("credential {name}: {path:?} is {kind}; accepted is a regular file")]
    NoFile {
        /// The credential.
        name: CredentialName,
        /// Its file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It is too large.
    #[error(
        "credential {name}: {path:?} has more than the {CREDENTIAL_BYTES_MAX} bytes that a credential can have"
    )]
    TooLarge {
        /// The credential.
        name: CredentialName,
        /// Its file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("credential {name}: cannot read {path:?}")]
    Read {
        /// The credential.
        name: CredentialName,
        /// Its file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The machine's tables have no room for it.
    #[error("credential {name} does not fit the machine's tables")]
    Room {
        /// The credential.
        name: CredentialName,
        /// Why.
        #[source]
        source: OemStringsError,
    },
}

/// Reads `files` and appends them to `strings`; each has to lie below one of the directories `allowed`. Blocks on files.
///
/// Answers warnings about files that others than root can read or write.
///
/// # Errors
/// Says which credential, which file, and what is accepted. `strings` may have got those before it.
pub fn add_credential_files(
    files: &[CredentialFile],
    allowed: &[PathBuf],
    strings: &mut OemStrings,
) -> Result<Vec<String>, CredentialError> {
    let mut warnings = Vec::new();
    for file in files {
        let secret = read(file, allowed, &mut warnings)?;
        strings
            .push(credential_string(&file.name, &secret))
            .map_err(|source| CredentialError::Room { name: file.name.clone(), source })?;
    }
    Ok(warnings)
}

fn read(
    file: &CredentialFile,
    allowed: &[PathBuf],
    warnings: &mut Vec<String>,
) -> Result<Secret, CredentialError> {
    let CredentialFile { name, path } = file;
    let below = allowed.iter().find_map(|directory| Some((directory, path.strip_prefix(directory).ok()?)));
    let Some((directory, relative)) = below else {
        return Err(CredentialError::NotAllowed {
            name: name.clone(),
            path: path.clone(),
            allowed: allowed.to_vec(),
        });
    };
    let opened = open_below(directory, relative).map_err(|error| CredentialError::Open {
        name: name.clone(),
        path: path.clone(),
        directory: directory.clone(),
        source: error.into(),
    })?;
    let read_error = |source| CredentialError::Read { name: name.clone(), path: path.clone(), source };
    let status = fstat(&opened).map_err(|error| read_error(error.into()))?;
    let kind = FileType::from_raw_mode(status.st_mode);
    if kind != FileType::RegularFile {
        return Err(CredentialError::NoFile { name: name.clone(), path: path.clone(), kind: describe(kind) });
    }
    warnings.extend(exposure(&status).map(|problem| {
        format!(
            "credential {name}: {} {problem}; accepted without this warning is mode 0600 of root",
            path.display()
        )
    }));
    let mut content = Vec::new();
    opened.take(CREDENTIAL_BYTES_MAX as u64 + 1).read_to_end(&mut content).map_err(read_error)?;
    if content.len() > CREDENTIAL_BYTES_MAX {
        return Err(CredentialError::TooLarge { name: name.clone(), path: path.clone() });
    }
    Ok(Secret::new(content))
}

/// Opens `relative` below `directory`. Links are followed as long as they stay there; `directory` itself may be one.
fn open_below(directory: &Path, relative: &Path) -> Result<File, Errno> {
    let directory = open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // A FIFO would make this wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(directory, relative, flags, Mode::empty(), resolve).map(File::from)
}

/// Who besides root can get at a file.
fn exposure(status: &Stat) -> Option<&'static str> {
    let mode = Mode::from_raw_mode(status.st_mode);
    if status.st_uid != 0 {
        Some("does not belong to root")
    } else if mode.intersects(Mode::ROTH | Mode::WOTH) {
        Some("can be read or written by everybody")
    } else if mode.contains(Mode::WGRP) {
        Some("can be written by its group")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;
    use crate::tests::chain;

    fn wanted(path: &Path) -> CredentialFile {
        CredentialFile { name: CredentialName::parse("db").expect("a name"), path: path.to_owned() }
    }

    /// The strings and warnings of the credential at `path`, or why it is refused.
    fn added(path: &Path, allowed: &Path) -> Result<(Vec<String>, Vec<String>), String> {
        let mut strings = OemStrings::default();
        add_credential_files(&[wanted(path)], &[allowed.to_owned()], &mut strings)
            .map(|warnings| (strings.into(), warnings))
            .map_err(|error| chain(&error))
    }

    fn directory() -> TempDir {
        tempfile::tempdir().expect("a directory")
    }

    fn put(path: &Path, content: &[u8], mode: u32) {
        fs::write(path, content).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
    }

    #[test]
    fn a_file_is_handed_over_and_links_may_stay_below_the_directory() {
        let directory = directory();
        let (file, link) = (directory.path().join("db"), directory.path().join("link"));
        put(&file, b"hunter2\n", 0o600);
        symlink("db", &link).expect("a link");
        for path in [&file, &link] {
            let (strings, _) = added(path, directory.path()).expect("accepted");
            assert_eq!(strings, ["io.systemd.credential.binary:db=aHVudGVyMgo="]);
        }
    }

    #[test]
    fn files_that_others_can_read_are_warned_of() {
        let directory = directory();
        let file = directory.path().join("db");
        put(&file, b"hunter2", 0o644);
        let (_, warnings) = added(&file, directory.path()).expect("accepted");
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("credential db") && !warnings[0].contains("hunter2"), "{warnings:?}");
        let root = |mode| {
            let mut status = fstat(fs::File::open(&file).expect("open")).expect("its status");
            (status.st_uid, status.st_mode) = (0, mode);
            exposure(&status)
        };
        assert_eq!(root(0o100_600), None);
        assert_eq!(root(0o100_640), None);
        assert!(root(0o100_660).is_some() && root(0o100_604).is_some());
    }

    #[test]
    fn nothing_outside_the_directories_is_read() {
        let (allowed, outside) = (directory(), directory());
        let secret = outside.path().join("shadow");
        put(&secret, b"root", 0o600);
        let refused = added(&secret, allowed.path()).expect_err("it lies elsewhere");
        assert!(refused.contains("lies below none of the directories"), "{refused}");
        for (name, target) in [("absolute", secret.clone()), ("relative", Path::new("..").join("x"))] {
            let link = allowed.path().join(name);
            symlink(target, &link).expect("a link");
            let refused = added(&link, allowed.path()).expect_err("the link leads out");
            assert!(refused.contains("without leaving"), "{refused}");
        }
    }

    #[test]
    fn what_is_no_file_of_a_bounded_size_is_refused() {
        let directory = directory();
        let large = directory.path().join("large");
        put(&large, &vec![b'x'; CREDENTIAL_BYTES_MAX + 1], 0o600);
        assert!(
            added(&large, directory.path()).expect_err("too large").contains("more than the 32768 bytes")
        );
        put(&large, &vec![b'x'; CREDENTIAL_BYTES_MAX], 0o600);
        assert!(added(&large, directory.path()).is_ok());
        let fifo = directory.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).expect("a FIFO");
        assert!(added(&fifo, directory.path()).expect_err("no file").contains("is a FIFO"));
        assert!(
            added(&directory.path().join("none"), directory.path())
                .expect_err("none")
                .contains("cannot open")
        );
    }
}

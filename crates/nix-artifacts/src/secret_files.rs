//! Secrets that lie in files of the host: read when a machine is started.
//!
//! A description comes from whoever made the image, and must not make the worker, which may read everything, hand any file
//! of the host to a guest. So only files below directories that the host's operator named are read, and no link leads out
//! of them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2};
use rustix::io::Errno;
use thiserror::Error;
use vm_model::{CLOUD_INIT_BYTES_MAX, CREDENTIAL_BYTES_MAX, CredentialName, Secret};

use crate::store::describe;

/// The directory below which files of secrets may lie where the worker's settings name none.
pub const CREDENTIAL_DIRECTORY: &str = "/etc/procurator/credentials";

/// What a secret is for; names it in errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretUse {
    /// A credential of the guest's systemd.
    Credential(CredentialName),
    /// What the guest's cloud-init is told under this key of `procurator.cloud_init`.
    CloudInit(&'static str),
}

impl SecretUse {
    /// The most bytes that it has.
    fn bytes_max(&self) -> usize {
        match self {
            Self::Credential(_) => CREDENTIAL_BYTES_MAX,
            Self::CloudInit(_) => CLOUD_INIT_BYTES_MAX,
        }
    }
}

impl fmt::Display for SecretUse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential(name) => write!(formatter, "credential {name}"),
            Self::CloudInit(key) => write!(formatter, "cloud_init.{key}"),
        }
    }
}

/// Why a secret's file cannot be handed over. Nothing of its content is in here.
#[derive(Debug, Error)]
pub enum SecretFileError {
    /// It lies below no directory that is allowed.
    #[error(
        "{purpose}: {path:?} lies below none of the directories {allowed:?} that the worker's settings allow"
    )]
    NotAllowed {
        /// What it is for.
        purpose: SecretUse,
        /// The file.
        path: PathBuf,
        /// Where it could lie.
        allowed: Vec<PathBuf>,
    },
    /// It cannot be opened, or a link in its path leads out of the directory.
    #[error("{purpose}: cannot open {path:?} without leaving {directory:?}")]
    Open {
        /// What it is for.
        purpose: SecretUse,
        /// The file.
        path: PathBuf,
        /// The directory that it has to lie below.
        directory: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is no regular file.
    #[error("{purpose}: {path:?} is {kind}; accepted is a regular file")]
    NoFile {
        /// What it is for.
        purpose: SecretUse,
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It is too large.
    #[error("{purpose}: {path:?} has more than the {most} bytes that are accepted")]
    TooLarge {
        /// What it is for.
        purpose: SecretUse,
        /// The file.
        path: PathBuf,
        /// How many it may have.
        most: usize,
    },
    /// It cannot be read.
    #[error("{purpose}: cannot read {path:?}")]
    Read {
        /// What it is for.
        purpose: SecretUse,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Reads the file `path`, which has to lie below one of the directories `allowed`. Blocks on files.
///
/// A warning is added where others than root can read or write it.
///
/// # Errors
/// Says what the secret is for, which file, and what is accepted.
pub(crate) fn read_secret_file(
    purpose: &SecretUse,
    path: &Path,
    allowed: &[PathBuf],
    warnings: &mut Vec<String>,
) -> Result<Secret, SecretFileError> {
    let named = || (purpose.clone(), path.to_owned());
    let below = allowed.iter().find_map(|directory| Some((directory, path.strip_prefix(directory).ok()?)));
    let Some((directory, relative)) = below else {
        let (purpose, path) = named();
        return Err(SecretFileError::NotAllowed { purpose, path, allowed: allowed.to_vec() });
    };
    let opened = open_below(directory, relative).map_err(|error| {
        let (purpose, path) = named();
        SecretFileError::Open { purpose, path, directory: directory.clone(), source: error.into() }
    })?;
    let read_error = |source| {
        let (purpose, path) = named();
        SecretFileError::Read { purpose, path, source }
    };
    let status = fstat(&opened).map_err(|error| read_error(error.into()))?;
    let kind = FileType::from_raw_mode(status.st_mode);
    if kind != FileType::RegularFile {
        let (purpose, path) = named();
        return Err(SecretFileError::NoFile { purpose, path, kind: describe(kind) });
    }
    warnings.extend(exposure(&status).map(|problem| {
        format!("{purpose}: {} {problem}; accepted without this warning is mode 0600 of root", path.display())
    }));
    let (most, mut content) = (purpose.bytes_max(), Vec::new());
    opened.take(most as u64 + 1).read_to_end(&mut content).map_err(read_error)?;
    if content.len() > most {
        let (purpose, path) = named();
        return Err(SecretFileError::TooLarge { purpose, path, most });
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

    /// The content and warnings of the credential at `path`, or why it is refused.
    fn added(path: &Path, allowed: &Path) -> Result<(Vec<u8>, Vec<String>), String> {
        let purpose = SecretUse::Credential(CredentialName::parse("db").expect("a name"));
        let mut warnings = Vec::new();
        read_secret_file(&purpose, path, &[allowed.to_owned()], &mut warnings)
            .map(|secret| (secret.expose().to_vec(), warnings))
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
            let (content, _) = added(path, directory.path()).expect("accepted");
            assert_eq!(content, b"hunter2\n");
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
        let allowed = [directory.path().to_owned()];
        let user_data = SecretUse::CloudInit("user_data");
        for (size, is_accepted) in [(CLOUD_INIT_BYTES_MAX, true), (CLOUD_INIT_BYTES_MAX + 1, false)] {
            put(&large, &vec![b'x'; size], 0o600);
            let read = read_secret_file(&user_data, &large, &allowed, &mut Vec::new());
            assert_eq!(read.is_ok(), is_accepted, "{size}");
        }
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

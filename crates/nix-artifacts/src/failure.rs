//! Whose matter an error is, decided in one place: whether another try can help, and what it would wait for.

use std::io;

use rustix::io::Errno;
use vm_model::FailureKind;

use crate::artifact::ArtifactError;
use crate::config::{ConfigError, OverrideError};
use crate::credential_files::CredentialError;
use crate::image::ImageError;
use crate::nar::{HashError, NarError};
use crate::secret_files::SecretFileError;
use crate::store::{ResolveError, StorePathError};

/// What has to change before the same call can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureCause {
    /// The assignment or the artifact: they are wrong as they stand, and store paths do not change.
    Wrong,
    /// A store path has to appear: it was not built or copied yet, or was collected as garbage.
    Missing,
    /// The content of a store path, or the hash that was assigned with it.
    HashMismatch,
    /// The host: it lacks descriptors, memory or a permission, cannot read its disk, or was changing the path meanwhile.
    Host,
}

impl FailureCause {
    /// The kind under which it is reported.
    pub const fn kind(self) -> FailureKind {
        match self {
            Self::Wrong | Self::Missing => FailureKind::Artifact,
            Self::HashMismatch => FailureKind::HashMismatch,
            Self::Host => FailureKind::Host,
        }
    }

    /// Whether the same call can succeed later although nobody corrects what was assigned.
    pub const fn can_retry_help(self) -> bool {
        match self {
            Self::Missing | Self::Host => true,
            Self::Wrong | Self::HashMismatch => false,
        }
    }

    /// Of what the kernel said about a file below a store path. What is not known to be about the path itself is the
    /// host's: a try too many is better than a VM that stays down.
    const fn of_errno(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::ISDIR => Self::Wrong,
            _ => Self::Host,
        }
    }

    fn of_io(error: &io::Error) -> Self {
        Errno::from_io_error(error).map_or(Self::Host, Self::of_errno)
    }
}

/// Gives errors `cause`, and the two questions that callers ask most.
macro_rules! classify {
    ($($error:ident => |$value:ident| $cause:expr;)*) => {$(
        impl $error {
            /// What has to change before the same call can succeed.
            pub fn cause(&self) -> FailureCause {
                let $value = self;
                $cause
            }

            /// The kind of failure that a VM has by it.
            pub fn kind(&self) -> FailureKind {
                self.cause().kind()
            }

            /// Whether a store path is not there, which may come: tell this from one that is wrong.
            pub fn is_missing(&self) -> bool {
                self.cause() == FailureCause::Missing
            }
        }
    )*};
}

classify! {
    ArtifactError => |error| match error {
        Self::StorePath(source) => source.cause(),
        Self::OpenConfig { source, .. } | Self::OpenFile { source, .. } | Self::Look { source, .. } => source.cause(),
        Self::ReadConfig { source, .. } => FailureCause::of_io(source),
        Self::Config(source) => source.cause(),
        Self::Override { source, .. } => source.cause(),
        Self::UnusableFile { source, .. } => source.cause(),
    };
    ConfigError => |error| match error {
        Self::TooLarge { .. } | Self::Syntax { .. } | Self::Refused { .. } | Self::RefusedAssignment { .. } => {
            FailureCause::Wrong
        }
    };
    CredentialError => |error| match error {
        Self::File(source) => source.cause(),
        Self::Room { .. } => FailureCause::Wrong,
    };
    SecretFileError => |error| match error {
        // Whatever puts secrets on the host may yet put it there.
        Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => FailureCause::Host,
        Self::Open { source, .. } => FailureCause::of_io(source),
        Self::Read { .. } => FailureCause::Host,
        Self::NotAllowed { .. } | Self::NoFile { .. } | Self::TooLarge { .. } => FailureCause::Wrong,
    };
    OverrideError => |_error| FailureCause::Wrong;
    ImageError => |error| match error {
        Self::Read(source) => FailureCause::of_io(source),
        Self::Empty | Self::Size { .. } | Self::Format { .. } | Self::NotQcow2 { .. } | Self::Truncated { .. } | Self::Qcow2 { .. } => {
            FailureCause::Wrong
        }
    };
    StorePathError => |error| match error {
        Self::NotBelowRoot { .. } | Self::Name { .. } | Self::NotADirectory { .. } => FailureCause::Wrong,
        Self::Open { source: Errno::NOENT, .. } => FailureCause::Missing,
        Self::Open { source, .. } => FailureCause::of_errno(*source),
    };
    ResolveError => |error| match error {
        Self::Missing { is_store_path: true, .. } | Self::DanglingLink { is_store_path: true, .. } => {
            FailureCause::Missing
        }
        Self::Missing { is_store_path: false, .. }
        | Self::DanglingLink { is_store_path: false, .. }
        | Self::LinkOutside { .. }
        | Self::Outside { .. }
        | Self::NotAStorePath { .. }
        | Self::TooManyLinks { .. }
        | Self::TooLong { .. }
        | Self::NotADirectory { .. }
        | Self::NotAFile { .. } => FailureCause::Wrong,
        Self::Permission { .. } | Self::Changed { .. } => FailureCause::Host,
        Self::Io { source, .. } => FailureCause::of_errno(*source),
    };
    NarError => |error| match error {
        Self::Kind { .. } | Self::TooDeep { .. } | Self::TooManyEntries { .. } => FailureCause::Wrong,
        Self::Changed { .. }
        | Self::ChangedSinceOpened { .. }
        | Self::GoneSinceOpened { .. }
        | Self::Stopped { .. } => FailureCause::Host,
        // Below the store path, what is gone has changed.
        Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => FailureCause::Missing,
        Self::Read { source, .. } => FailureCause::of_io(source),
    };
    HashError => |error| match error {
        Self::StorePath(source) => source.cause(),
        Self::Nar { source, .. } => source.cause(),
        Self::Identity { source, .. } => FailureCause::of_errno(*source),
        Self::Replaced { .. } => FailureCause::Host,
        Self::Mismatch { .. } => FailureCause::HashMismatch,
    };
}

#[cfg(test)]
mod tests;

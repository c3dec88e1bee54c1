//! Who says what should run on a host.
//!
//! A host can be told by several: a file, a master, and its administrators. Each speaks for itself, and none takes away
//! what another one asked for. Where two name the same VM, a master goes before the file, and both go before what was
//! asked for by hand.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::shown_text;

/// The kinds of sources, in the order in which they go before each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A master.
    Master,
    /// The assignments file.
    File,
    /// An administrator of this host.
    Local,
}

impl SourceKind {
    /// Whether it speaks from another host, for a whole fleet. How many VMs such a source takes away within an hour is
    /// limited, and it repeats itself whenever a connection was lost.
    pub const fn is_remote(self) -> bool {
        match self {
            Self::Master => true,
            Self::File | Self::Local => false,
        }
    }

    /// Its name, as programs write it and people type it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::File => "file",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Master => "the master",
            Self::File => "the assignments file",
            Self::Local => "a command on this host",
        })
    }
}

/// Whoever sent a desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A master, whose generations belong to this lineage.
    Master(Lineage),
    /// The assignments file.
    File,
    /// An administrator of this host.
    Local,
}

impl Source {
    /// Its kind.
    pub const fn kind(&self) -> SourceKind {
        match self {
            Self::Master(_) => SourceKind::Master,
            Self::File => SourceKind::File,
            Self::Local => SourceKind::Local,
        }
    }

    /// The lineage of its generations; there for a master only.
    pub const fn lineage(&self) -> Option<&Lineage> {
        match self {
            Self::Master(lineage) => Some(lineage),
            Self::File | Self::Local => None,
        }
    }
}

/// The longest name of a master, and the longest epoch, in bytes.
const LONGEST: usize = 128;

/// A master, and one counting of its generations.
///
/// A master that lost its state begins to count anew. It takes another epoch then, so that nobody mistakes its new
/// generations for old ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct Lineage {
    master: String,
    epoch: String,
}

/// Why a text is no name of a master or no epoch.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("invalid {what} {text}: 1 to {LONGEST} printable ASCII characters without spaces are accepted")]
pub struct InvalidLineage {
    what: &'static str,
    text: String,
}

impl Lineage {
    /// The generations that `master` counts since it took `epoch`.
    ///
    /// # Errors
    /// One of them is empty, longer than 128 bytes, or has other characters than printable ASCII.
    pub fn new(master: impl Into<String>, epoch: impl Into<String>) -> Result<Self, InvalidLineage> {
        let checked = |what, text: String| {
            let is_fine =
                (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
            if is_fine {
                return Ok(text);
            }
            Err(InvalidLineage { what, text: shown_text(&text) })
        };
        Ok(Self {
            master: checked("name of a master", master.into())?,
            epoch: checked("epoch", epoch.into())?,
        })
    }

    /// The master's name.
    pub fn master(&self) -> &str {
        &self.master
    }

    /// What tells this counting from the master's other ones.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (epoch {})", self.master, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_epochs_are_short_plain_text() {
        let lineage = Lineage::new("m1.example", "2026-11-27").expect("fine");
        assert_eq!(lineage.to_string(), "m1.example (epoch 2026-11-27)");
        for (master, epoch) in
            [("", "1"), ("m", ""), ("m 1", "1"), ("m", "\u{1b}[31m"), ("m", &"x".repeat(129))]
        {
            Lineage::new(master, epoch).expect_err("refused");
        }
    }
}

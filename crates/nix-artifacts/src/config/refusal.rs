//! Why a configuration was refused, and what of it was left aside.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use super::secrets::HIDDEN;

/// Why a `vm-config.json` describes no machine.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file is too large to be a machine description.
    #[error("{file:?} has {size} bytes; a machine description of at most {limit} bytes is accepted")]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Bytes accepted.
        limit: u64,
    },
    /// The file is no JSON.
    #[error("{file:?} is no JSON that can be read")]
    Syntax {
        /// The file.
        file: PathBuf,
        /// What the parser met, and in which line and column.
        #[source]
        source: serde_json::Error,
    },
    /// A key or a value is not accepted.
    #[error("{file:?}: {refusal}")]
    Refused {
        /// The file.
        file: PathBuf,
        /// What is not accepted, and what would be.
        refusal: Box<Refusal>,
    },
    /// A key or a value under `procurator` of the assignment is not accepted.
    #[error("assignment: {refusal}")]
    RefusedAssignment {
        /// What is not accepted, and what would be; its place is one of the assignment.
        refusal: Box<Refusal>,
    },
}

/// One key or value that is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where it stands, like `$.disks[1].path`.
    pub json_path: String,
    /// What stands there, shortened.
    pub value: String,
    /// What is wrong with it.
    pub reason: RefusalReason,
    /// What would be accepted.
    pub accepted: String,
}

/// What is wrong with a key or value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// No such key is known.
    UnknownKey,
    /// The key stands there twice.
    DuplicateKey,
    /// The value is of the wrong type or out of range.
    WrongValue,
    /// The key is known, but what it asks for is not supported; says why.
    NotSupported(&'static str),
    /// The value contradicts another one or breaks a rule that spans several; says which.
    Contradiction(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { json_path, value, reason, accepted } = self;
        match reason {
            RefusalReason::UnknownKey => {
                write!(formatter, "{json_path} (value {value}) is no known key; {accepted}")
            }
            RefusalReason::DuplicateKey => {
                write!(formatter, "{json_path} stands there twice, the second time with {value}; {accepted}")
            }
            RefusalReason::WrongValue if value == HIDDEN => {
                write!(
                    formatter,
                    "{json_path} cannot be used (its value is not shown); accepted is {accepted}"
                )
            }
            RefusalReason::WrongValue => {
                write!(formatter, "{json_path} is {value}; accepted is {accepted}")
            }
            RefusalReason::NotSupported(why) => {
                write!(
                    formatter,
                    "{json_path} is {value}, which is not supported yet: {why}; accepted is {accepted}"
                )
            }
            RefusalReason::Contradiction(rule) if value == HIDDEN => {
                write!(
                    formatter,
                    "{json_path} cannot be used (its value is not shown): {rule}; accepted is {accepted}"
                )
            }
            RefusalReason::Contradiction(rule) => {
                write!(formatter, "{json_path} is {value}, but {rule}; accepted is {accepted}")
            }
        }
    }
}

/// A key that was left aside because it does not change the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigWarning {
    /// Where it stands, like `$.disks[0].direct`.
    pub json_path: String,
    /// What stands there, shortened.
    pub value: String,
    /// What happens instead.
    pub consequence: String,
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { json_path, value, consequence } = self;
        write!(formatter, "{json_path} is {value}, which is left aside: {consequence}")
    }
}

//! The process that runs a machine, and what it is kept to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The process that runs a machine, by what it said of itself when this worker first spoke with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostingProcess {
    /// Its id.
    pub pid: u32,
    /// Its jail; `None` where it is in none.
    pub jail: Option<ProcessJail>,
    /// What becomes of a system call that it should not make.
    pub filter: CallFilter,
}

/// A jail that a process entered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessJail {
    /// The user that the process has for itself, where it got one.
    pub user: Option<u32>,
    /// What the jail lacks, a phrase each; empty for a whole one.
    pub gaps: Vec<String>,
}

/// What becomes of a system call that a process should not make, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallFilter {
    /// It is made.
    #[default]
    Off,
    /// It is made, and the kernel's audit log names it.
    Log,
    /// It ends the process.
    Trap,
}

impl fmt::Display for CallFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Off => "off",
            Self::Log => "log",
            Self::Trap => "trap",
        })
    }
}

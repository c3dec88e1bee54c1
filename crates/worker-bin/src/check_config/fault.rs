//! One thing that is wrong with a configuration.

use std::fmt;

use serde::Serialize;

/// A fault: where it is, what was met, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    /// The line of the file, from 1 on; `None` where the fault is not in the file.
    pub(crate) line: Option<usize>,
    /// The key with its table.
    pub(crate) key: Option<String>,
    /// The value, as the file says it.
    pub(crate) value: Option<String>,
    /// What is wrong.
    pub(crate) problem: String,
    /// What is accepted.
    pub(crate) accepted: Option<String>,
    /// The known key that was probably meant.
    pub(crate) nearest: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.key, &self.value) {
            (Some(key), Some(value)) => write!(formatter, "{key} = {value}: {}", self.problem)?,
            (Some(key), None) => write!(formatter, "{key}: {}", self.problem)?,
            (None, _) => formatter.write_str(&self.problem)?,
        }
        if let Some(accepted) = &self.accepted {
            write!(formatter, "; accepted is {accepted}")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(formatter, "; the nearest known key is {nearest}")?;
        }
        Ok(())
    }
}

//! What the program answers: a line of JSON an order.

use std::path::PathBuf;

use serde::Serialize;

/// An answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// Where a file is.
    Path(PathBuf),
    /// How long each part took, in the order that the order's description gives.
    Nanoseconds(Vec<u64>),
    /// How much there is of each part, likewise.
    Amounts(Vec<u64>),
}

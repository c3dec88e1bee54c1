//! What an operator of a host orders of one VM, over what that VM's assignment says.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{DesiredState, Timestamp};

/// An order in force: the VM is kept in another state than its assignment says, until the order is withdrawn or the
/// assignment changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperatorOrder {
    /// The state that was ordered.
    pub desired: DesiredState,
    /// The state that the assignment says.
    pub assigned: DesiredState,
    /// When the order was given.
    pub given_at: Timestamp,
    /// The numeric user id of whoever gave it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<u32>,
}

impl fmt::Display for OperatorOrder {
    /// In a line: `stopped by an operator (uid 0) since 2024-02-29T13:07:09Z; its assignment says running`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { desired, assigned, given_at, by } = self;
        write!(formatter, "{} by an operator", desired.name())?;
        if let Some(uid) = by {
            write!(formatter, " (uid {uid})")?;
        }
        write!(formatter, " since {given_at}; its assignment says {}", assigned.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_told_in_a_line() {
        let order = OperatorOrder {
            desired: DesiredState::Stopped,
            assigned: DesiredState::Running,
            given_at: Timestamp::from_millis(1_709_212_029_250),
            by: None,
        };
        let line = "stopped by an operator since 2024-02-29T13:07:09Z; its assignment says running";
        assert_eq!(order.to_string(), line);
        let order = OperatorOrder { desired: DesiredState::Paused, by: Some(1000), ..order };
        assert!(order.to_string().starts_with("paused by an operator (uid 1000) since"), "{order}");
    }
}

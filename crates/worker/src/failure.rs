//! Turning an error into the reason that a VM's status shows: its whole chain in one line, and its kind.

use std::error::Error;

use vm_model::{FailureKind, FailureReason, error_chain};

/// The reason for a failure of `kind`, told by `error` and everything that caused it.
pub(crate) fn reason(kind: FailureKind, error: &(dyn Error + 'static)) -> FailureReason {
    plain(kind, chain(error))
}

/// The reason for a failure of `kind` that `message` tells.
pub(crate) fn plain(kind: FailureKind, message: String) -> FailureReason {
    FailureReason::new(kind, message)
}

/// `error` and its causes, outermost first, joined by `: `.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    error_chain(error)
}

#[cfg(test)]
mod tests {
    use std::io;

    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("cannot open kernel")]
    struct Outer(#[source] io::Error);

    #[test]
    fn causes_follow_their_error_in_one_line() {
        let error = Outer(io::Error::other("permission denied"));
        assert_eq!(reason(FailureKind::Host, &error).message, "cannot open kernel: permission denied");
    }
}

//! Descriptors that tasks wait for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the runtime watch `descriptor`.
///
/// # Errors
/// It is not one that can be waited for.
#[expect(
    deprecated,
    reason = "its replacement is unsafe because a type may change which descriptor it is; an owned one cannot"
)]
pub(crate) fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, interest)
}

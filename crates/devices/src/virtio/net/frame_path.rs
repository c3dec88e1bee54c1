//! Who moves a card's frames between its queues and its ports, decided when the card is made.

use super::frame_limit::FrameLimit;
use super::kernel_path::KernelPath;

/// Who moves a card's frames.
#[expect(clippy::large_enum_variant, reason = "each card has one, which never moves")]
pub(super) enum FramePath {
    /// This process, at the card's doorbells and events.
    Process(ProcessPath),
    /// The host's kernel (vhost-net).
    Kernel(KernelPath),
}

/// What this process needs to move frames itself.
pub(super) struct ProcessPath {
    /// How much the guest may receive.
    pub(super) receive_limit: FrameLimit,
    /// How much the guest may send.
    pub(super) transmit_limit: FrameLimit,
}

impl FramePath {
    /// The kernel's path, if the kernel moves the frames.
    pub(super) fn kernel(&self) -> Option<&KernelPath> {
        match self {
            Self::Process(_) => None,
            Self::Kernel(kernel) => Some(kernel),
        }
    }

    /// As [`FramePath::kernel`], to be changed.
    pub(super) fn kernel_mut(&mut self) -> Option<&mut KernelPath> {
        match self {
            Self::Process(_) => None,
            Self::Kernel(kernel) => Some(kernel),
        }
    }
}

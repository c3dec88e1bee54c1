//! How a turn of a device's queue ended.

/// Whether a queue has work left when its turn is over. A turn does a bounded amount, so that a busy queue starves
/// nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkLeft {
    /// Nothing to do until the next doorbell or event.
    Nothing,
    /// The turn's share is used up, and there may be more: the device is to be called again.
    Maybe,
}

//! How large a device's queue may be made.

use thiserror::Error;

/// The largest size of a queue: a power of two from 4 to 1,024.
///
/// Fewer descriptors do not hold one block request; with more, a chain would not fit one vectored system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSize(u16);

/// A number that is no [`QueueSize`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("queue size {size} is not a power of two from 4 to 1024")]
pub struct QueueSizeError {
    /// The number.
    pub size: u16,
}

impl QueueSize {
    /// Checks `size`.
    ///
    /// # Errors
    /// It is no power of two, too small or too large.
    pub fn new(size: u16) -> Result<Self, QueueSizeError> {
        if size.is_power_of_two() && (4..=1024).contains(&size) {
            Ok(Self(size))
        } else {
            Err(QueueSizeError { size })
        }
    }

    /// Number of descriptors.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl Default for QueueSize {
    /// 256, which most drivers are tuned for.
    fn default() -> Self {
        Self(256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_in_range_are_sizes() {
        let sizes: Vec<_> =
            (0..=u16::MAX).filter_map(|size| QueueSize::new(size).ok()).map(QueueSize::get).collect();
        assert_eq!(sizes, [4, 8, 16, 32, 64, 128, 256, 512, 1024]);
    }
}

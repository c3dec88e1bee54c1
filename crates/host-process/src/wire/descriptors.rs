//! How a message names the descriptors that came with it: by index. Each is named exactly once, so that none is used twice
//! and none is left over.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A descriptor's place among those that came with its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FdIndex(u32);

/// Why the descriptors of a message are not those it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DescriptorError {
    /// No such descriptor came.
    #[error("it names descriptor {index}, and {count} came with it")]
    OutOfRange {
        /// What was named.
        index: u32,
        /// How many came.
        count: usize,
    },
    /// Two files are one descriptor.
    #[error("it names descriptor {index} twice")]
    NamedTwice {
        /// What was named.
        index: u32,
    },
    /// Something came that nothing names.
    #[error("{count} descriptors came with it that it does not name")]
    LeftOver {
        /// How many.
        count: usize,
    },
}

/// The descriptors of a message that is being written.
#[derive(Debug, Default)]
pub(crate) struct Attached(Vec<OwnedFd>);

impl Attached {
    /// Adds `descriptor`, and answers how the message names it.
    pub(crate) fn attach(&mut self, descriptor: OwnedFd) -> FdIndex {
        // Far fewer fit a packet, which is checked when it is packed.
        let index = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.push(descriptor);
        FdIndex(index)
    }

    /// All of them, in their order.
    pub(crate) fn into_descriptors(self) -> Vec<OwnedFd> {
        self.0
    }
}

/// The descriptors that came with a message that is being read.
#[derive(Debug)]
pub(crate) struct Received(Vec<Option<OwnedFd>>);

impl Received {
    /// All of these, none named yet.
    pub(crate) fn new(descriptors: Vec<OwnedFd>) -> Self {
        Self(descriptors.into_iter().map(Some).collect())
    }

    /// The descriptor that the message names by `index`.
    pub(crate) fn take(&mut self, FdIndex(index): FdIndex) -> Result<OwnedFd, DescriptorError> {
        let count = self.0.len();
        let place = usize::try_from(index).ok().and_then(|place| self.0.get_mut(place));
        let descriptor = place.ok_or(DescriptorError::OutOfRange { index, count })?;
        descriptor.take().ok_or(DescriptorError::NamedTwice { index })
    }

    /// Checks that all were named.
    pub(crate) fn finish(self) -> Result<(), DescriptorError> {
        match self.0.iter().flatten().count() {
            0 => Ok(()),
            count => Err(DescriptorError::LeftOver { count }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(count: usize) -> Received {
        let file = || rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).expect("an eventfd");
        Received::new((0..count).map(|_| file()).collect())
    }

    #[test]
    fn each_is_named_exactly_once() {
        let mut all = received(2);
        assert!(all.take(FdIndex(1)).is_ok() && all.take(FdIndex(0)).is_ok());
        assert_eq!(all.take(FdIndex(1)).err(), Some(DescriptorError::NamedTwice { index: 1 }));
        assert_eq!(all.take(FdIndex(2)).err(), Some(DescriptorError::OutOfRange { index: 2, count: 2 }));
        let highest = FdIndex(u32::MAX);
        assert_eq!(all.take(highest).err(), Some(DescriptorError::OutOfRange { index: u32::MAX, count: 2 }));
        assert_eq!(all.finish(), Ok(()));
        assert_eq!(received(3).finish(), Err(DescriptorError::LeftOver { count: 3 }));
    }
}

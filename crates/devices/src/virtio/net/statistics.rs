//! What the host counted on an interface (Linux `Documentation/networking/statistics.rst`), for frames that this process
//! does not see.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, openat};

use super::counters::NetCounts;

/// Digits of the largest counter, and a line feed.
const NUMBER_BYTES: usize = 21;

/// The directory `statistics` of an interface in sysfs.
#[derive(Debug)]
pub struct InterfaceStatistics {
    directory: OwnedFd,
    /// What had been counted before.
    base: NetCounts,
    /// What was last read: an interface that is gone counts no more, but did.
    last: Mutex<NetCounts>,
}

impl InterfaceStatistics {
    /// Counts from now on.
    ///
    /// # Errors
    /// The directory does not hold the counters.
    pub fn new(directory: OwnedFd) -> io::Result<Self> {
        let base = read(&directory)?;
        Ok(Self { directory, base, last: Mutex::default() })
    }

    /// What was counted until now, as the guest at the other end of the interface sees it.
    pub(super) fn counts(&self) -> NetCounts {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(now) = read(&self.directory) {
            *last = now.combine(self.base, u64::saturating_sub);
        }
        *last
    }
}

fn read(directory: &OwnedFd) -> io::Result<NetCounts> {
    let number = |name| number(directory, name);
    // What the host sends on the interface the guest receives.
    Ok(NetCounts {
        receive_bytes: number("tx_bytes")?,
        receive_frames: number("tx_packets")?,
        receive_dropped: number("tx_dropped")?,
        transmit_bytes: number("rx_bytes")?,
        transmit_frames: number("rx_packets")?,
        transmit_dropped: number("rx_dropped")?,
    })
}

fn number(directory: &OwnedFd, name: &str) -> io::Result<u64> {
    let file = openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = [0; NUMBER_BYTES];
    let bytes = rustix::io::read(&file, &mut text)?;
    let text = std::str::from_utf8(&text[..bytes]).map_err(io::Error::other)?;
    text.trim_end().parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let opened = std::fs::File::open(directory.path()).unwrap().into();
        (directory, opened)
    }

    #[test]
    fn counting_begins_with_the_card_and_is_the_guests_view() {
        let (directory, opened) = directory();
        let names = ["tx_bytes", "tx_packets", "tx_dropped", "rx_bytes", "rx_packets", "rx_dropped"];
        let write = |values: [u64; 6]| {
            for (name, value) in names.iter().zip(values) {
                std::fs::write(directory.path().join(name), format!("{value}\n")).unwrap();
            }
        };
        write([100, 10, 1, u64::MAX - 5, 20, 2]);
        let statistics = InterfaceStatistics::new(opened).unwrap();
        assert_eq!(statistics.counts(), NetCounts::default());
        write([103, 12, 1, u64::MAX, 24, 7]);
        let expected = NetCounts {
            receive_bytes: 3,
            receive_frames: 2,
            receive_dropped: 0,
            transmit_bytes: 5,
            transmit_frames: 4,
            transmit_dropped: 5,
        };
        assert_eq!(statistics.counts(), expected);
        std::fs::remove_file(directory.path().join("rx_bytes")).unwrap();
        assert_eq!(statistics.counts(), expected, "what was counted stays when the interface goes");
    }

    #[test]
    fn a_directory_without_counters_is_refused() {
        let (_directory, opened) = directory();
        let refused = InterfaceStatistics::new(opened).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
    }
}

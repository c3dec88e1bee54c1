//! What the program can be told, one order a line.

use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// `guest`: where the kernel of the tiny guest lies.
    Guest,
    /// `hold <count>`: have so many machines running. Answers the time of each that was created.
    Hold(usize),
    /// `boot <count>`: create so many machines at once, and end them. Answers the time from the request to the first
    /// guest byte of each, then that of all together.
    Boot(usize),
    /// `stop`: create a machine and kill it while it idles. Answers the time until the stop was answered, then that
    /// until everything was released.
    Stop,
    /// `reset`: create a machine and press its reset button while it idles. Answers the time until its guest's first byte
    /// is there again.
    Reset,
    /// `hash`: hash a store path of [`storage::SIZE`](crate::storage::SIZE) bytes.
    Hash,
    /// `copy-disk`: make a writable copy of a disk of [`storage::SIZE`](crate::storage::SIZE) bytes.
    CopyDisk,
    /// `write-record`: replace a small file atomically and durably.
    WriteRecord,
}

impl FromStr for Order {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let mut count = || {
            let word = words.next().with_context(|| format!("{name} needs a count"))?;
            word.parse().with_context(|| format!("{name} {word}: no count"))
        };
        Ok(match name {
            "guest" => Self::Guest,
            "hold" => Self::Hold(count()?),
            "boot" => Self::Boot(count()?),
            "stop" => Self::Stop,
            "reset" => Self::Reset,
            "hash" => Self::Hash,
            "copy-disk" => Self::CopyDisk,
            "write-record" => Self::WriteRecord,
            _ => bail!("unknown order {line:?}"),
        })
    }
}

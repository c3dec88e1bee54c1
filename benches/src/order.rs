//! What the program can be told, one order a line.

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::confined::{Layers, Work};
use crate::many::Many;

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
    /// `process-boot <spare>`: create a machine in a host process of its own while so many are kept ahead, and end it. Answers
    /// the time until its first byte is known.
    ProcessBoot(usize),
    /// `process-memory <count> <each>`: have so many machines in host processes of so many each. Answers the memory of all
    /// processes in bytes, and how many threads they have.
    ProcessMemory(usize, NonZeroUsize),
    /// `process-end`: end them all.
    ProcessEnd,
    /// `confined-create <layers>`: create an idle machine in a process with a jail (1), with its system calls filtered (2), with both
    /// (3) or with neither (0), and end it; `confined-ahead <layers>`: in one that was started before; `confined-disk <layers>`: have a
    /// guest use its disk there; `confined-network <layers>`: have one answer echo requests there. See [`Work`] for what is answered.
    Confined(Work, Layers),
    /// `fault`: write to fresh pages of this process that were read before. Answers the time for one.
    Fault,
    /// `many <count> <each> <seconds>`: have so many VMs under a whole worker, so many to a host process. See
    /// [`Many::measure`] for what is answered.
    Many(Many),
    /// `assign <count>`: assign so many VMs at once to a whole worker, and take them away. See
    /// [`assigned::measure`](crate::assigned::measure) for what is answered.
    Assign(usize),
    /// `taps <count>`: make and remove so many interfaces. See [`network::taps`](crate::network::taps) for what is answered.
    Taps(usize),
    /// `neighbours <turns>`: have two guests exchange frames alone and beside a third one that floods. See
    /// [`network::neighbours`](crate::network::neighbours) for what is answered.
    Neighbours(usize),
    /// `records <count>`: load the records of so many VMs.
    Records(usize),
    /// `plan <count>`: plan what leads a host of so many VMs to a file that changes four of ten.
    Plan(usize),
    /// `leases <count>`: change a pool of so many leases, and take it back.
    Leases(u32),
    /// `hash`: hash a store path of [`storage::SIZE`](crate::storage::SIZE) bytes.
    Hash,
    /// `copy-disk`: make a writable copy of a disk of [`storage::SIZE`](crate::storage::SIZE) bytes.
    CopyDisk,
    /// `first-start <MiB>`: verify and copy a sparse image of that size. See
    /// [`first_start::measure`](crate::first_start::measure) for what is answered.
    FirstStart(usize),
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
            word.parse::<usize>().with_context(|| format!("{name} {word}: no count"))
        };
        let each = |count: usize| NonZeroUsize::new(count).context("a process has at least one machine");
        Ok(match name {
            "guest" => Self::Guest,
            "hold" => Self::Hold(count()?),
            "boot" => Self::Boot(count()?),
            "stop" => Self::Stop,
            "reset" => Self::Reset,
            "process-boot" => Self::ProcessBoot(count()?),
            "process-memory" => Self::ProcessMemory(count()?, each(count()?)?),
            "process-end" => Self::ProcessEnd,
            "confined-create" => Self::Confined(Work::Create, Layers::from_count(count()?)?),
            "confined-ahead" => Self::Confined(Work::CreateAhead, Layers::from_count(count()?)?),
            "confined-disk" => Self::Confined(Work::Disk, Layers::from_count(count()?)?),
            "confined-network" => Self::Confined(Work::Network, Layers::from_count(count()?)?),
            "fault" => Self::Fault,
            "many" => {
                let (vms, each) = (count()?, each(count()?)?);
                Self::Many(Many { vms, each, idle: Duration::from_secs(u64::try_from(count()?)?) })
            }
            "assign" => Self::Assign(count()?),
            "taps" => Self::Taps(count()?),
            "neighbours" => Self::Neighbours(count()?),
            "records" => Self::Records(count()?),
            "plan" => Self::Plan(count()?),
            "leases" => Self::Leases(u32::try_from(count()?)?),
            "hash" => Self::Hash,
            "copy-disk" => Self::CopyDisk,
            "first-start" => Self::FirstStart(count()?),
            "write-record" => Self::WriteRecord,
            _ => bail!("unknown order {line:?}"),
        })
    }
}

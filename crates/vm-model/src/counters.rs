//! What a machine has used since it was launched. All figures only grow; rates are derived elsewhere.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::durations::{DurationCounts, combine_time};
use crate::{Bytes, HostUse, VcpuCounters};

/// One reading of everything a machine counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineCounters {
    /// A record a vCPU, by index.
    pub vcpus: Vec<VcpuCounters>,
    /// Guest memory as configured.
    pub memory_size: Bytes,
    /// Guest memory that occupies host memory now. The one figure that can shrink.
    pub memory_resident: Bytes,
    /// A record a network interface, in the machine's order.
    pub nics: Vec<NicCounters>,
    /// A record a disk, in the machine's order.
    pub disks: Vec<BlockCounters>,
    /// What the guest reports of its memory; `None` where it reports nothing.
    #[serde(default)]
    pub balloon: Option<BalloonCounters>,
    /// What its process takes of the host; `None` where the kernel does not account for it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostUse>,
}

/// Guest memory as the guest sees it, and what it gave up. Every figure but the last two can shrink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonCounters {
    /// What the host asks the guest to give up.
    pub target: Bytes,
    /// What the guest says it gave up.
    pub actual: Bytes,
    /// What the guest could use without swapping; `None` until it reports.
    pub available: Option<Bytes>,
    /// What the guest has no use for at all; `None` until it reports.
    pub free: Option<Bytes>,
    /// What the guest has in all; `None` until it reports.
    pub total: Option<Bytes>,
    /// What was given back to the host, counted again for memory that came back in between.
    #[serde(default)]
    pub discarded: Bytes,
    /// Pages that the guest gave up and that are outside its memory, or that the host did not take back.
    #[serde(default)]
    pub refused_pages: u64,
}

/// A network interface's use, seen from the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicCounters {
    /// The interface's name.
    pub id: String,
    /// Bytes of frames the guest received.
    pub receive_bytes: u64,
    /// Frames the guest received.
    pub receive_frames: u64,
    /// Frames for the guest that it did not get.
    #[serde(default)]
    pub receive_dropped: u64,
    /// Bytes of frames the guest sent.
    pub transmit_bytes: u64,
    /// Frames the guest sent.
    pub transmit_frames: u64,
    /// Frames sent by the guest that the host did not take.
    pub transmit_dropped: u64,
}

/// A disk's use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockCounters {
    /// The disk's name.
    pub id: String,
    /// Bytes read by the guest.
    pub read_bytes: u64,
    /// Bytes written by the guest.
    pub written_bytes: u64,
    /// Read requests completed.
    pub read_operations: u64,
    /// Write requests completed.
    pub write_operations: u64,
    /// Flush requests completed.
    pub flush_operations: u64,
    /// Requests completed that discard or zero ranges.
    #[serde(default)]
    pub erase_operations: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Requests that the host could not carry out at first, and that were kept and tried again.
    #[serde(default)]
    pub kept_requests: u64,
    /// How often such requests stopped the disk, and with it the machine.
    #[serde(default)]
    pub troubles: u64,
    /// How long they did, in all.
    #[serde(default)]
    pub trouble_time: Duration,
    /// How long requests took, from the guest's doorbell to its answer.
    #[serde(default)]
    pub latency: DiskLatency,
}

/// How long a disk's requests took, those that failed left out. Time in which a request was kept because the host could not
/// carry it out counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskLatency {
    /// Reads.
    pub read: DurationCounts,
    /// Writes.
    pub write: DurationCounts,
    /// Flushes.
    pub flush: DurationCounts,
}

impl MachineCounters {
    /// What two machines of the same description have used together, `self` being the later one: what is counted is
    /// added up, what is measured (memory, the balloon's size) is that of the later one.
    #[must_use]
    pub fn added_to(mut self, earlier: &Self) -> Self {
        let vcpus = self.vcpus.len().max(earlier.vcpus.len());
        self.vcpus.resize(vcpus, VcpuCounters::default());
        for (now, before) in self.vcpus.iter_mut().zip(&earlier.vcpus) {
            now.combine(before, u64::saturating_add);
        }
        for before in &earlier.nics {
            match self.nics.iter_mut().find(|now| now.id == before.id) {
                Some(now) => now.combine(before, u64::saturating_add),
                None => self.nics.push(before.clone()),
            }
        }
        for before in &earlier.disks {
            match self.disks.iter_mut().find(|now| now.id == before.id) {
                Some(now) => now.combine(before, u64::saturating_add),
                None => self.disks.push(before.clone()),
            }
        }
        if let (Some(now), Some(before)) = (&mut self.balloon, &earlier.balloon) {
            now.add(before);
        }
        if let (Some(now), Some(before)) = (&mut self.host, &earlier.host) {
            *now = now.added_to(before);
        }
        self
    }
}

// What is combined is taken apart, so that no new figure is forgotten.

impl NicCounters {
    /// Replaces each figure by what `with` makes of it and of the same one of `other`.
    pub fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64) {
        let Self {
            id: _,
            receive_bytes,
            receive_frames,
            receive_dropped,
            transmit_bytes,
            transmit_frames,
            transmit_dropped,
        } = other;
        let figures = [
            (&mut self.receive_bytes, receive_bytes),
            (&mut self.receive_frames, receive_frames),
            (&mut self.receive_dropped, receive_dropped),
            (&mut self.transmit_bytes, transmit_bytes),
            (&mut self.transmit_frames, transmit_frames),
            (&mut self.transmit_dropped, transmit_dropped),
        ];
        for (figure, other) in figures {
            *figure = with(*figure, *other);
        }
    }
}

impl BlockCounters {
    /// Replaces each figure by what `with` makes of it and of the same one of `other`. Durations are nanoseconds there.
    pub fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64 + Copy) {
        let Self {
            id: _,
            read_bytes,
            written_bytes,
            read_operations,
            write_operations,
            flush_operations,
            erase_operations,
            errors,
            kept_requests,
            troubles,
            trouble_time,
            latency,
        } = other;
        let figures = [
            (&mut self.read_bytes, read_bytes),
            (&mut self.written_bytes, written_bytes),
            (&mut self.read_operations, read_operations),
            (&mut self.write_operations, write_operations),
            (&mut self.flush_operations, flush_operations),
            (&mut self.erase_operations, erase_operations),
            (&mut self.errors, errors),
            (&mut self.kept_requests, kept_requests),
            (&mut self.troubles, troubles),
        ];
        for (figure, other) in figures {
            *figure = with(*figure, *other);
        }
        combine_time(&mut self.trouble_time, *trouble_time, with);
        let DiskLatency { read, write, flush } = latency;
        self.latency.read.combine(read, with);
        self.latency.write.combine(write, with);
        self.latency.flush.combine(flush, with);
    }
}

impl BalloonCounters {
    fn add(&mut self, other: &Self) {
        let Self { target: _, actual: _, available: _, free: _, total: _, discarded, refused_pages } = other;
        self.discarded = Bytes::new(self.discarded.get().saturating_add(discarded.get()));
        self.refused_pages = self.refused_pages.saturating_add(*refused_pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_of_a_disk_add_up() {
        let reading = |base: u64| BlockCounters {
            kept_requests: base,
            troubles: base + 1,
            trouble_time: Duration::from_secs(base + 2),
            ..BlockCounters::default()
        };
        let mut sum = reading(100);
        sum.combine(&reading(20), u64::saturating_add);
        assert_eq!((sum.kept_requests, sum.troubles, sum.trouble_time), (120, 122, Duration::from_secs(124)));
    }

    fn vcpu(base: u64) -> VcpuCounters {
        VcpuCounters { cpu_time: Duration::from_secs(base), exits: base + 1, ..VcpuCounters::default() }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a figure of each kind")]
    fn what_is_counted_adds_up_and_what_is_measured_is_the_later_ones() {
        let reading = |base: u64| MachineCounters {
            vcpus: vec![vcpu(base)],
            memory_size: Bytes::from_mib(64),
            memory_resident: Bytes::new(base),
            nics: vec![NicCounters {
                id: "net0".into(),
                receive_bytes: base + 2,
                receive_frames: base + 3,
                receive_dropped: base + 13,
                transmit_bytes: base + 4,
                transmit_frames: base + 5,
                transmit_dropped: base + 6,
            }],
            host: Some(HostUse { throttled_periods: base, memory: Bytes::new(base), ..HostUse::default() }),
            disks: vec![BlockCounters {
                id: "disk0".into(),
                read_bytes: base + 7,
                written_bytes: base + 8,
                read_operations: base + 9,
                write_operations: base + 10,
                flush_operations: base + 11,
                erase_operations: base + 14,
                errors: base + 12,
                ..BlockCounters::default()
            }],
            balloon: Some(BalloonCounters {
                target: Bytes::new(base),
                discarded: Bytes::new(base),
                refused_pages: base + 15,
                ..BalloonCounters::default()
            }),
        };
        let sum = reading(100).added_to(&reading(20));
        let mut expected = reading(120);
        expected.vcpus[0].exits += 1;
        expected.memory_resident = Bytes::new(100);
        expected.host = reading(120).host.map(|host| HostUse { memory: Bytes::new(100), ..host });
        expected.balloon = reading(100).balloon.map(|balloon| BalloonCounters {
            discarded: Bytes::new(120),
            refused_pages: 120 + 15 + 15,
            ..balloon
        });
        let twice = |figure: &mut u64, offset| *figure += offset;
        let nic = &mut expected.nics[0];
        twice(&mut nic.receive_bytes, 2);
        twice(&mut nic.receive_frames, 3);
        twice(&mut nic.receive_dropped, 13);
        twice(&mut nic.transmit_bytes, 4);
        twice(&mut nic.transmit_frames, 5);
        twice(&mut nic.transmit_dropped, 6);
        let disk = &mut expected.disks[0];
        twice(&mut disk.read_bytes, 7);
        twice(&mut disk.written_bytes, 8);
        twice(&mut disk.read_operations, 9);
        twice(&mut disk.write_operations, 10);
        twice(&mut disk.flush_operations, 11);
        twice(&mut disk.erase_operations, 14);
        twice(&mut disk.errors, 12);
        assert_eq!(sum, expected);
        // Of a machine that is not there yet nothing can be read.
        let between = MachineCounters::default().added_to(&reading(20));
        assert_eq!((between.vcpus, between.disks), (reading(20).vcpus, reading(20).disks));
    }
}

//! Totals that go on growing when the machine they are read from is replaced.
//!
//! Counters start at zero in every machine; users want a VM's totals over all of its machines. Which machine a
//! reading is from is stated by the caller as a run number, not guessed from figures that shrank: a fresh machine may
//! already have counted past the old one. Within a run a figure that shrinks counts as no growth.

use std::time::Duration;

use vm_model::{BalloonCounters, BlockCounters, Bytes, MachineCounters, NicCounters, VcpuCounters};

/// Sums one VM's counters over the machines it has had.
#[derive(Clone, Debug, Default)]
pub struct Accumulator {
    run: Option<u64>,
    /// The highest seen of each counter in the current run.
    seen: MachineCounters,
    totals: MachineCounters,
    /// What balloons counted, also while there is none.
    balloon: BalloonSums,
}

/// The figures of a balloon that only grow.
#[derive(Clone, Copy, Debug, Default)]
struct BalloonSums {
    discarded: u64,
    refused_pages: u64,
}

impl Accumulator {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what `counters` has grown by since the last call, and answers the totals.
    ///
    /// `run` numbers the VM's machines. The first reading of another run counts whole. What an ended machine counted
    /// after its last reading is lost, so its counters are best read once more when it has ended.
    pub fn absorb(&mut self, run: u64, counters: &MachineCounters) -> &MachineCounters {
        if self.run != Some(run) {
            self.run = Some(run);
            self.seen = MachineCounters::default();
        }
        absorb_vcpus(&mut self.totals.vcpus, &mut self.seen.vcpus, &counters.vcpus);
        for nic in &counters.nics {
            absorb_nic(entry(&mut self.totals.nics, &nic.id), entry(&mut self.seen.nics, &nic.id), nic);
        }
        for disk in &counters.disks {
            absorb_disk(entry(&mut self.totals.disks, &disk.id), entry(&mut self.seen.disks, &disk.id), disk);
        }
        self.totals.memory_size = counters.memory_size;
        self.totals.memory_resident = counters.memory_resident;
        self.totals.balloon = counters.balloon.map(|balloon| self.absorb_balloon(balloon));
        &self.totals
    }

    /// The totals so far. Memory figures are the latest, not sums, except for what a balloon gave back and refused.
    pub fn totals(&self) -> &MachineCounters {
        &self.totals
    }

    /// The balloon's figures now, with the sums of those that only grow.
    fn absorb_balloon(&mut self, now: BalloonCounters) -> BalloonCounters {
        let seen = self.seen.balloon.get_or_insert_default();
        let mut discarded = seen.discarded.get();
        grow(&mut self.balloon.discarded, &mut discarded, now.discarded.get());
        seen.discarded = Bytes::new(discarded);
        grow(&mut self.balloon.refused_pages, &mut seen.refused_pages, now.refused_pages);
        BalloonCounters {
            discarded: Bytes::new(self.balloon.discarded),
            refused_pages: self.balloon.refused_pages,
            ..now
        }
    }
}

/// A device's record, found by the device's name.
trait Named {
    fn named(id: &str) -> Self;
    fn id(&self) -> &str;
}

impl Named for NicCounters {
    fn named(id: &str) -> Self {
        Self { id: id.to_owned(), ..Self::default() }
    }

    fn id(&self) -> &str {
        &self.id
    }
}

impl Named for BlockCounters {
    fn named(id: &str) -> Self {
        Self { id: id.to_owned(), ..Self::default() }
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// The record of the device `id`, new and zero where there was none. Machines have a handful of devices.
fn entry<'a, T: Named>(records: &'a mut Vec<T>, id: &str) -> &'a mut T {
    let index = records.iter().position(|record| record.id() == id).unwrap_or_else(|| {
        records.push(T::named(id));
        records.len() - 1
    });
    &mut records[index]
}

fn absorb_vcpus(totals: &mut Vec<VcpuCounters>, seen: &mut Vec<VcpuCounters>, now: &[VcpuCounters]) {
    let count = totals.len().max(now.len());
    totals.resize(count, VcpuCounters::default());
    seen.resize(count, VcpuCounters::default());
    for ((total, seen), now) in totals.iter_mut().zip(seen).zip(now) {
        grow_time(&mut total.cpu_time, &mut seen.cpu_time, now.cpu_time);
        grow(&mut total.exits, &mut seen.exits, now.exits);
    }
}

fn absorb_nic(total: &mut NicCounters, seen: &mut NicCounters, now: &NicCounters) {
    grow(&mut total.receive_bytes, &mut seen.receive_bytes, now.receive_bytes);
    grow(&mut total.receive_frames, &mut seen.receive_frames, now.receive_frames);
    grow(&mut total.receive_dropped, &mut seen.receive_dropped, now.receive_dropped);
    grow(&mut total.transmit_bytes, &mut seen.transmit_bytes, now.transmit_bytes);
    grow(&mut total.transmit_frames, &mut seen.transmit_frames, now.transmit_frames);
    grow(&mut total.transmit_dropped, &mut seen.transmit_dropped, now.transmit_dropped);
}

fn absorb_disk(total: &mut BlockCounters, seen: &mut BlockCounters, now: &BlockCounters) {
    grow(&mut total.read_bytes, &mut seen.read_bytes, now.read_bytes);
    grow(&mut total.written_bytes, &mut seen.written_bytes, now.written_bytes);
    grow(&mut total.read_operations, &mut seen.read_operations, now.read_operations);
    grow(&mut total.write_operations, &mut seen.write_operations, now.write_operations);
    grow(&mut total.flush_operations, &mut seen.flush_operations, now.flush_operations);
    grow(&mut total.erase_operations, &mut seen.erase_operations, now.erase_operations);
    grow(&mut total.errors, &mut seen.errors, now.errors);
    grow(&mut total.kept_requests, &mut seen.kept_requests, now.kept_requests);
    grow(&mut total.troubles, &mut seen.troubles, now.troubles);
    grow_time(&mut total.trouble_time, &mut seen.trouble_time, now.trouble_time);
}

fn grow_time(total: &mut Duration, seen: &mut Duration, now: Duration) {
    *total = total.saturating_add(now.saturating_sub(*seen));
    *seen = now.max(*seen);
}

fn grow(total: &mut u64, seen: &mut u64, now: u64) {
    *total = total.saturating_add(now.saturating_sub(*seen));
    *seen = now.max(*seen);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receiving(bytes: u64) -> MachineCounters {
        MachineCounters {
            nics: vec![NicCounters { id: "net0".into(), receive_bytes: bytes, ..NicCounters::default() }],
            ..MachineCounters::default()
        }
    }

    #[test]
    fn totals_go_on_over_a_restart_even_when_the_new_machine_has_overtaken_the_old() {
        let mut accumulator = Accumulator::new();
        accumulator.absorb(1, &receiving(100));
        accumulator.absorb(1, &receiving(150));
        assert_eq!(accumulator.absorb(2, &receiving(170)).nics[0].receive_bytes, 320);
    }

    #[test]
    fn a_figure_that_shrinks_within_a_run_is_not_counted_twice() {
        let mut accumulator = Accumulator::new();
        accumulator.absorb(1, &receiving(100));
        accumulator.absorb(1, &receiving(0));
        assert_eq!(accumulator.absorb(1, &receiving(100)).nics[0].receive_bytes, 100);
        assert_eq!(accumulator.absorb(1, &receiving(101)).nics[0].receive_bytes, 101);
    }

    #[test]
    fn what_a_balloon_gave_back_goes_on_and_its_size_is_the_latest() {
        let with = |target, discarded, refused_pages| MachineCounters {
            balloon: Some(BalloonCounters {
                target: Bytes::new(target),
                discarded: Bytes::new(discarded),
                refused_pages,
                ..BalloonCounters::default()
            }),
            ..MachineCounters::default()
        };
        let mut accumulator = Accumulator::new();
        accumulator.absorb(1, &with(40, 100, 1));
        assert_eq!(accumulator.absorb(1, &with(30, 150, 1)), &with(30, 150, 1));
        assert_eq!(accumulator.absorb(2, &MachineCounters::default()).balloon, None);
        assert_eq!(accumulator.absorb(3, &with(20, 170, 2)), &with(20, 320, 3));
    }

    #[test]
    fn a_device_that_a_later_machine_lacks_keeps_its_total() {
        let mut accumulator = Accumulator::new();
        accumulator.absorb(1, &receiving(100));
        accumulator.absorb(2, &MachineCounters::default());
        assert_eq!(accumulator.totals().nics[0].receive_bytes, 100);
        assert_eq!(accumulator.absorb(3, &receiving(5)).nics[0].receive_bytes, 105);
    }
}

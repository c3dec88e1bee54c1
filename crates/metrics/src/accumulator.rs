//! Totals that go on growing when the machine they are read from is replaced.
//!
//! Counters start at zero in every machine; users want a VM's totals over all of its machines. Which machine a
//! reading is from is stated by the caller as a run number, not guessed from figures that shrank: a fresh machine may
//! already have counted past the old one. Within a run a figure that shrinks counts as no growth.

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

    /// Goes on from what a VM used before, of which its present machine is no part.
    pub fn going_on_from(used: &MachineCounters) -> Self {
        let balloon = used.balloon.map(|balloon| BalloonSums {
            discarded: balloon.discarded.get(),
            refused_pages: balloon.refused_pages,
        });
        let totals = MachineCounters { balloon: None, host: None, ..used.clone() };
        Self { totals, balloon: balloon.unwrap_or_default(), ..Self::default() }
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
        let vcpus = self.totals.vcpus.len().max(counters.vcpus.len());
        self.totals.vcpus.resize(vcpus, VcpuCounters::default());
        self.seen.vcpus.resize(vcpus, VcpuCounters::default());
        for ((total, seen), now) in
            self.totals.vcpus.iter_mut().zip(&mut self.seen.vcpus).zip(&counters.vcpus)
        {
            grow(total, seen, now);
        }
        for nic in &counters.nics {
            grow(entry(&mut self.totals.nics, nic), entry(&mut self.seen.nics, nic), nic);
        }
        for disk in &counters.disks {
            grow(entry(&mut self.totals.disks, disk), entry(&mut self.seen.disks, disk), disk);
        }
        self.totals.memory_size = counters.memory_size;
        self.totals.memory_resident = counters.memory_resident;
        // Of the process that there is now: another one begins from nothing, as its series does.
        self.totals.host = counters.host;
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
        grow_figure(&mut self.balloon.discarded, &mut discarded, now.discarded.get());
        seen.discarded = Bytes::new(discarded);
        grow_figure(&mut self.balloon.refused_pages, &mut seen.refused_pages, now.refused_pages);
        BalloonCounters {
            discarded: Bytes::new(self.balloon.discarded),
            refused_pages: self.balloon.refused_pages,
            ..now
        }
    }
}

/// Counters that only grow.
trait Counters: Clone {
    /// Replaces each figure by what `with` makes of it and of the same one of `other`.
    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64 + Copy);
}

impl Counters for VcpuCounters {
    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64 + Copy) {
        Self::combine(self, other, with);
    }
}

impl Counters for NicCounters {
    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64 + Copy) {
        Self::combine(self, other, with);
    }
}

impl Counters for BlockCounters {
    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64 + Copy) {
        Self::combine(self, other, with);
    }
}

/// A device's record, found by the device's name.
trait Named: Sized {
    /// The record of the same device in which nothing is counted yet.
    fn empty(&self) -> Self;
    fn id(&self) -> &str;
}

impl Named for NicCounters {
    fn empty(&self) -> Self {
        Self { id: self.id.clone(), ..Self::default() }
    }

    fn id(&self) -> &str {
        &self.id
    }
}

impl Named for BlockCounters {
    fn empty(&self) -> Self {
        Self { id: self.id.clone(), ..Self::default() }
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// The record of the same device as `of`, new and zero where there was none. Machines have a handful of devices.
fn entry<'a, T: Named>(records: &'a mut Vec<T>, of: &T) -> &'a mut T {
    let index = records.iter().position(|record| record.id() == of.id()).unwrap_or_else(|| {
        records.push(of.empty());
        records.len() - 1
    });
    &mut records[index]
}

/// Adds to `total` what `now` has grown by beyond `seen`, and makes `seen` the highest of both.
fn grow<T: Counters>(total: &mut T, seen: &mut T, now: &T) {
    let mut growth = now.clone();
    growth.combine(seen, u64::saturating_sub);
    total.combine(&growth, u64::saturating_add);
    seen.combine(now, u64::max);
}

fn grow_figure(total: &mut u64, seen: &mut u64, now: u64) {
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

    #[test]
    fn totals_go_on_from_what_was_used_before() {
        let used = MachineCounters {
            balloon: Some(BalloonCounters { discarded: Bytes::new(7), ..BalloonCounters::default() }),
            ..receiving(100)
        };
        let mut accumulator = Accumulator::going_on_from(&used);
        assert_eq!(accumulator.totals().nics[0].receive_bytes, 100);
        let now = MachineCounters {
            balloon: Some(BalloonCounters { discarded: Bytes::new(1), ..BalloonCounters::default() }),
            ..receiving(5)
        };
        let totals = accumulator.absorb(0, &now);
        assert_eq!(totals.nics[0].receive_bytes, 105);
        assert_eq!(totals.balloon.map(|balloon| balloon.discarded), Some(Bytes::new(8)));
    }
}

//! Where a machine's counters are read: from the machine while it lives, from memory after. They go on where one machine
//! is followed by another in place.

use std::sync::{Mutex, PoisonError};

use machine_host::CountersSource;
use vm_model::{Bytes, MachineCounters};

/// The counters of a machine in this process.
#[derive(Default)]
pub(crate) struct CountersCell {
    /// Held during a reading, which takes microseconds, so that nothing of an ended machine is still in use by a reader.
    /// Replaced whole: a poisoned lock is used on.
    source: Mutex<Source>,
}

enum Source {
    /// There is no machine, or none yet after those that counted this.
    NotBuilt {
        earlier: MachineCounters,
    },
    Live {
        machine: Box<dyn CountersSource>,
        earlier: MachineCounters,
    },
    Ended(MachineCounters),
}

impl Default for Source {
    fn default() -> Self {
        Self::NotBuilt { earlier: MachineCounters::default() }
    }
}

impl Source {
    fn read(&self) -> MachineCounters {
        match self {
            Self::NotBuilt { earlier } | Self::Ended(earlier) => earlier.clone(),
            Self::Live { machine, earlier } => machine.read().added_to(earlier),
        }
    }
}

impl CountersCell {
    /// There is a machine, the first or one more.
    pub(crate) fn begin(&self, machine: Box<dyn CountersSource>) {
        self.replace(|before| Source::Live { machine, earlier: before.read() });
    }

    /// Keeps a reading of a machine that another will follow, and lets go of it. Of what is measured rather than counted
    /// there is only the memory's size then.
    pub(crate) fn carry_over(&self) {
        self.replace(|before| {
            let earlier = before.read();
            let earlier = MachineCounters { memory_resident: Bytes::default(), balloon: None, ..earlier };
            Source::NotBuilt { earlier }
        });
    }

    /// Keeps one last reading and lets go of the machine.
    pub(crate) fn end(&self) {
        self.replace(|before| Source::Ended(before.read()));
    }

    fn replace(&self, next: impl FnOnce(&Source) -> Source) {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        *source = next(&source);
    }
}

impl CountersSource for CountersCell {
    fn read(&self) -> MachineCounters {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).read()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use vm_model::VcpuCounters;

    use super::*;

    struct Counting(Arc<AtomicU64>);

    impl CountersSource for Counting {
        fn read(&self) -> MachineCounters {
            MachineCounters {
                vcpus: vec![VcpuCounters { exits: self.0.load(Ordering::Relaxed), ..Default::default() }],
                memory_size: Bytes::from_mib(16),
                memory_resident: Bytes::from_mib(1),
                ..MachineCounters::default()
            }
        }
    }

    #[test]
    fn counters_go_on_from_machine_to_machine() {
        let (cell, exits) = (CountersCell::default(), Arc::new(AtomicU64::new(3)));
        let seen = || {
            let counters = cell.read();
            let mib = |bytes: Bytes| bytes.as_mib();
            (
                counters.vcpus.first().map_or(0, |vcpu| vcpu.exits),
                mib(counters.memory_size),
                mib(counters.memory_resident),
            )
        };
        assert_eq!(seen(), (0, 0, 0));
        cell.begin(Box::new(Counting(exits.clone())));
        assert_eq!(seen(), (3, 16, 1));
        exits.store(5, Ordering::Relaxed);
        cell.carry_over();
        assert_eq!(seen(), (5, 16, 0));
        exits.store(1, Ordering::Relaxed);
        cell.begin(Box::new(Counting(exits.clone())));
        assert_eq!(seen(), (6, 16, 1));
        exits.store(2, Ordering::Relaxed);
        cell.end();
        exits.store(9, Ordering::Relaxed);
        assert_eq!(seen(), (7, 16, 1));
    }
}

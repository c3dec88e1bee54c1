//! Reading what a machine has used, from any thread and without its event loop's help.

use std::sync::{Arc, Weak};
use std::time::Duration;

use devices::virtio::balloon::BalloonHandle;
use devices::virtio::{block, net};
use vm_model::{BlockCounters, Bytes, MachineCounters, NicCounters};

use crate::memory::ResidentMemory;
use crate::vcpu::Meter;

/// Reads one device's counters.
pub(crate) enum DeviceCounters {
    /// A disk's.
    Disk { id: String, counters: Arc<block::BlockCounters> },
    /// An interface's.
    Nic { id: String, counters: Arc<net::NetCounters> },
    /// The balloon's.
    Balloon(Arc<BalloonHandle>),
}

/// Everything that is read.
pub(crate) struct CounterSources {
    pub(crate) vcpus: Vec<Arc<Meter>>,
    pub(crate) memory_size: Bytes,
    pub(crate) resident: ResidentMemory,
    pub(crate) devices: Vec<DeviceCounters>,
}

impl CounterSources {
    pub(crate) fn read(&self) -> MachineCounters {
        let vcpus: Vec<_> = self.vcpus.iter().map(|meter| meter.read()).collect();
        let cpu_time = vcpus.iter().fold(Duration::ZERO, |sum, vcpu| sum.saturating_add(vcpu.cpu_time));
        let mut counters = MachineCounters {
            vcpus,
            memory_size: self.memory_size,
            memory_resident: self.resident.read(cpu_time),
            ..Default::default()
        };
        for device in &self.devices {
            match device {
                DeviceCounters::Disk { id, counters: disk } => counters.disks.push(of_disk(id, disk)),
                DeviceCounters::Nic { id, counters: nic } => counters.nics.push(of_nic(id, nic)),
                DeviceCounters::Balloon(balloon) => counters.balloon = Some(balloon.counters()),
            }
        }
        counters
    }
}

/// A way to read a machine's counters. Cheap to clone; keeps nothing of the machine alive.
#[derive(Clone)]
pub struct CountersHandle {
    sources: Weak<CounterSources>,
}

impl CountersHandle {
    pub(crate) fn new(sources: &Arc<CounterSources>) -> Self {
        Self { sources: Arc::downgrade(sources) }
    }

    /// The counters now; `None` once the machine is gone.
    #[must_use]
    pub fn read(&self) -> Option<MachineCounters> {
        self.sources.upgrade().map(|sources| sources.read())
    }
}

impl std::fmt::Debug for CountersHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CountersHandle").finish_non_exhaustive()
    }
}

fn of_disk(id: &str, counters: &block::BlockCounters) -> BlockCounters {
    let counts = counters.counts();
    BlockCounters {
        id: id.to_owned(),
        read_bytes: counts.read_bytes,
        written_bytes: counts.written_bytes,
        read_operations: counts.read_operations,
        write_operations: counts.write_operations,
        flush_operations: counts.flush_operations,
        erase_operations: counts.erase_operations,
        errors: counts.errors,
        kept_requests: counts.kept_requests,
        troubles: counts.troubles,
        trouble_time: counts.trouble_time,
        latency: counts.latency,
    }
}

fn of_nic(id: &str, counters: &net::NetCounters) -> NicCounters {
    let counts = counters.counts();
    NicCounters {
        id: id.to_owned(),
        receive_bytes: counts.receive_bytes,
        receive_frames: counts.receive_frames,
        receive_dropped: counts.receive_dropped,
        transmit_bytes: counts.transmit_bytes,
        transmit_frames: counts.transmit_frames,
        transmit_dropped: counts.transmit_dropped,
    }
}

//! One VM's readings turned into figures: totals through the accumulator, speeds from the difference of two
//! consecutive totals. Whoever polls decides when, and passes the time in.

use std::time::Duration;

use vm_model::{BalloonCounters, Bytes, MachineCounters};

use crate::{
    Accumulator, BalloonMetrics, DiskMetrics, History, Moment, NicMetrics, Rates, VcpuMetrics, VmMetrics,
};

/// The counters of one machine at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    /// When they were read.
    pub at: Moment,
    /// Which of the VM's machines they are from: another number for every machine the VM is given.
    pub run: u64,
    /// What was read.
    pub counters: MachineCounters,
}

/// Samples one VM.
#[derive(Clone, Debug, Default)]
pub struct Sampler {
    accumulator: Accumulator,
    latest: Option<Sample>,
    history: History,
}

#[derive(Clone, Debug)]
struct Sample {
    at: Moment,
    source: Source,
    totals: MachineCounters,
    metrics: VmMetrics,
}

/// Where a sample's totals come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A machine was read then.
    Reading,
    /// They were known from before. What a machine has counted since is not what it did in the time since.
    Record,
}

impl Sampler {
    /// A sampler with a history of the default length.
    pub fn new() -> Self {
        Self::default()
    }

    /// A sampler whose totals, told as those of `at`, go on from what the VM used before, under an earlier worker.
    pub fn going_on_from(used: &MachineCounters, at: Moment) -> Self {
        let accumulator = Accumulator::going_on_from(used);
        let totals = MachineCounters { memory_resident: Bytes::default(), ..accumulator.totals().clone() };
        let metrics = VmMetrics { sampled_at_unix_ms: at.unix_millis(), ..figures(&totals) };
        let latest = Some(Sample { at, source: Source::Record, totals, metrics });
        Self { accumulator, latest, ..Self::default() }
    }

    /// A sampler whose history has at most `points` points.
    pub fn with_history(points: usize) -> Self {
        Self { history: History::new(points), ..Self::default() }
    }

    /// Takes in one reading.
    ///
    /// The first one has totals and no rates. One that is not later than the one before it replaces its
    /// figures and keeps its rates, as there is no interval to compute others from.
    pub fn record(&mut self, reading: &Reading) {
        let totals = self.accumulator.absorb(reading.run, &reading.counters).clone();
        let previous = self.latest.take().filter(|previous| previous.source == Source::Reading);
        let interval = previous
            .as_ref()
            .map(|previous| reading.at.monotonic.saturating_duration_since(previous.at.monotonic));
        let mut metrics = figures(&totals);
        metrics.sampled_at_unix_ms = reading.at.unix_millis();
        match (previous, interval) {
            (Some(previous), Some(interval)) if interval > Duration::ZERO => {
                apply_rates(&mut metrics, &previous.totals, &totals, interval);
            }
            (Some(previous), _) => keep_rates(&mut metrics, &previous.metrics),
            (None, _) => {}
        }
        self.history.push(reading.at, &metrics);
        self.latest = Some(Sample { at: reading.at, source: Source::Reading, totals, metrics });
    }

    /// Takes in the last counters of the machine `run`, which another has followed: they show with the next reading.
    pub fn finish(&mut self, run: u64, counters: &MachineCounters) {
        self.accumulator.absorb(run, counters);
    }

    /// The figures of the last reading, with their age at `now`; `None` before the first.
    pub fn latest(&self, now: Moment) -> Option<VmMetrics> {
        self.latest.as_ref().map(|sample| VmMetrics {
            age: now.monotonic.saturating_duration_since(sample.at.monotonic),
            ..sample.metrics.clone()
        })
    }

    /// The recent past.
    pub fn history(&self) -> &History {
        &self.history
    }
}

fn figures(totals: &MachineCounters) -> VmMetrics {
    VmMetrics {
        memory_mb: totals.memory_resident.as_mib(),
        memory_size_bytes: totals.memory_size.get(),
        memory_resident_bytes: totals.memory_resident.get(),
        memory_available_bytes: totals.balloon.and_then(|balloon| balloon.available).map(Bytes::get),
        balloon: totals.balloon.map(balloon),
        host: totals.host,
        network_rx_bytes: sum(totals.nics.iter().map(|nic| nic.receive_bytes)),
        network_tx_bytes: sum(totals.nics.iter().map(|nic| nic.transmit_bytes)),
        disk_read_bytes: sum(totals.disks.iter().map(|disk| disk.read_bytes)),
        disk_write_bytes: sum(totals.disks.iter().map(|disk| disk.written_bytes)),
        vcpus: totals
            .vcpus
            .iter()
            .map(|vcpu| VcpuMetrics {
                seconds: vcpu.cpu_time.as_secs_f64(),
                exits: vcpu.exits,
                exit_kinds: vcpu.exit_kinds,
                thread: vcpu.thread,
                kvm: vcpu.kvm,
                percent: 0.0,
            })
            .collect(),
        nics: totals
            .nics
            .iter()
            .map(|nic| NicMetrics {
                id: nic.id.clone(),
                receive_bytes: nic.receive_bytes,
                receive_frames: nic.receive_frames,
                receive_dropped: nic.receive_dropped,
                transmit_bytes: nic.transmit_bytes,
                transmit_frames: nic.transmit_frames,
                transmit_dropped: nic.transmit_dropped,
            })
            .collect(),
        disks: totals
            .disks
            .iter()
            .map(|disk| DiskMetrics {
                id: disk.id.clone(),
                read_bytes: disk.read_bytes,
                written_bytes: disk.written_bytes,
                read_operations: disk.read_operations,
                write_operations: disk.write_operations,
                flush_operations: disk.flush_operations,
                erase_operations: disk.erase_operations,
                errors: disk.errors,
                troubles: disk.troubles,
                trouble_time: disk.trouble_time,
                latency: disk.latency,
                kept_requests: disk.kept_requests,
            })
            .collect(),
        ..VmMetrics::default()
    }
}

fn balloon(balloon: BalloonCounters) -> BalloonMetrics {
    BalloonMetrics {
        target_bytes: balloon.target.get(),
        actual_bytes: balloon.actual.get(),
        available_bytes: balloon.available.map(Bytes::get),
        free_bytes: balloon.free.map(Bytes::get),
        total_bytes: balloon.total.map(Bytes::get),
        discarded_bytes: balloon.discarded.get(),
        refused_pages: balloon.refused_pages,
    }
}

fn keep_rates(metrics: &mut VmMetrics, previous: &VmMetrics) {
    metrics.rates = previous.rates;
    metrics.cpu_percent = previous.cpu_percent;
    for (vcpu, previous) in metrics.vcpus.iter_mut().zip(&previous.vcpus) {
        vcpu.percent = previous.percent;
    }
}

/// `interval` is not zero; `after` is nowhere below `before`, as totals only grow.
fn apply_rates(
    metrics: &mut VmMetrics,
    before: &MachineCounters,
    after: &MachineCounters,
    interval: Duration,
) {
    let speed = |figure: fn(&MachineCounters) -> u64| {
        per_second(figure(after).saturating_sub(figure(before)), interval)
    };
    let mut busy = Duration::ZERO;
    for (index, (vcpu, after)) in metrics.vcpus.iter_mut().zip(&after.vcpus).enumerate() {
        let started = before.vcpus.get(index).map(|vcpu| vcpu.cpu_time).unwrap_or_default();
        let grown = after.cpu_time.saturating_sub(started);
        vcpu.percent = percent(grown, interval);
        busy = busy.saturating_add(grown);
    }
    let rates = Rates {
        interval,
        cpu_percent: percent(busy, interval),
        network_rx_bytes_per_second: speed(|totals| sum(totals.nics.iter().map(|nic| nic.receive_bytes))),
        network_tx_bytes_per_second: speed(|totals| sum(totals.nics.iter().map(|nic| nic.transmit_bytes))),
        disk_read_bytes_per_second: speed(|totals| sum(totals.disks.iter().map(|disk| disk.read_bytes))),
        disk_write_bytes_per_second: speed(|totals| sum(totals.disks.iter().map(|disk| disk.written_bytes))),
        disk_operations_per_second: speed(disk_operations),
        exits_per_second: speed(|totals| sum(totals.vcpus.iter().map(|vcpu| vcpu.exits))),
    };
    metrics.cpu_percent = rates.cpu_percent;
    metrics.rates = Some(rates);
}

fn disk_operations(totals: &MachineCounters) -> u64 {
    sum(totals.disks.iter().flat_map(|disk| {
        [disk.read_operations, disk.write_operations, disk.flush_operations, disk.erase_operations]
    }))
}

fn sum(figures: impl Iterator<Item = u64>) -> u64 {
    figures.fold(0, u64::saturating_add)
}

#[expect(clippy::cast_precision_loss, reason = "a rate is an approximation: 53 bits of a difference suffice")]
fn per_second(grown: u64, interval: Duration) -> f64 {
    grown as f64 / interval.as_secs_f64()
}

fn percent(busy: Duration, interval: Duration) -> f64 {
    100.0 * busy.as_secs_f64() / interval.as_secs_f64()
}

#[cfg(test)]
mod tests;

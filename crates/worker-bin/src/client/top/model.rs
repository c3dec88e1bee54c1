//! What `top` knows: the VMs as they were listed last, what they use, and what they used before. Pure.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use admin::{HostUseView, MetricsView, UsagePoint, VmView};
use vm_model::VmId;

use super::super::list::is_up;
use super::super::natural_order::natural_order;

/// Points of the past that are kept of a VM.
const PAST: usize = 60;
/// Two samples closer than this are the same one: its age is told with a little delay.
const SAME: Duration = Duration::from_millis(200);

/// What a VM uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// Percent of one core.
    pub(super) cpu_percent: f64,
    /// Resident memory in bytes.
    pub(super) memory_bytes: f64,
    /// Bytes a second to and from the network.
    pub(super) network: f64,
    /// Bytes a second from and to disks.
    pub(super) disk: f64,
    /// Percent of the time in which its process waited for what the host was short of most; `None` where that is not counted for it
    /// alone.
    pub(super) waits_percent: Option<f64>,
}

/// One VM.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) view: VmView,
    sampled: Option<(Instant, MetricsView)>,
    /// Oldest first; the last one is of now.
    past: VecDeque<Usage>,
}

/// What VMs are ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    Name,
    #[default]
    Cpu,
    Memory,
    Network,
    Disk,
}

/// All VMs, in an order, and the one that is pointed at.
#[derive(Debug, Default)]
pub(super) struct Model {
    vms: BTreeMap<VmId, Tracked>,
    pub(super) order: Order,
    /// The other way round than usual, which is names upwards and figures downwards.
    pub(super) is_reversed: bool,
    selected: Option<VmId>,
    /// Why there was no answer last.
    pub(super) problem: Option<String>,
}

impl Usage {
    fn between(before: (Instant, MetricsView), now: (Instant, MetricsView)) -> Self {
        let seconds = now.0.saturating_duration_since(before.0).as_secs_f64().max(0.001);
        let rate = |total: fn(&MetricsView) -> u64| {
            // Totals never shrink but for a VM that was made anew under its name.
            let moved = total(&now.1).saturating_sub(total(&before.1));
            #[expect(clippy::cast_precision_loss, reason = "a rate that people look at")]
            let moved = moved as f64;
            moved / seconds
        };
        Self {
            network: rate(|sample| sample.network_rx_bytes.saturating_add(sample.network_tx_bytes)),
            disk: rate(|sample| sample.disk_read_bytes.saturating_add(sample.disk_write_bytes)),
            waits_percent: before.1.host.zip(now.1.host).map(|uses| waits(uses, seconds)),
            ..Self::at(&now.1)
        }
    }

    /// What a VM used between two points of its past.
    fn of_points(before: &UsagePoint, now: &UsagePoint) -> Self {
        let seconds = now.at.since(before.at).as_secs_f64().max(0.001);
        let rate = |total: fn(&UsagePoint) -> u64| {
            #[expect(clippy::cast_precision_loss, reason = "a rate that people look at")]
            let moved = total(now).saturating_sub(total(before)) as f64;
            moved / seconds
        };
        #[expect(clippy::cast_precision_loss, reason = "an amount that people look at")]
        let memory_bytes = now.memory_resident_bytes as f64;
        Self {
            cpu_percent: now.cpu_percent,
            memory_bytes,
            network: rate(|point| point.network_rx_bytes.saturating_add(point.network_tx_bytes)),
            disk: rate(|point| point.disk_read_bytes.saturating_add(point.disk_write_bytes)),
            waits_percent: None,
        }
    }

    /// What one sample tells.
    fn at(sample: &MetricsView) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "an amount that people look at")]
        let memory_bytes = sample.memory_resident_bytes as f64;
        Self { cpu_percent: sample.cpu_percent, memory_bytes, ..Self::default() }
    }
}

/// Percent of `seconds` in which a process waited between two readings, of the resource for which it waited longest.
fn waits((before, now): (HostUseView, HostUseView), seconds: f64) -> f64 {
    let waited = |total: fn(&HostUseView) -> u64| total(&now).saturating_sub(total(&before));
    let longest = waited(|host| host.cpu_pressure_ms)
        .max(waited(|host| host.memory_pressure_ms))
        .max(waited(|host| host.io_pressure_ms));
    #[expect(clippy::cast_precision_loss, reason = "a percentage that people look at")]
    let longest = longest as f64;
    // The kernel brings its figures up to date at moments of its own.
    (longest / (seconds * 10.0)).min(100.0)
}

impl Tracked {
    fn new(view: VmView) -> Self {
        Self { view, sampled: None, past: VecDeque::new() }
    }

    fn update(&mut self, view: VmView, now: Instant) {
        self.view = view;
        let sample = self.view.metrics.filter(|_| is_up(&self.view));
        let Some(sample) = sample else {
            self.sampled = None;
            return self.push(Usage::default());
        };
        let age = Duration::try_from_secs_f64(sample.age_ms / 1e3).unwrap_or_default();
        let at = now.checked_sub(age).unwrap_or(now);
        match self.sampled {
            Some((before, _)) if at.saturating_duration_since(before) < SAME => {}
            Some(before) => self.push(Usage::between(before, (at, sample))),
            None => self.push(Usage::at(&sample)),
        }
        if self.sampled.is_none_or(|(before, _)| at.saturating_duration_since(before) >= SAME) {
            self.sampled = Some((at, sample));
        }
    }

    fn push(&mut self, usage: Usage) {
        if self.past.len() == PAST {
            self.past.pop_front();
        }
        self.past.push_back(usage);
    }

    /// Takes the worker's word for what it used before: the last of `points` is of now.
    fn recall(&mut self, points: &[UsagePoint]) {
        let intervals = points.iter().zip(points.iter().skip(1));
        let past: VecDeque<Usage> = intervals.map(|(before, now)| Usage::of_points(before, now)).collect();
        if !past.is_empty() && is_up(&self.view) {
            self.past = past;
        }
    }

    /// What it uses now.
    pub(super) fn usage(&self) -> Usage {
        self.past.back().copied().unwrap_or_default()
    }

    /// What it used, oldest first.
    pub(super) fn past(&self) -> impl DoubleEndedIterator<Item = &Usage> {
        self.past.iter()
    }
}

impl Model {
    /// Takes a list of VMs that was answered at `now`.
    pub(super) fn update(&mut self, listed: Vec<VmView>, now: Instant) {
        let mut before = std::mem::take(&mut self.vms);
        for view in listed {
            let id = view.id.clone();
            let mut tracked = before.remove(&id).unwrap_or_else(|| Tracked::new(view.clone()));
            tracked.update(view, now);
            self.vms.insert(id, tracked);
        }
        self.problem = None;
        if self.selected.as_ref().is_none_or(|vm| !self.vms.contains_key(vm)) {
            self.selected = self.rows().first().map(|vm| vm.view.id.clone());
        }
    }

    /// Takes the worker's word for what VMs used before this view began. For the beginning only.
    pub(super) fn recall(&mut self, past: &BTreeMap<VmId, Vec<UsagePoint>>) {
        for (vm, tracked) in &mut self.vms {
            if let Some(points) = past.get(vm) {
                tracked.recall(points);
            }
        }
    }

    /// The VMs in order.
    pub(super) fn rows(&self) -> Vec<&Tracked> {
        let mut rows: Vec<&Tracked> = self.vms.values().collect();
        rows.sort_by(|one, other| {
            let names = natural_order(one.view.id.as_str(), other.view.id.as_str());
            let figures = |figure: fn(Usage) -> f64| figure(other.usage()).total_cmp(&figure(one.usage()));
            let ordering = match self.order {
                Order::Name => Ordering::Equal,
                Order::Cpu => figures(|usage| usage.cpu_percent),
                Order::Memory => figures(|usage| usage.memory_bytes),
                Order::Network => figures(|usage| usage.network),
                Order::Disk => figures(|usage| usage.disk),
            };
            let ordering = ordering.then(names);
            if self.is_reversed { ordering.reverse() } else { ordering }
        });
        rows
    }

    /// The VM that is pointed at, and which row that is.
    pub(super) fn selected(&self) -> Option<(usize, &Tracked)> {
        let selected = self.selected.as_ref()?;
        self.rows().into_iter().enumerate().find(|(_, vm)| vm.view.id == *selected)
    }

    /// Points `by` rows further down, at the first or last one at most.
    pub(super) fn move_by(&mut self, by: isize) {
        let row = self.selected().map_or(0, |(row, _)| row);
        let last = self.vms.len().saturating_sub(1);
        let row = row.saturating_add_signed(by).min(last);
        self.selected = self.rows().get(row).map(|vm| vm.view.id.clone());
    }

    /// How many VMs there are in each phase.
    pub(super) fn phases(&self) -> BTreeMap<&str, usize> {
        let mut phases = BTreeMap::new();
        for vm in self.vms.values() {
            *phases.entry(vm.view.phase.as_str()).or_default() += 1;
        }
        phases
    }

    /// What all VMs use together.
    pub(super) fn total(&self) -> Usage {
        self.vms.values().map(Tracked::usage).fold(Usage::default(), |sum, usage| Usage {
            cpu_percent: sum.cpu_percent + usage.cpu_percent,
            memory_bytes: sum.memory_bytes + usage.memory_bytes,
            network: sum.network + usage.network,
            disk: sum.disk + usage.disk,
            waits_percent: None,
        })
    }
}

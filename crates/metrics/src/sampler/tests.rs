//! Sampling against hand-picked readings and arbitrary ones.

use std::time::{Duration, Instant, SystemTime};

use proptest::collection::vec;
use proptest::prelude::*;
use vm_model::{BalloonCounters, BlockCounters, Bytes, MachineCounters, NicCounters, VcpuCounters};

use super::{Reading, Sampler};
use crate::{BalloonMetrics, Moment, VmMetrics};

fn start() -> Moment {
    Moment { monotonic: Instant::now(), wall: SystemTime::UNIX_EPOCH }
}

fn busy(milliseconds: u64, received: u64) -> MachineCounters {
    MachineCounters {
        vcpus: vec![
            VcpuCounters {
                cpu_time: Duration::from_millis(milliseconds),
                exits: milliseconds,
                ..VcpuCounters::default()
            };
            2
        ],
        memory_size: Bytes::from_mib(128),
        memory_resident: Bytes::new(5 * 1024 * 1024 + 1),
        balloon: Some(BalloonCounters { available: Some(Bytes::from_mib(70)), ..BalloonCounters::default() }),
        host: None,
        nics: ["net0", "net1"].map(|id| nic(id, received)).into(),
        disks: vec![],
    }
}

fn nic(id: &str, received: u64) -> NicCounters {
    NicCounters { id: id.into(), receive_bytes: received, ..NicCounters::default() }
}

#[test]
fn the_first_sample_has_totals_and_no_rates() {
    let mut sampler = Sampler::new();
    let at = start();
    assert_eq!(sampler.latest(at), None);
    sampler.record(&Reading { at, run: 1, counters: busy(700, 10) });
    let metrics = sampler.latest(at.later_by(Duration::from_secs(2))).expect("sampled");
    assert_eq!(metrics.rates, None);
    assert_eq!(metrics.cpu_percent, 0.0);
    assert_eq!(metrics.memory_mb, 5);
    assert_eq!(metrics.memory_available_bytes, Some(70 << 20));
    assert_eq!(metrics.network_rx_bytes, 20);
    assert_eq!(metrics.age, Duration::from_secs(2));
    assert!((metrics.vcpus[1].seconds - 0.7).abs() < 1e-9);
}

#[test]
fn every_devices_figures_are_carried_through() {
    let mebibytes = |count| Some(Bytes::from_mib(count));
    let counters = MachineCounters {
        nics: vec![NicCounters { receive_dropped: 3, transmit_dropped: 4, ..nic("net0", 1) }],
        disks: vec![BlockCounters {
            id: "disk0".into(),
            erase_operations: 5,
            kept_requests: 6,
            troubles: 7,
            trouble_time: Duration::from_secs(8),
            ..BlockCounters::default()
        }],
        balloon: Some(BalloonCounters {
            target: Bytes::from_mib(32),
            actual: Bytes::from_mib(31),
            available: mebibytes(70),
            free: mebibytes(60),
            total: mebibytes(100),
            discarded: Bytes::from_mib(33),
            refused_pages: 2,
        }),
        ..MachineCounters::default()
    };
    let mut sampler = Sampler::new();
    let at = start();
    sampler.record(&Reading { at, run: 1, counters });
    let metrics = sampler.latest(at).expect("sampled");
    assert_eq!((metrics.nics[0].receive_dropped, metrics.nics[0].transmit_dropped), (3, 4));
    let disk = &metrics.disks[0];
    assert_eq!((disk.erase_operations, disk.kept_requests, disk.troubles), (5, 6, 7));
    assert_eq!(disk.trouble_time, Duration::from_secs(8));
    let expected = BalloonMetrics {
        target_bytes: 32 << 20,
        actual_bytes: 31 << 20,
        available_bytes: Some(70 << 20),
        free_bytes: Some(60 << 20),
        total_bytes: Some(100 << 20),
        discarded_bytes: 33 << 20,
        refused_pages: 2,
    };
    assert_eq!(metrics.balloon, Some(expected));
}

#[test]
fn processor_use_is_of_one_core_over_the_last_interval() {
    let mut sampler = Sampler::new();
    let at = start();
    for (second, milliseconds) in [(0, 0), (5, 5000), (7, 6000)] {
        let at = at.later_by(Duration::from_secs(second));
        sampler.record(&Reading { at, run: 1, counters: busy(milliseconds, second * 100) });
    }
    let metrics = sampler.latest(at).expect("sampled");
    let rates = metrics.rates.expect("three samples");
    assert_eq!(rates.interval, Duration::from_secs(2));
    assert_eq!(metrics.cpu_percent, 100.0, "two vCPUs at half a core each");
    assert_eq!(metrics.vcpus[0].percent, 50.0);
    assert_eq!(rates.network_rx_bytes_per_second, 200.0, "two interfaces");
    assert_eq!(rates.exits_per_second, 1000.0);
}

#[test]
fn a_restart_is_neither_a_negative_rate_nor_a_spike() {
    let mut sampler = Sampler::new();
    let at = start();
    sampler.record(&Reading { at, run: 1, counters: busy(60_000, 1 << 40) });
    sampler.record(&Reading { at: at.later_by(Duration::from_secs(1)), run: 2, counters: busy(100, 50) });
    let metrics = sampler.latest(at).expect("sampled");
    assert_eq!(metrics.cpu_percent, 20.0);
    assert_eq!(metrics.network_rx_bytes, 2 * ((1 << 40) + 50));
    assert_eq!(metrics.rates.expect("two samples").network_rx_bytes_per_second, 100.0);
}

#[test]
fn totals_from_before_are_told_at_once_and_are_no_rate() {
    let at = start();
    let mut sampler = Sampler::going_on_from(&busy(60_000, 1 << 40), at);
    let before = sampler.latest(at).expect("known");
    assert_eq!((before.network_rx_bytes, before.memory_resident_bytes), (2 << 40, 0));
    sampler.record(&Reading { at: at.later_by(Duration::from_secs(1)), run: 0, counters: busy(100, 50) });
    let metrics = sampler.latest(at).expect("sampled");
    assert_eq!((metrics.network_rx_bytes, metrics.rates), (2 * ((1 << 40) + 50), None));
    assert_eq!(sampler.history().len(), 1, "what was before is no point of the past");
}

#[test]
fn two_readings_at_one_instant_divide_by_nothing() {
    let mut sampler = Sampler::new();
    let at = start();
    for received in [0, 10, 20] {
        sampler.record(&Reading { at, run: 1, counters: busy(0, received) });
    }
    let metrics = sampler.latest(at).expect("sampled");
    assert_eq!(metrics.rates, None);
    assert_eq!(metrics.network_rx_bytes, 40);
}

#[test]
fn the_history_forgets_its_oldest_points() {
    let mut sampler = Sampler::with_history(3);
    let at = start();
    for second in 0..10 {
        let at = at.later_by(Duration::from_secs(second));
        sampler.record(&Reading { at, run: 1, counters: busy(0, second) });
    }
    let received: Vec<u64> = sampler.history().points().map(|point| point.network_rx_bytes).collect();
    assert_eq!(received, [14, 16, 18]);
    let now = at.later_by(Duration::from_secs(10));
    assert_eq!(sampler.history().within(now, Duration::from_millis(2500)).count(), 2);
}

fn any_counters() -> impl Strategy<Value = MachineCounters> {
    let vcpu = any::<(Duration, u64)>().prop_map(|(cpu_time, exits)| VcpuCounters {
        cpu_time,
        exits,
        ..VcpuCounters::default()
    });
    let nic = (0..3u8, any::<[u64; 6]>()).prop_map(|(id, [a, b, c, d, e, f])| NicCounters {
        id: format!("net{id}"),
        receive_bytes: a,
        receive_frames: b,
        receive_dropped: c,
        transmit_bytes: d,
        transmit_frames: e,
        transmit_dropped: f,
    });
    let disk = (0..3u8, any::<[u64; 7]>()).prop_map(|(id, [a, b, c, d, e, f, g])| BlockCounters {
        id: format!("disk{id}"),
        read_bytes: a,
        written_bytes: b,
        read_operations: c,
        write_operations: d,
        flush_operations: e,
        erase_operations: f,
        errors: g,
        ..BlockCounters::default()
    });
    (vec(vcpu, 0..4), any::<[u64; 2]>(), vec(nic, 0..4), vec(disk, 0..4)).prop_map(
        |(vcpus, [size, resident], nics, disks)| MachineCounters {
            vcpus,
            memory_size: Bytes::new(size),
            memory_resident: Bytes::new(resident),
            balloon: None,
            host: None,
            nics,
            disks,
        },
    )
}

fn fractions(metrics: &VmMetrics) -> Vec<f64> {
    let mut fractions = vec![metrics.cpu_percent];
    fractions.extend(metrics.vcpus.iter().flat_map(|vcpu| [vcpu.seconds, vcpu.percent]));
    if let Some(rates) = metrics.rates {
        fractions.extend([
            rates.cpu_percent,
            rates.network_rx_bytes_per_second,
            rates.network_tx_bytes_per_second,
            rates.disk_read_bytes_per_second,
            rates.disk_write_bytes_per_second,
            rates.disk_operations_per_second,
            rates.exits_per_second,
        ]);
    }
    fractions
}

fn totals(metrics: &VmMetrics) -> [u64; 4] {
    [metrics.network_rx_bytes, metrics.network_tx_bytes, metrics.disk_read_bytes, metrics.disk_write_bytes]
}

proptest! {
    #[test]
    fn any_readings_give_finite_figures_and_totals_that_only_grow(
        readings in vec((0..3u64, 0..5_000u64, any_counters()), 1..20),
    ) {
        let mut sampler = Sampler::new();
        let mut at = start();
        let mut before = [0; 4];
        for (run, elapsed, counters) in readings {
            at = at.later_by(Duration::from_millis(elapsed));
            sampler.record(&Reading { at, run, counters });
            let metrics = sampler.latest(at).expect("sampled");
            for fraction in fractions(&metrics) {
                prop_assert!(fraction.is_finite() && fraction >= 0.0, "{fraction} in {metrics:?}");
            }
            let after = totals(&metrics);
            prop_assert!(before.iter().zip(after).all(|(before, after)| *before <= after));
            before = after;
            let json = serde_json::to_string(&metrics).expect("metrics serialise");
            serde_json::from_str::<VmMetrics>(&json).expect("metrics parse back");
        }
    }
}

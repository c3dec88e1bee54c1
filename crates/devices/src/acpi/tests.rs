//! The sleep register's values and the event register's read-to-clear.

use std::sync::atomic::AtomicU32;

use super::*;
use crate::power::testing::RecordedRequests;

#[derive(Default)]
struct Edges(AtomicU32);

impl LineInterrupt for Edges {
    fn trigger(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[derive(Default)]
struct Seen(AtomicU32);

impl PowerButtonReports for Seen {
    fn power_button_seen(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// An event device whose interrupts and reports nobody counts.
fn device() -> EventDevice {
    EventDevice::new(Arc::new(Edges::default()), Arc::new(Seen::default()))
}

fn read(device: &EventDevice, offset: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0xaa; length];
    device.read(offset, &mut data);
    data
}

#[test]
fn each_value_asks_for_what_it_stands_for() {
    let requests = Arc::new(RecordedRequests::default());
    let register = SleepRegister::new(requests.clone());
    register.write(0, &[0x34]);
    register.write(0, &[1]);
    assert_eq!(requests.take(), [None, Some(ResetSource::Acpi)]);
    for value in (0..=0xff).filter(|value| ![0x34, 1].contains(value)) {
        register.write(0, &[value]);
    }
    register.write(1, &[1]);
    register.write(0, &[]);
    assert_eq!(requests.take(), []);
}

#[test]
fn the_power_button_is_seen_once() {
    let (edges, seen) = (Arc::new(Edges::default()), Arc::new(Seen::default()));
    let device = EventDevice::new(edges.clone(), seen.clone());
    device.press_power_button().unwrap();
    device.press_power_button().unwrap();
    assert_eq!(edges.0.load(Ordering::SeqCst), 2, "an edge may have been lost: each press is another");
    assert!(device.is_power_button_pending());
    assert_eq!(seen.0.load(Ordering::SeqCst), 0);
    assert_eq!(read(&device, 0, 4), [1, 0, 0, 0]);
    assert_eq!(read(&device, 0, 4), [0, 0, 0, 0]);
    assert!(!device.is_power_button_pending());
    assert_eq!(seen.0.load(Ordering::SeqCst), 1);
}

#[test]
fn other_events_are_no_news_of_the_power_button() {
    let seen = Arc::new(Seen::default());
    let device = EventDevice::new(Arc::new(Edges::default()), seen.clone());
    device.announce_generation().unwrap();
    assert_eq!(read(&device, 0, 4), [2, 0, 0, 0]);
    device.press_power_button().unwrap();
    assert_eq!(read(&device, 1, 3), [0, 0, 0]);
    assert_eq!(seen.0.load(Ordering::SeqCst), 0);
}

#[test]
fn reading_other_bytes_leaves_the_event_pending() {
    let device = device();
    device.press_power_button().unwrap();
    assert_eq!(read(&device, 1, 3), [0, 0, 0]);
    assert_eq!(read(&device, u64::MAX, 1), [0]);
    assert_eq!(read(&device, 0, 1), [1]);
    assert_eq!(read(&device, 0, 8), [0; 8]);
}

#[test]
fn events_are_told_apart() {
    let device = device();
    device.announce_generation().unwrap();
    device.press_power_button().unwrap();
    assert_eq!(read(&device, 0, 4), [3, 0, 0, 0]);
    device.announce_generation().unwrap();
    assert_eq!(read(&device, 0, 4), [2, 0, 0, 0]);
}

#[test]
fn a_reset_forgets_the_press() {
    let device = device();
    device.press_power_button().unwrap();
    device.reset();
    assert_eq!(read(&device, 0, 4), [0; 4]);
}

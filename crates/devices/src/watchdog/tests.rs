//! The watchdog under a driver that does as `i6300esb` does.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Expiries(AtomicU32);

impl WatchdogReports for Expiries {
    fn watchdog_expired(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Expiries {
    fn take(&self) -> u32 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

fn device() -> (WatchdogDevice, Arc<Expiries>) {
    let expiries = Arc::new(Expiries::default());
    let mut device = WatchdogDevice::new(0xc010_0000, expiries.clone()).unwrap();
    device.write_config(4, &[2, 0]);
    (device, expiries)
}

fn unlock(device: &mut WatchdogDevice) {
    device.write_bar(0xc, &[0x80, 0]);
    device.write_bar(0xc, &[0x86, 0]);
}

/// As the driver does at first: two stages of half of `seconds` each, reset at the end of the second.
fn set_up(device: &mut WatchdogDevice, seconds: u32) {
    device.write_config(0x60, &[3, 0]);
    device.write_config(0x68, &[0]);
    for offset in [0, 4] {
        unlock(device);
        device.write_bar(offset, &(seconds << 9).to_le_bytes());
    }
    reload(device);
}

fn reload(device: &mut WatchdogDevice) {
    unlock(device);
    device.write_bar(0xc, &[0, 1]);
}

fn enable(device: &mut WatchdogDevice) {
    device.write_config(0x68, &[2]);
}

fn reload_register(device: &mut WatchdogDevice) -> u16 {
    let mut bytes = [0; 2];
    device.read_bar(0xc, &mut bytes);
    u16::from_le_bytes(bytes)
}

fn after(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

#[test]
fn drivers_find_it_and_its_bar() {
    let (mut device, _) = device();
    let mut ids = [0; 4];
    device.read_config(0, &mut ids);
    assert_eq!(ids, [0x86, 0x80, 0xab, 0x25]);
    assert_eq!(device.decoded_bar(), Some(Bar { base: 0xc010_0000, size: 16 }));
    let mut preload = [0; 4];
    device.read_bar(0, &mut preload);
    assert_eq!(u32::from_le_bytes(preload), 0xf_ffff);
    let mut beyond = [0xaa; 4];
    device.read_config(0x5f, &mut beyond);
    device.write_config(0x5f, &[0xff; 4]);
    device.read_config(0x5f, &mut beyond);
    assert_eq!(beyond, [0, 0x27, 0, 0], "only bits with a meaning are kept");
}

#[test]
fn it_expires_unless_it_is_reloaded_in_time() {
    let (mut device, expiries) = device();
    set_up(&mut device, 30);
    device.handle_timer(after(1000));
    assert_eq!(expiries.take(), 0, "it was not enabled");
    enable(&mut device);
    device.handle_timer(after(14));
    device.handle_timer(after(16));
    assert_eq!(expiries.take(), 0, "the first stage is over, the second is not");
    reload(&mut device);
    device.handle_timer(after(29));
    assert_eq!(expiries.take(), 0, "it began anew");
    assert_eq!(reload_register(&mut device), 0);
    device.handle_timer(after(32));
    assert_eq!(expiries.take(), 1);
    assert_eq!(reload_register(&mut device), 1 << 9);
    device.handle_timer(after(1000));
    assert_eq!(expiries.take(), 0, "it expires once");
    unlock(&mut device);
    assert_eq!(reload_register(&mut device), 1 << 9);
    unlock(&mut device);
    device.write_bar(0xc, &[0, 3]);
    assert_eq!(reload_register(&mut device), 0, "the driver saw it");
}

#[test]
fn what_is_not_unlocked_changes_nothing() {
    let (mut device, expiries) = device();
    set_up(&mut device, 2);
    enable(&mut device);
    device.write_bar(0, &[0xff, 0xff, 0xff, 0]);
    device.write_bar(0xc, &[0x86, 0]);
    device.write_bar(0, &[0xff, 0xff, 0xff, 0]);
    device.write_bar(0xc, &[0x80, 0]);
    device.write_bar(0xc, &[0, 1]);
    device.write_bar(0xc, &[0x86, 0]);
    device.write_bar(4, &[0xff, 0xff, 0xff, 0]);
    device.handle_timer(after(3));
    assert_eq!(expiries.take(), 1);
}

#[test]
fn a_locked_watchdog_cannot_be_stopped_and_an_unlocked_one_can() {
    let (mut device, expiries) = device();
    set_up(&mut device, 2);
    enable(&mut device);
    device.write_config(0x68, &[0]);
    device.handle_timer(after(1000));
    assert_eq!(expiries.take(), 0);
    device.write_config(0x68, &[3]);
    device.write_config(0x68, &[0]);
    let mut lock = [0];
    device.read_config(0x68, &mut lock);
    assert_eq!(lock, [3]);
    device.handle_timer(after(1000));
    assert_eq!(expiries.take(), 1);
}

#[test]
fn without_output_or_running_freely_it_resets_nothing() {
    let (mut device, expiries) = device();
    set_up(&mut device, 2);
    device.write_config(0x60, &[0x23, 0]);
    enable(&mut device);
    device.handle_timer(after(1000));
    assert_eq!((expiries.take(), reload_register(&mut device)), (0, 1 << 9));
    device.write_config(0x68, &[0]);
    device.write_config(0x60, &[0x03, 0]);
    device.write_config(0x68, &[6]);
    device.handle_timer(after(1000));
    assert_eq!(expiries.take(), 0);
}

#[test]
fn no_time_goes_by_while_it_is_frozen() {
    let (mut device, expiries) = device();
    set_up(&mut device, 30);
    enable(&mut device);
    device.freeze(after(10));
    device.freeze(after(20));
    device.handle_timer(after(1000));
    device.thaw(after(2000));
    device.handle_timer(after(2018));
    assert_eq!(expiries.take(), 0);
    device.handle_timer(after(2022));
    assert_eq!(expiries.take(), 1);
}

#[test]
fn its_timer_wakes_the_event_loop() {
    let (mut device, expiries) = device();
    set_up(&mut device, 0);
    device.write_config(0x68, &[2]);
    let fd = device.timer_event();
    let patience = rustix::time::Timespec { tv_sec: 20, tv_nsec: 0 };
    let mut polled = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut polled, Some(&patience)), Ok(1));
    device.handle_timer(after(1));
    assert_eq!(expiries.take(), 1);
}

proptest! {
    /// Whatever a guest writes and whenever the timer fires: at most one expiry each time that it is set going.
    #[test]
    fn any_writes_are_harmless(
        steps in proptest::collection::vec((0_u8..4, 0_u64..0x70, any::<u32>(), 1_usize..5, 0_u64..3000), 0..80),
    ) {
        let (mut device, expiries) = device();
        for (what, offset, value, width, seconds) in steps {
            let bytes = &value.to_le_bytes()[..width];
            match what {
                0 => device.write_config(usize::try_from(offset).unwrap(), bytes),
                1 => device.write_bar(offset % 16, bytes),
                2 => unlock(&mut device),
                _ => {
                    device.handle_timer(after(seconds));
                    prop_assert!(expiries.take() <= 1);
                }
            }
            let lengths = device.registers.lengths();
            prop_assert!(lengths.iter().all(|length| *length <= Duration::from_secs(1031)));
        }
    }
}

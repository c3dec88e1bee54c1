//! Rate limits: what passes at once, and that the rest waits for the timer without anybody turning.

use std::time::Duration;

use super::*;
use crate::virtio::BucketLimits;

fn frames(size: u64, time: Duration) -> RateLimits {
    RateLimits { bandwidth: None, operations: Some(BucketLimits::new(size, 0, time).unwrap()) }
}

fn bytes(size: u64, time: Duration) -> RateLimits {
    RateLimits { bandwidth: Some(BucketLimits::new(size, 0, time).unwrap()), operations: None }
}

fn timer(device: &NetDevice, token: u16) -> BorrowedFd<'_> {
    device.events().into_iter().find(|event| event.token == token).unwrap().fd
}

fn wait(device: &NetDevice, token: u16) {
    let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
    let mut watched = [PollFd::from_borrowed_fd(timer(device, token), PollFlags::IN)];
    assert_eq!(poll(&mut watched, Some(&patience)).unwrap(), 1, "the timer ends the wait");
}

impl Bench {
    fn peer_counts(&self) -> usize {
        std::iter::from_fn(|| self.peer_receives()).count()
    }
}

#[test]
fn a_card_without_limits_has_no_timers() {
    assert_eq!(bench(0).guest.device.events().len(), 3);
}

#[test]
fn frames_past_the_limit_stay_in_the_queue_until_the_timer() {
    let mut bench = limited_bench(0, frames(5, Duration::from_millis(250)));
    let start = Instant::now();
    for _ in 0..8 {
        bench.guest.send(&[1; 60]);
    }
    let at_once = bench.peer_counts();
    assert!(
        at_once >= 5 && (at_once < 8 || start.elapsed() > Duration::from_millis(50)),
        "{at_once} at once"
    );
    assert!(!bench.guest.device.go_on.take(), "nobody turns meanwhile");
    let mut sent = at_once;
    while sent < 8 {
        wait(&bench.guest.device, TRANSMIT_TIMER);
        bench.guest.device.event(TRANSMIT_TIMER);
        sent += bench.peer_counts();
    }
    assert!(start.elapsed() >= Duration::from_millis(150), "three frames take 50 ms each");
    assert_eq!(bench.guest.transmit.used_index(), 8);
    assert_eq!((bench.guest.counts().transmit_frames, bench.guest.counts().transmit_dropped), (8, 0));
}

#[test]
fn a_frame_without_room_costs_nothing() {
    let mut bench = limited_bench(0, frames(1000, Duration::from_secs(3600)));
    let mut sent = 0;
    while !bench.guest.device.is_blocked() {
        bench.guest.send(&[1; 1000]);
        sent += 1;
    }
    for _ in 0..2000 {
        bench.guest.device.event(PORT_WRITABLE);
    }
    let mut received = 0;
    while received < sent {
        received += bench.peer_counts();
        bench.guest.device.event(PORT_WRITABLE);
    }
    assert_eq!(bench.guest.counts().transmit_frames, sent as u64);
}

#[test]
fn a_received_frame_is_paid_for_afterwards() {
    let mut bench = limited_bench(0, bytes(1000, Duration::from_millis(500)));
    for position in 0..4 {
        bench.guest.add_receive_buffer(position * 0x1000, 2000);
    }
    let start = Instant::now();
    for fill in 0..3 {
        bench.peer_sends(1500, fill);
    }
    bench.guest.device.doorbell(RECEIVE_QUEUE);
    assert_eq!(bench.guest.receive.used_index(), 1, "the first is larger than the bucket");
    for token in [PORT_READABLE, GO_ON] {
        bench.guest.device.event(token);
        bench.guest.device.doorbell(RECEIVE_QUEUE);
    }
    assert_eq!(bench.guest.receive.used_index(), 1, "no event but the timer's opens the limit");
    assert!(!bench.guest.device.go_on.take());
    wait(&bench.guest.device, RECEIVE_TIMER);
    bench.guest.device.event(RECEIVE_TIMER);
    assert!(start.elapsed() >= Duration::from_millis(250), "500 bytes were owed");
    assert_eq!(bench.guest.receive.used_index(), 2);
    wait(&bench.guest.device, RECEIVE_TIMER);
    bench.guest.device.event(RECEIVE_TIMER);
    assert_eq!(bench.guest.receive.used_index(), 3);
    assert_eq!(bench.guest.counts().receive_dropped, 0);
}

#[test]
fn one_direction_does_not_take_from_the_other() {
    let mut bench = limited_bench(0, frames(1, Duration::from_secs(3600)));
    bench.guest.add_receive_buffer(0, 2000);
    bench.guest.send(&[1; 60]);
    bench.guest.send(&[1; 60]);
    assert_eq!(bench.peer_counts(), 1);
    bench.peer_sends(100, 1);
    bench.guest.device.doorbell(RECEIVE_QUEUE);
    assert_eq!(bench.guest.receive.used_index(), 1);
}

#[test]
fn a_reset_refills_nothing() {
    let mut bench = limited_bench(0, frames(1, Duration::from_secs(3600)));
    bench.guest.send(&[1; 60]);
    bench.guest.device.reset();
    bench.guest.restart(0);
    bench.guest.send(&[1; 60]);
    assert_eq!(bench.peer_counts(), 1);
}

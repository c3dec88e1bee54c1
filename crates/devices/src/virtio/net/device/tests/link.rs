//! The link taken down and up, and announcements.

use virtio_bindings::bindings::virtio_net::{VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE};

use super::commands::Several;
use super::*;
use crate::virtio::net::Announcement;

const CONTROL: u64 = 1 << VIRTIO_NET_F_CTRL_VQ;
const ANNOUNCES: u64 = CONTROL | 1 << VIRTIO_NET_F_GUEST_ANNOUNCE;
/// The control queue of a card with one pair, and its command.
const CONTROL_QUEUE: u16 = 2;
const ACKNOWLEDGED: [u8; 2] = [3, 0];

fn status(device: &NetDevice) -> u8 {
    let mut status = [0; 2];
    device.read_config(6, &mut status);
    assert_eq!(status[1], 0);
    status[0]
}

#[test]
fn a_link_that_is_down_loses_frames_in_both_directions() {
    let mut bench = bench(0);
    let handle = bench.guest.device.handle();
    assert_eq!((handle.link(), status(&bench.guest.device)), (LinkState::Up, 1));
    bench.guest.add_receive_buffer(0, 2000);
    bench.guest.device.doorbell(RECEIVE_QUEUE);
    handle.set_link(LinkState::Down);
    assert_eq!((handle.link(), status(&bench.guest.device)), (LinkState::Down, 0));
    bench.guest.send(&[1; 60]);
    assert_eq!(bench.peer_receives(), None);
    assert_eq!(bench.guest.transmit.used_index(), 1, "the guest gets its buffer back");
    bench.peer_sends(1000, 1);
    bench.peer_sends(1000, 2);
    bench.guest.device.event(PORT_READABLE);
    assert_eq!(bench.guest.receive.used_index(), 0);
    let counts = bench.guest.counts();
    assert_eq!((counts.transmit_dropped, counts.receive_dropped), (1, 2));
    assert_eq!((counts.transmit_frames, counts.receive_frames), (0, 0));

    bench.guest.device.event(GO_ON);
    handle.set_link(LinkState::Up);
    assert!(bench.guest.device.go_on.take());
    bench.guest.device.event(GO_ON);
    bench.guest.device.event(GO_ON);
    assert_eq!(*bench.carriers.lock().unwrap(), [LinkState::Down, LinkState::Up], "each change is told once");
    assert_eq!(bench.guest.receive.used_index(), 0, "nothing is left from before");
    bench.peer_sends(100, 3);
    bench.guest.device.event(PORT_READABLE);
    assert_eq!(bench.guest.receive.drain_used(), [(0, 112)]);
    bench.guest.send(&[1; 60]);
    assert!(bench.peer_receives().is_some());
}

#[test]
fn a_long_backlog_is_thrown_away_in_several_turns() {
    let mut bench = bench(0);
    bench.guest.device.handle().set_link(LinkState::Down);
    bench.guest.device.go_on.take();
    for _ in 0..200 {
        bench.peer_sends(20, 1);
    }
    bench.guest.device.event(PORT_READABLE);
    assert_eq!(bench.guest.counts().receive_dropped, 128);
    assert!(bench.guest.device.go_on.take());
    bench.guest.device.event(GO_ON);
    assert_eq!(bench.guest.counts().receive_dropped, 200);
    assert!(!bench.guest.device.go_on.take());
}

#[test]
fn a_link_stays_down_across_a_reset() {
    let mut bench = bench(0);
    bench.guest.device.handle().set_link(LinkState::Down);
    bench.guest.device.reset();
    bench.guest.restart(0);
    assert_eq!(status(&bench.guest.device), 0);
    bench.guest.send(&[1; 60]);
    assert_eq!(bench.peer_receives(), None);
}

#[test]
fn an_announcement_is_asked_for_until_it_is_acknowledged() {
    let mut card = Several::new(1, ANNOUNCES);
    assert_eq!(card.device.offered_features() & ANNOUNCES, ANNOUNCES);
    let handle = card.device.handle();
    assert_eq!(handle.ask_for_announcement(), Announcement::Asked);
    assert_eq!(status(&card.device), 3);
    assert_eq!(card.command(CONTROL_QUEUE, &[3, 0, 0]), 1, "of another length");
    assert_eq!(card.command(CONTROL_QUEUE, &[3, 1]), 1, "unknown");
    assert_eq!(status(&card.device), 3);
    assert_eq!(card.command(CONTROL_QUEUE, &ACKNOWLEDGED), 0);
    assert_eq!(status(&card.device), 1);
}

#[test]
fn a_driver_that_knows_no_announcements_is_not_asked() {
    let mut card = Several::new(1, CONTROL);
    let handle = card.device.handle();
    assert_eq!(handle.ask_for_announcement(), Announcement::NotPossible);
    assert_eq!(status(&card.device), 1);
    assert_eq!(card.command(CONTROL_QUEUE, &ACKNOWLEDGED), 1);
    card.start(ANNOUNCES);
    assert_eq!(handle.ask_for_announcement(), Announcement::Asked);
    card.device.reset();
    assert_eq!(handle.ask_for_announcement(), Announcement::NotPossible, "nobody is there");
    card.start(ANNOUNCES);
    assert_eq!(status(&card.device), 1, "the new driver was not asked");
}

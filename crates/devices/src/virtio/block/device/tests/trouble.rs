//! Requests that the host cannot carry out for a while.

use super::*;
use crate::virtio::block::engine::TransferKind;

/// A guest whose writes wait for a test, of a device with one queue.
fn guest_of_held_transfers(policy: OnIoError) -> (Guest, Arc<Mutex<Held>>) {
    let (mut guest, transfers) = stuck_guest();
    let service = guest.device.service.as_mut().unwrap();
    service.shape.access = DiskAccess::ReadWrite;
    service.kept = KeptRequests::new(policy, Arc::clone(&service.counters));
    (guest, transfers)
}

/// What waits in the engine: kind, offset and bytes of each.
fn under_way(transfers: &Mutex<Held>) -> Vec<(TransferKind, u64, u64)> {
    let held = transfers.lock().unwrap();
    held.waiting.iter().map(|(_, it)| (it.kind, it.offset, it.vectors.bytes())).collect()
}

fn fail(guest: &mut Guest, transfers: &Mutex<Held>, moved: u64, errno: Errno) {
    transfers.lock().unwrap().fail_all(moved, errno);
    guest.device.event(COMPLETIONS);
}

fn end(guest: &mut Guest, transfers: &Mutex<Held>) {
    transfers.lock().unwrap().end_all();
    guest.device.event(COMPLETIONS);
}

fn problem(guest: &Guest) -> Option<i32> {
    guest.device.counters().problem().and_then(|problem| problem.raw_os_error())
}

fn write(guest: &mut Guest, sector: u64) {
    guest.add(1, sector, &[Buffer::Readable(DATA, 1024)]);
}

#[test]
fn a_write_without_space_is_kept_and_goes_on_where_it_stopped() {
    let (mut guest, transfers) = guest_of_held_transfers(OnIoError::Pause);
    write(&mut guest, 4);
    guest.device.doorbell(0);
    fail(&mut guest, &transfers, 600, Errno::NOSPC);
    assert_eq!(problem(&guest), Some(libc::ENOSPC));
    assert_eq!((guest.driver.used_index(), guest.read::<1>(STATUS)), (0, [UNTOUCHED]));
    assert_eq!(under_way(&transfers), [], "nobody said to try again");

    guest.device.retry();
    assert_eq!(under_way(&transfers), [(TransferKind::Write, 4 * 512 + 600, 424)]);
    guest.device.retry();
    assert_eq!(under_way(&transfers).len(), 1, "what is under way is not started twice");
    fail(&mut guest, &transfers, 0, Errno::IO);
    assert_eq!((problem(&guest), guest.driver.used_index()), (Some(libc::EIO), 0));

    guest.device.retry();
    end(&mut guest, &transfers);
    assert_eq!((problem(&guest), guest.driver.drain_used()), (None, vec![(0, 1)]));
    assert_eq!((guest.read::<1>(STATUS), guest.interrupt.take()), ([0], 1));
    let counts = guest.counts();
    assert_eq!((counts.kept_requests, counts.troubles, counts.errors), (1, 1, 0));
    assert_eq!((counts.write_operations, counts.written_bytes), (1, 1024));
    assert!(counts.trouble_time > Duration::ZERO);
}

#[test]
fn every_kind_of_request_is_kept_but_for_a_flush() {
    let (mut guest, transfers) = guest_of_held_transfers(OnIoError::Pause);
    guest.driver.memory.write_slice(&[0; 16], GuestAddress(DATA.0 + 0x1000)).unwrap();
    guest.driver.memory.write_obj(8u32, GuestAddress(DATA.0 + 0x1008)).unwrap();
    let range = [Buffer::Readable(GuestAddress(DATA.0 + 0x1000), 16)];
    for (kind, data) in [(0, &[Buffer::Writable(DATA, 512)]), (11, &range), (13, &range)] {
        guest.add(kind, 0, data);
        guest.device.doorbell(0);
        fail(&mut guest, &transfers, 0, Errno::IO);
        assert_eq!(guest.driver.drain_used(), [], "{kind}");
        guest.device.retry();
        end(&mut guest, &transfers);
        // The device asks to be called again for what was added meanwhile.
        guest.device.event(COMPLETIONS);
        assert_eq!((guest.driver.drain_used().len(), guest.read::<1>(STATUS)), (1, [0]), "{kind}");
    }
    guest.add(4, 0, &[]);
    guest.device.doorbell(0);
    fail(&mut guest, &transfers, 0, Errno::IO);
    assert_eq!((guest.driver.drain_used().len(), guest.read::<1>(STATUS)), (1, [1]));
    assert_eq!((guest.counts().kept_requests, guest.counts().troubles, guest.counts().errors), (3, 3, 1));
}

#[test]
fn a_durable_write_is_kept_until_its_flush_fails() {
    let (mut guest, transfers) = guest_of_held_transfers(OnIoError::Pause);
    guest.device.reset();
    guest.driver = DriverQueue::new(small_memory(MEMORY_BYTES), GuestAddress(0), 64);
    guest.activate_with(0);
    write(&mut guest, 4);
    guest.device.doorbell(0);
    fail(&mut guest, &transfers, 100, Errno::NOSPC);
    assert_eq!(guest.driver.used_index(), 0);
    guest.device.retry();
    fail(&mut guest, &transfers, 924, Errno::NOSPC);
    assert_eq!((guest.driver.used_index(), guest.read::<1>(STATUS)), (1, [1]), "the flush failed");
    assert_eq!(problem(&guest), None);
}

#[test]
fn nothing_else_is_taken_from_the_queues_until_all_went_through() {
    let (mut guest, transfers) = guest_of_held_transfers(OnIoError::Pause);
    for sector in [0, 2, 4] {
        write(&mut guest, sector);
    }
    guest.device.doorbell(0);
    fail(&mut guest, &transfers, 0, Errno::NOSPC);
    write(&mut guest, 6);
    guest.device.doorbell(0);
    assert_eq!(under_way(&transfers), []);
    guest.device.retry();
    assert_eq!(under_way(&transfers).len(), 3);
    // One goes through, the others do not.
    let one = transfers.lock().unwrap().waiting.pop().unwrap();
    fail(&mut guest, &transfers, 0, Errno::NOSPC);
    transfers.lock().unwrap().over.push((one.0, one.1, None));
    guest.device.event(COMPLETIONS);
    assert_eq!((guest.driver.used_index(), under_way(&transfers)), (1, vec![]));
    guest.device.retry();
    rustix::io::read(guest.device.events()[0].fd, &mut [0; 8]).ok();
    end(&mut guest, &transfers);
    assert_eq!((guest.driver.used_index(), under_way(&transfers)), (3, vec![]), "the guest may be paused");
    assert_eq!(rustix::io::read(guest.device.events()[0].fd, &mut [0; 8]), Ok(8), "it asks to be called");
    guest.device.event(COMPLETIONS);
    assert_eq!(under_way(&transfers), [(TransferKind::Write, 6 * 512, 1024)]);
    end(&mut guest, &transfers);
    let counts = guest.counts();
    assert_eq!((guest.driver.used_index(), counts.kept_requests, counts.troubles), (4, 3, 1));
}

#[test]
fn with_the_other_policy_the_guest_is_told() {
    let (mut guest, transfers) = guest_of_held_transfers(OnIoError::Report);
    write(&mut guest, 4);
    guest.device.doorbell(0);
    fail(&mut guest, &transfers, 0, Errno::NOSPC);
    assert_eq!((guest.driver.used_index(), guest.read::<1>(STATUS)), (1, [1]));
    assert_eq!((problem(&guest), guest.counts().errors, guest.counts().kept_requests), (None, 1, 0));
}

#[test]
fn a_kept_request_counts_as_no_io_in_flight_and_ends_with_a_reset() {
    let (mut guest, transfers) = guest_of_held_transfers(OnIoError::Pause);
    write(&mut guest, 4);
    guest.device.doorbell(0);
    fail(&mut guest, &transfers, 0, Errno::NOSPC);
    assert!(guest.device.drain(Instant::now()), "a paused machine's request waits");
    guest.device.reset();
    assert!(guest.device.is_settled());
    assert_eq!(problem(&guest), None);
    assert_eq!(Arc::strong_count(&guest.driver.memory), 1, "nothing holds guest memory");
    guest.device.retry();
    assert_eq!(under_way(&transfers), []);

    // And one that is being tried again then.
    guest.driver = DriverQueue::new(small_memory(MEMORY_BYTES), GuestAddress(0), 64);
    guest.activate();
    write(&mut guest, 4);
    guest.device.doorbell(0);
    fail(&mut guest, &transfers, 0, Errno::NOSPC);
    guest.device.retry();
    guest.device.reset();
    assert_eq!((problem(&guest), guest.device.is_settled()), (None, false));
    fail(&mut guest, &transfers, 0, Errno::NOSPC);
    assert!(guest.device.is_settled(), "nobody waits for it");
    assert_eq!((problem(&guest), guest.driver.used_index()), (None, 0));
    let free: Vec<_> = std::iter::from_fn(|| guest.device.service.as_mut().unwrap().slots.take()).collect();
    assert_eq!(free.len(), 256, "every slot is free again");
}

#[test]
fn a_broken_queue_leaves_nothing_to_try_again() {
    let (mut guest, transfers) = guest_of_held_transfers(OnIoError::Pause);
    write(&mut guest, 4);
    guest.driver.add_chain(&[Buffer::Raw(u64::MAX - 100, 16, 0)]);
    guest.device.doorbell(0);
    assert!(guest.device.is_broken());
    fail(&mut guest, &transfers, 0, Errno::NOSPC);
    guest.device.retry();
    assert_eq!((problem(&guest), under_way(&transfers)), (None, vec![]));
}

#[test]
fn what_a_file_lost_is_not_waited_for() {
    let (mut guest, transfers) = guest_of_held_transfers(OnIoError::Pause);
    write(&mut guest, 40);
    guest.device.doorbell(0);
    guest.device.service.as_mut().unwrap().shape.sectors = 10;
    fail(&mut guest, &transfers, 0, Errno::NOSPC);
    assert_eq!((guest.driver.used_index(), guest.read::<1>(STATUS)), (1, [1]));
}

/// The process's own memory as a file: where nothing is mapped, it gives what a broken disk gives.
#[test]
fn both_engines_give_back_what_is_left_of_a_failed_transfer() {
    for choice in ENGINES {
        let broken = File::options().read(true).write(true).open("/proc/self/mem").unwrap();
        let files = DiskFiles::cached(broken.into());
        let engine = open_engine(choice, files, 64, "disk-test").unwrap();
        let shape =
            DiskShape { sectors: SECTORS, access: DiskAccess::ReadWrite, erasure: DiskErasure::Offered };
        let parts = EngineParts { engine, shape, end: None, serial: DiskSerial::default(), limiter: None };
        let device = BlockDevice::on_engine(parts, QueueShape { count: 1, size: 64 }, OnIoError::Pause);
        let driver = DriverQueue::new(small_memory(MEMORY_BYTES), GuestAddress(0), 64);
        let mut guest = Guest { device, interrupt: Arc::default(), driver, file: disk() };
        guest.activate();
        write(&mut guest, 0);
        assert_eq!(guest.serve(), [], "{choice:?}");
        for _try in 0..3 {
            guest.device.retry();
            assert!(guest.device.drain(Instant::now() + Duration::from_secs(20)));
        }
        assert_eq!((problem(&guest), guest.driver.used_index()), (Some(libc::EIO), 0), "{choice:?}");
        assert_eq!((guest.counts().kept_requests, guest.counts().troubles), (1, 1), "{choice:?}");
    }
}

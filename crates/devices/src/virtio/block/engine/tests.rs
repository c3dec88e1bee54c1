//! Both engines by the same tests, on real files.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::log_capture::warnings_during;
use crate::memory::GuestMemory;
use crate::virtio::queue::Segment;

const SLOTS: u16 = 8;
const ENGINES: [EngineChoice; 2] = [EngineChoice::Uring, EngineChoice::Thread];

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn memory() -> Arc<GuestMemory> {
    Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap())
}

fn cached(file: &File) -> DiskFiles {
    DiskFiles::cached(file.try_clone().unwrap().into())
}

fn transfer(kind: TransferKind, offset: u64, memory: &Arc<GuestMemory>, pieces: &[(u64, u32)]) -> Transfer {
    let segments: Vec<_> = pieces
        .iter()
        .map(|(address, length)| Segment { address: GuestAddress(*address), length: *length })
        .collect();
    let mut vectors = IoVectors::default();
    vectors.append(memory, &segments, 0, u64::MAX).unwrap();
    Transfer::of_vectors(kind, offset, vectors)
}

fn for_each_engine(test: impl Fn(&mut dyn BlockEngine, &File)) {
    for choice in ENGINES {
        let file = tempfile::tempfile().unwrap();
        let mut engine = open_engine(choice, cached(&file), SLOTS, "disk-test")
            .unwrap_or_else(|error| panic!("{choice:?}: {error}"));
        test(&mut *engine, &file);
        assert_eq!(engine.in_flight(), 0, "{choice:?} is done");
    }
}

fn finish_one(engine: &mut dyn BlockEngine) -> Finished {
    engine.submit();
    loop {
        if let Some(finished) = engine.finished() {
            return finished;
        }
        assert!(engine.wait(soon()), "the transfer ends in time");
    }
}

#[test]
fn written_pieces_are_read_back() {
    for_each_engine(|engine, file| {
        let memory = memory();
        memory.write_slice(b"first", GuestAddress(0)).unwrap();
        memory.write_slice(b"second", GuestAddress(0x1000)).unwrap();
        let write = transfer(TransferKind::Write, 512, &memory, &[(0, 5), (0x1000, 6)]);
        assert!(engine.start(3, write).is_ok());
        let written = finish_one(engine);
        assert_eq!((written.slot, written.result.is_ok()), (3, true));
        let mut content = [0; 11];
        file.read_exact_at(&mut content, 512).unwrap();
        assert_eq!(&content, b"firstsecond");
        let read = transfer(TransferKind::Read, 517, &memory, &[(0x2000, 6)]);
        assert!(engine.start(3, read).is_ok());
        assert!(finish_one(engine).result.is_ok());
        let mut seen = [0; 6];
        memory.read_slice(&mut seen, GuestAddress(0x2000)).unwrap();
        assert_eq!(&seen, b"second");
    });
}

#[test]
fn flushes_and_durable_writes_succeed() {
    for_each_engine(|engine, _file| {
        let memory = memory();
        let write = transfer(TransferKind::Write, 0, &memory, &[(0, 512)]);
        let write = Transfer { durability: Durability::Stable, ..write };
        assert!(engine.start(0, write).is_ok());
        assert!(finish_one(engine).result.is_ok());
        let flush = transfer(TransferKind::Flush, 0, &memory, &[]);
        assert!(engine.start(0, flush).is_ok());
        assert!(finish_one(engine).result.is_ok());
    });
}

#[test]
fn a_read_past_the_end_fails_even_if_it_starts_before() {
    for_each_engine(|engine, file| {
        file.set_len(700).unwrap();
        let memory = memory();
        let read = transfer(TransferKind::Read, 512, &memory, &[(0, 512)]);
        assert!(engine.start(0, read).is_ok());
        let finished = finish_one(engine);
        assert_eq!(finished.result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn a_failing_system_call_is_reported() {
    for choice in ENGINES {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read_only = File::open(file.path()).unwrap();
        let mut engine = open_engine(choice, cached(&read_only), SLOTS, "disk-test").unwrap();
        let write = transfer(TransferKind::Write, 0, &memory(), &[(0, 512)]);
        assert!(engine.start(0, write).is_ok());
        let error = finish_one(&mut *engine).result.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{choice:?}");
    }
}

/// The process's own memory as a file: where nothing is mapped, it gives what a broken disk gives.
#[test]
fn an_io_error_is_reported_and_the_engine_goes_on() {
    for choice in ENGINES {
        let broken = File::options().read(true).write(true).open("/proc/self/mem").unwrap();
        let mut engine = open_engine(choice, cached(&broken), SLOTS, "disk-test").unwrap();
        let memory = memory();
        for kind in [TransferKind::Read, TransferKind::Write, TransferKind::Read] {
            assert!(engine.start(0, transfer(kind, 0, &memory, &[(0, 512)])).is_ok());
            let error = finish_one(&mut *engine).result.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{choice:?} {kind:?}");
        }
        assert_eq!(Arc::strong_count(&memory), 1, "{choice:?}");
    }
}

#[test]
fn slots_are_exclusive_and_bounded() {
    for_each_engine(|engine, file| {
        file.set_len(0x1000).unwrap();
        let memory = memory();
        let read = || transfer(TransferKind::Read, 0, &memory, &[(0, 512)]);
        assert!(engine.start(SLOTS, read()).is_err());
        for slot in 0..SLOTS {
            assert!(engine.start(slot, read()).is_ok());
            assert!(engine.start(slot, read()).is_err());
        }
        let mut seen: Vec<_> = (0..SLOTS).map(|_| finish_one(engine).slot).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..SLOTS).collect::<Vec<_>>());
    });
}

#[test]
fn memory_is_held_while_in_flight_and_let_go_after() {
    for_each_engine(|engine, file| {
        file.set_len(0x1000).unwrap();
        let memory = memory();
        let read = transfer(TransferKind::Read, 0, &memory, &[(0, 512)]);
        assert_eq!(Arc::strong_count(&memory), 2);
        assert!(engine.start(0, read).is_ok());
        drop(finish_one(engine));
        assert_eq!(Arc::strong_count(&memory), 1);
    });
}

#[test]
fn an_engine_with_nothing_to_do_waits_until_the_deadline() {
    for_each_engine(|engine, _file| {
        assert!(engine.finished().is_none());
        assert!(!engine.wait(Instant::now() + Duration::from_millis(5)) || engine.finished().is_none());
    });
}

#[test]
fn retiring_an_engine_lets_go_of_memory_in_flight() {
    for choice in ENGINES {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x1000).unwrap();
        let mut engine = open_engine(choice, cached(&file), SLOTS, "disk-test").unwrap();
        let memory = memory();
        let read = transfer(TransferKind::Read, 0, &memory, &[(0, 512)]);
        assert!(engine.start(0, read).is_ok());
        engine.submit();
        retire(engine);
        let deadline = soon();
        while Arc::strong_count(&memory) > 1 {
            assert!(Instant::now() < deadline, "{choice:?}");
            std::thread::yield_now();
        }
    }
}

/// A pipe is no disk, but the one file whose reads take as long as one likes.
#[test]
fn a_transfer_that_takes_long_is_waited_for_elsewhere() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut engine = UringEngine::new(&DiskFiles::cached(reader.into()), SLOTS, "disk-test").unwrap();
    let memory = memory();
    let read = transfer(TransferKind::Read, u64::MAX, &memory, &[(0, 4)]);
    assert!(engine.start(0, read).is_ok());
    engine.submit();
    retire(Box::new(engine));
    assert_eq!(Arc::strong_count(&memory), 2, "the kernel may still fill it");
    rustix::io::write(&writer, b"late").unwrap();
    let deadline = soon();
    while Arc::strong_count(&memory) > 1 {
        assert!(Instant::now() < deadline, "the late transfer ends and lets go");
        std::thread::yield_now();
    }
    let mut seen = [0; 4];
    memory.read_slice(&mut seen, GuestAddress(0)).unwrap();
    assert_eq!(&seen, b"late");
}

/// The kernel finishes transfers on the thread that submitted them: it must get to that while the thread waits for
/// something else, and another one waits for the transfer.
#[test]
fn transfers_end_while_the_submitting_thread_waits_for_something_else() {
    let (reader, writer) = std::io::pipe().unwrap();
    let (engines, submitted) = std::sync::mpsc::channel();
    let (over, wait_until_over) = std::sync::mpsc::channel::<()>();
    let memory = memory();
    let read = transfer(TransferKind::Read, u64::MAX, &memory, &[(0, 4)]);
    let submitter = std::thread::spawn(move || {
        let mut engine = UringEngine::new(&DiskFiles::cached(reader.into()), SLOTS, "disk-test").unwrap();
        assert!(engine.start(0, read).is_ok());
        engine.submit();
        engines.send(engine).unwrap();
        wait_until_over.recv().unwrap();
    });
    let mut engine = submitted.recv().unwrap();
    assert!(engine.finished().is_none());
    rustix::io::write(&writer, b"done").unwrap();
    assert!(finish_one(&mut engine).result.is_ok());
    over.send(()).unwrap();
    submitter.join().unwrap();
}

#[test]
fn large_transfers_are_left_to_the_kernels_workers() {
    for_each_engine(|engine, file| {
        let memory = memory();
        memory.write_slice(&[7; 0x10000], GuestAddress(0)).unwrap();
        let pieces = [(0, 0x10000); 48];
        for kind in [TransferKind::Write, TransferKind::Read] {
            assert!(engine.start(0, transfer(kind, 0, &memory, &pieces)).is_ok());
            assert!(finish_one(engine).result.is_ok());
            let mut last = [0; 2];
            assert_eq!(file.read_at(&mut last, (3 << 20) - 1).unwrap(), 1);
            assert_eq!(last, [7, 0]);
        }
    });
}

#[test]
fn the_ring_can_do_nothing_else() {
    let file = tempfile::tempfile().unwrap();
    let mut engine = UringEngine::new(&cached(&file), SLOTS, "disk-test").unwrap();
    assert!(engine.ring().submitter().register_files_update(0, &[file.as_raw_fd()]).is_err());
    let fixed = io_uring::squeue::Flags::FIXED_FILE;
    let forbidden = [
        io_uring::opcode::Nop::new().build().flags(fixed),
        io_uring::opcode::Fsync::new(io_uring::types::Fd(file.as_raw_fd())).build(),
        io_uring::opcode::Close::new(io_uring::types::Fd(file.as_raw_fd())).build(),
    ];
    for entry in forbidden {
        engine.push_raw(&entry);
        engine.ring().submit_and_wait(1).unwrap();
        let completion = engine.ring().completion().next().unwrap();
        assert_eq!(completion.result(), -libc::EACCES);
    }
}

#[test]
fn a_ring_that_fails_says_so_once_and_fails_its_transfers() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    let mut engine = UringEngine::new(&cached(&file), SLOTS, "disk-test").unwrap();
    engine.break_ring();
    let memory = memory();
    let ((), said) = warnings_during(|| {
        for slot in 0..3 {
            assert!(engine.start(slot, transfer(TransferKind::Read, 0, &memory, &[(0, 512)])).is_ok());
        }
        for _ in 0..3 {
            let error = finish_one(&mut engine).result.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADFD));
        }
        assert!(engine.start(0, transfer(TransferKind::Read, 0, &memory, &[(0, 512)])).is_err());
        engine.submit();
    });
    assert_eq!((engine.in_flight(), Arc::strong_count(&memory)), (0, 1));
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("disk-test") && said[0].contains("os error 77"), "{said:?}");
}

#[test]
fn stale_completions_are_ignored() {
    let file = tempfile::tempfile().unwrap();
    let mut engine = UringEngine::new(&cached(&file), SLOTS, "disk-test").unwrap();
    let flush = || transfer(TransferKind::Flush, 0, &memory(), &[]);
    assert!(engine.start(1, flush()).is_ok());
    assert!(finish_one(&mut engine).result.is_ok());
    assert!(engine.start(1, flush()).is_ok());
    for user_data in [1, 1 << 16, u64::MAX, 2 << 16 | 1] {
        assert!(engine.complete_for_test(user_data).is_none(), "{user_data:#x}");
    }
    assert_eq!(engine.in_flight(), 1);
    assert!(finish_one(&mut engine).result.is_ok());
}

#[test]
fn progress_of_a_transfer() {
    let memory = memory();
    let read = || transfer(TransferKind::Read, 100, &memory, &[(0, 10)]);
    let mut short = read();
    assert!(matches!(short.progress(Ok(4)), Progress::Again));
    assert_eq!((short.offset, short.vectors.bytes()), (104, 6));
    assert!(matches!(short.progress(Err(Errno::INTR)), Progress::Again));
    assert!(matches!(short.progress(Ok(6)), Progress::Done(Ok(()))));
    assert!(matches!(read().progress(Ok(0)), Progress::Done(Err(_))));
    let mut durable = transfer(TransferKind::Write, 0, &memory, &[(0, 10)]);
    durable.durability = Durability::Stable;
    assert!(matches!(durable.progress(Ok(10)), Progress::Again));
    assert_eq!(durable.kind, TransferKind::Flush, "a durable write ends with a flush");
    assert!(matches!(durable.progress(Ok(0)), Progress::Done(Ok(()))));
    assert!(matches!(read().progress(Err(Errno::IO)), Progress::Done(Err(_))));
}

fn erase(extents: &[(Erasure, u64, u64)], durability: Durability) -> Transfer {
    let extents = extents.iter().map(|(erasure, offset, bytes)| Extent {
        erasure: *erasure,
        offset: *offset,
        bytes: *bytes,
    });
    let transfer = Transfer::of_vectors(TransferKind::Erase, 0, IoVectors::default());
    Transfer { extents: extents.rev().collect(), durability, ..transfer }
}

#[test]
fn what_cannot_be_zeroed_is_written() {
    const CHUNK: u64 = 0x1_0000 * 1023;
    let mut transfer =
        erase(&[(Erasure::Unmap, 512, CHUNK + 1024), (Erasure::Zero, 0, 512)], Durability::Stable);
    assert!(matches!(transfer.progress(Err(Errno::OPNOTSUPP)), Progress::Again));
    assert_eq!((transfer.kind, transfer.offset, transfer.vectors.bytes()), (TransferKind::Fill, 512, CHUNK));
    assert!(matches!(transfer.progress(Ok(CHUNK - 512)), Progress::Again));
    assert_eq!((transfer.offset, transfer.vectors.bytes()), (CHUNK, 512));
    assert!(matches!(transfer.progress(Ok(512)), Progress::Again));
    assert_eq!((transfer.offset, transfer.vectors.bytes()), (CHUNK + 512, 1024));
    assert!(matches!(transfer.progress(Ok(1024)), Progress::Again));
    assert_eq!((transfer.kind, transfer.extents.len()), (TransferKind::Erase, 1));
    assert!(matches!(transfer.progress(Ok(0)), Progress::Again));
    assert_eq!(transfer.kind, TransferKind::Flush, "a durable erasure ends with a flush");
    assert!(matches!(transfer.progress(Ok(0)), Progress::Done(Ok(()))));
}

#[test]
fn a_discard_that_is_not_possible_is_done_and_other_errors_are_told() {
    let mut discard = erase(&[(Erasure::Discard, 0, 512), (Erasure::Discard, 512, 512)], Durability::Cached);
    assert!(matches!(discard.progress(Err(Errno::OPNOTSUPP)), Progress::Again));
    assert!(matches!(discard.progress(Err(Errno::INTR)), Progress::Again));
    assert!(matches!(discard.progress(Err(Errno::NOSPC)), Progress::Done(Err(_))));
}

#[test]
fn zeros_reach_the_file_when_they_are_written() {
    for_each_engine(|engine, file| {
        file.write_all_at(&[7; 2048], 0).unwrap();
        let mut transfer = erase(&[(Erasure::Zero, 512, 1024)], Durability::Stable);
        assert!(matches!(transfer.progress(Err(Errno::OPNOTSUPP)), Progress::Again));
        assert!(engine.start(0, transfer).is_ok());
        assert!(finish_one(engine).result.is_ok());
        let mut content = [0; 2048];
        file.read_exact_at(&mut content, 0).unwrap();
        assert!(
            content
                .iter()
                .enumerate()
                .all(|(at, byte)| *byte == if (512..1536).contains(&at) { 0 } else { 7 })
        );
    });
}

//! The thread, with real files.

use std::fs::{self, File};
use std::path::Path;

use tempfile::TempDir;
use test_host::SmallFileSystem;

use super::*;
use crate::{ConsoleFiles, ConsoleLimits, ConsoleWriter};

/// Long enough for anything here on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn file_writer() -> ConsoleFileWriter {
    ConsoleFileWriter::start(FileLimits::default()).expect("a thread")
}

fn opened(directory: &Path) -> OwnedFd {
    File::open(directory).expect("it is there").into()
}

/// One registered console.
struct Bench {
    directory: TempDir,
    console: ConsoleWriter,
    registration: FileRegistration,
}

fn console_of(files: &ConsoleFileWriter) -> Bench {
    let directory = tempfile::tempdir().expect("a directory");
    let (recorder, console) = ConsoleRecorder::new(ConsoleLimits::default());
    let registration = files.register(&VmId::new("vm"), &recorder, opened(directory.path()));
    Bench { directory, console, registration }
}

/// What the files hold, a boot after the other.
fn boots(directory: &Path) -> Vec<String> {
    let files = ConsoleFiles::open(directory).expect("a console");
    let read = |number| files.snapshot(number).map(|snapshot| [snapshot.head, snapshot.tail].concat());
    let boots = files.boots().expect("listed");
    boots
        .iter()
        .map(|boot| String::from_utf8(read(boot.number).expect("it can be read")).expect("text"))
        .collect()
}

/// Looks until it is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_is_written_comes_to_the_files_by_itself() {
    let files = file_writer();
    let mut bench = console_of(&files);
    let path = bench.directory.path().to_owned();
    until("a boot begins before its guest writes", || boots(&path) == [""]);
    for word in ["one\n", "two\n", "three\n"] {
        word.bytes().for_each(|byte| bench.console.write(&[byte]));
        until(word, || boots(&path).concat().ends_with(word));
    }
    assert_eq!(boots(&path), ["one\ntwo\nthree\n"]);
}

#[test]
fn a_flush_waits_for_all_that_was_written_and_boots_are_told_apart() {
    let files = file_writer();
    let mut benches: Vec<Bench> = (0..3).map(|_| console_of(&files)).collect();
    for bench in &mut benches {
        bench.console.write(b"first");
        bench.console.begin_boot();
        bench.console.write(b"second");
        bench.registration.flush(PATIENCE).expect("there is room");
        assert_eq!(boots(bench.directory.path()), ["first", "second"]);
        bench.console.begin_boot();
        bench.registration.flush(PATIENCE).expect("there is room");
        assert_eq!(boots(bench.directory.path()), ["first", "second", ""]);
    }
}

#[test]
fn what_was_written_before_the_end_is_in_the_files_after_it() {
    let files = file_writer();
    let Bench { directory, mut console, registration } = console_of(&files);
    console.write(b"last words");
    registration.close(PATIENCE).expect("there is room");
    assert_eq!(boots(directory.path()), ["last words"]);
    assert_eq!(Arc::strong_count(console.recorder()), 1, "it is let go");
    console.write(b"of nobody's");

    let again = files.register(&VmId::new("vm"), console.recorder(), opened(directory.path()));
    drop(again);
    until("the rest is written", || boots(directory.path()) == ["last words", "last wordsof nobody's"]);
}

#[test]
fn the_thread_ends_with_the_last_registration() {
    let files = file_writer();
    let inbox = Arc::downgrade(&files.end.inbox);
    let bench = console_of(&files);
    drop(files);
    bench.registration.flush(PATIENCE).expect("it goes on");
    drop(bench);
    until("the thread has ended", || inbox.strong_count() == 0);
}

#[test]
fn a_flood_leaves_its_beginning_and_its_end() {
    const BLOCKS: usize = 100;
    let files = file_writer();
    let mut bench = console_of(&files);
    let block = |number: usize| format!("{number:015}\n").repeat(1 << 16).into_bytes();
    for number in 0..BLOCKS {
        bench.console.write(&block(number));
    }
    bench.registration.flush(PATIENCE).expect("there is room");
    let files = ConsoleFiles::open(bench.directory.path()).expect("a console");
    let boot = files.boots().expect("listed").remove(0);
    assert_eq!(boot.total, (BLOCKS << 20) as u64);
    assert!(boot.kept <= (5 << 20) / 2, "{} bytes", boot.kept);
    let snapshot = files.snapshot(boot.number).expect("it can be read");
    assert!(snapshot.head == block(0), "the first MiB");
    assert!(snapshot.tail.ends_with(&block(BLOCKS - 1)), "the latest MiB");
}

#[test]
fn a_full_disk_keeps_nobody_else_from_writing_and_is_written_when_there_is_room() {
    let small = SmallFileSystem::new(64 << 10);
    let files = file_writer();
    let (recorder, mut console) = ConsoleRecorder::new(ConsoleLimits::default());
    let full = files.register(&VmId::new("full"), &recorder, opened(&small.path()));
    full.flush(PATIENCE).expect("an empty file takes no room");
    small.fill();
    console.write(b"before there was room\n");
    assert_eq!(full.flush(PATIENCE), Err(FlushError::Failed));

    let mut other = console_of(&files);
    other.console.write(b"other");
    other.registration.flush(PATIENCE).expect("it has a disk of its own");
    assert_eq!(boots(other.directory.path()), ["other"]);

    small.make_room();
    until("it is tried again by itself", || boots(&small.path()) == ["before there was room\n"]);
    console.write(b"after it\n");
    full.flush(PATIENCE).expect("there is room");
    assert_eq!(boots(&small.path()), ["before there was room\nafter it\n"]);
}

#[test]
fn a_directory_that_is_gone_is_reported_and_bears_no_grudge() {
    let files = file_writer();
    let mut bench = console_of(&files);
    bench.registration.flush(PATIENCE).expect("there is room");
    fs::remove_dir_all(bench.directory.path()).expect("it was there");
    bench.console.begin_boot();
    bench.console.write(b"nowhere to go");
    assert_eq!(bench.registration.flush(PATIENCE), Err(FlushError::Failed));
    drop(bench);
}

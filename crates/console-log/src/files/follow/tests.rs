//! A follower beside a writer.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::FileLimits;
use crate::files::SegmentedConsole;

/// Small enough that a follower falls behind.
const LIMITS: FileLimits = FileLimits { head: 32, segment: 16, segments: 3, boots: 3 };

fn writer(directory: &Path) -> SegmentedConsole {
    SegmentedConsole::new(OwnedFd::from(File::open(directory).expect("it is there")), LIMITS)
}

fn write(console: &mut SegmentedConsole, mut offset: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let written = console.append(offset, bytes).expect("there is room");
        offset += written as u64;
        bytes = &bytes[written..];
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    Boot,
    Read(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..60usize).prop_map(Step::Write),
        2 => Just(Step::Boot),
        5 => (1..40usize).prop_map(Step::Read),
    ];
    vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whenever it reads: each byte is the one of its place, places only grow, what is left out is told, and in the end
    /// nothing is left.
    #[test]
    fn a_follower_gets_everything_in_order_or_is_told_what_it_missed(steps in steps()) {
        let folder = tempfile::tempdir().expect("a directory");
        let mut console = writer(folder.path());
        console.begin_boot().expect("begun");
        let mut written: Vec<Vec<u8>> = vec![Vec::new()];
        let mut position = ConsolePosition::default();
        let ends = (0..200).map(|_| Step::Read(1000));
        for step in steps.into_iter().chain(ends) {
            match step {
                Step::Write(count) => {
                    let boot = written.last_mut().expect("a boot");
                    let offset = boot.len();
                    let more: Vec<u8> =
                        (offset..offset + count).map(|at| u8::try_from(at % 251).expect("small")).collect();
                    write(&mut console, offset as u64, &more);
                    boot.extend(more);
                }
                Step::Boot => {
                    // A boot that wrote nothing is removed by the next.
                    console.begin_boot().expect("begun");
                    written.push(Vec::new());
                }
                Step::Read(limit) => {
                    let files = ConsoleFiles::open(folder.path()).expect("opened");
                    let piece = files.read_next(position, limit).expect("read");
                    prop_assert!(piece.bytes.len() <= limit && piece.position >= position);
                    if piece.position.boot == position.boot {
                        prop_assert_eq!(piece.position.offset, position.offset + piece.missed);
                    } else {
                        prop_assert_eq!(piece.position.offset, piece.missed);
                    }
                    if !piece.bytes.is_empty() {
                        let boot = &written[piece.position.boot as usize - 1];
                        let at = usize::try_from(piece.position.offset).expect("small");
                        prop_assert_eq!(&piece.bytes[..], &boot[at..at + piece.bytes.len()]);
                    }
                    position = piece.next_position();
                }
            }
        }
        let last = u32::try_from(written.len()).expect("small");
        let end = ConsolePosition { boot: last, offset: written[written.len() - 1].len() as u64 };
        prop_assert_eq!(position, end);
    }
}

#[test]
fn a_directory_that_was_made_anew_is_read_from_its_beginning() {
    let folder = tempfile::tempdir().expect("a directory");
    let mut console = writer(folder.path());
    console.begin_boot().expect("begun");
    write(&mut console, 0, b"hello");
    let files = ConsoleFiles::open(folder.path()).expect("opened");
    let piece = files.read_next(ConsolePosition { boot: 7, offset: 99 }, 100).expect("read");
    assert_eq!((piece.position.boot, piece.bytes.as_slice()), (1, &b"hello"[..]));
    let nothing = ConsoleFiles::open(&folder.path().join("none")).expect("an empty console");
    let position = ConsolePosition { boot: 7, offset: 99 };
    assert_eq!(
        nothing.read_next(position, 100).expect("read"),
        ConsolePiece { position, ..Default::default() }
    );
}

#[test]
fn a_tail_begins_at_a_line() {
    let folder = tempfile::tempdir().expect("a directory");
    let starts = |lines| {
        let files = ConsoleFiles::open(folder.path()).expect("opened");
        files.start_of_tail(lines).expect("read").offset
    };
    assert_eq!(starts(3), 0);
    let mut console = writer(folder.path());
    console.begin_boot().expect("begun");
    write(&mut console, 0, b"one\ntwo\nthree\n");
    assert_eq!([0, 1, 2, 3, 9].map(starts), [14, 8, 4, 0, 0]);
    write(&mut console, 14, b"login: ");
    assert_eq!([0, 1, 2].map(starts), [21, 14, 8]);
}

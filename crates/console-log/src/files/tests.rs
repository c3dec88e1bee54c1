//! Files against a model that forgets nothing.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// Small enough that a few writes reach every limit.
const LIMITS: FileLimits = FileLimits { head: 32, segment: 16, segments: 3, boots: 3 };
/// Bytes of a boot that are kept whatever was written, if there is no gap.
const LATEST: usize = 32;

fn opened(directory: &Path) -> OwnedFd {
    File::open(directory).expect("it is there").into()
}

/// A directory with a writer, and what was written to it.
struct Bench {
    directory: TempDir,
    writer: SegmentedConsole,
    boots: Vec<ModelBoot>,
}

#[derive(Clone, Debug, Default)]
struct ModelBoot {
    bytes: Vec<u8>,
    /// Which of them the writer was never given.
    lost: Vec<bool>,
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<u8>),
    /// So many bytes came too fast.
    Lose(usize),
    Boot,
    /// The process is killed; another goes on with the directory.
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => vec(any::<u8>(), 0..50).prop_map(Step::Write),
        1 => (1..100usize).prop_map(Step::Lose),
        2 => Just(Step::Boot),
        1 => Just(Step::Kill),
    ];
    vec(step, 0..40)
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let writer = SegmentedConsole::new(opened(directory.path()), LIMITS);
        let mut bench = Self { directory, writer, boots: Vec::new() };
        bench.boot();
        bench
    }

    fn boot(&mut self) {
        self.writer.begin_boot().expect("a boot begins");
        self.boots.push(ModelBoot::default());
    }

    fn write(&mut self, bytes: &[u8]) {
        let boot = self.boots.last_mut().expect("one began");
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = boot.bytes.len() + bytes.len() - rest.len();
            let written = self.writer.append(offset as u64, rest).expect("there is room");
            assert!(written > 0);
            rest = &rest[written..];
        }
        boot.bytes.extend(bytes);
        boot.lost.resize(boot.bytes.len(), false);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write(bytes) => self.write(&bytes),
            Step::Lose(count) => {
                let boot = self.boots.last_mut().expect("one began");
                boot.bytes.resize(boot.bytes.len() + count, 0);
                boot.lost.resize(boot.bytes.len(), true);
            }
            Step::Boot => self.boot(),
            Step::Kill => {
                self.writer = SegmentedConsole::new(opened(self.directory.path()), LIMITS);
                self.boot();
            }
        }
    }

    fn files(&self) -> ConsoleFiles {
        ConsoleFiles::open(self.directory.path()).expect("a console")
    }

    /// The boots of the model that are to be there: all that wrote something, and the newest.
    fn expected(&self) -> Vec<&ModelBoot> {
        let newest = self.boots.len() - 1;
        let wrote = |boot: &ModelBoot| boot.lost.iter().any(|lost| !lost);
        let kept: Vec<_> = self
            .boots
            .iter()
            .enumerate()
            .filter(|(number, boot)| *number == newest || wrote(boot))
            .map(|(_, boot)| boot)
            .collect();
        kept[kept.len().saturating_sub(LIMITS.boots)..].to_vec()
    }
}

/// Every byte that can be read of a boot, with its offset.
fn read_all(files: &ConsoleFiles, boot: u32, limit: usize) -> Vec<(usize, u8)> {
    let (mut read, mut offset) = (Vec::new(), 0);
    loop {
        let chunk = files.read_from(boot, offset, limit).expect("it can be read");
        assert_eq!(chunk.offset, offset + chunk.missed);
        assert!(chunk.bytes.len() <= limit);
        if chunk.bytes.is_empty() {
            return read;
        }
        let begin = usize::try_from(chunk.offset).expect("small");
        read.extend(chunk.bytes.iter().enumerate().map(|(at, byte)| (begin + at, *byte)));
        offset = chunk.next_offset();
    }
}

proptest! {
    /// Whatever is written, lost and cut off: what is read was written so, no byte twice; beginnings and ends are there;
    /// and the disk holds no more than it may.
    #[test]
    fn files_hold_what_was_written(steps in steps(), limit in 1..70usize) {
        let mut bench = Bench::new();
        for step in steps {
            bench.take(step);
            let on_disk: u64 = fs::read_dir(bench.directory.path())
                .expect("listed")
                .map(|entry| entry.expect("an entry").metadata().expect("its size").len())
                .sum();
            let a_boot = LIMITS.head + LIMITS.segment * LIMITS.segments as u64;
            prop_assert!(on_disk <= a_boot * LIMITS.boots as u64, "{on_disk} bytes");
        }
        let files = bench.files();
        let summaries = files.boots().expect("listed");
        let expected = bench.expected();
        prop_assert_eq!(summaries.len(), expected.len());
        prop_assert!(summaries.is_sorted_by(|one, other| one.number < other.number));
        for (summary, boot) in summaries.iter().zip(expected) {
            let read = read_all(&files, summary.number, limit);
            prop_assert_eq!(read.len() as u64, summary.kept);
            prop_assert!(read.is_sorted_by(|one, other| one.0 < other.0));
            for (offset, byte) in &read {
                prop_assert!(!boot.lost[*offset]);
                prop_assert_eq!(*byte, boot.bytes[*offset]);
            }
            let written = boot.lost.iter().rposition(|lost| !lost).map_or(0, |last| last + 1);
            prop_assert_eq!(summary.total, written as u64);
            prop_assert_eq!(summary.omitted, summary.total - summary.kept);

            let snapshot = files.snapshot(summary.number).expect("it can be read");
            prop_assert_eq!(snapshot.total, summary.total);
            prop_assert_eq!(&snapshot.head[..], &boot.bytes[..snapshot.head.len()]);
            prop_assert_eq!(&snapshot.tail[..], &boot.bytes[written - snapshot.tail.len()..written]);
            let sum = snapshot.head.len() as u64 + snapshot.omitted + snapshot.tail.len() as u64;
            prop_assert_eq!(sum, snapshot.total);

            let head = boot.lost.iter().position(|lost| *lost).unwrap_or(written).min(32);
            prop_assert!(snapshot.head.len() >= head, "the beginning is kept");
            if !boot.lost[..written].contains(&true) {
                let latest = LATEST.min(written - head);
                prop_assert!(snapshot.tail.len() >= latest, "the end is kept");
            }
        }
    }
}

#[test]
fn a_flood_is_bounded_and_its_ends_are_kept() {
    const TOTAL: usize = 100 << 20;
    let directory = tempfile::tempdir().expect("a directory");
    let limits = FileLimits::default();
    let mut writer = SegmentedConsole::new(opened(directory.path()), limits);
    let block: Vec<u8> = (0..1 << 20).map(|at: u32| at.to_le_bytes()[2] ^ at.to_le_bytes()[0]).collect();
    let mut offset = 0;
    while offset < TOTAL {
        let begin = offset % block.len();
        offset += writer.append(offset as u64, &block[begin..]).expect("there is room");
    }
    let files = ConsoleFiles::open(directory.path()).expect("a console");
    let boots = files.boots().expect("listed");
    assert_eq!((boots.len(), boots[0].total), (1, TOTAL as u64));
    assert!(boots[0].kept <= limits.head + limits.segment * limits.segments as u64);
    let snapshot = files.snapshot(boots[0].number).expect("it can be read");
    assert!(snapshot.head == block && snapshot.tail.ends_with(&block));
    assert!(boots[0].begun.is_none_or(|begun| Some(begun) <= boots[0].last_written));
}

#[test]
fn only_the_newest_boots_are_kept_and_silent_ones_displace_none() {
    let mut bench = Bench::new();
    for word in ["one", "two", "three", "four"] {
        bench.write(word.as_bytes());
        bench.boot();
        bench.boot();
    }
    let files = bench.files();
    let lines = |number| files.tail_lines(number, 9).expect("it can be read");
    let numbers: Vec<u32> = files.boots().expect("listed").iter().map(|boot| boot.number).collect();
    assert_eq!(
        numbers.iter().map(|number| lines(*number)).collect::<Vec<_>>(),
        [vec!["three".to_owned()], vec!["four".to_owned()], Vec::new()]
    );
    assert_eq!(files.newest().expect("listed"), Some(9));
    assert_eq!(fs::read_dir(bench.directory.path()).expect("listed").count(), 3);
}

#[test]
fn files_are_named_after_their_bytes_and_are_private() {
    let mut bench = Bench::new();
    bench.write(&[b'x'; 40]);
    let mut names: Vec<_> = fs::read_dir(bench.directory.path())
        .expect("listed")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let mode = entry.metadata().expect("its mode").permissions().mode() & 0o7777;
            (entry.file_name().into_string().expect("text"), mode)
        })
        .collect();
    names.sort();
    let expected = ["0001.000000000000.log", "0001.000000000032.log"].map(|name| (name.to_owned(), 0o600));
    assert_eq!(names, expected);
}

#[test]
fn a_missing_directory_is_an_empty_console() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = ConsoleFiles::open(&directory.path().join("console")).expect("nothing is there");
    assert_eq!(files.boots().expect("nothing"), []);
    assert!(matches!(files.read_from(1, 0, 9), Err(ConsoleFilesError::NoSuchBoot(1))));
    fs::write(directory.path().join("file"), "").expect("written");
    let problem = ConsoleFiles::open(&directory.path().join("file")).expect_err("no directory");
    assert!(problem.to_string().starts_with("cannot open the console directory /"), "{problem}");
}

#[test]
fn what_is_no_console_is_neither_read_nor_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    fs::write(path("secret"), "secret").expect("written");
    symlink(path("secret"), path("0001.000000000000.log")).expect("a link");
    fs::create_dir(path("0001.000000000512.log")).expect("a directory");
    fs::write(path("notes.log"), "notes").expect("written");
    // Far more than any writer writes, in no time.
    File::create(path("0002.000000000000.log")).and_then(|file| file.set_len(1 << 40)).expect("a hole");
    fs::write(path("0002.18446744073709551615.log"), "beyond").expect("written");

    let files = ConsoleFiles::open(directory.path()).expect("a console");
    let boots = files.boots().expect("listed");
    assert_eq!(boots.iter().map(|boot| boot.number).collect::<Vec<_>>(), [2]);
    assert!(matches!(files.snapshot(1), Err(ConsoleFilesError::NoSuchBoot(1))));
    let snapshot = files.snapshot(2).expect("it can be read");
    assert!(snapshot.head.len() <= 4 << 20);
    assert!(files.read_from(2, 0, usize::MAX).expect("it can be read").bytes.len() <= 4 << 20);
    let _ = files.tail_lines(2, 9).expect("it can be read");

    let mut writer = SegmentedConsole::new(opened(directory.path()), LIMITS);
    for boot in 3..9 {
        writer.begin_boot().expect("a boot begins");
        writer.append(0, b"x").expect("there is room");
        assert_eq!(files.newest().expect("listed"), Some(boot));
    }
    for name in ["secret", "notes.log", "0001.000000000000.log", "0001.000000000512.log"] {
        assert!(path(name).symlink_metadata().is_ok(), "{name}");
    }
}

#[test]
fn no_file_keeps_later_boots_from_being_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let mut writer = SegmentedConsole::new(opened(directory.path()), LIMITS);
    writer.append(0, b"true").expect("there is room");
    // The highest numbers, of a file and of what cannot be removed as a file, and the very next one.
    fs::write(path("4294967295.000000000000.log"), "false").expect("written");
    fs::write(path("4294967295.000000000999.log"), "false").expect("written");
    fs::create_dir_all(path("4294967294.000000000000.log/x")).expect("made");
    fs::create_dir_all(path("0002.000000000000.log/x")).expect("made");
    let files = ConsoleFiles::open(directory.path()).expect("a console");
    for boot in [3, 4] {
        writer.begin_boot().expect("a boot begins");
        writer.append(0, b"true").expect("there is room");
        assert_eq!(files.newest().expect("listed"), Some(boot));
        assert_eq!(files.snapshot(boot).expect("it can be read").head, b"true");
    }
    assert_eq!(files.snapshot(1).expect("what was before is kept").head, b"true");
    // A directory of which only a part is looked at, so that the names of boots may not be seen.
    for number in 0..5000 {
        fs::write(path(&format!("filler-{number}")), "").expect("written");
    }
    for _ in 0..2 {
        writer.begin_boot().expect("a boot begins");
        writer.append(0, b"more").expect("there is room");
    }
}

#[test]
fn a_reader_copes_with_files_that_go_while_it_reads() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut writer = SegmentedConsole::new(opened(directory.path()), LIMITS);
    writer.append(0, b"0").expect("there is room");
    let files = ConsoleFiles::open(directory.path()).expect("a console");
    let reading = std::thread::spawn(move || {
        let (mut offset, mut gaps) = (0, 0);
        while offset < 20_000 {
            let chunk = match files.read_from(1, offset, 7) {
                Ok(chunk) => chunk,
                Err(ConsoleFilesError::Changing(1)) => continue,
                Err(problem) => panic!("{problem:?}"),
            };
            let begin = chunk.offset;
            for (byte, offset) in chunk.bytes.iter().zip(begin..) {
                assert_eq!(*byte, b'0' + u8::try_from(offset % 10).expect("a digit"));
            }
            gaps += u64::from(chunk.missed > 0);
            offset = chunk.next_offset();
        }
        gaps
    });
    let mut offset: u64 = 1;
    while !reading.is_finished() {
        let digits: Vec<u8> =
            (offset..offset + 5).map(|at| b'0' + u8::try_from(at % 10).expect("small")).collect();
        offset += writer.append(offset, &digits).expect("there is room") as u64;
    }
    reading.join().expect("every byte was right");
}

//! Trials on real files, cut short at any step: the disk is on what it was before, or on what was made for the trial, and
//! the worker leaves no other file.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::volumes::ContentRef;

/// What becomes of the disk during one trial.
#[derive(Clone, Copy, Debug)]
enum Course {
    /// The worker is killed once the copy is made.
    KilledBeforeSwitch,
    /// The machine does not start.
    NotStarted,
    /// It is taken back after its guest has written.
    TakenBack,
    /// The same, by another worker.
    TakenBackByTheNext,
    /// It is accepted.
    Accepted,
    /// It is accepted, and the worker killed before the disks were put in order; the next start goes on with it.
    AcceptedAndKilled,
}

/// How the disk of the definition on trial comes about.
#[derive(Clone, Copy, Debug)]
enum Disk {
    /// It goes on.
    Same,
    /// It goes on and grows by a sector.
    Larger,
    /// It is of another image, of these.
    Image(u8),
}

fn any_course() -> impl Strategy<Value = Course> {
    prop_oneof![
        Just(Course::KilledBeforeSwitch),
        Just(Course::NotStarted),
        Just(Course::TakenBack),
        Just(Course::TakenBackByTheNext),
        Just(Course::Accepted),
        Just(Course::AcceptedAndKilled),
    ]
}

fn any_disk() -> impl Strategy<Value = Disk> {
    prop_oneof![Just(Disk::Same), Just(Disk::Larger), (0_u8..3).prop_map(Disk::Image)]
}

impl Bench {
    /// Another worker opens the store.
    fn reopen(&mut self) {
        let vms = self.state.join("vms");
        self.store = VolumeStore::open(&self.state, &vms, RecordWriter::open(&self.state)).expect("opened");
    }

    fn trial(&self, staged: Staged) -> Staged {
        self.store.stage_trial(&vm(), staged, &GivenUp::default()).expect("copied")
    }

    fn content(&self, committed: &Committed) -> Vec<u8> {
        fs::read(&committed.path).expect("read")
    }
}

fn write(committed: &Committed, text: &[u8]) {
    let file = File::options().write(true).open(&committed.path).expect("opened");
    file.write_all_at(text, 0).expect("written");
}

/// The image of number `number`, with at least `size` bytes.
fn image(bench: &Bench, number: u8) -> File {
    let path = bench.folder.path().join(format!("image{number}"));
    if !path.exists() {
        fs::write(&path, vec![number.saturating_add(1); 4096]).expect("written");
    }
    File::open(path).expect("opened")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_trial_that_is_cut_short_anywhere_leaves_one_of_two_contents_and_no_other_file(
        trials in prop::collection::vec((any_disk(), any_course()), 1..7)
    ) {
        let mut bench = Bench::new();
        let (mut number, mut size) = (0, 4096);
        let stage = |bench: &Bench, number: u8, size: u64| {
            let image = image(bench, number);
            let request = StageRequest { size: Some(Bytes::new(size)), ..seeded(&image) };
            bench.try_stage(request, &GivenUp::default()).expect("staged")
        };
        let first = bench.commit(stage(&bench, number, size));
        bench.settle();
        write(&first, b"first");
        let mut before = bench.content(&first);
        for (step, (disk, course)) in trials.into_iter().enumerate() {
            let (wanted, larger) = match disk {
                Disk::Same => (number, size),
                Disk::Larger => (number, size + 512),
                Disk::Image(other) => (other, size),
            };
            let staged = bench.trial(stage(&bench, wanted, larger));
            let mark = format!("trial {step}");
            match course {
                Course::KilledBeforeSwitch => {
                    // It is not even dropped.
                    std::mem::forget(staged);
                    bench.reopen();
                }
                Course::NotStarted => {
                    let committed = bench.commit(staged);
                    bench.store.undo(&vm(), &committed).expect("undone");
                }
                Course::TakenBack | Course::TakenBackByTheNext => {
                    write(&bench.commit(staged), mark.as_bytes());
                    if matches!(course, Course::TakenBackByTheNext) {
                        bench.reopen();
                    }
                    bench.store.take_trial_back(&vm()).expect("taken back");
                    bench.store.take_trial_back(&vm()).expect("once is enough");
                }
                Course::Accepted | Course::AcceptedAndKilled => {
                    let committed = bench.commit(staged);
                    if wanted == number {
                        prop_assert_eq!(&bench.content(&committed)[..before.len()], &before[..]);
                    }
                    write(&committed, mark.as_bytes());
                    before = bench.content(&committed);
                    (number, size) = (wanted, larger);
                    if matches!(course, Course::AcceptedAndKilled) {
                        bench.reopen();
                    } else {
                        bench.settle();
                    }
                }
            }
            // The next start of the definition that is in force.
            let committed = bench.commit(stage(&bench, number, size));
            bench.settle();
            prop_assert_eq!(bench.content(&committed), before.clone(), "{:?} {:?}", disk, course);
            let known = bench.list();
            let mut files: Vec<String> = known.iter().map(|one| format!("{}.img", one.number)).collect();
            files.push("volume.json".to_owned());
            prop_assert!(known.iter().all(|one| one.problem.is_none()), "{:?}", known);
            prop_assert_eq!(bench.names(), files);
        }
    }
}

#[test]
fn a_disk_that_was_made_for_a_trial_goes_with_it() {
    let bench = Bench::new();
    bench.commit(bench.trial(bench.sized(4096)));
    assert_eq!(bench.names(), ["0.img", "volume.json"]);
    bench.store.take_trial_back(&vm()).expect("taken back");
    assert!(bench.names().is_empty() && !bench.beside_record("volumes/data").exists());
}

#[test]
fn the_way_back_is_not_deleted_by_word_or_by_the_clock() {
    let bench = Bench::new();
    write(&bench.commit(bench.sized(4096)), b"before");
    bench.settle();
    write(&bench.commit(bench.trial(bench.sized(4096))), b"trial");
    let before = ContentRef { vm: vm(), disk: "data".into(), number: 0 };
    assert!(!bench.store.delete(&before).expect("asked"));
    bench.store.take_trial_back(&vm()).expect("taken back");
    let content = fs::read(bench.file("0.img")).expect("there");
    assert!(content.starts_with(b"before"));
}

#[test]
fn a_copy_that_is_given_up_leaves_the_disk_as_it_is() {
    let bench = Bench::new();
    write(&bench.commit(bench.sized(4096)), b"before");
    let given_up = GivenUp::default();
    given_up.set();
    // Where blocks can be shared there is nothing to give up.
    if let Ok(staged) = bench.store.stage_trial(&vm(), bench.sized(4096), &given_up) {
        bench.store.discard(&vm(), &staged);
    }
    assert_eq!(bench.names(), ["0.img", "volume.json"]);
}

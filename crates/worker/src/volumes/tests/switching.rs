//! Switching over, with a fault at each step and with what changed since the disk was made ready.

use std::ffi::CString;

use rustix::mount::{MountFlags, mount};
use test_host::isolated;

use super::*;
use crate::volumes::ContentRef;
use crate::volumes::decide::Decision;

const OLD: u64 = 4096;
const NEW: u64 = 8192;

/// A fault that stays until it is mended.
struct Fault<'a> {
    /// The step that fails, as its error tells it.
    step: &'static str,
    put: &'a dyn Fn(&Bench),
    mend: &'a dyn Fn(&Bench),
}

fn in_the_way(path: &Path) {
    fs::create_dir(path).expect("a directory in the place of a file");
}

fn out_of_the_way(path: &Path) {
    fs::remove_dir(path).expect("removed");
}

/// A file in the place of the directory of notes, so that none can be made.
fn forbid_notes(bench: &Bench) {
    let notes = bench.beside_record("volumes");
    let _ = fs::remove_dir_all(&notes);
    fs::write(notes, "").expect("written");
}

fn allow_notes(bench: &Bench) {
    fs::remove_file(bench.beside_record("volumes")).expect("removed");
}

const FAULTS: [Fault<'static>; 3] = [
    Fault {
        step: "cannot write",
        put: &|bench| in_the_way(&bench.file("volume.new")),
        mend: &|bench| out_of_the_way(&bench.file("volume.new")),
    },
    Fault {
        step: "cannot name",
        put: &|bench| in_the_way(&bench.file("0.staged")),
        mend: &|bench| out_of_the_way(&bench.file("0.staged")),
    },
    Fault { step: "cannot note", put: &forbid_notes, mend: &allow_notes },
];

fn write(bench: &Bench, text: &str) {
    let file = File::options().write(true).open(bench.file("0.img")).expect("opened");
    std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), 0).expect("written");
}

/// The volume can be used in the size it has and in another one, and holds what was written.
fn assert_whole(bench: &Bench, text: &str) {
    assert!(bench.list().iter().all(|volume| volume.problem.is_none()), "{:?}", bench.list());
    for size in [OLD, 2 * NEW] {
        let committed = bench.commit(bench.sized(size));
        assert_eq!(committed.path, bench.file("0.img"));
        let content = fs::read(&committed.path).expect("read");
        assert!(content.starts_with(text.as_bytes()) && content.len() as u64 >= size);
        assert_eq!(bench.list()[0].size.get(), content.len() as u64);
    }
}

#[test]
fn growing_with_a_fault_at_any_step_leaves_a_volume_that_can_be_used() {
    for Fault { step, put, mend } in FAULTS {
        let bench = Bench::new();
        bench.commit(bench.sized(OLD));
        write(&bench, "kept");
        let staged = bench.sized(NEW);
        put(&bench);
        let problem = bench.store.commit(&vm(), staged).expect_err(step);
        assert!(problem.to_string().starts_with(step), "{problem}");
        mend(&bench);
        assert_whole(&bench, "kept");
    }
}

#[test]
fn a_size_that_cannot_be_had_after_all_leaves_a_volume_that_can_be_used() {
    let bench = Bench::new();
    bench.commit(bench.sized(OLD));
    write(&bench, "kept");
    let too_large = Decision::Keep { grow: Some(Bytes::new(u64::MAX)) };
    let staged = Staged { decision: too_large, ..bench.sized(NEW) };
    let problem = bench.store.commit(&vm(), staged).expect_err("no file is so large");
    assert!(problem.to_string().starts_with("cannot grow"), "{problem}");
    assert_eq!(bench.list()[0].size.get(), OLD, "it is told with the size that it has");
    assert_whole(&bench, "kept");
}

#[test]
fn growing_that_cannot_be_recorded_at_its_end_leaves_a_volume_that_can_be_used() {
    isolated(|| {
        // A file system that runs out of files, not of space: a record is a new file for a moment.
        let bench = Bench::with_state(|folder| {
            let (state, options) = (folder.join("state"), CString::new("size=1m,nr_inodes=64"));
            fs::create_dir(&state).expect("created");
            let options = options.expect("no zero in it");
            mount("none", &state, "tmpfs", MountFlags::empty(), options.as_c_str()).expect("mounted");
            state
        });
        bench.commit(bench.sized(OLD));
        write(&bench, "kept");
        let staged = bench.sized(NEW);
        // The note of the volume takes the two files that are left, after the growth was recorded.
        fs::remove_dir_all(bench.beside_record("volumes")).expect("removed");
        let fillers = bench.state.join("fillers");
        fs::create_dir(&fillers).expect("created");
        let filler = |number: u32| fillers.join(number.to_string());
        let made = (0..).take_while(|number| File::create_new(filler(*number)).is_ok()).count();
        assert!(made > 2);
        [0, 1].into_iter().for_each(|number| fs::remove_file(filler(number)).expect("removed"));
        let problem = bench.store.commit(&vm(), staged).expect_err("no file is left");
        assert!(problem.is_for_want_of_space(), "{problem}");
        assert!(problem.to_string().starts_with("cannot write"), "{problem}");
        assert_eq!(fs::metadata(bench.file("0.img")).expect("there").len(), NEW, "it has grown");
        // Still full: what cannot be recorded is a trouble of the host, not of the volume.
        let problem = bench.store.commit(&vm(), bench.sized(OLD)).expect_err("no file is left");
        assert!(problem.is_for_want_of_space(), "{problem}");
        fs::remove_dir_all(&fillers).expect("removed");
        assert_whole(&bench, "kept");
    });
}

#[test]
fn a_new_content_with_a_fault_at_any_step_leaves_the_one_before() {
    for Fault { step, put, mend } in FAULTS {
        // The name that is in the way is that of an old content: a new one has another.
        if step == "cannot name" {
            continue;
        }
        let bench = Bench::new();
        let (one, two) = (bench.image("one", "one"), bench.image("two", "two"));
        bench.commit(bench.seeded(&one));
        let staged = bench.seeded(&two);
        put(&bench);
        let problem = bench.store.commit(&vm(), staged).expect_err(step);
        assert!(problem.to_string().starts_with(step), "{problem}");
        mend(&bench);
        assert_eq!(bench.names(), ["0.img", "volume.json"], "{step}");
        assert_eq!(bench.list().len(), 1);
        // A third image gets a content of its own.
        let committed = bench.commit(bench.seeded(&bench.image("three", "three")));
        assert_eq!(fs::read_to_string(committed.path).expect("read"), "three");
    }
}

#[test]
fn a_first_content_that_could_not_be_switched_over_to_leaves_nothing() {
    let bench = Bench::new();
    let staged = bench.sized(OLD);
    forbid_notes(&bench);
    let problem = bench.store.commit(&vm(), staged).expect_err("it cannot be noted");
    assert!(problem.to_string().starts_with("cannot note"), "{problem}");
    allow_notes(&bench);
    assert_eq!((bench.list(), bench.names()), (Vec::new(), Vec::new()));
    assert!(!bench.store.holds_data(&vm()).expect("known"));
}

#[test]
fn what_has_grown_for_a_start_that_failed_stays_so() {
    let bench = Bench::new();
    bench.commit(bench.sized(OLD));
    write(&bench, "kept");
    let committed = bench.commit(bench.sized(NEW));
    bench.store.undo(&vm(), &committed).expect("undone");
    assert_eq!(bench.list()[0].size.get(), NEW);
    assert_whole(&bench, "kept");
}

fn assert_changed(bench: &Bench, staged: Staged) {
    let record = fs::read(bench.file("volume.json")).expect("read");
    let problem = bench.store.commit(&vm(), staged).expect_err("it changed");
    assert!(matches!(problem, VolumeError::Changed { .. }), "{problem}");
    assert_eq!(fs::read(bench.file("volume.json")).expect("read"), record, "nothing is done");
}

#[test]
fn a_content_that_changed_since_it_was_made_ready_is_not_used() {
    let bench = Bench::new();
    bench.commit(bench.sized(OLD));
    for damage in [|path: &Path| fs::write(path, "short"), |path: &Path| fs::remove_file(path)] {
        let staged = bench.sized(OLD);
        damage(&bench.file("0.img")).expect("damaged");
        assert_changed(&bench, staged);
        fs::write(bench.file("0.img"), vec![0; 4096]).expect("put back");
    }
    bench.commit(bench.sized(OLD));
}

#[test]
fn a_content_that_was_deleted_since_it_was_made_ready_is_not_used() {
    let bench = Bench::new();
    let (one, two) = (bench.image("one", "one"), bench.image("two", "two"));
    bench.commit(bench.seeded(&one));
    bench.commit(bench.seeded(&two));
    bench.settle();
    let back = bench.seeded(&one);
    assert!(matches!(back.decision, Decision::Restore { number: 0, .. }), "{back:?}");
    let old = ContentRef { vm: vm(), disk: "data".into(), number: 0 };
    assert!(bench.store.delete(&old).expect("deleted"));
    assert_changed(&bench, back);
    let committed = bench.commit(bench.seeded(&one));
    assert_eq!(committed.path, bench.file("2.img"), "it is made anew");
}

#[test]
fn of_two_new_contents_made_ready_at_once_only_the_one_that_is_there_is_used() {
    let bench = Bench::new();
    bench.commit(bench.seeded(&bench.image("one", "one")));
    let (two, three) = (bench.image("two", "two"), bench.image("three", "three"));
    let (stale, newest) = (bench.seeded(&two), bench.seeded(&three));
    assert_changed(&bench, stale);
    let (late, newest) = (newest, bench.seeded(&three));
    bench.commit(newest);
    // Its number is that of the volume's content now.
    assert_changed(&bench, late);
    assert_eq!(fs::read_to_string(bench.file("1.img")).expect("read"), "three");
    // A number is not used again either where its file is lost.
    fs::remove_file(bench.file("0.img")).expect("removed");
    let used = Decision::Seed { number: 0 };
    assert_changed(&bench, Staged { decision: used, ..bench.seeded(&two) });
}

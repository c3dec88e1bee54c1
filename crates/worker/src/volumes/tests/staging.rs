//! What is made ready and then not used leaves nothing.

use super::*;

#[test]
fn a_start_that_nobody_waits_for_leaves_nothing() {
    let bench = Bench::new();
    let image = bench.image("image", "one");
    let given_up = GivenUp::default();
    given_up.set();
    // A blank disk is made at once: that it is not wanted is found out afterwards.
    for request in [seeded(&image), sized(4096)] {
        bench.try_stage(request, &given_up).expect_err("given up");
        assert!(!bench.state.join("volumes/vm").exists());
    }
    // It was given up when all was made: its task drops what came of it.
    drop(bench.seeded(&image));
    assert!(!bench.state.join("volumes/vm").exists());
    assert_eq!(bench.list(), []);

    bench.commit(bench.seeded(&image));
    let other = bench.image("other", "two");
    let staged = bench.seeded(&other);
    assert_eq!(bench.names(), ["0.img", "1.staged", "volume.json"]);
    drop(staged);
    assert_eq!(bench.names(), ["0.img", "volume.json"]);
    let staged = bench.seeded(&other);
    bench.store.discard(&vm(), &staged);
    assert_eq!(bench.names(), ["0.img", "volume.json"]);
}

#[test]
fn what_another_start_made_in_the_same_place_stays() {
    let bench = Bench::new();
    let (one, two) = (bench.image("one", "one"), bench.image("two", "two"));
    let (stale, newest) = (bench.seeded(&one), bench.seeded(&two));
    bench.store.discard(&vm(), &stale);
    drop(stale);
    bench.commit(newest);
    assert_eq!(fs::read_to_string(bench.file("0.img")).expect("read"), "two");
}

#[test]
fn a_file_that_no_record_speaks_of_is_neither_used_nor_overwritten() {
    let bench = Bench::new();
    bench.commit(bench.seeded(&bench.image("one", "one")));
    fs::write(bench.file("1.img"), "a deletion that failed").expect("written");
    bench.commit(bench.seeded(&bench.image("two", "two")));
    assert_eq!(fs::read_to_string(bench.file("2.img")).expect("read"), "two");
    assert_eq!(fs::read_to_string(bench.file("1.img")).expect("read"), "a deletion that failed");
}

#[test]
fn every_disk_of_an_earlier_worker_is_data() {
    let bench = Bench::new();
    for name in ["console.log", "disk.img", "disk0.img.part", "diskette1.img"] {
        fs::write(bench.beside_record(name), "x").expect("written");
    }
    assert!(!bench.store.holds_data(&vm()).expect("known"));
    for name in ["disk0.img", "disk1.img", "disk12.img"] {
        fs::write(bench.beside_record(name), "x").expect("written");
        assert!(bench.store.holds_data(&vm()).expect("known"), "{name}");
        fs::remove_file(bench.beside_record(name)).expect("removed");
    }
    assert!(!bench.store.holds_data(&VmId::new("other")).expect("known"));
}

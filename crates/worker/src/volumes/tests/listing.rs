//! What cannot be used is listed, with the reason.

use vm_model::{Timestamp, VolumeKeep};

use super::*;

/// What is listed of the one content that there is.
fn only(bench: &Bench) -> (VolumeKeep, Option<String>) {
    let mut listed = bench.list();
    assert_eq!(listed.len(), 1, "{listed:?}");
    let VolumeInfo { keep, problem, .. } = listed.remove(0);
    (keep, problem)
}

#[test]
fn a_volume_that_cannot_be_used_is_listed_with_what_is_wrong() {
    let bench = Bench::new();
    bench.commit(bench.sized(4096));
    assert_eq!(only(&bench), (VolumeKeep::InUse, None));

    let (file, record) = (bench.file("0.img"), bench.file("volume.json"));
    fs::remove_file(&file).expect("removed");
    let (keep, problem) = only(&bench);
    assert_eq!(keep, VolumeKeep::InUse);
    assert!(problem.as_ref().is_some_and(|problem| problem.contains("missing")), "{problem:?}");
    fs::write(&file, vec![0; 512]).expect("written");
    let (_, problem) = only(&bench);
    assert!(problem.as_ref().is_some_and(|problem| problem.contains("512")), "{problem:?}");
    fs::write(&file, vec![0; 4096]).expect("written");
    assert_eq!(only(&bench), (VolumeKeep::InUse, None));

    let whole = fs::read(&record).expect("read");
    for damage in ["{ damaged", r#"{"version": 99}"#] {
        fs::write(&record, damage).expect("written");
        let listed = bench.list();
        assert_eq!((listed.len(), listed[0].policy, listed[0].size.get()), (1, None, 4096));
        let (keep, problem) = only(&bench);
        assert_eq!(keep, VolumeKeep::Unknown);
        assert!(problem.as_ref().is_some_and(|problem| problem.contains("volume.json")), "{problem:?}");
    }
    // Also where no file lies beside it, and where its VM was removed.
    fs::remove_file(&file).expect("removed");
    assert_eq!(only(&bench).0, VolumeKeep::Unknown);
    let until = Timestamp::from_millis(7);
    let listed = bench.store.list(|_| Some(until)).expect("listed");
    assert_eq!(listed[0].keep, VolumeKeep::Removed { until });
    fs::write(&file, vec![0; 4096]).expect("written");
    fs::remove_file(&record).expect("removed");
    let (keep, problem) = only(&bench);
    assert!(problem.as_ref().is_some_and(|problem| problem.contains("put it back")), "{problem:?}");
    assert_eq!(keep, VolumeKeep::Unknown);
    fs::write(&record, whole).expect("written");
    assert_eq!(only(&bench), (VolumeKeep::InUse, None));
}

#[test]
fn a_volume_that_is_gone_with_its_directory_is_listed_as_missing() {
    let bench = Bench::new();
    bench.commit(bench.sized(4096));
    for gone in ["volumes/vm/data", "volumes/vm", "volumes"] {
        let _ = fs::remove_dir_all(bench.state.join(gone));
        let (keep, problem) = if gone == "volumes" {
            // Nothing is mounted there, say.
            fs::create_dir(bench.state.join(gone)).expect("created");
            only(&bench)
        } else {
            only(&bench)
        };
        assert_eq!(keep, VolumeKeep::Unknown);
        assert!(problem.as_ref().is_some_and(|problem| problem.contains("missing")), "{problem:?}");
    }
}

#[test]
fn what_is_no_volume_is_not_listed() {
    let bench = Bench::new();
    fs::create_dir_all(bench.file("")).expect("a start that was cut short");
    fs::write(bench.state.join("volumes/vm/notes.txt"), "x").expect("a file of somebody's");
    fs::write(bench.state.join("volumes/other"), "x").expect("a file of somebody's");
    assert_eq!(bench.list(), []);
}

//! Volumes that do not answer are the matter of their VM alone.

use test_host::DeadStore;

use super::*;

#[test]
fn a_vm_whose_volumes_do_not_answer_keeps_no_other_from_being_swept_and_listed() {
    test_host::isolated(|| {
        let bench = Bench::new();
        let image = bench.image("image", "content");
        bench.commit(bench.seeded(&image));
        fs::write(bench.file("7.staged"), "left behind").expect("written");
        let (behind, dead) = (bench.folder.path().join("behind"), bench.state.join("volumes/dead"));
        fs::create_dir_all(behind.join("data")).expect("created");
        fs::create_dir_all(&dead).expect("created");
        let mount = DeadStore::mount(&behind, &dead);
        mount.die();
        let vms = bench.state.join("vms");
        let store = VolumeStore::open(&bench.state, &vms, RecordWriter::open(&bench.state)).expect("opened");
        assert!(!bench.file("7.staged").exists(), "the other VM's are swept");
        let listed = store.list(|_| None).expect("listed");
        assert_eq!(listed.iter().map(|volume| volume.vm.clone()).collect::<Vec<_>>(), [vm()]);
        drop(mount);
    });
}

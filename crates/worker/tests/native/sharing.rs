//! Volumes on a file system whose files can share blocks.

use std::fs;
use std::os::unix::fs::FileExt;

use serde_json::json;
use test_host::{SharingFileSystem, Store};
use tiny_guest::TinyGuest;
use worker::vms::{VmId, VmManager, VmManagerConfig};

use crate::workbench::{await_console, create, isolated};

const IMAGE_BYTES: usize = 8 << 20;
/// The guest counts its boots below this.
const WRITTEN: usize = 64 << 10;

#[test]
fn a_volume_shares_the_blocks_of_its_image_until_its_guest_writes() {
    isolated(|bench| {
        let sharing = SharingFileSystem::mount_in(bench.path());
        let store = Store::create(sharing.path().join("store"));
        let disks = json!({ "disks": [{ "path": "disk.img", "id": "data" }] });
        let image = store.add("image", &TinyGuest::lives_and_idle(0), &disks);
        let mut content: Vec<u8> =
            (0..IMAGE_BYTES).map(|at| u8::try_from(at / 7 % 251).expect("a byte")).collect();
        content[..WRITTEN].fill(0);
        let disk = image.path.join("disk.img");
        fs::write(&disk, &content).expect("written");
        let image = store.hashed(image.path);
        let manager = VmManager::new(VmManagerConfig {
            auto_restart: false,
            vm_artifacts_dir: sharing.path().join("state/vms"),
            store_roots: vec![store.root().to_owned()],
            ..bench.config()
        })
        .expect("starts");
        let id = VmId::new("vm");
        create(&manager, &id, &image).expect("runs");
        await_console(&manager, &id, "ready");

        let volume = sharing.path().join("state/volumes/vm/data/0.img");
        let (shared, extents) = sharing.shared_extents(&volume);
        assert!(shared > 0 && shared + 1 >= extents, "{shared} of {extents} extents are shared");
        let read = |path| {
            let file = fs::File::open(path).expect("opened");
            let mut read = vec![0; IMAGE_BYTES];
            file.read_exact_at(&mut read, 0).expect("read");
            read
        };
        let written = read(&volume);
        assert!(written[WRITTEN..] == content[WRITTEN..], "the volume is a copy of its image");
        assert!(written[..WRITTEN] != content[..WRITTEN], "its guest wrote to it");
        assert!(read(&disk) == content, "and to nothing else");
        manager.shutdown().expect("ends");
    });
}

//! Whole artifacts, from a directory to an opened machine; and what the crate's other tests share.

mod swaps;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Map, json};
use tempfile::TempDir;
use uuid::Uuid;
use vm_model::{Bytes, DiskAccess, MemoryBacking, Overrides, SerialMode};

use crate::*;

/// An error and its causes, as a log shows them.
pub(crate) use vm_model::error_chain as chain;

/// A store with one image, `image`, in it.
struct Store {
    base: TempDir,
    roots: StoreRoots,
}

impl Store {
    fn new(config: &str) -> Self {
        let base = tempfile::tempdir().expect("a temporary directory");
        let roots = StoreRoots::open(&[base.path().to_owned()]).expect("the root opens");
        let store = Self { base, roots };
        fs::create_dir(store.path("image")).expect("a directory");
        store.file("image/vm-config.json", config);
        store
    }

    /// One with a kernel and a disk of two sectors.
    fn bootable(config: &str) -> Self {
        let store = Self::new(config);
        store.file("image/vmlinux", "kernel");
        store.file("image/disk.img", [0; 1024]);
        store
    }

    fn path(&self, below: &str) -> PathBuf {
        self.base.path().join(below)
    }

    fn file(&self, below: &str, content: impl AsRef<[u8]>) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, content).expect("a file");
    }

    fn request(&self) -> LoadRequest {
        LoadRequest {
            store_path: self.path("image"),
            overrides: Overrides::default(),
            procurator: Map::new(),
            uuid: Uuid::from_u128(7),
        }
    }

    fn load_request(&self, request: &LoadRequest) -> Result<Artifact, String> {
        load_artifact(&self.roots, request).map_err(|error| self.shorten(&chain(&error)))
    }

    fn load_with(&self, overrides: Overrides) -> Result<Artifact, String> {
        self.load_request(&LoadRequest { overrides, ..self.request() })
    }

    fn load(&self) -> Result<Artifact, String> {
        self.load_request(&self.request())
    }

    fn shorten(&self, text: &str) -> String {
        text.replace(self.base.path().to_str().expect("a plain path"), "/store")
    }
}

/// A file that is there.
fn opened(file: &ArtifactFile) -> &OpenedFile {
    file.opened().expect("a file of the store")
}

#[test]
fn the_smallest_artifact_is_a_kernel_and_an_empty_object() {
    let store = Store::new("{}");
    store.file("image/vmlinux", "kernel");
    let artifact = store.load().expect("loads");
    assert_eq!(artifact.machine.uuid, Uuid::from_u128(7));
    assert_eq!(opened(&artifact.machine.boot.kernel).path(), store.path("image/vmlinux"));
    assert!(artifact.machine.boot.initrd.is_none());
    assert!(artifact.machine.disks.is_empty());
    assert!(artifact.references.is_empty());
    let identity = store.roots.identify(&store.path("image")).expect("an identity");
    let met = artifact.trail.in_path(&store.path("image")).expect("its own path");
    assert_eq!(met.get(Path::new("")), Some(&identity));
    let names: Vec<&Path> = met.iter().map(|(path, _)| path).collect();
    assert_eq!(names, ["", "vm-config.json", "vmlinux"].map(Path::new));
}

#[test]
fn files_that_nobody_names_are_used_when_they_are_there() {
    let store = Store::bootable("{}");
    store.file("image/initrd", "initrd");
    let artifact = store.load().expect("loads");
    let initrd = artifact.machine.boot.initrd.expect("an initial RAM disk");
    assert_eq!(opened(&initrd).path(), store.path("image/initrd"));
    let [disk] = &artifact.machine.disks[..] else {
        panic!("one disk: {:?}", artifact.machine.disks);
    };
    assert_eq!(
        (disk.id.as_str(), disk.access, opened(&disk.file).size()),
        ("disk0", DiskAccess::ReadWrite, 1024)
    );
}

#[test]
fn files_elsewhere_in_the_store_are_references() {
    let store = Store::bootable(r#"{"payload": {"kernel": "boot/vmlinux"}}"#);
    store.file("kernel/vmlinux", "kernel");
    store.file("firmware/initrd", "initrd");
    symlink(store.path("kernel"), store.path("image/boot")).expect("a link");
    symlink("../firmware/initrd", store.path("image/initrd")).expect("a link");
    let artifact = store.load().expect("loads");
    assert_eq!(opened(&artifact.machine.boot.kernel).path(), store.path("kernel/vmlinux"));
    let references: Vec<_> = artifact.references.into_iter().collect();
    assert_eq!(references, [store.path("firmware"), store.path("kernel")]);
}

#[test]
fn the_example_of_the_repository_loads() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/vm-config.json");
    let store = Store::bootable(&fs::read_to_string(example).expect("the example is there"));
    store.file("image/initrd", "initrd");
    store.file("image/data.img", [0; 512]);
    let artifact = store.load().expect("loads");
    assert_eq!(artifact.warnings, []);
    let machine = &artifact.machine;
    assert_eq!((machine.cpus.boot_vcpus, machine.memory.size), (2, Bytes::from_mib(256)));
    assert_eq!((machine.memory.backing, machine.serial), (MemoryBacking::Automatic, SerialMode::Console));
    assert_eq!(machine.boot.cmdline, "console=ttyS0 root=/dev/vda rw");
    let disks: Vec<_> = machine.disks.iter().map(|disk| (disk.id.as_str(), disk.access)).collect();
    assert_eq!(disks, [("root", DiskAccess::ReadWrite), ("data", DiskAccess::ReadOnly)]);
    assert_eq!(artifact.nics[0].ip, Some([10, 100, 0, 5].into()));
    assert_eq!(artifact.settings.restart, Some(RestartPolicy::OnFailure));
}

#[test]
fn overrides_are_applied() {
    let store = Store::bootable(r#"{"payload": {"cmdline": "a"}}"#);
    let overrides = Overrides {
        vcpus: Some(4),
        memory_bytes: Some(Bytes::from_mib(32)),
        cmdline_append: Some("b".to_owned()),
    };
    let machine = store.load_with(overrides).expect("loads").machine;
    assert_eq!((machine.cpus.boot_vcpus, machine.memory.size), (4, Bytes::from_mib(32)));
    assert_eq!(machine.boot.cmdline, "a b");
    let overrides = Overrides { vcpus: Some(0), ..Overrides::default() };
    insta::assert_snapshot!(store.load_with(overrides).unwrap_err(), @r#"cannot apply the overrides of "/store/image": override vcpus is 0; accepted is an integer from 1 to 64"#);
}

#[test]
fn an_assignment_has_the_last_word_on_settings() {
    let store =
        Store::bootable(r#"{"procurator": {"restart": "never", "disks": [{"id": "disk0", "size": 4096}]}}"#);
    let settings = json!({"disks": [{"id": "disk0", "size": 8192}, {"id": "data", "size": 4096}]});
    let procurator = settings.as_object().expect("an object").clone();
    let artifact = store.load_request(&LoadRequest { procurator, ..store.request() }).expect("loads");
    assert_eq!(artifact.settings.restart, Some(RestartPolicy::Never));
    assert_eq!(artifact.settings.size("disk0"), Some(Bytes::new(8192)));
    let blank: Vec<bool> = artifact.machine.disks.iter().map(|disk| disk.file.opened().is_none()).collect();
    assert_eq!(blank, [false, true]);
    let settings = json!({"disks": [{"id": "disk0", "size": 5}]});
    let procurator = settings.as_object().expect("an object").clone();
    let refused = store.load_request(&LoadRequest { procurator, ..store.request() }).unwrap_err();
    insta::assert_snapshot!(refused, @"assignment: $.procurator.disks[0].size is 5; accepted is a number of bytes from 512 to 70368744177664, a multiple of 512");
}

#[test]
fn descriptions_that_cannot_be_read_are_refused() {
    let store = Store::bootable("{}");
    let config = store.path("image/vm-config.json");
    fs::remove_file(&config).expect("removed");
    insta::assert_snapshot!(store.load().unwrap_err(), @r#"cannot open the machine description "/store/image/vm-config.json": "/store/image/vm-config.json" does not exist"#);
    fs::create_dir(&config).expect("a directory");
    insta::assert_snapshot!(store.load().unwrap_err(), @r#"cannot open the machine description "/store/image/vm-config.json": "/store/image/vm-config.json" is a directory; a regular file is accepted"#);
    fs::remove_dir(&config).expect("removed");
    symlink("/etc/passwd", &config).expect("a link");
    insta::assert_snapshot!(store.load().unwrap_err(), @r#"cannot open the machine description "/store/image/vm-config.json": "/store/image/vm-config.json" is a link to "/etc/passwd", which is outside the configured store roots /store"#);
    fs::remove_file(&config).expect("removed");
    store.file("image/vm-config.json", vec![b' '; (1 << 20) + 1]);
    insta::assert_snapshot!(store.load().unwrap_err(), @r#""/store/image/vm-config.json" has 1048577 bytes; a machine description of at most 1048576 bytes is accepted"#);
    store.file("image/vm-config.json", b"\xff{}");
    insta::assert_snapshot!(store.load().unwrap_err(), @r#""/store/image/vm-config.json" is no JSON that can be read: expected value at line 1 column 1"#);
    store.file("image/vm-config.json", r#"{"cpus": {"boot_vcpus": 0}}"#);
    insta::assert_snapshot!(store.load().unwrap_err(), @r#""/store/image/vm-config.json": $.cpus.boot_vcpus is 0; accepted is an integer from 1 to 64"#);
}

#[test]
fn files_that_cannot_be_opened_name_key_value_and_reason() {
    let refused = |config: &str| Store::bootable(config).load().unwrap_err();
    insta::assert_snapshot!(Store::new("{}").load().unwrap_err(), @r#""/store/image/vm-config.json": cannot open the kernel ("vmlinux", as $.payload.kernel is not set); accepted is a regular file, its path relative to the store path or absolute inside a store root: "/store/image/vmlinux" does not exist"#);
    insta::assert_snapshot!(refused(r#"{"payload": {"initramfs": "gone"}}"#), @r#""/store/image/vm-config.json": cannot open the initial RAM disk ($.payload.initramfs is "gone"); accepted is a regular file, its path relative to the store path or absolute inside a store root: "/store/image/gone" does not exist"#);
    insta::assert_snapshot!(refused(r#"{"disks": [{"path": "disk.img"}, {"path": "/etc/passwd"}]}"#), @r#""/store/image/vm-config.json": cannot open disk "disk1" ($.disks[1].path is "/etc/passwd"); accepted is a regular file, its path relative to the store path or absolute inside a store root: "/etc/passwd" is outside the configured store roots /store"#);
    insta::assert_snapshot!(refused(r#"{"disks": [{"path": "."}]}"#), @r#""/store/image/vm-config.json": cannot open disk "disk0" ($.disks[0].path is "."); accepted is a regular file, its path relative to the store path or absolute inside a store root: "/store/image" is a directory; a regular file is accepted"#);
    insta::assert_snapshot!(refused(r#"{"kernel": {"path": "vmlinux/x"}}"#), @r#""/store/image/vm-config.json": cannot open the kernel ($.kernel.path is "vmlinux/x"); accepted is a regular file, its path relative to the store path or absolute inside a store root: "/store/image/vmlinux" is a regular file, and the path goes on below it"#);
    let store = Store::bootable("{}");
    symlink("gone", store.path("image/initrd")).expect("a link");
    insta::assert_snapshot!(store.load().unwrap_err(), @r#""/store/image/vm-config.json": cannot open the initial RAM disk ("initrd", as $.payload.initramfs is not set); accepted is a regular file, its path relative to the store path or absolute inside a store root: "/store/image/initrd" is a dangling link: its target "gone" leads to "/store/image/gone", which does not exist"#);
}

#[test]
fn files_that_are_no_boot_files_or_images_are_refused() {
    let refused = |file: &str, content: &[u8]| {
        let store = Store::bootable("{}");
        store.file(&format!("image/{file}"), content);
        store.load().unwrap_err()
    };
    insta::assert_snapshot!(refused("vmlinux", b""), @r#""/store/image/vm-config.json": cannot use the kernel ("vmlinux", as $.payload.kernel is not set): the file is empty"#);
    insta::assert_snapshot!(refused("initrd", b""), @r#""/store/image/vm-config.json": cannot use the initial RAM disk ("initrd", as $.payload.initramfs is not set): the file is empty"#);
    insta::assert_snapshot!(refused("disk.img", b""), @r#""/store/image/vm-config.json": cannot use disk "disk0" ("disk.img", as $.disks is not set): the file is empty"#);
    insta::assert_snapshot!(refused("disk.img", &[0; 513]), @r#""/store/image/vm-config.json": cannot use disk "disk0" ("disk.img", as $.disks is not set): its size of 513 bytes is not a multiple of 512"#);
    insta::assert_snapshot!(refused("disk.img", b"QFI\xfb\0\0\0\x03"), @r#""/store/image/vm-config.json": cannot use disk "disk0" ("disk.img", as $.disks is not set): it starts like a qcow2 image, and image_type does not say so; convert it to a raw one, or set image_type to "Raw" if it really is raw ("Qcow2" is there for disks that are readonly)"#);
    for magic in ["KDMV", "# Disk DescriptorFile", "vhdxfile", "conectix"] {
        assert!(refused("disk.img", magic.as_bytes()).contains("image_type does not say so"), "{magic}");
    }
}

#[test]
fn an_image_that_is_stated_raw_is_taken_as_it_is() {
    let mut content = b"QFI\xfb".to_vec();
    content.resize(512, 0);
    for (image_type, accepted) in [("Raw", true), ("raw", true), ("Unknown", false)] {
        let config = format!(r#"{{"disks": [{{"path": "disk.img", "image_type": "{image_type}"}}]}}"#);
        let store = Store::bootable(&config);
        store.file("image/disk.img", &content);
        assert_eq!(store.load().is_ok(), accepted, "{image_type}");
    }
}

/// The header of a qcow2 image of 8 MiB, with these bytes changed, in a file of 512 bytes.
fn qcow2(changes: &[(usize, u8)]) -> Vec<u8> {
    let mut image = b"QFI\xfb\0\0\0\x03".to_vec();
    image.resize(512, 0);
    for (at, byte) in [(23, 16), (29, 0x80), (39, 1), (59, 1), (99, 4), (103, 112)].iter().chain(changes) {
        image[*at] = *byte;
    }
    image
}

#[test]
fn a_qcow2_image_that_cannot_be_read_is_refused_before_anything_is_built() {
    let config = r#"{"disks": [{"path": "disk.img", "image_type": "Qcow2", "readonly": true}]}"#;
    let load = |image: &[u8]| {
        let store = Store::bootable(config);
        store.file("image/disk.img", image);
        store.load_request(&store.request())
    };
    assert!(load(&qcow2(&[])).is_ok());
    let refused = |image: &[u8]| load(image).unwrap_err();
    insta::assert_snapshot!(refused(&qcow2(&[(79, 8)])), @r#""/store/image/vm-config.json": cannot use disk "disk0" ($.disks[0].path is "disk.img"): a qcow2 image like this cannot be used (`qemu-img convert -O raw /store/image/disk.img OUT` makes a raw one of it): it has clusters compressed with zstd, which is not supported"#);
    insta::assert_snapshot!(refused(&qcow2(&[(63, 1), (79, 1)])), @r#""/store/image/vm-config.json": cannot use disk "disk0" ($.disks[0].path is "disk.img"): a qcow2 image like this cannot be used (`qemu-img convert -O raw /store/image/disk.img OUT` makes a raw one of it): it has an internal snapshot and the dirty bit set (it was not closed properly), which is not supported"#);
    insta::assert_snapshot!(refused(&qcow2(&[(19, 8)])), @r#""/store/image/vm-config.json": cannot use disk "disk0" ($.disks[0].path is "disk.img"): a qcow2 image like this cannot be used (`qemu-img convert -O raw /store/image/disk.img OUT` makes a raw one of it): it has a backing file, which is not supported"#);
    insta::assert_snapshot!(refused(&qcow2(&[(23, 21)])), @r#""/store/image/vm-config.json": cannot use disk "disk0" ($.disks[0].path is "disk.img"): a qcow2 image like this cannot be used (`qemu-img convert -O raw /store/image/disk.img OUT` makes a raw one of it): it has clusters of 2 MiB; 512 bytes to 256 KiB are supported"#);
    insta::assert_snapshot!(refused(&[0; 1024]), @r#""/store/image/vm-config.json": cannot use disk "disk0" ($.disks[0].path is "disk.img"): image_type is Qcow2, and the image is none: if it is raw, leave image_type out or set it to "Raw"; otherwise `qemu-img convert -O raw /store/image/disk.img OUT` makes a raw one of it: it starts with 0x00000000 and not, as qcow2 images do, with 0x514649fb"#);
    insta::assert_snapshot!(refused(b""), @r#""/store/image/vm-config.json": cannot use disk "disk0" ($.disks[0].path is "disk.img"): the file is empty"#);
    // A file that ends within its header.
    insta::assert_snapshot!(refused(&qcow2(&[])[..20]), @r#""/store/image/vm-config.json": cannot use disk "disk0" ($.disks[0].path is "disk.img"): the qcow2 image has 20 bytes, and its header alone has 104"#);
    let store = Store::bootable(config);
    store.file("image/disk.img", qcow2(&[(79, 2)]));
    let error = load_artifact(&store.roots, &store.request()).expect_err("it is corrupt");
    assert_eq!(error.cause(), FailureCause::Wrong);
}

#[test]
fn loading_changes_nothing_and_keeps_nothing_open() {
    let store = Store::bootable("{}");
    let open = || fs::read_dir("/proc/self/fd").expect("listed").count();
    let (before, names) = (open(), fs::read_dir(store.path("image")).expect("listed").count());
    for _ in 0..50 {
        let _ = store.load().expect("loads");
        store.file("image/initrd", "");
        let _ = store.load().unwrap_err();
        fs::remove_file(store.path("image/initrd")).expect("removed");
    }
    assert_eq!(fs::read_dir(store.path("image")).expect("listed").count(), names);
    // nextest runs each test in a process of its own; under a shared process others may open files meanwhile.
    if std::env::var_os("NEXTEST").is_some() {
        assert_eq!(open(), before);
    }
}
